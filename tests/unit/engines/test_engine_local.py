"""The torch engine: an answer depends only on its request and equals that of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from llmctl.engines.local import TorchEngine
from llmctl.engines.spec import Sampling
from llmctl.errors import DataError, UsageError
from llmctl.types import Completion, Request

CONTEXT = 64
LABELS = ("bad", "good", "middling")
PROMPTS = (
    "The quick",
    "It was the worst of times, it was",
    "",
    "床前明月光，疑是",
    "a",
    "The quick brown fox jumps over the lazy dog. The quick",
    "dog",
)
FAMILIES = {"gpt2": "decoder", "llama": "decoder", "t5": "encoder-decoder", "bart": "encoder-decoder"}
GENERATORS = tuple(FAMILIES)


def engine(models: dict[str, Any], tokenizer: Any, name: str, **settings: Any) -> TorchEngine:
    context = None if name == "t5" else CONTEXT
    return TorchEngine(models[name], tokenizer, FAMILIES[name], layout_context=context, **settings)


def requests(tokenizer: Any, prompts: tuple[str, ...] = PROMPTS) -> list[Request]:
    return [
        Request(f"r{number}", (1, *tokenizer(prompt, add_special_tokens=False).input_ids))
        for number, prompt in enumerate(prompts)
    ]


def alone(engine: TorchEngine, batch: list[Request], sampling: Sampling) -> list[Completion]:
    return [next(engine.generate([request], sampling)) for request in batch]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("batch_size", [2, 3, 32])
@pytest.mark.parametrize("name", GENERATORS)
def test_an_answer_does_not_depend_on_its_batch(
    models: Any, tokenizer: Any, name: str, batch_size: int, beams: int
) -> None:
    chosen = engine(models, tokenizer, name)
    batch = requests(tokenizer)
    sampling = Sampling(max_new_tokens=9, num_beams=beams, batch_size=batch_size, repetition_penalty=1.3)
    together = list(chosen.generate(batch, sampling))
    assert [each.id for each in together] == [request.id for request in batch]
    assert together == alone(chosen, batch, sampling)
    assert len({each.text for each in together}) > 3, "answers that are all alike would prove nothing"


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("beams", [1, 4])
def test_answers_are_those_of_transformers(models: Any, tokenizer: Any, name: str, beams: int) -> None:
    model, batch = models[name], requests(tokenizer)
    found = engine(models, tokenizer, name).generate(batch, Sampling(max_new_tokens=12, num_beams=beams))
    for request, completion in zip(batch, found, strict=True):
        reference = model.generate(
            torch.tensor([request.input_ids]),
            generation_config=GenerationConfig(max_new_tokens=12, num_beams=beams, do_sample=False, use_cache=False),
        )[0]
        skip = len(request.input_ids) if FAMILIES[name] == "decoder" else 1
        assert completion.text == tokenizer.decode(reference[skip:], skip_special_tokens=True)


def test_a_models_own_sampling_defaults_are_not_used(models: Any, tokenizer: Any) -> None:
    model, batch = models["llama"], requests(tokenizer)
    chosen, sampling = engine(models, tokenizer, "llama"), Sampling(max_new_tokens=12)
    greedy = list(chosen.generate(batch, sampling))
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_p=0.9, repetition_penalty=3.0, max_length=5, eos_token_id=2, pad_token_id=0
    )
    given = model.generation_config
    try:
        assert list(chosen.generate(batch, sampling)) == greedy
        assert model.generation_config is given, "the model is left as it was found"
    finally:
        model.generation_config = own


def test_every_end_token_of_the_model_ends_an_answer(models: Any, tokenizer: Any) -> None:
    model, [request] = models["gpt2"], requests(tokenizer, ("The quick",))
    sampling = Sampling(max_new_tokens=10)
    ids = model.generate(
        torch.tensor([request.input_ids]),
        generation_config=GenerationConfig(max_new_tokens=10, eos_token_id=None, do_sample=False),
    )[0][len(request.input_ids) :].tolist()
    place = next(number for number, token in enumerate(ids) if number > 1 and token not in ids[:number])
    own = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [2, ids[place]]
    try:
        completion = next(engine(models, tokenizer, "gpt2").generate([request], sampling))
    finally:
        model.generation_config.eos_token_id = own
    assert (completion.finish_reason, completion.tokens) == ("stop", place)
    assert completion.text == tokenizer.decode(ids[:place])


@pytest.mark.parametrize("name", GENERATORS)
def test_a_stop_text_ends_the_answer_before_it(models: Any, tokenizer: Any, name: str) -> None:
    chosen, batch = engine(models, tokenizer, name), requests(tokenizer)
    whole = list(chosen.generate(batch, Sampling(max_new_tokens=20)))
    long = max(whole, key=lambda each: len(each.text))
    stop = long.text[len(long.text) // 2 :][:2]
    sampling = Sampling(max_new_tokens=20, stop=("never to be found", stop))
    for before, after in zip(whole, chosen.generate(batch, sampling), strict=True):
        assert after.text == before.text.split(stop)[0]
        if stop in before.text:
            assert after.finish_reason == "stop"
            assert after.tokens <= before.tokens
        else:
            assert after == before
    assert list(chosen.generate(batch, sampling)) == alone(chosen, batch, sampling)


def test_finish_reason_and_tokens(models: Any, tokenizer: Any) -> None:
    for completion in engine(models, tokenizer, "gpt2").generate(requests(tokenizer), Sampling(max_new_tokens=5)):
        assert (completion.finish_reason == "length") == (completion.tokens == 5)


DRAWN = Sampling(max_new_tokens=9, temperature=1.0, num_samples=3, batch_size=4, seed=1)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_samples_depend_on_the_seed_and_not_on_the_batch(models: Any, tokenizer: Any, name: str) -> None:
    from dataclasses import replace

    chosen, batch = engine(models, tokenizer, name), requests(tokenizer)
    first = list(chosen.generate(batch, DRAWN))
    torch.manual_seed(99)  # the process' own chance has no part in it
    assert list(chosen.generate(batch, DRAWN)) == first
    for batch_size in (1, 32):
        assert list(chosen.generate(batch, replace(DRAWN, batch_size=batch_size))) == first
    assert list(chosen.generate(batch, replace(DRAWN, seed=2))) != first
    assert [(each.id, each.sample) for each in first[:4]] == [("r0", 0), ("r0", 1), ("r0", 2), ("r1", 0)]
    assert len({each.text for each in first[:3]}) > 1


def test_samples_follow_the_models_probabilities(models: Any, tokenizer: Any) -> None:
    [request] = requests(tokenizer, ("The quick",))
    model = models["gpt2"]
    with torch.no_grad():
        expected = model(torch.tensor([request.input_ids])).logits[0, -1].div(0.5).softmax(-1)
    expected = torch.where(expected >= expected.topk(4).values[-1], expected, 0.0)
    expected /= expected.sum()
    count = 4000
    sampling = Sampling(max_new_tokens=1, temperature=0.5, top_k=4, num_samples=count, batch_size=count)
    texts = [each.text for each in engine(models, tokenizer, "gpt2").generate([request], sampling)]
    shares: dict[str, float] = {}  # by text: two tokens may look the same
    for token in expected.topk(4).indices.tolist():
        text = tokenizer.decode([token], skip_special_tokens=True)
        shares[text] = shares.get(text, 0.0) + float(expected[token])
    for text, share in shares.items():
        assert abs(texts.count(text) / count - share) < 4 * (share * (1 - share) / count) ** 0.5
    assert set(texts) <= set(shares)
    assert len(shares) > 1


def test_beams_give_several_answers_best_first(models: Any, tokenizer: Any) -> None:
    chosen, [request] = engine(models, tokenizer, "t5"), requests(tokenizer, ("The quick",))
    best = next(chosen.generate([request], Sampling(max_new_tokens=6, num_beams=3)))
    three = list(chosen.generate([request], Sampling(max_new_tokens=6, num_beams=3, num_samples=3)))
    assert [each.sample for each in three] == [0, 1, 2]
    assert three[0] == best
    assert len({each.text for each in three}) == 3


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling(num_beams=2, temperature=1.0), "cannot be combined with num_beams > 1"),
        (Sampling(num_beams=2, num_samples=3), r"num_samples \(3\) exceeds num_beams \(2\)"),
        (Sampling(temperature=0.0, num_samples=3), "temperature 0"),
        (Sampling(stop=("",)), "empty stop"),
    ],
)
def test_conflicting_settings_are_refused(models: Any, tokenizer: Any, sampling: Sampling, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        engine(models, tokenizer, "gpt2").generate(requests(tokenizer), sampling)


# -- the context ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_answer_ends_where_the_context_does(models: Any, tokenizer: Any, name: str) -> None:
    chosen = engine(models, tokenizer, name)
    batch = [Request(str(length), (1, *[50] * (length - 1))) for length in (3, 60, 40, 63, 61)]
    sampling = Sampling(max_new_tokens=20)
    answers = list(chosen.generate(batch, sampling))
    for request, completion in zip(batch, answers, strict=True):
        assert len(request.input_ids) + completion.tokens <= CONTEXT
        if completion.finish_reason == "length":
            assert completion.tokens == min(20, CONTEXT - len(request.input_ids))
    assert answers == alone(chosen, batch, sampling)


@pytest.mark.parametrize(("name", "length"), [("gpt2", 64), ("bart", 65)])
def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(
    models: Any, tokenizer: Any, name: str, length: int
) -> None:
    with pytest.raises(DataError, match=rf"{length} tokens.*64"):
        engine(models, tokenizer, name).generate([Request("long", (5,) * length)], Sampling())


def test_without_a_context_there_is_no_limit(models: Any, tokenizer: Any) -> None:
    completion = next(
        TorchEngine(models["t5"], tokenizer, "encoder-decoder").generate(
            [Request("long", (5,) * 600)], Sampling(max_new_tokens=3)
        )
    )
    assert completion.tokens <= 3


# -- streaming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=40), Sampling(max_new_tokens=40, temperature=1.5, seed=3)]
)
def test_streamed_pieces_are_the_answer(models: Any, tokenizer: Any, name: str, sampling: Sampling) -> None:
    chosen = engine(models, tokenizer, name)
    for request in requests(tokenizer, PROMPTS[:4]):
        pieces: list[str] = []
        completion = next(chosen.generate([request], sampling, stream=pieces.append))
        assert "".join(pieces) == completion.text
        assert [completion] == alone(chosen, [request], sampling)


def test_only_one_answer_is_streamed(models: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="exactly one request and one sample"):
        engine(models, tokenizer, "gpt2").generate(requests(tokenizer), Sampling(), stream=print)


# -- labels -----------------------------------------------------------------------------------------------------


def test_an_encoder_answers_with_the_most_likely_label_in_any_batch(models: Any, tokenizer: Any) -> None:
    batch = requests(tokenizer)
    chosen = TorchEngine(models["bert"], tokenizer, "encoder", layout_context=CONTEXT, labels=LABELS)
    answers = list(chosen.generate(batch, Sampling(batch_size=3)))
    with torch.no_grad():
        expected = [LABELS[int(models["bert"](torch.tensor([request.input_ids])).logits.argmax())] for request in batch]
    assert [each.text for each in answers] == expected
    assert {each.finish_reason for each in answers} == {"label"}
    assert {each.tokens for each in answers} == {0}
    assert len(set(expected)) > 1, "one label for all would prove nothing"


# -- score ------------------------------------------------------------------------------------------------------


def scored(tokenizer: Any) -> list[Request]:
    answers = ("times", " fox jumps over the lazy dog", "月光", "a", "", "worst of times, it was the", " it")
    return [
        Request(request.id, request.input_ids, (*tokenizer(answer, add_special_tokens=False).input_ids, 2))
        for request, answer in zip(requests(tokenizer), answers, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("name", GENERATORS)
def test_likelihoods_are_those_of_the_models_own_logits(
    models: Any, tokenizer: Any, name: str, batch_size: int
) -> None:
    model, batch = models[name], scored(tokenizer)
    found = list(engine(models, tokenizer, name).score(batch, batch_size=batch_size))
    assert [each.id for each in found] == [request.id for request in batch]
    for request, likelihood in zip(batch, found, strict=True):
        answer = torch.tensor(request.answer_ids)
        with torch.no_grad():
            if FAMILIES[name] == "decoder":
                whole = torch.tensor([request.input_ids + request.answer_ids])
                logits = model(whole).logits[0, len(request.input_ids) - 1 : -1]
            else:
                logits = model(torch.tensor([request.input_ids]), labels=answer[None]).logits[0]
        expected = logits.double().log_softmax(-1).gather(1, answer[:, None]).sum()
        assert likelihood.logprob == pytest.approx(float(expected), abs=1e-4)
        assert likelihood.tokens == len(answer)


def test_a_request_without_an_answer_has_likelihood_one(models: Any, tokenizer: Any) -> None:
    batch = [Request("none", (1, 5, 6)), Request("some", (1, 5), (6,))]
    none, some = engine(models, tokenizer, "llama").score(batch)
    assert (none.logprob, none.tokens) == (0.0, 0)
    assert some.logprob < 0


def test_scoring_a_text_longer_than_the_context_is_refused(models: Any, tokenizer: Any) -> None:
    fits = Request("fits", (1,), (5,) * CONTEXT)
    assert next(engine(models, tokenizer, "gpt2").score([fits])).tokens == CONTEXT
    with pytest.raises(DataError, match=r"65 tokens.*64"):
        engine(models, tokenizer, "gpt2").score([Request("long", (1,), (5,) * (CONTEXT + 1))])


# -- the model is only borrowed -----------------------------------------------------------------------------------


def test_a_model_in_training_mode_stays_in_it_and_can_train_further(models: Any, tokenizer: Any) -> None:
    model = models["gpt2"]
    model.train()
    try:
        chosen = engine(models, tokenizer, "gpt2")
        list(chosen.generate(requests(tokenizer), Sampling(max_new_tokens=3)))
        list(chosen.score(scored(tokenizer)))
        assert model.training
        ids = torch.tensor([[1, 5, 6, 7]])
        model.loss_type = "ForCausalLM"
        model(ids, labels=ids).loss.backward()
        assert model.transformer.wte.weight.grad.abs().sum() > 0
    finally:
        model.zero_grad()
        model.eval()


def test_bf16_computes_in_bf16_and_stays_close(models: Any, tokenizer: Any) -> None:
    batch = scored(tokenizer)
    exact = list(engine(models, tokenizer, "llama").score(batch))
    rough = list(engine(models, tokenizer, "llama", precision="bf16").score(batch))
    assert [each.logprob for each in exact] != [each.logprob for each in rough]
    for one, other in zip(exact, rough, strict=True):
        assert other.logprob == pytest.approx(one.logprob, rel=0.05)
