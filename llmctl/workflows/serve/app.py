"""The paths of the server."""

from __future__ import annotations

from typing import Any

import psutil
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, Router

from llmctl import __version__
from llmctl.workflows.serve import webpage
from llmctl.workflows.serve.guard import HEADERS, Guard, JSONAnswer
from llmctl.workflows.serve.openai import OpenAIEndpoints
from llmctl.workflows.serve.service import Service
from llmctl.workflows.serve.tasks import TaskEndpoint
from llmctl.workflows.serve.transcriptions import TranscriptionEndpoint


def build(service: Service, *, local: bool) -> Guard:
    """The application of a service. `local`: it is reachable from this machine alone."""
    pages, chat, tasks = Pages(service), OpenAIEndpoints(service), TaskEndpoint(service)
    speech = TranscriptionEndpoint(service)
    router = Router(
        [
            Route("/", pages.page),
            Route("/health", pages.health),
            Route("/ready", pages.ready),
            Route("/metrics", pages.metrics),
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.model),
            Route("/v1/chat/completions", chat.chat, methods=["POST"]),
            Route("/v1/completions", chat.completions, methods=["POST"]),
            Route("/v1/audio/transcriptions", speech.answer, methods=["POST"]),
            Route("/v1/tasks/{task}", tasks.answer, methods=["POST"]),
            Route("/v1/tasks/{task}/likelihoods", tasks.likelihoods, methods=["POST"]),
        ],
        redirect_slashes=False,
    )
    guard = Guard(router, keys=service.plan.keys, counters=service.counters, emit=service.emit, local=local)
    pages.guard = guard
    return guard


class Pages:
    """What can be read: the web page, the model, and how the server is."""

    guard: Guard

    def __init__(self, service: Service) -> None:
        self.service = service
        self._page = webpage.read()
        self._process = psutil.Process()

    async def page(self, request: HttpRequest) -> Response:
        return self._page

    async def health(self, request: HttpRequest) -> Response:
        alive = self.service.scheduler.alive
        return JSONAnswer({"status": "ok" if alive else "the engine has stopped"}, 200 if alive else 503)

    async def ready(self, request: HttpRequest) -> Response:
        if self.guard.draining:
            return JSONAnswer({"status": "draining"}, 503)
        return await self.health(request)

    async def models(self, request: HttpRequest) -> Response:
        return JSONAnswer({"object": "list", "data": [self._model()]})

    async def model(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        if name != self.service.plan.name:
            raise self.service.no_such_model(name)
        return JSONAnswer(self._model())

    def _model(self) -> dict[str, Any]:
        """OpenAI's model object, and what a client must know to ask it."""
        service = self.service
        return {
            "id": service.plan.name,
            "object": "model",
            "created": service.created,
            "owned_by": "llmctl",
            "task": service.task.name,
            "tasks": list(service.plan.tasks),
            "family": service.family,
            "labels": list(service.plan.model.labels),
            "max_model_len": service.context,
        }

    async def metrics(self, request: HttpRequest) -> Response:
        scheduler = self.service.scheduler
        load = scheduler.load
        gauges = {
            "answers_running": ("Answers that are being generated.", min(load, scheduler.rows)),
            "answers_waiting": ("Answers that wait for their turn.", max(0, load - scheduler.rows)),
            "answers_at_once": ("Most answers that are generated at once.", scheduler.rows),
            "requests_active": ("Requests that are being answered.", self.guard.active),
            "draining": ("1 while the server shuts down.", self.guard.draining),
            "memory_bytes": ("Resident memory of the process.", self._process.memory_info().rss),
        }
        totals = {
            "engine_steps_total": ("Steps of the engine, one token for each running answer.", scheduler.steps),
            "engine_failures_total": ("Steps that failed.", scheduler.failures),
        }
        text = self.service.counters.text(gauges, totals)
        build = f'# HELP llmctl_info Version.\n# TYPE llmctl_info gauge\nllmctl_info{{version="{__version__}"}} 1\n'
        return Response(text + build, media_type="text/plain; version=0.0.4", headers=HEADERS)
