"""Settings of `chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import StrictFloat, StrictInt

from llmctl.config import Size, Spec, flag, key
from llmctl.workflows.settings import EngineName, ModelReference


class ChatConfig(Spec):
    """A conversation with a chat model."""

    model: ModelReference = flag(..., "a run, a model folder, or hf:ID", panel="Main")
    system: str | None = flag(None, "what the assistant is told before the conversation", panel="Main")
    max_new_tokens: Size = flag(512, "longest answer in tokens", panel="Length", ge=1)
    stop: tuple[str, ...] = flag((), "end an answer before this text; repeatable", panel="Length")
    temperature: StrictFloat | None = flag(None, "sample with this temperature; 0 is greedy", panel="Choice", ge=0)
    top_k: StrictInt | None = flag(None, "sample among the k likeliest tokens", panel="Choice", ge=1)
    top_p: StrictFloat | None = flag(None, "sample among the likeliest tokens of this mass", panel="Choice", gt=0, le=1)
    min_p: StrictFloat | None = key(None, "sample among tokens at least this share of the likeliest", ge=0, le=1)
    repetition_penalty: StrictFloat = key(1.0, "divide the scores of tokens already there", gt=0)
    base: Path | None = key(None, "the base of an adapter, where it is no longer where it was")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "of the computation")
    engine: EngineName = key("torch", "what runs the model")
    seed: StrictInt = flag(0, "fixes everything that is drawn", panel="Run", ge=0)
