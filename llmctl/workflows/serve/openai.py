"""The two interfaces of OpenAI: `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from llmctl.data.cleaning.words import JoinedStream
from llmctl.engines.spec import Answered, NewText
from llmctl.types import AnswerToken, Completion, Request
from llmctl.workflows.inference.conversation import PartialAnswer
from llmctl.workflows.inference.session import Predictor
from llmctl.workflows.serve.bodies import CompletionBody, Prompt, Streamed
from llmctl.workflows.serve.calls import CallSyntax, HeldCalls
from llmctl.workflows.serve.chat_body import ChatBody
from llmctl.workflows.serve.events import EventStream, chained, events
from llmctl.workflows.serve.guard import JSONAnswer
from llmctl.workflows.serve.refusals import Refusal
from llmctl.workflows.serve.service import LANGUAGE_MODELING, Service, Usage, identifier
from llmctl.workflows.serve.tokens import TextPosition, TokenTexts, chat_logprobs, completion_logprobs


@dataclass(slots=True)
class Asked:
    """A prompt that is laid out. `echo`: its text, to begin the answer with; `tokens`: those of the echo, where their
    log-probabilities are wanted."""

    request: Request
    echo: str = ""
    tokens: Sequence[AnswerToken] = ()


@dataclass(slots=True)
class Growing:
    """An answer in a stream: what of it was sent, and the tokens that no chunk has had yet."""

    partial: Callable[[str], None] | None
    position: TextPosition
    pieces: list[str] = field(default_factory=list)
    tokens: list[AnswerToken] = field(default_factory=list)
    sent: str = ""

    def grow(self, text: str) -> str:
        """What can be sent now that the answer has grown by this text."""
        if self.partial is None:
            piece = text
        else:
            self.partial(text)
            piece = "".join(self.pieces)
            self.pieces.clear()
        self.sent += piece
        return piece

    def rest(self, whole: str) -> str:
        """What of the complete answer was not sent yet."""
        return whole[len(self.sent) :] if whole.startswith(self.sent) else ""


class Interface(ABC):
    """How one of the interfaces writes an answer down."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, body: Streamed, texts: TokenTexts, *, segmented: bool = False) -> None:
        self.body, self.texts, self.segmented = body, texts, segmented

    @abstractmethod
    def choice(self, index: int, text: str, completion: Completion, asked: Asked) -> dict[str, Any]:
        """A complete answer."""

    @abstractmethod
    def opening(self, index: int, growing: Growing, asked: Asked) -> dict[str, Any] | None:
        """The first chunk of an answer, before there is any text of it."""

    def ending(self, index: int, growing: Growing, whole: str, completion: Completion) -> Iterator[dict[str, Any]]:
        """The last chunks of a complete answer."""
        if rest := growing.rest(whole):
            yield self.piece(index, growing, rest, None)
        yield self.piece(index, growing, "", _reason(completion))

    @abstractmethod
    def piece(self, index: int, growing: Growing, text: str, reason: str | None) -> dict[str, Any]:
        """A later chunk, which takes the tokens that no chunk has had yet. `reason`: set in the last one."""


class ChatInterface(Interface):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, body: ChatBody, texts: TokenTexts, calls: CallSyntax | None) -> None:
        """`calls`: how the model writes calls; None where it is offered no tools."""
        super().__init__(body, texts)
        self.calls = calls

    def choice(self, index: int, text: str, completion: Completion, asked: Asked) -> dict[str, Any]:
        content, calls = self.calls.split(text) if self.calls else (text, [])
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(completion.token_logprobs),
            "finish_reason": _reason(completion, calls),
        }

    def ending(self, index: int, growing: Growing, whole: str, completion: Completion) -> Iterator[dict[str, Any]]:
        content, calls = self.calls.split(whole) if self.calls else (whole, [])
        if calls:
            if rest := growing.rest(content):
                yield self.piece(index, growing, rest, None)
            found = {"tool_calls": [{"index": number, **call} for number, call in enumerate(calls)]}
            yield {"index": index, "delta": found, "logprobs": None, "finish_reason": None}
            yield self.piece(index, growing, "", _reason(completion, calls))
        else:
            yield from super().ending(index, growing, whole, completion)

    def opening(self, index: int, growing: Growing, asked: Asked) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, growing: Growing, text: str, reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(growing.tokens) if growing.tokens else None
        growing.tokens.clear()
        delta = {"content": text} if text or reason is None else {}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[AnswerToken]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self.texts) if self.body.top is not None else None


