"""Settings of `generate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, StrictBool, StrictFloat, StrictInt

from llmctl.config import Spec, flag, key
from llmctl.settings import (
    AUTO,
    CONCURRENCY,
    CONCURRENCY_HELP,
    INSTRUCTION,
    EngineName,
    ModelReference,
    TaskName,
)
from llmctl.values import LARGEST_SEED, Shown, Size, Text

_ESCAPES: Final = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "\\\\": "\\"}


def _unescaped(text: str) -> str:
    """A shell passes `--stop '\\n'` as two characters; a line break is meant."""
    return re.sub(r"\\[ntr\\]", lambda found: _ESCAPES[found[0]], text)


StopText = Annotated[Text, AfterValidator(_unescaped)]


class GenerateConfig(Spec):
    """Generate text with a model."""

    model: ModelReference = flag(..., "run, model folder, or hf:ID", panel="Main")
    task: TaskName | None = flag(
        None, "task that lays out the prompt; default: the one the model was trained for", panel="Main"
    )
    prompt: tuple[Text, ...] = flag(
        (),
        "text to answer or continue; repeatable; one prints text; several, a file or a pipe print JSON lines",
        panel="Main",
    )
    input: Annotated[str, Shown(path=True)] | None = flag(
        None, "file of prompts or records; - for standard input", panel="Main"
    )
    output: Path | None = flag(None, "JSONL file for the answers, one row per input row", panel="Main")
    explain: Path | None = flag(
        None, "plot the cross-attention of one answer as .svg or .png; encoder-decoders only", panel="Main"
    )
    timestamps: StrictBool = flag(False, "print when each part of a recording is said", panel="Main")
    max_new_tokens: Size = flag(128, "maximum length of an answer in tokens", panel="Length", ge=1)
    stop: tuple[StopText, ...] = flag((), "stop before this text; \\n is a line break; repeatable", panel="Length")
    truncate: Literal["left"] | None = flag(
        None, "keep the end of a prompt longer than the context; default: such a prompt is an error", panel="Length"
    )
    temperature: StrictFloat | None = flag(None, "sampling temperature; 0: greedy search", panel="Choice", ge=0)
    top_k: StrictInt | None = flag(None, "sample from the k most likely tokens", panel="Choice", ge=1)
    top_p: StrictFloat | None = flag(
        None, "sample from the most likely tokens with this total probability", panel="Choice", gt=0, le=1
    )
    min_p: StrictFloat | None = key(
        None, "sample from tokens with at least this share of the highest probability", ge=0, le=1
    )
    repetition_penalty: StrictFloat = key(1.0, "penalty on tokens that already occur; 1: none", gt=0)
    num_beams: StrictInt = flag(1, "number of beams; 1: no beam search", panel="Choice", ge=1)
    length_penalty: StrictFloat = key(1.0, "exponent of the length by which the score of a beam is divided")
    num_samples: StrictInt = flag(1, "answers per prompt", panel="Choice", ge=1)
    labels: tuple[str, ...] = key((), "labels to choose from; default: the model's")
    calibrate: StrictBool = key(
        False, "score a label by its log likelihood given the text minus that given an empty text"
    )
    instruction: str | None = key(None, INSTRUCTION)
    system: Text | None = flag(None, "system message; chat only", panel="Main")
    batch_size: StrictInt = flag(32, "prompts per batch", panel="Run", ge=1)
    base: Path | None = key(None, "base model of an adapter, if it has moved")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "precision of the computation")
    concurrency: StrictInt = flag(CONCURRENCY, CONCURRENCY_HELP, ge=1, le=1024)
    engine: EngineName = flag(AUTO, "engine that runs the model; auto: the one for what its folder holds", panel="Run")
    seed: StrictInt = flag(0, "random seed", panel="Run", ge=0, le=LARGEST_SEED)
