"""Settings of `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import StrictBool, StrictFloat, StrictInt

from llmctl.config import Size, Spec, flag, key
from llmctl.workflows.settings import INSTRUCTION, EngineName, ModelReference, TaskName


class GenerateConfig(Spec):
    """Text from a model."""

    model: ModelReference = flag(..., "a run, a model folder, or hf:ID", panel="Main")
    task: TaskName | None = flag(None, "how to put the prompt; the model folder knows", panel="Main")
    prompt: tuple[str, ...] = flag(
        (), "what to answer or continue; one prints its text, several (or a file, a pipe) JSON lines", panel="Main"
    )
    input: str | None = flag(None, "a file of prompts or records, - for standard input", panel="Main")
    output: Path | None = flag(None, "a JSONL file of answers, one row for every input row", panel="Main")
    explain: Path | None = flag(
        None, "draw where one answer looks in its source: an .svg or .png file; encoder-decoders", panel="Main"
    )
    max_new_tokens: Size = flag(128, "longest answer in tokens", panel="Length", ge=1)
    stop: tuple[str, ...] = flag((), "end an answer before this text; repeatable", panel="Length")
    temperature: StrictFloat | None = flag(None, "sample with this temperature; 0 is greedy", panel="Choice", ge=0)
    top_k: StrictInt | None = flag(None, "sample among the k likeliest tokens", panel="Choice", ge=1)
    top_p: StrictFloat | None = flag(None, "sample among the likeliest tokens of this mass", panel="Choice", gt=0, le=1)
    min_p: StrictFloat | None = key(None, "sample among tokens at least this share of the likeliest", ge=0, le=1)
    repetition_penalty: StrictFloat = key(1.0, "divide the scores of tokens already there", gt=0)
    num_beams: StrictInt = flag(1, "beams of a beam search", panel="Choice", ge=1)
    length_penalty: StrictFloat = key(1.0, "exponent of the length a beam's score is divided by")
    num_samples: StrictInt = flag(1, "answers to each prompt", panel="Choice", ge=1)
    labels: tuple[str, ...] = key((), "labels to choose among; a model trained to name labels knows its own")
    calibrate: StrictBool = key(False, "weigh a label by how much likelier the text makes it than an empty text does")
    instruction: str | None = key(None, INSTRUCTION)
    batch_size: StrictInt = flag(32, "prompts answered at once", panel="Run", ge=1)
    base: Path | None = key(None, "the base of an adapter, where it is no longer where it was")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "of the computation")
    engine: EngineName = key("torch", "what runs the model")
    seed: StrictInt = flag(0, "fixes everything that is drawn", panel="Run", ge=0)
