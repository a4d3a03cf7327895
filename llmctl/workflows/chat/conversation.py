"""`chat`: a conversation with a model, its history kept inside the context."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llmctl.data.decode import Text
from llmctl.data.read import read_records
from llmctl.engines.spec import Sampling
from llmctl.errors import DataError, EnvironmentFault, UsageError
from llmctl.store import atomic
from llmctl.types import Completion, Event, EventSink, Record, null_sink
from llmctl.workflows.chat.spec import ChatConfig
from llmctl.workflows.inference.conversation import Message, check_fits, fitted, message_of
from llmctl.workflows.inference.model import ModelHandle, find_model

if TYPE_CHECKING:
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor

"""`{"role", "content"}`; an answer that was stopped also has `"interrupted": true`."""
Show = Callable[[str], None]
"""Takes the pieces of an answer as they come. May raise `StopGeneration`."""

ASSISTANT: Final = "assistant"
"""A task whose models answer in this role is a conversation."""
ENDINGS: Final = (".jsonl", ".json")


class StopGeneration(BaseException):
    """Ends the answer that is being made: what was said of it until then stays."""


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """What was found sound."""

    model: ModelHandle
    sampling: Sampling

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` tells."""
        return {
            "model": str(self.model.folder.path),
            "task": self.model.task.name,
            "family": self.model.family,
            "chosen": chosen(self.sampling),
        }


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and its answer. `dropped`: turns at the beginning that the model did not see any more."""

    prompt: str
    text: str
    finish_reason: Literal["stop", "length", "interrupted"]
    tokens: int
    dropped: int
    seconds: float

    def row(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "tokens": self.tokens,
            "dropped": self.dropped,
        }


def chosen(sampling: Sampling) -> str:
    """How an answer is chosen, in a word."""
    return "drawn" if sampling.samples else "greedy"


def preflight(config: ChatConfig, *, offline: bool, emit: EventSink = null_sink) -> ChatPlan:
    """Check all that can be checked before torch is imported. Raises `UsageError` for a model that does not converse,
    and what `find_model` does."""
    given = {each.name for each in fields(Sampling)} & set(type(config).model_fields)
    sampling = Sampling(**{name: getattr(config, name) for name in given})
    sampling.check()
    if config.system is not None:
        _check_text(config.system, "the system message")
    model = find_model(config.model, base=config.base, offline=offline, emit=emit)
    if model.task.answer_role != ASSISTANT:
        raise UsageError(
            f"{config.model} is no chat model, its task is {model.task.name}: "
            f"ask it with llmctl generate --model {config.model} --prompt TEXT"
        )
    return ChatPlan(model, sampling)


def open_conversation(config: ChatConfig, plan: ChatPlan, emit: EventSink) -> Conversation:
    """The conversation before its first message. Raises `DataError`, before the weights are read, for a system message
    that the context does not hold, and what `open_predictor` does."""
    from llmctl.workflows.inference.requests import open_request_builder
    from llmctl.workflows.inference.session import open_predictor

    request_builder = open_request_builder(plan.model, emit=emit)
    if config.system is not None:
        _check_system(request_builder, config.system)
    predictor = open_predictor(
        plan.model, precision=config.precision, engine=config.engine, request_builder=request_builder, emit=emit
    )
    return Conversation(predictor, plan.sampling, system=config.system, emit=emit)


class Conversation:
    """Messages and answers. `messages` holds all that was said, also what the model does not see any more."""

    def __init__(
        self, predictor: Predictor, sampling: Sampling, *, system: str | None = None, emit: EventSink = null_sink
    ) -> None:
        self.predictor, self.sampling, self.emit = predictor, sampling, emit
        self.messages: list[Message] = [message_of("system", system)] if system is not None else []
        self._answers = 0
        self._warned_dropped = 0

    @property
    def context(self) -> int | None:
        """Tokens that the model sees at once; None for any number."""
        return self.predictor.request_builder.layout.context

    @property
    def system(self) -> str | None:
        """The system message."""
        return next((each["content"] for each in self.messages if each["role"] == "system"), None)

    @property
    def waiting(self) -> bool:
        """Whether the last message has no answer."""
        return bool(self.messages) and self.messages[-1]["role"] == "user"

    @property
    def turns(self) -> int:
        """Messages of the user so far."""
        return sum(each["role"] == "user" for each in self.messages)

    def say(self, text: str, show: Show | None = None, *, where: str = "the message") -> Turn | None:
        """Answer a message; both stay in the conversation. None if it was stopped before anything was said: then the
        message is taken back.

        Raises `DataError` with `where`, and takes the message back, if the context does not hold it.
        """
        _check_text(text, where)
        messages = [*self.messages, message_of("user", text)]
        turn = self._turn(messages, show, where)
        if turn is not None:
            self.messages = [*messages, _answer(turn)]
        return turn

    def regenerate(self, show: Show | None = None) -> Turn | None:
        """Answer the last message again, in place of its answer. None, and the old answer stays, if it was stopped
        before anything was said. Raises `UsageError` where nothing was asked."""
        messages = list(self.messages)
        while messages and messages[-1]["role"] == ASSISTANT:
            messages.pop()
        if not messages or messages[-1]["role"] != "user":
            raise UsageError("there is no message to answer again", hint="say something first")
        turn = self._turn(messages, show, "the message")
        if turn is not None:
            self.messages = [*messages, _answer(turn)]
        return turn

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = [each for each in self.messages if each["role"] == "system"]
        self._warned_dropped = 0

    def instruct(self, system: str | None) -> None:
        """Put another system message, or none, before the conversation. Raises `DataError` for one that does not fit."""
        if system is not None:
            _check_text(system, "the system message")
            _check_system(self.predictor.request_builder, system)
        rest = [each for each in self.messages if each["role"] != "system"]
        self.messages = [message_of("system", system), *rest] if system is not None else rest

    # -- files ------------------------------------------------------------------------------------------------

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write the conversation as a record of its task, whole: a line of `.jsonl`, or `.json`.

        Raises `UsageError` where there is nothing to save or something is in the way, `EnvironmentFault` where it
        cannot be written.
        """
        _check_ending(path)
        if not self.turns:
            raise UsageError("nothing was said yet", hint="say something first")
        if path.is_dir():
            raise UsageError(f"{path} is a folder", hint="name a file")
        atomic.refuse_existing(path, force=force)
        atomic.check_writable(path)
        write = atomic.write_json if path.suffix == ".json" else _write_line
        try:
            write(path, {"messages": self.messages})
        except OSError as error:
            raise EnvironmentFault(f"cannot write {path}: {error.strerror}", hint="name another file") from error

    def load(self, path: Path) -> None:
        """Go on from the one conversation that a file holds. Raises `UsageError` where there is no such file,
        `DataError` for one that is bad or holds several."""
        _check_ending(path)
        task = self.predictor.task
        records = read_records([str(path)], check=lambda record: task.check(record, task.prompt_columns()))
        found = list(itertools.islice(records, 2))
        if len(found) > 1:
            raise DataError("holds several conversations", where=str(path), hint="put the one into a file of its own")
        [record] = found
        task.segments(record)  # raises for roles and contents that are none
        self.messages = [
            message_of(each["role"], each["content"], interrupted=each.get("interrupted") is True)
            for each in record.fields["messages"]
        ]
        self._warned_dropped = 0

    # -- answers ----------------------------------------------------------------------------------------------

    def _turn(self, messages: Sequence[Message], show: Show | None, where: str) -> Turn | None:
        request, dropped = fitted(self.predictor.request_builder, messages, self.sampling.max_new_tokens, where=where)
        self._warn_dropped(dropped)
        partial = PartialAnswer(show)
        # Every answer has a chance of its own, else the same message would always draw the same answer.
        sampling = replace(self.sampling, seed=self.sampling.seed + self._answers)
        self._answers += 1
        started = time.monotonic()
        try:
            [completion] = self.predictor.complete([request], sampling, stream=partial if show is not None else None)
        except StopGeneration:
            if not partial.text:
                return None
            tokens = len(self.predictor.request_builder.layout.encode(partial.text))
            completion, interrupted = Completion(request.id, partial.text, "stop", tokens), True
        else:
            interrupted = False
        return Turn(
            prompt=messages[-1]["content"],
            text=completion.text,
            finish_reason="interrupted"
            if interrupted
            else "length"
            if completion.finish_reason == "length"
            else "stop",
            tokens=completion.tokens,
            dropped=dropped,
            seconds=time.monotonic() - started,
        )

    def _warn_dropped(self, dropped: int) -> None:
        if dropped > self._warned_dropped:
            turns = "turn is" if dropped == 1 else f"{dropped:,} turns are"
            text = f"the context of {self.context:,} tokens is full: the oldest {turns} not seen by the model any more"
            self.emit(Event("warning", {"text": text}))
        self._warned_dropped = dropped


