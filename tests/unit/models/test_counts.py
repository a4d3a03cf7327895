"""Weights counted by arithmetic against the models built."""

from __future__ import annotations

import pytest

from llmctl import registry
from llmctl.errors import ConfigError
from llmctl.models.spec import ModelSpec, Shape, Vocabulary

NAMES = [entry.name for entry in registry.entries("models")]
LABELS = ("bad", "good", "so-so")


def spec_of(name: str) -> ModelSpec:
    spec: ModelSpec = registry.load("models", name)
    return spec


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["nano", "tiny"])
@pytest.mark.parametrize("vocabulary", [96, 1003])
def test_the_count_equals_that_of_the_built_model(name: str, size: str, vocabulary: int) -> None:
    spec = spec_of(name)
    shape = spec.shape(size, Shape())
    model = spec.build(shape, Vocabulary(vocabulary, 0, 1, 2), LABELS)
    assert spec.parameters(shape, vocabulary, len(LABELS)) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lstm-seq2seq", {"score": "additive", "layers": 2}),
        ("lstm-classifier", {"bidirectional": False, "layers": 3}),
        ("lstm-classifier", {"bidirectional": False, "pooling": "last"}),
        ("rnn", {"layers": 3, "activation": "sigmoid"}),
        ("attention", {"heads": 8, "inner": 100}),
        ("t5", {"heads": 8, "layers": 3, "inner": 100}),
        ("marian", {"layers": 3, "inner": 100, "context": 30}),
        ("bart", {"layers": 3, "inner": 100, "context": 30}),
    ],
)
def test_the_count_follows_changed_settings(name: str, change: dict[str, object]) -> None:
    spec = spec_of(name)
    shape = spec.shape("nano", Shape.model_validate(change))
    model = spec.build(shape, Vocabulary(50, 0, 1, 2), LABELS)
    assert spec.parameters(shape, 50, len(LABELS)) == sum(weight.numel() for weight in model.parameters())


def test_one_sigmoid_output_is_counted_as_one_and_refused_for_three_labels() -> None:
    from llmctl.errors import UsageError

    spec = spec_of("lstm-classifier")
    shape = spec.shape("nano", Shape(head="sigmoid", bidirectional=False))
    model = spec.build(shape, Vocabulary(50, 0, 1, 2), LABELS[:2])
    assert spec.parameters(shape, 50, 2) == sum(weight.numel() for weight in model.parameters())
    with pytest.raises(UsageError, match="sigmoid requires two labels, not 3"):
        spec.build(shape, Vocabulary(50, 0, 1, 2), LABELS)


def test_gpt2_base_is_the_published_124m() -> None:
    spec = spec_of("gpt2")
    assert spec.parameters(spec.shape("base", Shape()), 50257) == 124_439_808  # Hugging Face's openai-community/gpt2


def test_bert_base_is_the_published_110m() -> None:
    spec = spec_of("bert")
    # Hugging Face's google-bert/bert-base-uncased has 109,482,240 weights with its pooler; a classifier adds 768·2 + 2.
    assert spec.parameters(spec.shape("base", Shape()), 30522) == 109_482_240 + 768 * 2 + 2


def test_heads_that_do_not_divide_the_width_are_refused_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match=r"model.heads: hidden \(128\) cannot be split into 5 heads"):
        spec_of("attention").shape("nano", Shape(heads=5))
    assert spec_of("gpt2").shape("nano", Shape(hidden=15, heads=5)).hidden == 15
    with pytest.raises(ConfigError, match="whose width is a multiple of 2"):  # rotary positions rotate pairs
        spec_of("llama").shape("nano", Shape(hidden=15, heads=5))


@pytest.mark.parametrize(
    ("name", "size", "vocabulary", "weights"),
    [
        ("t5", "small", 32128, 60_506_624),  # google-t5/t5-small
        ("t5", "base", 32128, 222_903_552),  # google-t5/t5-base
        ("t5", "tiny", 32128, 15_570_688),  # google/t5-efficient-tiny
        ("bart", "base", 50265, 139_420_416),  # facebook/bart-base
        # Helsinki-NLP/opus-mt-en-de: 6 + 6 layers of 512 and 2048, and the sinusoids of 2 · 512 places
        ("marian", "base", 58101, 74_410_496),
    ],
)
def test_published_sizes_keep_their_published_shape(name: str, size: str, vocabulary: int, weights: int) -> None:
    spec = spec_of(name)
    assert spec.parameters(spec.shape(size, Shape()), vocabulary) == weights


def test_bert_without_labels_has_a_masked_language_modelling_head() -> None:
    spec = spec_of("bert")
    shape = spec.shape("nano", Shape())
    model = spec.build(shape, Vocabulary(50, 0, 1, 2))
    assert type(model).__name__ == "BertForMaskedLM"
    assert spec.parameters(shape, 50, 0) == sum(weight.numel() for weight in model.parameters())


def test_a_classifier_without_labels_is_refused() -> None:
    from llmctl.errors import UsageError

    spec = spec_of("lstm-classifier")
    with pytest.raises(UsageError, match="the data has none"):
        spec.build(spec.shape("nano", Shape()), Vocabulary(50, 0, 1, 2))
