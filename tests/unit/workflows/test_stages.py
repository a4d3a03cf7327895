"""What a stage of a recipe reads: places on disk, not names of the hub."""

from __future__ import annotations

from pathlib import Path

from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.preprocess.spec import PreprocessConfig
from llmctl.workflows.recipe.load import verb_of
from llmctl.workflows.train.spec import TrainConfig


def test_a_model_of_the_hub_is_no_file_that_is_missing(tmp_path: Path) -> None:
    """A recipe with `model: hf:OWNER/NAME` ended with «no such file or folder: hf:OWNER/NAME»."""
    train = TrainConfig.model_validate({"data": "data/a", "model": "hf:owner/name", "out": "runs/a"})
    assert verb_of("train").reads(train) == [Path("data/a")]
    scores = EvalConfig.model_validate({"model": "hf:owner/name", "data": "data/a"})
    assert verb_of("eval").reads(scores) == [Path("data/a")]
    (tmp_path / "words.txt").write_text("words")
    text = {"inputs": [str(tmp_path / "words.txt")], "tokenizer": "hf:owner/name", "out": "data/a"}
    assert verb_of("preprocess").reads(PreprocessConfig.model_validate(text)) == [tmp_path / "words.txt"]