class CompletionInterface(Interface):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def choice(self, index: int, text: str, completion: Completion, asked: Asked) -> dict[str, Any]:
        position = TextPosition(segmented=self.segmented)
        logprobs = self._logprobs((*asked.tokens, *completion.token_logprobs), position)
        return {
            "index": index,
            "text": asked.echo + text,
            "logprobs": logprobs,
            "finish_reason": _reason(completion),
        }

    def opening(self, index: int, growing: Growing, asked: Asked) -> dict[str, Any] | None:
        if not asked.echo:
            return None
        logprobs = self._logprobs(asked.tokens, growing.position)
        growing.position.at = len(asked.echo)
        return {"index": index, "text": asked.echo, "logprobs": logprobs, "finish_reason": None}

    def piece(self, index: int, growing: Growing, text: str, reason: str | None) -> dict[str, Any]:
        logprobs = None
        if growing.tokens:
            logprobs = self._logprobs(growing.tokens, growing.position)
            growing.tokens.clear()
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[AnswerToken], position: TextPosition) -> dict[str, Any] | None:
        return completion_logprobs(tokens, self.texts, position) if self.body.top is not None else None


def _reason(completion: Completion, calls: Sequence[Any] = ()) -> str:
    """OpenAI's word: a chosen label is complete."""
    return "length" if completion.finish_reason == "length" else "tool_calls" if calls else "stop"


# ---------------------------------------------------------------------------------------------------------------
# Endpoints


