"""Operations by arithmetic against torch's own counter (torch.utils.flop_counter, torch 2.13), which counts every matrix
product and attention. It does not know the kernels of an LSTM: those are counted by their definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmctl import registry
from llmctl.models.costs import BatchShape, forward_flops
from llmctl.models.spec import ModelSpec, Vocabulary

VOCABULARY = Vocabulary(1000, 0, 1, 2)
EXAMPLES, SOURCE, TARGET = 3, 40, 30


@pytest.mark.parametrize("size", ["nano", "tiny"])
@pytest.mark.parametrize("name", ["rnn", "attention", "gpt2", "llama", "t5", "marian", "bart", "bert"])
def test_operations_are_what_torch_counts(name: str, size: str) -> None:
    spec: ModelSpec = registry.load("models", name)
    labels = ("good", "bad") if spec.family == "encoder" else ()
    model = spec.build(spec.sizes[size], VOCABULARY, labels).eval()
    ids = torch.randint(5, 900, (EXAMPLES, SOURCE))
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if spec.family == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.randint(5, 900, (EXAMPLES, TARGET))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    parameters = sum(weight.numel() for weight in model.parameters())
    batch_shape = BatchShape(EXAMPLES, SOURCE, TARGET if spec.family == "encoder-decoder" else 0)
    found = forward_flops(spec.family, spec.sizes[size], parameters, VOCABULARY.size, batch_shape)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.11)


def test_an_lstm_s_operations_are_two_a_weight_and_token() -> None:
    spec: ModelSpec = registry.load("models", "lstm")
    shape = spec.sizes["nano"]
    parameters = spec.parameters(shape, 1000)
    assert forward_flops("decoder", shape, parameters, 1000, BatchShape(2, 7)) == 2 * 2 * 7 * parameters
