"""The engine that asks a server with the OpenAI API (https://platform.openai.com/docs/api-reference): vLLM, SGLang, Ollama,
llama-server, `llmctl serve`.

A conversation goes to `chat/completions`, a text to be continued to `completions`. `llmctl serve` is asked by record, at
`tasks/TASK`, so that prompts are those of training.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from llmctl.engines.http import ApiServer
from llmctl.engines.spec import Answered, Engine, EngineEvent, EngineSession, Failed, Job, NewText, Sampling
from llmctl.engines.text import first_stop
from llmctl.errors import DataError, EnvironmentFault, LlmctlError, UsageError
from llmctl.types import TOOL_ROLES, Completion, Family, Likelihood, Request, Wording

KEY: Final = "OPENAI_API_KEY"
PROBE: Final = "The capital of France is Paris, and the capital of Italy is Rome."
SHUFFLED: Final = "Rome Italy capital, of and the is Paris of is capital. France The"
SEEDS: Final = 2**31
PLAIN: Final = {"tok": "server", "window": "all", "eos": "no", "precision": "server"}
"""Of likelihoods by echo: the whole text in one window, and no end token, which a server that is sent a text does not score."""


class OpenAIEngine(Engine):
    """Asks the model `name` of the server at `url`, which are `model`."""

    def __init__(
        self, model: tuple[str, str], tokenizer: Any, family: Family, *, concurrency: int = 8, **settings: Any
    ) -> None:
        """`concurrency`: requests at a time. Raises `EnvironmentFault` if the server cannot be reached or refuses the key,
        `UsageError` if it does not serve the model."""
        self.family, self.concurrency = family, concurrency
        self.name, url = model
        self.server = ApiServer(url, os.environ.get(KEY), concurrency)
        entry = self.server.model(self.name)
        self.tasks = tuple(entry.get("tasks") or ()) if entry.get("owned_by") == "llmctl" else ()
        self._scores = False

    def check(self, request: Request, sampling: Sampling, *, logprobs: int | None = None) -> None:
        super().check(request, sampling, logprobs=logprobs)
        assert request.wording is not None
        if sampling.num_beams > 1 and request.wording.task not in self.tasks:
            raise UsageError("a server with the OpenAI API has no beam search", hint="leave --num-beams out")
        if logprobs is not None:
            raise UsageError("the engine openai gives no log-probabilities of single tokens")

    def session(self, *, rows: int = 16) -> OpenAISession:
        return OpenAISession(self)

    # -- answers ----------------------------------------------------------------------------------------------

    def ask(self, job: Job, sample: int, put: Any, gone: Any) -> EngineEvent:
        """Answer one sample; `put` takes events before the last, `gone()` says that nobody waits any more."""
        wording = job.request.wording
        assert wording is not None
        body = self._settings(job, sample)
        tools = any(role in TOOL_ROLES for role, _ in wording.messages)
        if wording.task in self.tasks and (wording.task != "chat" or tools) and not wording.text:
            found = self.server.post(f"tasks/{wording.task}", body | {"records": [dict(wording.fields)]})
            row = _first(found, "completions")
            text, reason, tokens = str(row["text"]), str(row["finish_reason"]), int(row["tokens"])
            if job.stream:
                put(NewText(job.ticket, sample, text))
        elif tools:
            raise DataError(
                "the conversation uses tools, which are handed on to `llmctl serve` alone", where=job.request.id
            )
        else:
            text, reason, tokens = self._complete(wording, body, job, sample, put, gone)
        finish = "length" if reason == "length" else "stop"
        return Answered(job.ticket, Completion(job.request.id, text, finish, tokens, sample))  # type: ignore[arg-type]

    def _settings(self, job: Job, sample: int) -> dict[str, Any]:
        sampling = job.sampling
        body: dict[str, Any] = {"model": self.name, "max_tokens": sampling.max_new_tokens}
        if not sampling.samples:
            body["temperature"] = 0 if sampling.num_beams == 1 else None
        else:
            body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            body["seed"] = (sampling.seed * 1_000_003 + (job.request.place or 0) * 1_009 + sample) % SEEDS
        # Names that vLLM, SGLang, llama-server and llmctl know beside OpenAI's.
        body |= {"top_k": sampling.top_k, "min_p": sampling.min_p}
        if sampling.repetition_penalty != 1.0:
            body["repetition_penalty"] = sampling.repetition_penalty
        if sampling.num_beams > 1:
            body |= {"num_beams": sampling.num_beams, "length_penalty": sampling.length_penalty}
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        return {name: value for name, value in body.items() if value is not None}

    def _complete(
        self, wording: Wording, body: dict[str, Any], job: Job, sample: int, put: Any, gone: Any
    ) -> tuple[str, str, int]:
        """Text, reason of the end, and number of tokens."""
        if wording.messages:
            path = "chat/completions"
            body |= {"messages": [{"role": role, "content": text} for role, text in wording.messages]}
        else:
            path, body = "completions", body | {"prompt": wording.text}
        if not job.stream:
            found = self.server.post(path, body)
            choice = _first(found, "choices")
            text = choice["message"]["content"] if wording.messages else choice["text"]
            usage = found.get("usage") or {}
            return (
                _cut(text or "", job.sampling.stop),
                choice.get("finish_reason") or "stop",
                int(usage.get("completion_tokens") or 0),
            )
        text, reason, tokens = "", "stop", 0
        for chunk in self.server.stream(path, body | {"stream": True, "stream_options": {"include_usage": True}}):
            tokens = int((chunk.get("usage") or {}).get("completion_tokens") or tokens)
            for choice in chunk.get("choices") or ():
                piece = (choice.get("delta") or {}).get("content") if wording.messages else choice.get("text")
                reason = choice.get("finish_reason") or reason
                if piece:
                    text += piece
                    put(NewText(job.ticket, sample, piece))
            if gone():
                break
        return text, reason, tokens

    # -- likelihoods ------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        """`llmctl serve` scores records as this process would. Any other server scores a plain text, without its end token.

        Raises `EnvironmentFault` if the server does not return the log-probabilities of a prompt, `UsageError` for what it
        cannot score."""
        wordings = [request.wording for request in requests if request.wording is not None]
        theirs = all(wording.task in self.tasks for wording in wordings)
        if not theirs:
            for wording in wordings:
                _check_plain(wording)
            if not self._scores:
                self._probe()
            self.facts = PLAIN
        with ThreadPoolExecutor(self.concurrency) as pool:
            yield from pool.map(self._score_record if theirs else self._score, requests)

    def _score_record(self, request: Request) -> Likelihood:
        """Of a record of a task of `llmctl serve`."""
        wording = request.wording
        assert wording is not None
        body: dict[str, Any] = {"model": self.name, "records": [dict(wording.fields)]}
        body |= {"window": wording.window, "stride": wording.stride}
        found = self.server.post(f"tasks/{wording.task}/likelihoods", body)
        row = _first(found, "likelihoods")
        self.facts = {str(name): str(value) for name, value in (found.get("facts") or {}).items()}
        return Likelihood(request.id, float(row["logprob"]), int(row["tokens"]), int(row["bytes"]))

    def _probe(self) -> None:
        """Score a sentence and the same words in disorder: a server that returns something else is noticed here."""
        try:
            sentence, disorder = (self._logprobs("", text) for text in (PROBE, SHUFFLED))
        except LlmctlError as error:
            raise self._cannot_score(str(error)) from error
        if len(sentence) < len(PROBE.split()) - 1 or sum(sentence) / len(sentence) <= sum(disorder) / len(disorder):
            raise self._cannot_score("what it returns are not those of the prompt")
        self._scores = True

    def _cannot_score(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"the server does not return log-probabilities of a prompt, which likelihoods need: {why}",
            where=self.server.url,
            hint="vLLM and llmctl serve do; or leave out metrics of likelihood",
        )

    def _score(self, request: Request) -> Likelihood:
        assert request.wording is not None
        found = self._logprobs(request.wording.text, request.wording.answer)
        return Likelihood(request.id, sum(found), len(found))

    def _logprobs(self, before: str, answer: str) -> list[float]:
        """log p of each token of `answer` after `before`; the first token of a text may have none."""
        body = {"model": self.name, "prompt": before + answer, "echo": True, "logprobs": 1, "temperature": 0}
        found = self.server.post("completions", body | {"max_tokens": 1})
        details = _first(found, "choices").get("logprobs") or {}
        names = ("tokens", "token_logprobs", "text_offset")
        tokens, values, offsets = (details.get(name) or [] for name in names)
        if not len(tokens) == len(values) == len(offsets):
            raise EnvironmentFault("tokens, log-probabilities and offsets differ in number", where=self.server.url)
        end = len(before + answer)
        scored = [
            value
            for token, value, offset in zip(tokens, values, offsets, strict=True)
            if value is not None and len(before) < offset + len(token) and offset < end
        ]
        if not scored:
            raise EnvironmentFault("it returned none", where=self.server.url)
        return [float(value) for value in scored]


def _check_plain(wording: Wording) -> None:
    """Raise `UsageError` for what a server cannot score that knows no tasks."""
    if not wording.answer:
        raise UsageError(
            f"this server scores plain text, not {wording.task}",
            hint="--set task=language-modeling, llmctl serve, or a local model",
        )
    if wording.window is not None:
        raise UsageError("this server scores each text as a whole: it takes no window", hint="leave window out")


def _first(document: Any, name: str) -> Any:
    try:
        return document[name][0]
    except (KeyError, IndexError, TypeError) as error:
        raise EnvironmentFault(f"the server's answer has no {name}") from error


def _cut(text: str, stops: Sequence[str]) -> str:
    """Some servers leave the stop text in."""
    return text[: first_stop(text, stops)]


class OpenAISession(EngineSession):
    """Each sample is a request of its own, on one of `concurrency` threads."""

    engine: OpenAIEngine

    def __init__(self, engine: OpenAIEngine) -> None:
        super().__init__(engine)
        self._pool = ThreadPoolExecutor(engine.concurrency, thread_name_prefix="openai")
        self._events: queue.SimpleQueue[EngineEvent | None] = queue.SimpleQueue()
        self._gone: set[int] = set()
        self._closed = threading.Event()

    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        self._gone |= cancelled
        for job in submitted:
            for sample in range(job.sampling.num_samples):
                self._pool.submit(self._answer, job, sample)
        if not self.pending:
            return []
        first = self._events.get()
        return [] if first is None else [first]

    def cancel(self, ticket: int) -> None:
        super().cancel(ticket)
        self._gone.add(ticket)
        self._events.put(None)  # `step` may wait for this very answer

    def _answer(self, job: Job, sample: int) -> None:
        def gone() -> bool:
            return self._closed.is_set() or job.ticket in self._gone

        if gone():
            return
        try:
            self._events.put(self.engine.ask(job, sample, self._events.put, gone))
        except LlmctlError as error:
            self._events.put(Failed(job.ticket, error))
        except Exception as error:  # what a server returns may have any form
            where = self.engine.server.url
            self._events.put(
                Failed(job.ticket, EnvironmentFault(f"the server's answer cannot be read: {error!r}", where=where))
            )

    def close(self) -> None:
        super().close()
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
