"""Settings of `chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import StrictFloat, StrictInt

from llmctl.config import Spec, flag, key
from llmctl.settings import AUTO, EngineName, ModelReference
from llmctl.values import LARGEST_SEED, Size, Text


class ChatConfig(Spec):
    """A conversation with a chat model."""

    model: ModelReference = flag(..., "a run, a model folder, or hf:ID", panel="Main")
    system: Text | None = flag(None, "system message", panel="Main")
    max_new_tokens: Size = flag(512, "maximum length of an answer in tokens", panel="Length", ge=1)
    stop: tuple[Text, ...] = flag((), "stop before this text; repeatable", panel="Length")
    temperature: StrictFloat | None = flag(None, "sampling temperature; 0: greedy", panel="Choice", ge=0)
    top_k: StrictInt | None = flag(None, "sample from the k most likely tokens", panel="Choice", ge=1)
    top_p: StrictFloat | None = flag(
        None, "sample from the most likely tokens with this total probability", panel="Choice", gt=0, le=1
    )
    min_p: StrictFloat | None = key(
        None, "sample from tokens with at least this fraction of the highest probability", ge=0, le=1
    )
    repetition_penalty: StrictFloat = key(1.0, "penalty for tokens that already occur; 1: none", gt=0)
    base: Path | None = key(None, "base model of an adapter (default: the recorded path)")
    precision: Literal["auto", "fp32", "bf16"] = key(
        "fp32", "inference precision; auto: bf16 if the hardware supports it"
    )
    engine: EngineName = key(AUTO, "engine that runs the model; auto: the one for what its folder holds")
    seed: StrictInt = flag(0, "random seed for sampling", panel="Run", ge=0, le=LARGEST_SEED)
