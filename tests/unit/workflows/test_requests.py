"""Metrics and gates in a configuration: parsed once, written as the user wrote them."""

from __future__ import annotations

import json

import pytest
import yaml

from llmctl.config import validate
from llmctl.errors import ConfigError
from llmctl.metrics.spec import BLEU, ROUGE, BleuOptions
from llmctl.workflows.compare.spec import CompareConfig
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.recipe.record import settings
from llmctl.workflows.train.spec import TrainConfig

BLOCK = {
    "metric": ["bleu:tokenize=zh, lowercase=true", " rouge"],
    "require": ["bleu >= 20", "rougeL>=baseline - 0.5"],
}


def test_a_configuration_holds_metrics_and_gates_parsed() -> None:
    config = validate(EvalConfig, BLOCK)
    assert [(each.spec, each.score) for each in config.metric] == [(BLEU, "bleu"), (ROUGE, "rougeL")]
    assert config.metric[0].options == BleuOptions(tokenize="zh", lowercase=True)
    assert [(gate.name, gate.relative) for gate in config.require] == [("bleu", False), ("rougeL", True)]


def test_it_is_written_as_the_user_wrote_it_and_read_again() -> None:
    config = validate(EvalConfig, BLOCK)
    written = settings(config)
    assert {name: written[name] for name in BLOCK} == BLOCK
    assert EvalConfig.model_validate_json(config.model_dump_json()) == config
    assert validate(EvalConfig, yaml.safe_load(yaml.safe_dump(written))) == config
    assert settings(config.replace(seed=0)) == written
    assert EvalConfig(metric=config.metric, require=config.require) == config


@pytest.mark.parametrize(
    ("text", "score"), [("loss", None), ("rouge", "rougeL"), ("rouge1", "rouge1"), ("bleu:tokenize=zh", "bleu")]
)
def test_what_the_best_checkpoint_is_chosen_by(text: str, score: str | None) -> None:
    block = {"data": "d", "model": "gpt2", "out": "o", "best_by": text}
    config = validate(TrainConfig, block)
    assert getattr(config.best_by, "score", None) == score
    assert f"{config.best_by}" == text
    assert json.loads(config.model_dump_json())["best_by"] == text
    compared = validate(CompareConfig, {"data": "d", "models": "rnn,lstm", "out": "o", "train": {"best_by": text}})
    assert settings(compared)["train"]["best_by"] == text


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"metric": [5]}, "metric.0: must be text, not 5"),
        ({"metric": ["blue"]}, "metric.0: no metric named 'blue'; did you mean 'bleu'?"),
        ({"metric": ["bleu:tokenise=zh"]}, "metric.0.bleu.tokenise: unknown key; did you mean 'tokenize'?"),
        ({"require": ["bleu=20"]}, "require.0: a gate on a score cannot use '='"),
    ],
)
def test_what_is_not_understood_is_a_fault_of_the_configuration(block: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(EvalConfig, block)
    assert str(caught.value).startswith(said)
