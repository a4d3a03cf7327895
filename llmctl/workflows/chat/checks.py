"""Checks of `chat` that need no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from llmctl.engines.spec import Sampling
from llmctl.errors import UsageError
from llmctl.readable import quoted
from llmctl.types import EventSink, null_sink
from llmctl.workflows.chat.spec import ChatConfig
from llmctl.workflows.inference.engines import engine_for
from llmctl.workflows.inference.model import ModelHandle, find_model

ASSISTANT: Final = "assistant"
"""The answer role of conversational tasks."""


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """The checked settings."""

    config: ChatConfig
    model: ModelHandle
    sampling: Sampling

    def to_dict(self) -> dict[str, Any]:
        """The plan shown by `--dry-run`."""
        return {
            "model": str(self.model.folder.path),
            "task": self.model.task.name,
            "family": self.model.family,
            "chosen": chosen(self.sampling),
        }


def chosen(sampling: Sampling) -> str:
    """The decoding method as `--dry-run` reports it: `drawn` (sampled) or `greedy`."""
    return "drawn" if sampling.samples else "greedy"


def preflight(config: ChatConfig, *, offline: bool, verify: bool = False, emit: EventSink = null_sink) -> ChatPlan:
    """Check everything that can be checked before torch is imported. Raises `UsageError` if the model is not a chat model,
    and what `find_model` raises."""
    given = {each.name for each in fields(Sampling)} & set(type(config).model_fields)
    sampling = Sampling(**{name: getattr(config, name) for name in given})
    sampling.check()
    if config.system is not None:
        check_text(config.system, "the system message")
    model = find_model(config.model, base=config.base, offline=offline, verify=verify, emit=emit)
    if model.task.answer_role != ASSISTANT:
        raise UsageError(
            f"{config.model} is not a chat model, its task is {model.task.name}: "
            f"use llmctl generate --model {quoted(config.model)} "
            + ("--prompt TEXT" if model.task.modality == "text" else "--input RECORDING")
        )
    engine_for(model, config.engine)
    return ChatPlan(config, model, sampling)


def check_text(text: str, what: str) -> None:
    """Raise `UsageError` for text that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} contains bytes that are not UTF-8") from error
