"""Our generating models under transformers' `generate`: every way of decoding, with and without memory, padded or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import llmctl.models.auto  # noqa: F401
from llmctl import registry
from llmctl.errors import DataError
from llmctl.models.spec import ModelSpec, Shape, Vocabulary

VOCABULARY = Vocabulary(60, 0, 1, 2)
DECODERS = ["rnn", "rnn-sigmoid", "lstm", "attention", "gpt2", "llama"]
OURS = DECODERS[:4]
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
WAYS: dict[str, dict[str, Any]] = {"greedy": GREEDY, "beams": GREEDY | {"num_beams": 3, "num_return_sequences": 2}}
STARTS = {"t5": VOCABULARY.pad, "marian": VOCABULARY.pad, "bart": VOCABULARY.eos}
"""What an answer of the library's encoder-decoders begins from, as in the published models of each kind."""


def made(name: str, **settings: Any) -> Any:
    """A model whose answers vary: its random weights are made larger than training would start with."""
    name, _, activation = name.partition("-") if name.startswith("rnn") else (name, "", "")
    spec: ModelSpec = registry.load("models", name)
    two_layers = {"layers": 2} | ({"activation": activation} if activation else {}) | settings
    torch.manual_seed(0)
    model = spec.build(spec.shape("nano", Shape.model_validate(two_layers)), VOCABULARY)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and name in STARTS:
                weight.normal_(std=0.5)  # as they begin they would say one token again and again
            elif weight.ndim > 1:
                weight.mul_(3.0)
        if name in STARTS:
            model.get_input_embeddings().weight.mul_(0.2)
    return model.eval()


def prompts(rows: int = 3, tokens: int = 7) -> Tensor:
    return torch.randint(3, 60, (rows, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OURS)
def test_caching_does_not_change_answers(name: str, way: str) -> None:
    model, ids = made(name), prompts()
    with_memory = model.generate(ids, use_cache=True, **WAYS[way])
    without = model.generate(ids, use_cache=False, **WAYS[way])
    assert with_memory.tolist() == without.tolist()
    assert len({tuple(row) for row in with_memory[:, 7:].tolist()}) > 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", DECODERS)
def test_a_row_padded_on_the_left_is_continued_like_the_row_alone(name: str, use_cache: bool, way: str) -> None:
    model, ids = made(name), prompts()
    for padding in (1, 4):
        mask = torch.ones_like(ids)
        ids[1, :padding], mask[1, :padding] = 0, 0
        batch = model.generate(ids, attention_mask=mask, use_cache=use_cache, **WAYS[way])
        alone = model.generate(ids[1:2, padding:], use_cache=use_cache, **WAYS[way])
        answers = len(alone)
        batched = batch[answers : 2 * answers, ids.shape[1] :].tolist()
        single = alone[:, ids.shape[1] - padding :].tolist()
        for mine, other in zip(batched, single, strict=True):
            assert mine[: len(other)] == other


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_logits(name: str, side: str) -> None:
    model, ids = made(name), prompts(2, 9)
    mask = torch.ones_like(ids)
    place = slice(0, 4) if side == "left" else slice(5, 9)
    ids[1, place], mask[1, place] = 0, 0
    real = mask[1].bool()
    with torch.no_grad():
        batch = model(input_ids=ids, attention_mask=mask)
        alone = model(input_ids=ids[1:2, real])
        features = model.features(ids, mask)
    torch.testing.assert_close(batch.logits[1, real], alone.logits[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.get_output_embeddings()(features)[mask.bool()], batch.logits[mask.bool()])
    assert bool(torch.isfinite(batch.logits).all())


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_the_state_kept_is_that_of_each_row_s_last_token(name: str) -> None:
    model, ids = made(name), prompts(2, 9)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = 0, 0
    with torch.no_grad():
        batch = model(input_ids=ids, attention_mask=mask, use_cache=True).cache_params
        alone = model(input_ids=ids[1:2, :5], use_cache=True).cache_params
    for mine, other in zip(batch.tensors, alone.tensors, strict=True):
        torch.testing.assert_close(mine[:, 1], other[:, 0])


@pytest.mark.parametrize("name", OURS)
def test_sampling_follows_its_seed_and_gives_the_requested_number_of_answers(name: str) -> None:
    model, ids = made(name), prompts(2)
    ways = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 10, "top_k": 20}
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(model.generate(ids, **ways).tolist())
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) == 6
    assert len({tuple(row) for row in runs[0][:3]}) > 1


