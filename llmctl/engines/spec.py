"""The engine interface: token ids in, text or likelihoods out.

An engine answers through sessions: `submit` a request, `step` until its events have come, `cancel` it if nobody waits for
it any more. `generate` is a loop over a session.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

from llmctl.errors import LlmctlError, UsageError
from llmctl.types import MODALITY, AnswerToken, Completion, Family, Likelihood, Request

AHEAD: Final = 16
"""Requests that are read at once, as a multiple of the rows; they are sorted by length together."""
BEHIND: Final = 4
"""So many times that are read before the first of them is answered."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding settings. Decoding is greedy unless a sampling setting is set."""

    max_new_tokens: int = 128
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    num_beams: int = 1
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    batch_size: int = 32
    seed: int = 0

    @property
    def samples(self) -> bool:
        """Whether answers are sampled at random."""
        if self.temperature == 0:
            return False
        given = (self.temperature, self.top_k, self.top_p, self.min_p)
        return any(value is not None for value in given) or (self.num_samples > 1 and self.num_beams == 1)

    def check(self) -> None:
        """Raise `UsageError` for settings that cannot be combined."""
        if self.samples and self.num_beams > 1:
            raise UsageError(
                "temperature, top_k, top_p and min_p cannot be combined with num_beams > 1",
                hint="use either --num-beams or sampling settings",
            )
        if self.num_beams > 1 and self.num_samples > self.num_beams:
            raise UsageError(
                f"num_samples ({self.num_samples}) exceeds num_beams ({self.num_beams})",
                hint=f"--num-beams {self.num_samples}",
            )
        if self.temperature == 0 and self.num_beams == 1 and self.num_samples > 1:
            raise UsageError(
                f"at temperature 0 all {self.num_samples} answers would be identical",
                hint="set a --temperature above 0",
            )
        if "" in self.stop:
            raise UsageError("an empty stop text would end every answer immediately", hint="remove --stop ''")


