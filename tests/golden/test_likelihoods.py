"""Log-likelihoods equal what transformers computes on padded batches of any size, for every family.

The reference is computed here, by the models' own forward pass with attention masks (and positions where it takes
them), padded on the left and on the right, so that it holds for whatever version is installed.

`marian`, `bart` and `bert` are padded on the right alone. The first two count positions from the left edge of the batch,
and their forward pass takes no others; `bert` reads a label where a row begins, which is padding where that stands on the
left. Padded so they compute another thing, in transformers too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from llmctl import registry
from llmctl.data.tokenizing.tokenizers import CONTROL
from llmctl.engines.local import TorchEngine
from llmctl.engines.spec import Sampling
from llmctl.models.spec import Shape, Vocabulary
from llmctl.types import MODALITY, Request

Side = Literal["left", "right"]
VOCABULARY = 60
LABELS = ("bad", "good", "so so")
SIZES = (1, 3, 8)
SMALL = {"layers": 1, "hidden": 32, "embedding": 16, "heads": 2, "context": 64, "inner": 48}
DECODERS = ("rnn", "lstm", "attention", "gpt2", "llama")
PAIRS = ("lstm-seq2seq", "t5", "marian", "bart")
ENCODERS = ("lstm-classifier", "bert")
LEFT_TOO = ("lstm-seq2seq", "t5", "lstm-classifier")
"""Readers of a source or a text that may be padded on the left: recurrent, or with relative positions."""


class Names:
    """What an engine asks of a tokenizer where it only scores."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2


def build(name: str) -> Any:
    torch.manual_seed(0)
    spec = registry.load("models", name)
    given = {each: value for each, value in SMALL.items() if each in spec.settings()}
    labels = LABELS if spec.family == "encoder" else ()
    model = spec.build(spec.shape("nano", Shape(**given)), Vocabulary(VOCABULARY, 0, 1, 2), labels)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0.0, 0.2)
    return model.eval()


def requests() -> list[Request]:
    """Eight requests of all lengths."""
    rng = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(len(CONTROL), VOCABULARY, (count,), generator=rng).tolist())

    lengths = [(1, 1), (2, 9), (17, 3), (5, 5), (30, 12), (3, 1), (11, 20), (8, 2)]
    return [Request(f"r{number}", (1, *ids(asked)), ids(said)) for number, (asked, said) in enumerate(lengths)]


def padded(rows: Sequence[Sequence[int]], side: Side) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T)."""
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return ids, mask


def batches(rows: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def of_decoder(model: Any, batch: Sequence[Request], side: Side) -> list[float]:
    ids, mask = padded([request.input_ids + request.answer_ids for request in batch], side)
    options = {"attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        options["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
    scores = model(input_ids=ids, **options).logits.double().log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    found = []
    for row, request in zip(scores, batch, strict=True):
        whole = len(request.input_ids) + len(request.answer_ids)
        end = len(row) if side == "left" else whole - 1
        found.append(float(row[end - len(request.answer_ids) : end].sum()))
    return found


def of_pair(model: Any, batch: Sequence[Request], side: Side) -> list[float]:
    ids, mask = padded([request.input_ids for request in batch], side)
    targets, kept = padded([request.answer_ids for request in batch], "right")
    starts = torch.full((len(batch), 1), model.config.decoder_start_token_id)
    decoded = torch.cat([starts, targets[:, :-1]], 1)
    logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoded).logits.double()
    scores = logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    return [float(value) for value in (scores * kept).sum(1)]


def sides(names: Sequence[str]) -> list[tuple[str, Side]]:
    """Each model with the sides on which it may be padded."""
    both: tuple[Side, Side] = ("left", "right")
    return [(name, side) for name in names for side in both if side == "right" or name in (*DECODERS, *LEFT_TOO)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "side"), sides((*DECODERS, *PAIRS)))
def test_likelihoods_are_those_of_the_models_own_forward_pass(name: str, side: Side, size: int) -> None:
    model, asked = build(name), requests()
    family = registry.load("models", name).family
    engine = TorchEngine(model, Names(), family)
    of = of_decoder if family == "decoder" else of_pair
    with torch.no_grad():
        expected = [value for batch in batches(asked, size) for value in of(model, batch, side)]
    found = list(engine.score(asked, batch_size=size))
    assert [(each.id, each.tokens) for each in found] == [(each.id, len(each.answer_ids)) for each in asked]
    assert [each.logprob for each in found] == pytest.approx(expected, abs=1e-4)
    assert max(expected) < -1, "a likelihood of one would prove nothing"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "side"), sides(ENCODERS))
def test_labels_are_as_likely_as_in_the_models_own_forward_pass(name: str, side: Side, size: int) -> None:
    model = build(name)
    texts = [Request(each.id, each.input_ids) for each in requests()]
    engine = TorchEngine(model, Names(), "encoder", labels=LABELS)
    expected: list[list[float]] = []
    with torch.no_grad():
        for batch in batches(texts, size):
            ids, mask = padded([request.input_ids for request in batch], side)
            expected += model(input_ids=ids, attention_mask=mask).logits.double().log_softmax(1).tolist()
    for label in range(len(LABELS)):
        found = list(engine.score([replace(text, answer_ids=(label,)) for text in texts], batch_size=size))
        assert [(each.id, each.tokens) for each in found] == [(text.id, 1) for text in texts]
        assert [each.logprob for each in found] == pytest.approx([row[label] for row in expected], abs=1e-4)
    chosen = [each.text for each in engine.generate(texts, Sampling(batch_size=size))]
    assert chosen == [LABELS[row.index(max(row))] for row in expected]
    assert len(set(chosen)) > 1, "one label for all would prove nothing"


def test_every_model_is_held_to_its_own_forward_pass() -> None:
    built_in = [entry.name for entry in registry.entries("models") if entry.owner == registry.OWNER]
    texts = [name for name in built_in if MODALITY[registry.load("models", name).family] == "text"]
    assert sorted((*DECODERS, *PAIRS, *ENCODERS)) == sorted(texts)
