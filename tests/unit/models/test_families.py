"""The family of a model from its config.json."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmctl import registry
from llmctl.errors import UsageError
from llmctl.models.families import family_of
from llmctl.models.spec import ModelSpec, Shape, Vocabulary


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("models")])
def test_the_family_of_every_built_in_architecture_follows_from_its_config(name: str) -> None:
    spec: ModelSpec = registry.load("models", name)
    shape = spec.shape("nano", Shape(layers=1, hidden=16))
    model = spec.build(shape, Vocabulary(40, 0, 1, 2), ("a", "b"))
    config = model.config.to_diff_dict()
    assert family_of(config | {"architectures": [type(model).__name__]}) == spec.family
    assert family_of({"model_type": config["model_type"]}) == spec.family


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"architectures": ["BertModel"], "model_type": "bert"}, "encoder"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "encoder"),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "encoder"),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "decoder"),
        ({"architectures": ["SomethingNewForCausalLM"], "model_type": "new"}, "decoder"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "decoder"),
        ({"architectures": ["MarianMTModel"], "model_type": "marian", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "encoder-decoder"),
        ({"architectures": ["BartForConditionalGeneration"], "model_type": "bart"}, "encoder-decoder"),
        ({"architectures": ["BartForSequenceClassification"], "model_type": "bart"}, "encoder"),
        ({"architectures": None, "model_type": "roberta"}, "encoder"),
    ],
)
def test_known_architectures(config: dict[str, object], family: str) -> None:
    assert family_of(config) == family


@pytest.mark.parametrize("config", [{}, {"model_type": "vit", "architectures": ["ViTForImageClassification"]}])
def test_models_of_other_modalities_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="not a known text decoder, encoder-decoder or encoder"):
        family_of(config)


def test_describing_models_does_not_import_torch() -> None:
    code = (
        "import sys, llmctl.models.architectures as s, llmctl.models.families;"
        "s.LSTM.parameters(s.LSTM.sizes['nano'], 4096); assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
