"""Log-likelihoods and labels equal what transformers computes on padded batches of any size, for every family.

The reference is computed here, by the models' own forward pass with attention masks (and positions where it takes
them), padded on the left and on the right, so that it holds for whatever version is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from llmctl import registry
from llmctl.data.tokenizers import CONTROL
from llmctl.engines.local import TorchEngine
from llmctl.engines.spec import Sampling
from llmctl.models.spec import Shape, Vocabulary
from llmctl.types import Request

Side = Literal["left", "right"]
VOCABULARY = 60
LABELS = ("bad", "good", "so so")
SIZES = (1, 3, 8)
SMALL = {"layers": 1, "hidden": 32, "embedding": 16, "heads": 2, "context": 64, "inner": 48}
DECODERS = ("rnn", "lstm", "attention", "gpt2", "llama")
PAIRS = ("lstm-seq2seq", "t5", "marian", "bart")
ENCODERS = ("lstm-classifier", "bert")
LEFT_TOO = ("t5",)
"""Encoder-decoders whose source may be padded on the left: its positions are relative."""


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


def requests(*, answers: bool = True) -> list[Request]:
    """Eight requests of all lengths."""
    chance = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(len(CONTROL), VOCABULARY, (count,), generator=chance).tolist())

    lengths = [(1, 1), (2, 9), (17, 3), (5, 5), (30, 12), (3, 1), (11, 20), (8, 2)]
    return [
        Request(f"r{number}", (1, *ids(asked)), ids(said) if answers else ())
        for number, (asked, said) in enumerate(lengths)
    ]


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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "side"),
    [
        *((name, side) for name in DECODERS for side in ("left", "right")),
        *((name, "right") for name in PAIRS),
        *((name, "left") for name in LEFT_TOO),
    ],
)
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
@pytest.mark.parametrize("name", ENCODERS)
def test_labels_are_those_of_the_models_own_forward_pass(name: str, size: int) -> None:
    model, asked = build(name), requests(answers=False)
    engine = TorchEngine(model, Names(), "encoder", labels=LABELS)
    expected: list[str] = []
    with torch.no_grad():
        for batch in batches(asked, size):
            ids, mask = padded([request.input_ids for request in batch], "right")
            chosen = model(input_ids=ids, attention_mask=mask).logits.argmax(1).tolist()
            expected += [LABELS[number] for number in chosen]
    assert [each.text for each in engine.generate(asked, Sampling(batch_size=size))] == expected
