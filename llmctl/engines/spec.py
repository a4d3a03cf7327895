"""What an engine is: it takes token ids and answers with text or likelihoods."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmctl.errors import UsageError
from llmctl.types import Completion, Likelihood, Request


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is chosen. Without any sampling setting the choice is greedy."""

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
        """Whether chance has a part in it."""
        if self.temperature == 0:
            return False
        given = (self.temperature, self.top_k, self.top_p, self.min_p)
        return any(value is not None for value in given) or (self.num_samples > 1 and self.num_beams == 1)

    def check(self) -> None:
        """Raise `UsageError` where settings exclude each other."""
        if self.samples and self.num_beams > 1:
            raise UsageError(
                "a beam search draws nothing: temperature, top_k, top_p and min_p are for num_beams 1",
                hint="give --num-beams, or settings of sampling, not both",
            )
        if self.num_beams > 1 and self.num_samples > self.num_beams:
            raise UsageError(
                f"{self.num_beams} beams hold no {self.num_samples} answers", hint=f"--num-beams {self.num_samples}"
            )
        if self.temperature == 0 and self.num_beams == 1 and self.num_samples > 1:
            raise UsageError(
                f"at temperature 0 all {self.num_samples} answers would be the same", hint="give a higher --temperature"
            )
        if "" in self.stop:
            raise UsageError("an empty stop text would end every answer at once", hint="leave out --stop ''")


class Engine(Protocol):
    """Two methods. Answers come in the order of the requests; samples of one request follow each other.

    Both raise `DataError`, before they begin, for a request that does not fit the model's context.
    """

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        """Answer each request. `stream` is called with pieces of text as they come (one request, one sample)."""
        ...

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        """log p(answer_ids | input_ids) of each request."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """`implementation` is `module:Class`, called with what `build` is given."""

    name: str
    implementation: str
    needs_weights: bool = True
    """Whether it is given the model; without, `model` is None."""

    def build(self, **parts: Any) -> Engine:
        module, _, attribute = self.implementation.partition(":")
        engine: Engine = getattr(importlib.import_module(module), attribute)(**parts)
        return engine


TORCH = EngineSpec("torch", "llmctl.engines.local:TorchEngine")
ECHO = EngineSpec("echo", "llmctl.engines.echo:EchoEngine", needs_weights=False)
