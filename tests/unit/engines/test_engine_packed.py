"""Packed bf16 weights give the answers of the model, whose parameters they share."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from llmctl.engines.local import TorchEngine
from llmctl.engines.packed import PackedLinear, packed
from llmctl.engines.spec import Sampling
from llmctl.models import adapters
from llmctl.models.spec import Adapter
from llmctl.types import Request

FAMILIES = {"gpt2": "decoder", "llama": "decoder", "t5": "encoder-decoder", "bart": "encoder-decoder"}
pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this processor does not compute in bf16",
)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_layer_computes_what_the_layer_computes(rows: int, bias: bool) -> None:
    layer = nn.Linear(70, 130, bias=bias).bfloat16().requires_grad_(False)
    ours = packed(_Model(layer)).layer
    values = torch.randn(rows, 2, 70).bfloat16()
    assert isinstance(ours, PackedLinear)
    assert ours.weight is layer.weight
    torch.testing.assert_close(ours(values), layer(values), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_in_bf16_come_from_packed_weights_and_the_model_stays_as_it_was(
    models: Any, tokenizer: Any, name: str
) -> None:
    model = copy.deepcopy(models[name]).bfloat16().requires_grad_(False)
    modules = dict(model.named_modules())
    engine = TorchEngine(model, tokenizer, FAMILIES[name], precision="bf16")  # type: ignore[arg-type]
    assert any(isinstance(each, PackedLinear) for each in engine.model.modules())
    assert dict(model.named_modules()) == modules
    assert {id(each) for each in engine.model.parameters()} == {id(each) for each in model.parameters()}
    ids = (1, *tokenizer("It was the worst of times", add_special_tokens=False).input_ids)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if FAMILIES[name] == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.tensor([[1, 5, 9]])
    torch.testing.assert_close(engine.model(**inputs).logits, model(**inputs).logits, atol=0.05, rtol=0.05)
    for beams in (1, 2):
        [found] = engine.generate([Request("a", ids)], Sampling(max_new_tokens=5, num_beams=beams))
        assert found.tokens == 5 or found.finish_reason == "stop"


def test_weights_that_may_still_change_and_others_than_bf16_are_not_packed(models: Any) -> None:
    assert packed(models["llama"]) is models["llama"]
    trained = copy.deepcopy(models["llama"]).bfloat16().requires_grad_(True)
    assert packed(trained) is trained


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart"])
def test_an_adapter_trained_in_bf16_answers_the_validation_split_on_a_cpu(
    models: Any, tokenizer: Any, name: str
) -> None:
    """Only the weights beside it are bf16: layers get float32 values."""
    model = copy.deepcopy(models[name])
    adapters.attach(model, adapters.resolve(model, Adapter(), FAMILIES[name]))  # type: ignore[arg-type]
    adapters.cast_frozen_to_bf16(model)
    assert adapters.is_cast_to_bf16(model)
    engine = TorchEngine(model.eval(), tokenizer, FAMILIES[name], precision="bf16")  # type: ignore[arg-type]
    [found] = engine.generate([Request("a", (1, 5, 9))], Sampling(max_new_tokens=5))
    assert found.tokens == 5 or found.finish_reason == "stop"


class _Model(nn.Module):
    device = torch.device("cpu")

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
