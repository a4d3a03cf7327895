"""`chat`: a conversation with a model; old turns are dropped when the context is full."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llmctl.data.reading.decode import Text
from llmctl.data.reading.read import read_records
from llmctl.engines.spec import Sampling
from llmctl.errors import DataError, EnvironmentFault, UsageError
from llmctl.store import atomic
from llmctl.tasks.spec import Task
from llmctl.types import Completion, Event, EventSink, Record, null_sink
from llmctl.workflows.chat.checks import ASSISTANT, ChatPlan, check_text
from llmctl.workflows.inference.asked import uses_tools
from llmctl.workflows.inference.conversation import Message, PartialAnswer, check_fits, fitted, message_of

if TYPE_CHECKING:
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor

Show = Callable[[str], None]
"""Receives the pieces of an answer as they are generated. May raise `StopGeneration`."""

ENDINGS: Final = (".jsonl", ".json")


class StopGeneration(BaseException):
    """Stops the current answer; the text generated so far is kept."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and its answer. `dropped`: number of oldest turns that did not fit the context."""

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


def open_conversation(plan: ChatPlan, emit: EventSink) -> Conversation:
    """Open a conversation. Raises `DataError`, before weights are loaded, if the system message exceeds the context, and
    what `open_predictor` raises."""
    from llmctl.workflows.inference.requests import open_request_builder
    from llmctl.workflows.inference.session import open_predictor

    config = plan.config
    request_builder = open_request_builder(plan.model, emit=emit)
    if config.system is not None:
        _check_system(request_builder, config.system)
    predictor = open_predictor(
        plan.model, precision=config.precision, engine=config.engine, request_builder=request_builder, emit=emit
    )
    return Conversation(predictor, plan.sampling, system=config.system, emit=emit)


class Conversation:
    """The state of a conversation. `messages` holds all messages, including those dropped from the context."""

    def __init__(
        self, predictor: Predictor, sampling: Sampling, *, system: str | None = None, emit: EventSink = null_sink
    ) -> None:
        self.predictor, self.sampling, self.emit = predictor, sampling, emit
        self.messages: list[Message] = [message_of("system", system)] if system is not None else []
        self._answers = 0
        self._warned_dropped = 0

    @property
    def context(self) -> int | None:
        """Context length in tokens; None if unlimited."""
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
        """Number of user messages so far."""
        return sum(each["role"] == "user" for each in self.messages)

    def say(self, text: str, show: Show | None = None, *, where: str = "the message") -> Turn | None:
        """Answer a message and add both to the conversation.

        Returns None, without adding anything, if stopped before any text. Raises `DataError` with `where` if the
        message exceeds the context; it is not added either.
        """
        check_text(text, where)
        messages = [*self.messages, message_of("user", text)]
        turn = self._turn(messages, show, where)
        if turn is not None:
            self.messages = [*messages, _answer(turn)]
        return turn

    def regenerate(self, show: Show | None = None) -> Turn | None:
        """Replace the answer to the last message. Returns None, and keeps the old answer, if stopped before any text.

        Raises `UsageError` if there is no user message.
        """
        messages = list(self.messages)
        while messages and messages[-1]["role"] == ASSISTANT:
            messages.pop()
        if not messages or messages[-1]["role"] != "user":
            raise UsageError("there is no message to answer again", hint="send a message first")
        turn = self._turn(messages, show, "the message")
        if turn is not None:
            self.messages = [*messages, _answer(turn)]
        return turn

    def reset(self) -> None:
        """Remove all messages except the system message."""
        self.messages = [each for each in self.messages if each["role"] == "system"]
        self._warned_dropped = 0

    def instruct(self, system: str | None) -> None:
        """Set or remove the system message. Raises `DataError` if it exceeds the context."""
        if system is not None:
            check_text(system, "the system message")
            _check_system(self.predictor.request_builder, system)
        rest = [each for each in self.messages if each["role"] != "system"]
        self.messages = [message_of("system", system), *rest] if system is not None else rest

    # -- files ------------------------------------------------------------------------------------------------

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write the conversation atomically as one record, to a `.jsonl` or `.json` file.

        Raises `UsageError` if there is nothing to save or the file exists, `EnvironmentFault` if it cannot be written.
        """
        _check_ending(path)
        if not self.turns:
            raise UsageError("the conversation is empty", hint="send a message first")
        if path.is_dir():
            raise UsageError(f"{path} is a folder", hint="choose a file name")
        atomic.refuse_existing(path, force=force)
        atomic.check_writable(path)
        write = atomic.write_json if path.suffix == ".json" else _write_line
        try:
            write(path, {"messages": self.messages})
        except OSError as error:
            raise EnvironmentFault(f"cannot write {path}: {error.strerror}", hint="choose another file") from error

    def load(self, path: Path) -> None:
        """Load a conversation from a file that holds exactly one. Raises `UsageError` if the file is missing, `DataError` if
        it is invalid or holds several."""
        _check_ending(path)
        task = self.predictor.task
        found = list(itertools.islice(read_records([str(path)], check=functools.partial(_check, task)), 2))
        if len(found) > 1:
            raise DataError("contains several conversations", where=str(path), hint="put one in a file of its own")
        [record] = found
        task.segments(record)  # raises for invalid roles and contents
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
        # A new seed for every answer; otherwise the same message would always sample the same answer.
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
            text = f"the context of {self.context:,} tokens is full: the oldest {turns} dropped from the prompt"
            self.emit(Event("warning", {"text": text}))
        self._warned_dropped = dropped


def piped_lines(source: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (location, line) for every non-blank line as it arrives. Raises `DataError` for bytes that are not UTF-8."""
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


def _check_system(request_builder: RequestBuilder, system: str) -> None:
    messages = [message_of("system", system), message_of("user", "")]
    check_fits(request_builder, Record("system", {"messages": messages}, "the system message"))


def _check_ending(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path} must end in {' or '.join(ENDINGS)}", hint=f"for example {path.stem}.jsonl")


def _write_line(path: Path, record: Mapping[str, Any]) -> None:
    atomic.write_jsonl(path, [record])


def _check(task: Task, record: Record) -> None:
    """Raise `DataError` for a record that is no conversation, or one with tools, which chat does not run."""
    if isinstance(record.fields.get("messages"), list) and uses_tools(record.fields):
        raise DataError(
            "the conversation offers tools, calls them or has turns of the role 'tool'",
            where=record.origin,
            hint="chat runs none; serve answers such conversations",
        )
    task.check(record, task.prompt_columns())