@dataclass(frozen=True, slots=True)
class NewText:
    """What an answer has grown by. The texts of an answer joined are the text of its completion: half a character, and
    text that may become a stop text, are held back. `tokens` may be empty, and so may `text`."""

    ticket: int
    sample: int
    text: str
    tokens: tuple[AnswerToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer is complete. `last`: it is the last sample of its ticket; nothing follows."""

    ticket: int
    completion: Completion
    last: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A request cannot be answered; nothing follows for its ticket. Other requests go on."""

    ticket: int
    error: LlmctlError


EngineEvent = NewText | Answered | Failed


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted request. `stream`: `NewText` is wanted. `logprobs`: log-probabilities are wanted, with those of so many
    most likely tokens beside the chosen one; None: none."""

    ticket: int
    request: Request
    sampling: Sampling
    stream: bool = False
    logprobs: int | None = None


class EngineSession(ABC):
    """Requests that an engine answers together, each with its own settings.

    `submit`, `cancel` and `pending` may be called from any thread at any time; `step` and `close` from one thread at a
    time. An answer depends on its request and settings alone, not on what else is in the session.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._submitted: list[Job] = []
        self._cancelled: set[int] = set()
        self._open: dict[int, int] = {}
        """Answers still to come, by ticket."""

    @property
    def pending(self) -> int:
        """Number of requests that are submitted and not yet answered."""
        with self._lock:
            return len(self._open)

    def submit(self, request: Request, sampling: Sampling, *, stream: bool = False, logprobs: int | None = None) -> int:
        """Take a request and return its ticket. Events follow from `step`: one `Answered` for each of
        `sampling.num_samples` samples, or one `Failed`; before them, with `stream`, `NewText`.

        `sampling.seed` and `request.place` (0 if None) decide what is drawn; `sampling.batch_size` is the most windows of a
        recording that a step transcribes, and has no other meaning here. Raises what `Engine.check` raises, and takes nothing
        then.
        """
        self.engine.check(request, sampling, logprobs=logprobs)
        with self._lock:
            ticket = next(self._numbers)
            self._open[ticket] = 1 if self.engine.family == "encoder" else sampling.num_samples
            self._submitted.append(Job(ticket, request, sampling, stream, logprobs))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Drop a request. It leaves at the next `step`, which returns no event of it. Unknown tickets are ignored."""
        with self._lock:
            if self._open.pop(ticket, None) is not None:
                self._cancelled.add(ticket)

    def step(self) -> list[EngineEvent]:
        """Work until something has happened, at most for one token of each row that is being answered, where the engine
        can; the events. Returns at once where nothing is pending. May return no event while requests are pending.

        What the model itself raises ends the session.
        """
        with self._lock:
            submitted, self._submitted = self._submitted, []
            cancelled, self._cancelled = self._cancelled, set()
        events = self._advance([each for each in submitted if each.ticket not in cancelled], cancelled)
        with self._lock:
            return [self._counted(each) for each in events if each.ticket in self._open]

    def _counted(self, event: EngineEvent) -> EngineEvent:
        if isinstance(event, Failed):
            del self._open[event.ticket]
        elif isinstance(event, Answered):
            self._open[event.ticket] -= 1
            if not self._open[event.ticket]:
                del self._open[event.ticket]
                return replace(event, last=True)
        return event

    @abstractmethod
    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        """Add what was submitted, drop what was cancelled, and work; see `step`. `last` of an answer is set by the caller."""

    def close(self) -> None:
        """Drop all requests and free what the session holds."""
        with self._lock:
            self._submitted.clear()
            self._open.clear()


class Engine(ABC):
    """Generates and scores. An engine may be used from several threads at once; each session belongs to one of them."""

    family: Family
    tasks: tuple[str, ...] = ()
    """The tasks whose records a server lays out itself, as its model was trained."""
    facts: Mapping[str, str] = {}
    """What must be equal for likelihoods of `score` to compare, where a server knows it; known once there are any."""

    @abstractmethod
    def session(self, *, rows: int = 16) -> EngineSession:
        """A new session. `rows`: answers that are generated at once; more requests wait their turn."""

    @abstractmethod
    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        """log p(answer_ids | input_ids) of each request, in nats and in the order of the requests.

        Raises `DataError`, before any work, for a request that does not fit the model's context.
        """

    def token_logprobs(self, request: Request, top: int) -> Sequence[AnswerToken]:
        """The tokens of `answer_ids`, each with its log-probability given all before it, and those of the `top` most likely
        tokens in its place. Raises `UsageError` where the engine does not give them, `DataError` where they do not fit the
        context."""
        raise UsageError("this engine gives no log-probabilities of given tokens")

    def check(self, request: Request, sampling: Sampling, *, logprobs: int | None = None) -> None:
        """Raise `UsageError` for settings that the engine cannot follow, `PromptTooLong` for a prompt that does not fit
        the model's context."""
        sampling.check()
        if logprobs is not None and sampling.num_beams > 1:
            raise UsageError("beam search gives no log-probabilities of tokens", hint="leave num_beams out")

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        """Answer requests, `sampling.batch_size` rows at a time. Answers come in the order of the requests, the samples of
        one request one after the other. `stream` receives pieces of text as they are generated (one request, one sample).

        A request without a `place` gets its number. Raises what `check` raises, before anything is generated.
        """
        sampling.check()
        if stream is not None and (len(requests) != 1 or sampling.num_samples != 1):
            raise ValueError("streaming requires exactly one request and one sample")
        for request in requests:
            self.check(request, sampling)
        return self._answers(requests, sampling, stream)

    def _answers(
        self, requests: Sequence[Request], sampling: Sampling, stream: Callable[[str], None] | None
    ) -> Iterator[Completion]:
        for found in self.each(requests, sampling, stream=stream):
            if isinstance(found, LlmctlError):
                raise found
            yield from found

    def each(
        self,
        requests: Iterable[Request | LlmctlError],
        sampling: Sampling,
        *,
        stream: Callable[[str], None] | None = None,
    ) -> Iterator[list[Completion] | LlmctlError]:
        """As `generate`, for any number of requests in constant memory: they are read as they are needed. The answers to
        each, or why there is none; an error in the place of a request is handed on."""
        rows, source = sampling.batch_size, enumerate(requests)
        order: deque[int] = deque()
        """Numbers of the requests that were read and whose result was not yet given."""
        found: dict[int, list[Completion] | LlmctlError] = {}
        complete: set[int] = set()
        numbers: dict[int, int] = {}
        """The number of the request of each ticket."""
        with closing(self.session(rows=rows)) as session:
            more = True
            while more or order:
                if more and session.pending <= rows and len(order) <= BEHIND * AHEAD * rows:
                    part = list(itertools.islice(source, AHEAD * rows if order else rows))
                    more = bool(part)
                    order.extend(number for number, _ in part)
                    for number, request in sorted(part, key=_length, reverse=True):
                        try:
                            if isinstance(request, LlmctlError):
                                raise request
                            placed = request if request.place is not None else replace(request, place=number)
                            numbers[session.submit(placed, sampling, stream=stream is not None)] = number
                        except LlmctlError as error:
                            found[number] = error
                            complete.add(number)
                for event in session.step():
                    number = numbers[event.ticket]
                    if isinstance(event, Failed):
                        found[number] = event.error
                        complete.add(numbers.pop(event.ticket))
                    elif isinstance(event, Answered):
                        answers = found.setdefault(number, [])
                        assert isinstance(answers, list)
                        answers.append(event.completion)
                        if event.last:
                            answers.sort(key=lambda each: each.sample)
                            complete.add(numbers.pop(event.ticket))
                    elif stream is not None and event.text:
                        stream(event.text)
                while order and order[0] in complete:
                    number = order.popleft()
                    complete.discard(number)
                    yield found.pop(number)


def _length(numbered: tuple[int, Request | LlmctlError]) -> int:
    _, request = numbered
    return len(request.input_ids) if isinstance(request, Request) else 0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """`implementation` is `module:Class`, called with the arguments of `build`; `speech` is the one for models that hear."""

    name: str
    implementation: str
    speech: str | None = None
    needs_weights: bool = True
    """Whether the engine needs the loaded model; if not, `model` is None, or the folder for an engine of a `format`."""
    format: str | None = None
    """The format of `llmctl export` that it runs."""
    package: str | None = None
    """What it needs beside llmctl, in an extra of its name."""

    @property
    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    @property
    def install(self) -> str:
        return f"pip install 'llmctl[{self.name}]'"

    def build(self, **parts: Any) -> Engine:
        place = self.implementation
        if MODALITY[parts["family"]] == "audio":
            if self.speech is None:
                raise UsageError(f"the engine {self.name} does not read audio", hint="leave engine out")
            place = self.speech
        module, _, attribute = place.partition(":")
        engine: Engine = getattr(importlib.import_module(module), attribute)(**parts)
        return engine


TORCH = EngineSpec("torch", "llmctl.engines.local:TorchEngine", speech="llmctl.engines.speech:SpeechEngine")
CTRANSLATE2 = EngineSpec(
    "ctranslate2",
    "llmctl.engines.ctranslate2:CTranslate2Engine",
    speech="llmctl.engines.ctranslate2_speech:CTranslate2SpeechEngine",
    needs_weights=False,
    format="ctranslate2",
    package="ctranslate2",
)
ONNX = EngineSpec("onnx", "llmctl.engines.onnx:OnnxEngine", needs_weights=False, format="onnx", package="onnxruntime")
OPENAI = EngineSpec("openai", "llmctl.engines.openai:OpenAIEngine", needs_weights=False)
ECHO = EngineSpec("echo", "llmctl.engines.echo:EchoEngine", needs_weights=False)
