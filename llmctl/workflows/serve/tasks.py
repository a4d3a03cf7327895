"""`POST /v1/tasks/TASK`: records of a task in, the rows of `generate` out; with `/likelihoods`, what `eval` reads of them."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from llmctl import registry
from llmctl.data.reading.read import content_id
from llmctl.engines.spec import Answered
from llmctl.errors import LlmctlError
from llmctl.types import Adapting, Likelihood, Record, Request
from llmctl.workflows.inference.asked import asked
from llmctl.workflows.inference.facts import likelihood_facts
from llmctl.workflows.inference.requests import ScoringRequests
from llmctl.workflows.inference.session import Predictor
from llmctl.workflows.serve import uploads
from llmctl.workflows.serve.bodies import MOST_WINDOWS, LikelihoodBody, TaskBody, shown
from llmctl.workflows.serve.guard import JSONAnswer
from llmctl.workflows.serve.refusals import Refusal
from llmctl.workflows.serve.service import Service, Usage

BAD_RECORD = 422
"""The status of records that are no records of the task."""


class AskedRecord(NamedTuple):
    """A record that is laid out; `prompt`: its texts."""

    id: str
    prompt: str
    request: Request


class TaskEndpoint:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def answer(self, request: HttpRequest) -> Response:
        service = self.service
        name = self._task(request.path_params["task"])
        body = await service.body(request, TaskBody)
        predictor = await service.predictor_in_thread(name)
        rows = await run_in_threadpool(
            lambda: [self._record(predictor, each, number) for number, each in enumerate(body.records)]
        )
        found = await service.while_connected(request, self._answers(predictor, rows, body))
        tokens = sum(row["tokens"] for row in found)
        usage = Usage(sum(len(row.request.input_ids) for row in rows), tokens)
        service.counters.answered(*usage)
        return JSONAnswer({"model": service.plan.name, "task": name, "completions": found, "usage": usage.document()})

    async def likelihoods(self, request: HttpRequest) -> Response:
        """The log likelihood of the answer in each record, as `eval` computes it."""
        service = self.service
        name = self._task(request.path_params["task"])
        body = await service.body(request, LikelihoodBody)
        until = service.deadline()
        self._check_scores_text(name)
        predictor = await service.predictor_in_thread(name)
        try:
            window, stride = predictor.request_builder.window(body.window, body.stride)
        except LlmctlError as error:
            raise service.refusal(error, param="window") from error
        rows = await service.while_connected(request, self._scored(predictor, body.records, window, stride, until))
        facts = likelihood_facts(
            service.plan.model.folder,
            service.tokenizer,
            window=window,
            stride=stride,
            precision=service.config.precision,
        )
        return JSONAnswer({"model": service.plan.name, "task": name, "likelihoods": rows, "facts": facts})

    def _check_scores_text(self, name: str) -> None:
        """Raise `Refusal` for a task whose answers, or a model that, have no likelihood of a text."""
        handle = self.service.plan.tasks[name]
        if handle.task.labelled:
            raise Refusal(
                BAD_RECORD, f"likelihoods are those of texts, {name} answers with labels: use /v1/tasks/{name}"
            )
        if handle.task.modality != "text" or handle.family == "encoder":
            raise Refusal(BAD_RECORD, f"likelihoods are those of texts that are read and written: use /v1/tasks/{name}")

    def _scoring(self, predictor: Predictor, value: Any, number: int, window: int, stride: int) -> ScoringRequests:
        """Raises `Refusal`."""
        task, where = predictor.task, f"records[{number}]"
        try:
            fields = task.record_of(value) if isinstance(value, str) else value
            record = task.adapt(
                Record(where, {each: fields[each] for each in fields if each != "id"}, where), Adapting()
            )
            return self.service.scoring(predictor, record, window, stride)
        except LlmctlError as error:
            raise self.service.refusal(error, param=where, bad_record=BAD_RECORD) from error

    async def _scored(
        self, predictor: Predictor, records: Sequence[Any], window: int, stride: int, until: float
    ) -> list[dict[str, Any]]:
        """The rows of the answer. All records are laid out before the first is scored. Raises `Refusal`."""
        service, scorings, windows = self.service, list[ScoringRequests](), 0
        for number, value in enumerate(records):
            laid_out = run_in_threadpool(self._scoring, predictor, value, number, window, stride)
            scorings.append(await service.in_time(laid_out, until))
            windows += scorings[-1].windows
            if windows > MOST_WINDOWS:
                problem = f"the records have more than {MOST_WINDOWS:,} windows of {window:,} tokens, {stride:,} apart"
                raise Refusal(400, f"{problem}: send fewer or shorter records, or a larger stride", param="records")
        calls = (
            functools.partial(self._score, each, number)
            for number, scoring in enumerate(scorings)
            for each in scoring.requests
        )
        remaining = iter(await service.call(calls, param="records", until=until))
        rows = []
        for scoring in scorings:
            found = list(itertools.islice(remaining, scoring.windows))
            logprob, tokens = sum(each.logprob for each in found), sum(each.tokens for each in found)
            rows.append({"logprob": logprob, "tokens": tokens, "bytes": scoring.bytes})
        return rows

    def _score(self, request: Request, number: int) -> Likelihood:
        """Raises `Refusal`."""
        try:
            found = next(self.service.engine.score([request]))
        except LlmctlError as error:
            raise self.service.refusal(error, param=f"records[{number}]") from error
        self.service.counters.answered(len(request.input_ids) + len(request.answer_ids), 0)
        return found

    def _task(self, name: str) -> str:
        """A task of the model, by its name or an alias. Raises `Refusal`."""
        known = {**{each: each for each in self.service.plan.tasks}, **_aliases(self.service.plan.tasks)}
        if name not in known:
            tasks = ", ".join(self.service.plan.tasks)
            raise Refusal(404, f"this model has no task {shown(name)!r}; it has: {tasks}", code="task_not_found")
        return known[name]

    def _record(self, predictor: Predictor, value: Any, number: int) -> AskedRecord:
        """One of the records, as `generate --input` reads a row. Raises `Refusal`."""
        task, where = predictor.task, f"records[{number}]"
        try:
            if isinstance(value, str):
                record = Record("", task.record_of(value), where)
            else:
                given = value.get("id")
                if given is not None and not isinstance(given, str | int):
                    raise Refusal(BAD_RECORD, f"{where}.id must be text or a number", param=f"{where}.id")
                fields = {field: each for field, each in value.items() if field != "id"}
                record = asked(task.adapt(Record("" if given is None else str(given), fields, where), Adapting()), task)
            if task.audio_columns:
                recorded = uploads.sent(record.fields, task.audio_columns, where, BAD_RECORD)
                id = record.id or uploads.content_id(recorded[task.audio_columns[0]])
                record = Record(id, recorded, where)
            id = record.id or content_id(record.fields)
            record = Record(id, record.fields, where)
            request = self.service.lay_out(predictor, record)
            return AskedRecord(id, "\n".join(segment.text for segment in task.prompt(record)), request)
        except LlmctlError as error:
            raise self.service.refusal(error, param=where, bad_record=BAD_RECORD) from error

    async def _answers(self, predictor: Predictor, rows: list[AskedRecord], body: TaskBody) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        answers = self.service.answers(predictor, [row.request for row in rows], body, param="records")
        async with contextlib.aclosing(answers):
            async for number, event in answers:
                if isinstance(event, Answered):
                    row, completion = rows[number // body.n], event.completion
                    found[number] = {
                        "id": row.id,
                        "prompt": row.prompt,
                        "text": predictor.read(completion.text),
                        "finish_reason": completion.finish_reason,
                        "tokens": completion.tokens,
                        **({"segments": [part._asdict() for part in completion.spoken]} if completion.spoken else {}),
                        **({"sample": number % body.n} if body.n > 1 else {}),
                    }
        return [found[number] for number in sorted(found)]


def _aliases(tasks: Mapping[str, Any]) -> dict[str, str]:
    return {alias: each.name for each in registry.entries("tasks") if each.name in tasks for alias in each.aliases}
