"""Settings of `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import StrictBool, StrictInt

from llmctl.config import Size, Spec, flag, key
from llmctl.metrics.spec import IntervalSpec
from llmctl.workflows.settings import INSTRUCTION, EngineName, ModelReference, RequestedGate, RequestedMetric, TaskName


class EvalConfig(Spec):
    """Score a model on data, or predictions against references."""

    model: ModelReference | None = flag(None, "a run or model folder", panel="A model")
    data: Path | None = flag(None, "a prepared folder, or a file of records", panel="A model")
    split: Literal["train", "validation", "test"] = flag("test", "of a prepared folder", panel="A model")
    task: TaskName | None = key(None, "how to put the records; the model folder knows")
    predictions: Path | None = flag(None, ".txt (one a line) or .jsonl", panel="Files")
    references: tuple[Path, ...] = flag((), ".txt or .jsonl; repeat for several right answers", panel="Files")
    metric: tuple[RequestedMetric, ...] = flag((), "bleu, or with options bleu:tokenize=zh; repeatable", panel="Score")
    require: tuple[RequestedGate, ...] = flag((), "a gate: 'bleu>=20'; not met is exit 10; repeatable", panel="Score")
    baseline: Path | None = flag(None, "other predictions, compared in pairs: 'bleu>=baseline-0.5'", panel="Score")
    junit: Path | None = flag(None, "write scores and gates as JUnit XML", panel="Report")
    markdown: Path | None = flag(None, "write scores and gates as a Markdown table", panel="Report")
    interval: IntervalSpec = key(IntervalSpec(), "confidence interval")
    limit: StrictInt | None = flag(None, "score the first so many records", panel="Score", ge=1)
    out: Path | None = flag(None, "folder for scores.json and predictions.jsonl", panel="Score")
    max_new_tokens: Size = key(256, "longest answer in tokens", ge=1)
    num_beams: StrictInt = key(1, "beams of a beam search", ge=1)
    labels: tuple[str, ...] = key((), "labels to choose among; the model's or those of the data when not given")
    calibrate: StrictBool = key(False, "weigh a label by how much likelier the text makes it than an empty text does")
    instruction: str | None = key(None, INSTRUCTION)
    window: Size | None = key(
        None, "tokens seen at once in likelihoods; as long as the blocks learned when not given", ge=2
    )
    batch_size: StrictInt = flag(32, "records at once", panel="Run", ge=1)
    base: Path | None = key(None, "the base of an adapter, where it is no longer where it was")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "of the computation; published figures use fp32")
    engine: EngineName = key("torch", "what runs the model")
    seed: StrictInt = flag(0, "fixes everything that is drawn", panel="Run", ge=0)
