"""Settings of `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import StrictBool, StrictInt

from llmctl.config import Spec, flag, key
from llmctl.metrics.spec import IntervalSpec
from llmctl.settings import (
    AUTO,
    CONCURRENCY,
    CONCURRENCY_HELP,
    INSTRUCTION,
    EngineName,
    ModelReference,
    RequestedGate,
    RequestedMetric,
    TaskName,
)
from llmctl.values import LARGEST_SEED, Folder, Shown, Size


class EvalConfig(Spec):
    """Score a model on data, or predictions against references."""

    model: ModelReference | None = flag(None, "run, model folder, or hf:ID", panel="A model")
    data: Annotated[Path, Shown(metavar="DIR|FILE")] | None = flag(
        None, "prepared folder, or a file of records", panel="A model"
    )
    split: Literal["train", "validation", "test"] = flag("test", "split of a prepared folder", panel="A model")
    task: TaskName | None = flag(
        None, "task that lays out the prompts; default: the one the model was trained for", panel="A model"
    )
    predictions: Path | None = flag(
        None, "predictions: .txt (one per line), .jsonl or another format; - for standard input", panel="Files"
    )
    references: tuple[Path, ...] = flag(
        (), "references: the same formats; repeat for several per record", panel="Files"
    )
    metric: tuple[RequestedMetric, ...] = flag(
        (), "bleu, or with options bleu:tokenize=zh; repeatable; default: the task's metrics", panel="Score"
    )
    require: tuple[RequestedGate, ...] = flag(
        (), "gate: 'bleu>=20'; exit code 10 if it is not met; repeatable", panel="Score"
    )
    baseline: Path | None = flag(
        None,
        "predictions of a baseline, for paired tests, or its scores.json; gates: 'bleu>=baseline-0.5'",
        panel="Score",
    )
    junit: Path | None = flag(None, "write scores and gates as JUnit XML", panel="Report")
    markdown: Path | None = flag(
        None, "write scores and gates as a Markdown table; $GITHUB_STEP_SUMMARY is appended to", panel="Report"
    )
    interval: IntervalSpec = key(IntervalSpec.defaults(), "confidence intervals")
    limit: StrictInt | None = flag(None, "score only the first N records", panel="Score", ge=1)
    out: Folder | None = flag(
        None, "folder for scores.json and predictions.jsonl; default: a new one in RUN/evals for a run", panel="Score"
    )
    max_new_tokens: Size = key(256, "maximum length of an answer in tokens", ge=1)
    num_beams: StrictInt = key(1, "number of beams; 1: greedy search", ge=1)
    labels: tuple[str, ...] = key((), "labels to choose from; default: the model's, else those of the data")
    calibrate: StrictBool = key(
        False, "score a label by its log likelihood given the text minus that given an empty text"
    )
    instruction: str | None = key(None, INSTRUCTION)
    window: Size | None = key(
        None, "window of tokens for likelihoods; default: the block size of training, else the context", ge=2
    )
    batch_size: StrictInt = flag(32, "records per batch", panel="Run", ge=1)
    reference: Path | None = key(
        None, "reference model of rewards; default: the weights that preference tuning started from"
    )
    base: Path | None = key(None, "base model of an adapter, if it has moved")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "precision of the computation; published figures use fp32")
    concurrency: StrictInt = flag(CONCURRENCY, CONCURRENCY_HELP, ge=1, le=1024)
    engine: EngineName = flag(AUTO, "engine that runs the model; auto: the one for what its folder holds", panel="Run")
    seed: StrictInt = flag(0, "random seed", panel="Run", ge=0, le=LARGEST_SEED)
