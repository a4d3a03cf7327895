"""The engine interface: token ids in, text or likelihoods out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmctl.errors import UsageError
from llmctl.types import MODALITY, Completion, Likelihood, Request


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


class Engine(Protocol):
    """Generates and scores. Results follow the order of the requests; samples of one request are consecutive.

    Both methods raise `DataError`, before any work, for a request that does not fit the model's context.
    """

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        """Answer each request. `stream` receives pieces of text as they are generated (one request, one sample)."""
        ...

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        """log p(answer_ids | input_ids) of each request."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """`implementation` is `module:Class`, called with the arguments of `build`; `speech` is the one for models that hear."""

    name: str
    implementation: str
    speech: str | None = None
    needs_weights: bool = True
    """Whether the engine needs the loaded model; if not, `model` is None."""

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
ECHO = EngineSpec("echo", "llmctl.engines.echo:EchoEngine", needs_weights=False)
