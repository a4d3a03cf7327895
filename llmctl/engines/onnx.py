"""The engine that runs a folder exported to ONNX, in ONNX Runtime: encoders with a head, and decoders.

Letters: B rows of a batch, T tokens of a row, V vocabulary, G key/value heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmctl.engines import scoring
from llmctl.engines.choosing import Constraints
from llmctl.engines.continuous import ContinuousScheduler
from llmctl.engines.exported import load_exported
from llmctl.engines.labels import LabelSession
from llmctl.engines.loaded import LoadedModel
from llmctl.engines.spec import Engine, EngineEvent, EngineSession, Job, Sampling
from llmctl.errors import UsageError
from llmctl.store.border import border, running
from llmctl.store.models import ModelFolder
from llmctl.types import AnswerToken, Family, Likelihood, Request

CACHE: Final = "past_key_values."
"""In the names of keys and values."""


class OnnxEngine(Engine):
    """Runs the export in `model`. An answer does not depend on the batch it was generated in."""

    def __init__(
        self,
        model: ModelFolder,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None = None,
        labels: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        """`settings`: device and precision, which the export decides."""
        self.family, self.labels = family, labels
        self.loaded = load_exported(model, tokenizer, family, layout_context, self._classify)
        self.context = self.loaded.context
        names = ("model",) if family == "encoder" else ("prefill", "decode")
        self.graphs = [_open(model.path / f"{name}.onnx") for name in names]

    def _classify(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) each -> (B, labels)."""
        found = self.graphs[0].run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        return torch.from_numpy(found[0])

    def check(self, request: Request, sampling: Sampling, *, logprobs: int | None = None) -> None:
        super().check(request, sampling, logprobs=logprobs)
        if sampling.num_beams > 1:
            raise UsageError("the engine onnx has no beam search", hint="leave --num-beams out")
        if self.family == "encoder" and not self.labels:
            raise UsageError("the model has no labels", hint="use a model trained for classification")
        scoring.check_fits(self.loaded, request)

    def session(self, *, rows: int = 16) -> EngineSession:
        return (
            LabelSession(self, self.loaded, self.labels, rows) if self.family == "encoder" else OnnxSession(self, rows)
        )

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        if self.family == "encoder":
            return scoring.score(self.loaded, requests, batch_size)
        return scoring.score(self.loaded, requests, 1, likelihoods=self._likelihoods)

    def _likelihoods(self, loaded: LoadedModel, batch: Sequence[Request]) -> list[Likelihood]:
        """Of one request: the graph has no mask for padding."""
        [request] = batch
        rows = self._logits(request).double().log_softmax(-1)  # (answer, V)
        chosen = rows[torch.arange(len(request.answer_ids)), torch.tensor(request.answer_ids)]
        return [Likelihood(request.id, float(chosen.sum()), len(request.answer_ids))]

    def token_logprobs(self, request: Request, top: int) -> list[AnswerToken]:
        return scoring.token_logprobs(self.loaded, request, top, logits=self._logits)

    def _logits(self, request: Request) -> Tensor:
        """(answer, V), of the tokens of the answer."""
        logits, _ = self.read((*request.input_ids, *request.answer_ids)[:-1])
        return torch.from_numpy(logits[0, len(request.input_ids) - 1 :])

    def read(self, ids: Sequence[int]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Logits (1, T, V) of a text, and its keys and values (1, G, T, D)."""
        positions = np.arange(len(ids), dtype=np.int64)[None]
        return self._run(self.graphs[0], {"input_ids": np.array([ids], np.int64), "position_ids": positions})

    def read_next(
        self, tokens: Sequence[int], length: int, cache: dict[str, Any]
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Logits (B, 1, V) of the next token of rows of `length` tokens, and their keys and values."""
        rows = len(tokens)
        inputs = {
            "input_ids": np.array(tokens, np.int64)[:, None],
            "position_ids": np.full((rows, 1), length, np.int64),
        }
        return self._run(self.graphs[1], inputs | {f"input.{name}": value for name, value in cache.items()})

    def _run(self, graph: Any, inputs: dict[str, Any]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        taken = {each.name for each in graph.get_inputs()}
        names = [each.name for each in graph.get_outputs()]
        with running(self.loaded.model):
            values = graph.run(names, {name: value for name, value in inputs.items() if name in taken})
        found = dict(zip(names, values, strict=True))
        cache = {name[name.index(CACHE) :]: value for name, value in found.items() if CACHE in name}
        return found["logits"], cache


def _open(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    with border("ONNX Runtime cannot open the model", path):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxSession(EngineSession):
    """Continuous batching over the two graphs of a decoder."""

    def __init__(self, engine: OnnxEngine, rows: int) -> None:
        super().__init__(engine)
        self._healing = engine.loaded.healing
        constraints = Constraints(engine.loaded.model.generation_config)
        self._scheduler = ContinuousScheduler(engine.loaded, OnnxRows(engine), constraints, rows)

    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        return self._scheduler.advance(self._healing.jobs(submitted), cancelled)

    def close(self) -> None:
        super().close()
        self._scheduler.close()


class OnnxRows:
    """Keys and values of each row: a `Decoding`. The graphs have no mask, so that only rows of equal length are read in
    one pass."""

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine
        self._lengths: list[int] = []
        self._caches: list[dict[str, Any]] = []

    def enter(self, requests: Sequence[Request]) -> Tensor:
        found = []
        for request in requests:
            logits, cache = self._engine.read(request.input_ids)
            self._lengths.append(len(request.input_ids))
            self._caches.append(cache)
            found.append(torch.from_numpy(logits[0, -1]))
        return torch.stack(found)

    def step(self, tokens: Sequence[int]) -> Tensor:
        logits: list[Tensor] = [torch.empty(0)] * len(tokens)
        for length in sorted(set(self._lengths)):
            group = [number for number, each in enumerate(self._lengths) if each == length]
            cache = {
                name: np.concatenate([self._caches[number][name] for number in group])
                for name in self._caches[group[0]]
            }
            found, grown = self._engine.read_next([tokens[number] for number in group], length, cache)
            for row, number in enumerate(group):
                logits[number] = torch.from_numpy(found[row, -1])
                self._caches[number] = {name: value[row : row + 1] for name, value in grown.items()}
        self._lengths = [length + 1 for length in self._lengths]
        return torch.stack(logits)

    def keep(self, order: Sequence[int]) -> None:
        self._lengths = [self._lengths[number] for number in order]
        self._caches = [self._caches[number] for number in order]