class PartialAnswer:
    """What was said of an answer so far, without the blanks around it."""

    def __init__(self, show: Show | None) -> None:
        self.text = ""
        self._show = show
        self._held = ""

    def __call__(self, piece: str) -> None:
        grown = self._held + piece
        if not self.text:
            grown = grown.lstrip()
        new = grown.rstrip()
        self._held = grown[len(new) :]
        if new and self._show is not None:
            self._show(new)
        self.text += new


def piped_lines(source: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """(where, line) of every line that is not blank, as it comes. Raises `DataError` for bytes that are no UTF-8."""
    text = Text(iter(source), "standard input")
    for number, line in text.lines():
        if fault := text.fault(number, line):
            raise fault
        if line.strip():
            yield f"{text.name}:{number}", line


def document(conversation: Conversation, turns: Sequence[Turn], model: Path) -> dict[str, Any]:
    """The fields of `--json`."""
    tokens, seconds = sum(each.tokens for each in turns), sum(each.seconds for each in turns)
    return {
        "model": str(model),
        "turns": [each.row() for each in turns],
        "messages": conversation.messages,
        "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 else 0.0,
        "seconds": round(seconds, 3),
    }


def _answer(turn: Turn) -> Message:
    return message_of(ASSISTANT, turn.text, interrupted=turn.finish_reason == "interrupted")


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} holds bytes that are no UTF-8") from error


def _check_system(request_builder: RequestBuilder, system: str) -> None:
    messages = [message_of("system", system), message_of("user", "")]
    check_fits(request_builder, Record("system", {"messages": messages}, "the system message"))


def _check_ending(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path} is neither {' nor '.join(ENDINGS)}", hint=f"{path.stem}.jsonl, say")


def _write_line(path: Path, record: Mapping[str, Any]) -> None:
    atomic.write_jsonl(path, [record])
