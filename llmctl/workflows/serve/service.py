"""The model as a service: prompts are laid out as in training, answered by the scheduler, and read by the task."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from llmctl.data.reading.read import content_id
from llmctl.engines.spec import Answered, Engine, EngineEvent, Failed, NewText, Sampling
from llmctl.errors import LlmctlError, PromptTooLong
from llmctl.types import AnswerToken, Completion, EventSink, Record, Request
from llmctl.workflows.inference.asked import asked
from llmctl.workflows.inference.requests import RequestBuilder, ScoringRequests, open_request_builder
from llmctl.workflows.inference.session import Predictor
from llmctl.workflows.serve import refusals
from llmctl.workflows.serve.bodies import Asking, B, Streamed, parse, shown
from llmctl.workflows.serve.calls import CallSyntax, syntax_of
from llmctl.workflows.serve.checks import ServePlan
from llmctl.workflows.serve.counters import Counters
from llmctl.workflows.serve.guard import ClientGone, body_of
from llmctl.workflows.serve.refusals import Refusal
from llmctl.workflows.serve.scheduler import Ask, QueueFull, Scheduler
from llmctl.workflows.serve.tokens import TokenTexts

T = TypeVar("T")

LANGUAGE_MODELING = "language-modeling"


class Usage(NamedTuple):
    prompt: int
    answer: int

    def document(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
        }


class Service:
    """What the endpoints share."""

    def __init__(
        self, plan: ServePlan, engine: Engine, request_builder: RequestBuilder, scheduler: Scheduler, emit: EventSink
    ) -> None:
        self.plan, self.config, self.engine, self.scheduler, self.emit = plan, plan.config, engine, scheduler, emit
        self.task, self.family, self.tokenizer = plan.model.task, plan.model.family, request_builder.layout.tokenizer
        self.context = request_builder.layout.context
        self.texts = TokenTexts(self.tokenizer)
        self._opens_texts: list[int] = self.tokenizer("").input_ids
        """The tokens that the tokenizer itself puts around an empty text."""
        self.counters = Counters()
        self.created = int(time.time())
        self._predictors = {plan.model.task.name: Predictor(request_builder, engine)}
        self._opening = threading.Lock()
        self._laying_out = threading.Lock()
        self._syntaxes: list[CallSyntax | None] = []
        """How the model writes calls of tools, once that was asked for."""

    # -- what is asked ----------------------------------------------------------------------------------------

    async def body(self, request: HttpRequest, kind: type[B]) -> B:
        """The checked body of a request. Raises `Refusal`."""
        data = await body_of(request, most=self.config.max_body, seconds=self.config.client_timeout)
        body = await run_in_threadpool(parse, kind, data)
        self.check_model(getattr(body, "model", None))
        return body

    def check_model(self, name: str | None) -> None:
        """Raise `Refusal` for the name of another model."""
        if name not in (None, self.plan.name):
            raise self.no_such_model(name)

    @staticmethod
    def no_such_model(name: str) -> Refusal:
        return Refusal(
            404, f"the model {shown(name)!r} does not exist; see /v1/models", param="model", code="model_not_found"
        )

    def predictor(self, task: str) -> Predictor:
        """The predictor of one of `plan.tasks`; opened once, and not in the event loop."""
        with self._opening:
            found = self._predictors.get(task)
            if found is None:
                builder = open_request_builder(self.plan.tasks[task], truncate="refuse", quotes=False, emit=self.emit)
                found = self._predictors[task] = Predictor(builder, self.engine)
        return found

    async def predictor_in_thread(self, task: str) -> Predictor:
        return await run_in_threadpool(self.predictor, task)

    @functools.cached_property
    def vocabulary(self) -> int:
        """The number of token ids that the model knows."""
        size = self.plan.model.folder.config.get("vocab_size")
        return size if isinstance(size, int) else len(self.tokenizer)

    async def prompt_tokens(self, prompts: Sequence[tuple[Sequence[int], bool]], top: int) -> list[list[AnswerToken]]:
        """The tokens of each prompt with their log-probabilities; the first of all has none. `prompts`: its tokens, and
        whether it is a text. Of a text, the token that its layout begins with is left out, unless the tokenizer begins
        texts with it too: clients count so.

        Raises `Refusal`.
        """

        def scored(ids: Sequence[int], is_text: bool) -> list[AnswerToken]:
            found = self.engine.token_logprobs(Request("prompt", tuple(ids[:1]), tuple(ids[1:])), top)
            left_out = is_text and ids[0] not in self._opens_texts[:1]
            return list(found) if left_out else [AnswerToken(ids[0]), *found]

        return await self.call((functools.partial(scored, *each) for each in prompts), param="prompt")

    def lay_out(self, predictor: Predictor, record: Record) -> Request:
        """The request that asks a record, laid out as in training; one at a time, because a tokenizer has settings that
        layouts change. Raises `LlmctlError`."""
        with self._laying_out:
            return predictor.request_builder.generation_request(record)

    def scoring(self, predictor: Predictor, record: Record, window: int, stride: int) -> ScoringRequests:
        """The requests that score the answer in a record. Raises `LlmctlError`."""
        with self._laying_out:
            return predictor.request_builder.loglikelihood_requests(record, window, stride)

    async def call_syntax(self, field: str) -> CallSyntax:
        """How the model writes calls of tools. Raises `Refusal` for this field where its chat template knows none."""

        def found() -> CallSyntax | None:
            layout = self.predictor(self.task.name).request_builder.layout
            with self._laying_out:
                if not self._syntaxes:
                    self._syntaxes.append(syntax_of(layout))
                return self._syntaxes[0]

        syntax = await run_in_threadpool(found)
        if syntax is None:
            problem = f"{field} is not supported by this model: its chat template knows no tools"
            raise Refusal(400, problem, param=field, code="unsupported_parameter")
        return syntax

    async def request_for(self, task: str, fields: dict[str, Any], *, param: str) -> tuple[Predictor, Request]:
        """The request that asks a record, laid out as in training. Raises `Refusal`."""

        def made() -> tuple[Predictor, Request]:
            predictor = self.predictor(task)
            record = asked(Record("", fields), predictor.task)
            return predictor, self.lay_out(predictor, Record(content_id(record.fields), record.fields, param))

        try:
            return await run_in_threadpool(made)
        except LlmctlError as error:
            too_long = isinstance(error, PromptTooLong) and param != "prompt"
            raise self.refusal(error, param="messages" if too_long else param) from error

    def refusal(self, error: LlmctlError, *, param: str | None = None, bad_record: int = 400) -> Refusal:
        """What a client learns of an error; the rest is for the log."""
        found = refusals.refusal_of(error, param=param, bad_record=bad_record)
        if found.status >= 500:
            self.emit(refusals.event(error))
        return found

    def asks(self, request: Request, body: Asking) -> list[Ask]:
        """The request with the settings of the body, once for each answer that is not drawn."""
        longest = min(body.longest or self.config.max_new_tokens, self.config.max_new_tokens)
        seed = body.seed if body.seed is not None else self.config.seed
        sampling = body.sampling(longest, secrets.randbits(63) if seed is None else seed % 2**63)
        return [Ask(request, sampling, isinstance(body, Streamed) and body.stream, body.top)] * (
            body.n // sampling.num_samples
        )

    # -- answers ----------------------------------------------------------------------------------------------

    async def answers(
        self, predictor: Predictor, requests: Sequence[Request], body: Asking, *, param: str
    ) -> AsyncGenerator[tuple[int, NewText | Answered]]:
        """The answers as they come, each with its number: those to the first request, then those to the second, …

        A label is chosen, so there is one answer, without settings. Raises `Refusal`.
        """
        if predictor.task.labelled and (name := body.chooses()) is not None:
            raise Refusal(400, f"{name} has no meaning here: the model chooses the most likely label", param=name)
        if predictor.request_builder.labels:
            for number, completion in enumerate(await self._labels(predictor, requests, param)):
                yield number, Answered(0, completion, last=True)
            return
        asks = [ask for request in requests for ask in self.asks(request, body)]
        async with contextlib.aclosing(self._events(asks, param=param)) as events:
            async for each in events:
                yield each

    async def _labels(self, predictor: Predictor, requests: Sequence[Request], param: str) -> list[Completion]:
        """The most likely label for each request, by the likelihood of each label."""

        def chosen(request: Request) -> Completion:
            return next(predictor.complete([request], Sampling()))

        return await self.call((functools.partial(chosen, each) for each in requests), param=param)

    async def _events(self, asks: Sequence[Ask], *, param: str) -> AsyncGenerator[tuple[int, NewText | Answered]]:
        """See `answers`. Requests that are not answered at the end of the iteration are cancelled."""
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[EngineEvent]()

        def hear(event: EngineEvent) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(heard.put_nowait, event)

        try:
            tickets = self.scheduler.submit(asks, hear)
        except QueueFull:
            raise refusals.busy() from None
        except LlmctlError as error:
            raise self.refusal(error, param=param) from error
        each = asks[0].sampling.num_samples
        first = {ticket: number * each for number, ticket in enumerate(tickets)}
        left, until = len(tickets), self.deadline()
        try:
            while left:
                event = await self.in_time(heard.get(), until)
                if isinstance(event, Failed):
                    raise self.refusal(event.error, param=param)
                left -= isinstance(event, Answered) and event.last
                sample = event.completion.sample if isinstance(event, Answered) else event.sample
                yield first[event.ticket] + sample, event
        finally:
            self.scheduler.cancel(tickets)

    def deadline(self) -> float:
        """When the time for a request that begins now is over, on the clock of the event loop."""
        return asyncio.get_running_loop().time() + self.config.request_timeout

    async def call(self, functions: Iterable[Callable[[], T]], *, param: str, until: float | None = None) -> list[T]:
        """What functions return that need the engine for themselves; others are answered between two of them. `until`: the
        deadline of the request, if it began before. Raises `Refusal`."""
        until = self.deadline() if until is None else until
        try:
            return await self.in_time(asyncio.wrap_future(self.scheduler.call(functions)), until)
        except QueueFull:
            raise refusals.busy() from None
        except LlmctlError as error:
            raise self.refusal(error, param=param) from error

    async def in_time(self, work: Awaitable[T], until: float) -> T:
        """The result of the work. Raises `Refusal` where the time for a request is over."""
        try:
            async with asyncio.timeout_at(until):
                return await work
        except TimeoutError:
            raise refusals.too_slow(self.config.request_timeout) from None

    async def while_connected(self, request: HttpRequest, work: Awaitable[T]) -> T:
        """The result of the work, which is dropped when the client goes away. Raises `ClientGone`."""
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientGone
        finally:
            watching.cancel()
            working.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def identifier(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"