class OpenAIEndpoints:
    """The handlers of the two paths."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def chat(self, request: HttpRequest) -> Response:
        service = self.service
        body = await service.body(request, ChatBody)
        self._check_reads_texts()
        if service.task.answer_role != "assistant":
            raise Refusal(
                404,
                f"{service.plan.name} is no chat model, its task is {service.task.name}: use /v1/completions, or "
                f"/v1/tasks/{service.task.name}",
                param="model",
                code="model_not_found",
            )
        fields: dict[str, Any] = {"messages": [message.record() for message in body.messages]}
        calls = None
        if field := body.of_tools():
            fields |= {"tools": body.offered}
            calls = await service.call_syntax(field)
        predictor, asked = await service.request_for(service.task.name, fields, param=field or "messages")
        interface = ChatInterface(body, service.texts, calls)
        return await self._answer(request, predictor, body, [Asked(asked)], interface, "messages")

    async def completions(self, request: HttpRequest) -> Response:
        service = self.service
        body = await service.body(request, CompletionBody)
        self._check_reads_texts()
        prepared = [await self._prompt(each, body, number) for number, each in enumerate(body.prompts)]
        predictor = prepared[0][0]
        if body.echo and body.top is not None:
            prompts = [
                (asked.request.input_ids, isinstance(prompt, str))
                for prompt, (_, asked) in zip(body.prompts, prepared, strict=True)
            ]
            scored = await service.while_connected(request, service.prompt_tokens(prompts, body.top))
            for (_, asked), tokens in zip(prepared, scored, strict=True):
                asked.tokens = tokens
        interface = CompletionInterface(body, service.texts, segmented=predictor.request_builder.segmented)
        return await self._answer(request, predictor, body, [asked for _, asked in prepared], interface, "prompt")

    def _check_reads_texts(self) -> None:
        """Raise `Refusal` where the model reads recordings: a prompt would be the path of one on this machine."""
        if self.service.task.modality != "text":
            problem = f"{self.service.plan.name} transcribes recordings: use /v1/audio/transcriptions"
            raise Refusal(404, problem, param="model", code="model_not_found")

    # -- prompts of completions -------------------------------------------------------------------------------

    @property
    def _text_task(self) -> str:
        """The task of text prompts: a chat model continues them, any other model answers them as its task does."""
        service = self.service
        chat = service.task.answer_role == "assistant" and LANGUAGE_MODELING in service.plan.tasks
        return LANGUAGE_MODELING if chat else service.task.name

    async def _prompt(self, prompt: Prompt, body: CompletionBody, number: int) -> tuple[Predictor, Asked]:
        service, name = self.service, self._text_task
        if body.echo and service.family != "decoder":
            raise Refusal(400, "echo needs a model that continues its prompt", param="echo")
        if isinstance(prompt, str):
            predictor = await service.predictor_in_thread(name)
            if body.echo and not predictor.task.packed:
                raise Refusal(400, f"echo needs token ids: a text is laid out for {name}", param="echo")
            fields = dict(predictor.task.record_of(prompt))
            _, asked = await service.request_for(name, fields, param="prompt")
            return predictor, Asked(asked, prompt if body.echo else "")
        most = service.vocabulary
        if any(token >= most for token in prompt):
            raise Refusal(400, f"prompt has token ids beyond the vocabulary of {most:,}", param="prompt")
        predictor = await service.predictor_in_thread(name)
        echo = service.tokenizer.decode(prompt, clean_up_tokenization_spaces=False) if body.echo else ""
        return predictor, Asked(Request(f"prompt {number}", tuple(prompt)), echo)

    # -- answers ----------------------------------------------------------------------------------------------

    async def _answer(
        self,
        request: HttpRequest,
        predictor: Predictor,
        body: Streamed,
        prompts: Sequence[Asked],
        interface: Interface,
        param: str,
    ) -> Response:
        started = time.monotonic()
        head = {"id": identifier(interface.prefix), "created": int(time.time()), "model": self.service.plan.name}
        answers = self.service.answers(predictor, [each.request for each in prompts], body, param=param)
        if body.longest == 0:
            await answers.aclose()
            answers = _nothing(len(prompts) * body.n)
        if not body.stream:
            whole = self._whole(answers, predictor, body, prompts, interface)
            choices, usage = await self.service.while_connected(request, whole)
            return JSONAnswer({**head, "object": interface.kind, "choices": choices, "usage": usage.document()})
        stream = self._stream(answers, predictor, body, prompts, interface, started)
        chunks = events(stream, {**head, "object": interface.chunk_kind}, include_usage=body.include_usage)
        # The first event is awaited here, so that a refusal still has its status.
        first = await self.service.while_connected(request, anext(chunks))
        return EventStream(chained(first, chunks))

    async def _whole(
        self,
        answers: AsyncGenerator[tuple[int, NewText | Answered]],
        predictor: Predictor,
        body: Streamed,
        prompts: Sequence[Asked],
        interface: Interface,
    ) -> tuple[list[dict[str, Any]], Usage]:
        choices: dict[int, dict[str, Any]] = {}
        tokens = 0
        async with contextlib.aclosing(answers):
            async for number, event in answers:
                if isinstance(event, Answered):
                    text = predictor.read(event.completion.text)
                    choices[number] = interface.choice(number, text, event.completion, prompts[number // body.n])
                    tokens += event.completion.tokens
        return [choices[number] for number in sorted(choices)], self._counted(prompts, tokens)

    async def _stream(
        self,
        answers: AsyncGenerator[tuple[int, NewText | Answered]],
        predictor: Predictor,
        body: Streamed,
        prompts: Sequence[Asked],
        interface: Interface,
        started: float,
    ) -> AsyncGenerator[dict[str, Any] | Usage]:
        """The choice of each chunk, then the usage."""
        calls = interface.calls if isinstance(interface, ChatInterface) else None
        growing = [_growing(predictor, calls) for _ in range(len(prompts) * body.n)]
        tokens, is_first = 0, True
        async with contextlib.aclosing(answers):
            opened = False
            async for number, event in answers:
                if not opened:
                    opened = True
                    for place, each in enumerate(growing):
                        if opening := interface.opening(place, each, prompts[place // body.n]):
                            yield opening
                grown = growing[number]
                if isinstance(event, NewText):
                    if body.top is not None:
                        grown.tokens += event.tokens
                    if text := grown.grow(event.text):
                        if is_first:
                            is_first = False
                            self.service.counters.started(time.monotonic() - started)
                        yield interface.piece(number, grown, text, None)
                    continue
                tokens += event.completion.tokens
                whole = predictor.read(event.completion.text)
                for piece in interface.ending(number, grown, whole, event.completion):
                    yield piece
        yield self._counted(prompts, tokens)

    def _counted(self, prompts: Sequence[Asked], tokens: int) -> Usage:
        usage = Usage(sum(len(each.request.input_ids) for each in prompts), tokens)
        self.service.counters.answered(*usage)
        return usage


def _growing(predictor: Predictor, calls: CallSyntax | None) -> Growing:
    """Calls of tools come at the end of an answer. Blanks around an answer are no part of it, except where a text is continued; nor are those between the words of
    Chinese that training cut."""
    grown = Growing(None, TextPosition(segmented=predictor.request_builder.segmented))
    if not predictor.task.packed:
        show = grown.pieces.append
        grown.partial = PartialAnswer(HeldCalls(calls, show) if calls else show)
    if predictor.request_builder.segmented:
        grown.partial = JoinedStream(grown.partial or grown.pieces.append)
    return grown


async def _nothing(answers: int) -> AsyncGenerator[tuple[int, NewText | Answered]]:
    """Answers of no token, as `max_tokens: 0` asks for."""
    for number in range(answers):
        yield number, Answered(0, Completion("", "", "length", 0), last=True)
