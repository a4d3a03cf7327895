"""`POST /v1/audio/transcriptions`, the interface of OpenAI for recordings."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from llmctl.data.audio import sound
from llmctl.data.examples.layout import transcript_start
from llmctl.engines.spec import Answered
from llmctl.errors import LlmctlError
from llmctl.types import Audio, Completion, Record, Request
from llmctl.workflows.inference import subtitles
from llmctl.workflows.inference.session import Predictor
from llmctl.workflows.serve import uploads
from llmctl.workflows.serve.bodies import Asking, Body, FieldFault, checked, shown
from llmctl.workflows.serve.guard import HEADERS, JSONAnswer
from llmctl.workflows.serve.refusals import Refusal
from llmctl.workflows.serve.service import Service, Usage

UNKNOWN_LANGUAGE: Final = "unknown"
"""The language of a transcript whose model does not say."""


class TranscriptionBody(Body):
    """The fields of the form besides the file. All are texts there, so numbers are read from them."""

    model_config = ConfigDict(strict=False)

    model: str | None = None
    language: str | None = None
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(0.0, ge=0, le=1)
    timestamp_granularities: list[Literal["segment", "word"]] = []
    stream: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.temperature:
            raise FieldFault("temperature", "must be 0: the most likely transcript is written, none is drawn")
        if self.prompt:
            raise FieldFault("prompt", "is not supported by this server")
        if self.stream:
            raise FieldFault("stream", "is not supported: a transcript is sent as a whole")
        if "word" in self.timestamp_granularities:
            raise FieldFault("timestamp_granularities", "must be segment: times of words are not computed")
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise FieldFault("timestamp_granularities", "needs the response_format verbose_json")
        return self

    @property
    def timed(self) -> bool:
        """Whether the answer says when the parts are said."""
        return self.response_format in ("srt", "verbose_json", "vtt")


class TranscriptionEndpoint:
    """The handler of the path."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._language, self._knows_several = service.plan.model.languages()

    async def answer(self, request: HttpRequest) -> Response:
        service, config = self.service, self.service.config
        if service.task.modality != "audio":
            raise Refusal(
                404,
                f"{service.plan.name} reads texts: its task is {service.task.name}",
                param="model",
                code="model_not_found",
            )
        # A recording takes as long to send as so many bytes of other requests.
        seconds = config.client_timeout * max(1.0, config.max_upload / config.max_body)
        async with uploads.form(request, most=config.max_upload, seconds=seconds) as (fields, upload):
            body = checked(TranscriptionBody, fields)
            service.check_model(body.model)
            language = self._chosen(body.language)
            with contextlib.ExitStack() as stack:
                audio = await run_in_threadpool(lambda: stack.enter_context(uploads.stored(upload)))
                asked, length = await run_in_threadpool(self._request, audio, language, timed=body.timed)
                found = await service.while_connected(request, self._transcript(asked))
        service.counters.answered(*Usage(len(asked.input_ids), found.tokens))
        return self._written(found, body, length, language)

    def _chosen(self, wanted: str | None) -> str | None:
        """The code of the language to write; None: the model does not say. Raises `Refusal` for one that it cannot."""
        if not wanted:
            return self._language
        code = wanted.lower()
        if self._knows_several:
            known = self.service.tokenizer.backend_tokenizer.token_to_id(f"<|{code}|>") is not None
            if code not in LANGUAGES or not known:
                problem = f"language {shown(wanted)!r} is none that the model knows; give its code, such as en or zh"
                raise Refusal(400, problem, param="language")
        elif code != self._language:
            problem = "writes English" if self._language else "writes the language that it was trained on"
            raise Refusal(400, f"the model {problem}: leave language out", param="language")
        return code

    def _request(self, audio: Audio, language: str | None, *, timed: bool) -> tuple[Request, float]:
        """The request to transcribe a recording, and its length in seconds. Raises `Refusal` for one that cannot be
        read."""
        try:
            predictor = self._predictor
            request = self.service.lay_out(predictor, Record("recording", {predictor.task.audio_columns[0]: audio}))
            length = sound.seconds_of(audio)
        except LlmctlError as error:
            raise _of_the_file(self.service.refusal(error)) from error
        if self.service.family != "speech-seq2seq":
            return request, length
        start = transcript_start(self.service.tokenizer, language if self._knows_several else None, timestamps=timed)
        return replace(request, input_ids=start), length

    @property
    def _predictor(self) -> Predictor:
        return self.service.predictor(self.service.task.name)

    async def _transcript(self, request: Request) -> Completion:
        predictor = self._predictor
        answers = self.service.answers(predictor, [request], Asking(), param=uploads.FILE)
        try:
            async with contextlib.aclosing(answers):
                async for _, event in answers:
                    if isinstance(event, Answered):
                        return replace(event.completion, text=predictor.read(event.completion.text))
        except Refusal as refusal:
            raise _of_the_file(refusal) from refusal
        raise AssertionError("a request ends with an answer or a refusal")

    def _written(self, found: Completion, body: TranscriptionBody, seconds: float, language: str | None) -> Response:
        segments = [part._asdict() for part in found.spoken]
        plain = {
            "text": lambda: f"{found.text}\n",
            "srt": lambda: subtitles.srt(segments),
            "vtt": lambda: subtitles.vtt(segments),
        }
        if body.response_format in plain:
            kind = "text/vtt" if body.response_format == "vtt" else "text/plain"
            return Response(plain[body.response_format](), media_type=kind, headers=HEADERS)
        usage = {"type": "duration", "seconds": math.ceil(seconds)}
        document: dict[str, Any] = {"text": found.text, "usage": usage}
        if body.response_format == "verbose_json":
            document |= {
                "task": "transcribe",
                "language": LANGUAGES.get(language or "", UNKNOWN_LANGUAGE),
                "duration": round(seconds, 3),
                "segments": [{"id": number, **part} for number, part in enumerate(segments)],
            }
        return JSONAnswer(document)


def _of_the_file(refusal: Refusal) -> Refusal:
    """The refusal of a recording by the name of its field: its place is one on this machine."""
    return Refusal(refusal.status, refusal.message, param=uploads.FILE, code=refusal.code, headers=refusal.headers)