@pytest.mark.parametrize("name", [*OURS, "lstm-seq2seq"])
def test_n_tokens_cost_n_steps(name: str) -> None:
    model, ids = made(name), prompts(1)
    read: list[int] = []
    key = "decoder_input_ids" if name == "lstm-seq2seq" else "input_ids"
    model.register_forward_pre_hook(lambda _, args, kwargs: read.append(kwargs[key].shape[1]), with_kwargs=True)
    model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert read == [1 if name == "lstm-seq2seq" else 7] + [1] * 7


def test_attention_refuses_input_beyond_its_context() -> None:
    model = made("attention", context=16)
    with pytest.raises(DataError, match="17 tokens exceed the model's context of 16") as raised:
        model(input_ids=prompts(1, 17))
    assert raised.value.hint
    assert model.generate(prompts(1, 10), max_new_tokens=7, min_new_tokens=7, do_sample=False).shape == (1, 17)
    with pytest.raises(DataError, match="context of 16"):
        model.generate(prompts(1, 10), max_new_tokens=8, min_new_tokens=8, do_sample=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("score", ["dot", "additive"])
def test_translation_with_cache_and_padding(score: str, way: str) -> None:
    model, ids = made("lstm-seq2seq", score=score), prompts()
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = 0, 0
    with_memory = model.generate(ids, attention_mask=mask, use_cache=True, **WAYS[way])
    without = model.generate(ids, attention_mask=mask, use_cache=False, **WAYS[way])
    assert with_memory.tolist() == without.tolist()
    alone = model.generate(ids[1:2, :4], **WAYS[way])
    for mine, other in zip(with_memory[len(alone) : 2 * len(alone)].tolist(), alone.tolist(), strict=True):
        assert mine[: len(other)] == other
    assert with_memory[:, 0].tolist() == [VOCABULARY.bos] * len(with_memory)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STARTS)
def test_transformers_encoder_decoders_with_cache_and_padding(name: str, way: str) -> None:
    model, ids = made(name), prompts()
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = 0, 0
    with_memory = model.generate(ids, attention_mask=mask, use_cache=True, **WAYS[way])
    without = model.generate(ids, attention_mask=mask, use_cache=False, **WAYS[way])
    assert with_memory.tolist() == without.tolist()
    assert len({tuple(row) for row in with_memory.tolist()}) > 1
    alone = model.generate(ids[1:2, :4], **WAYS[way])
    for mine, other in zip(with_memory[len(alone) : 2 * len(alone)].tolist(), alone.tolist(), strict=True):
        assert mine[: len(other)] == other
    assert with_memory[:, 0].tolist() == [STARTS[name]] * len(with_memory)


def test_generate_returns_the_attention_over_the_source() -> None:
    model, ids = made("lstm-seq2seq"), prompts(2)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = 0, 0
    out = model.generate(ids, attention_mask=mask, output_attentions=True, return_dict_in_generate=True, **GREEDY)
    weights = torch.cat([step[0] for step in out.cross_attentions], 2)  # (B, 1, T, S)
    assert weights.shape == (2, 1, out.sequences.shape[1] - 1, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert weights[1, :, :, 5:].max() == 0


def test_one_long_record_does_not_take_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Additive attention in parts of the target is the same attention, with the same gradients."""
    from llmctl.models import lstm_seq2seq

    torch.manual_seed(0)
    attention = lstm_seq2seq.CrossAttention(16, "additive")
    h, memory = torch.randn(2, 11, 16), torch.randn(2, 9, 16)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        attention.zero_grad()
        context, weights = attention(h, memory, mask)
        (context.square().sum() + weights.square().sum()).backward()
        return context.detach(), [weight.grad.clone() for weight in attention.parameters() if weight.grad is not None]

    whole, gradients = run()
    attention.energies_at_once = 2 * 9 * 16 * 3
    parts, gradients_of_parts = run()
    assert torch.equal(whole, parts)
    for one, other in zip(gradients, gradients_of_parts, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        assert torch.equal(attention(h, memory, mask)[0], whole)
