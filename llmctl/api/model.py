"""A model opened from Python: completions of prompts, and log-probabilities of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from llmctl import environment
from llmctl.api.progress import Progress, quiet_imports, sink
from llmctl.api.results import ScoredRecord
from llmctl.api.settings import Place, several, validated
from llmctl.data.reading.read import content_id
from llmctl.engines.spec import Sampling
from llmctl.errors import ConfigError, Fault, UsageError
from llmctl.registry import near
from llmctl.types import Audio, Completion, Record

if TYPE_CHECKING:
    from llmctl.workflows.inference.session import Predictor

Prompt = str | Mapping[str, Any]
"""Text, or a record of the model's task: `{"question": …}`, `{"messages": […]}`."""


def load(
    model: Place,
    *,
    task: str | None = None,
    instruction: str | None = None,
    labels: Sequence[str] = (),
    calibrate: bool = False,
    base: Place | None = None,
    precision: str = "fp32",
    engine: str = "auto",
    offline: bool = False,
    progress: Progress = False,
) -> Model:
    """Open a run, a model folder or `hf:ID` for inference.

    `task`: the prompt format; the model folder knows its own. `labels`, `calibrate`: what a model without a head for labels
    chooses among, and how. `base`: the base model of an adapter, if it was moved. `precision`: `fp32`, `bf16`
    or `auto`. Raises `UsageError` if there is no model or it cannot express the task, `IntegrityError` for an unsafe one.
    """
    from llmctl.workflows.generate.spec import GenerateConfig

    given = {
        "model": model,
        "task": task,
        "instruction": instruction,
        "labels": labels,
        "calibrate": calibrate,
        "base": base,
        "precision": precision,
        "engine": engine,
    }
    config = validated(GenerateConfig, given)
    environment.prepare()
    quiet_imports()
    from llmctl.workflows.inference.model import find_model
    from llmctl.workflows.inference.requests import open_request_builder
    from llmctl.workflows.inference.session import open_predictor

    emit = sink(progress)
    found = find_model(
        config.model, task=config.task, instruction=config.instruction, base=config.base, offline=offline, emit=emit
    ).choosing(config.labels, calibrate=config.calibrate)
    builder = open_request_builder(found, calibrate=config.calibrate, emit=emit)
    predictor = open_predictor(
        found, precision=config.precision, engine=config.engine, request_builder=builder, emit=emit
    )
    return Model(predictor, found.folder.path)


class SamplingOptions(TypedDict, total=False):
    """How an answer is chosen, with the names and defaults of `llmctl generate`; greedy where none is given."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    length_penalty: float
    num_beams: int
    stop: str | Sequence[str]
    batch_size: int
    seed: int


class Model:
    """A model with the tokenizer and the prompt format that it was trained with; `load` opens one."""

    def __init__(self, predictor: Predictor, path: Path) -> None:
        self._predictor = predictor
        self.path = path

    @property
    def task(self) -> str:
        """The task whose prompt format is used."""
        return self._predictor.task.name

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, task={self.task!r})"

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompts: Prompt, *, num_samples: None = None, **sampling: Unpack[SamplingOptions]
    ) -> Completion: ...

    @overload
    def generate(
        self, prompts: Prompt, *, num_samples: int, **sampling: Unpack[SamplingOptions]
    ) -> list[Completion]: ...

    @overload
    def generate(
        self, prompts: Sequence[Prompt], *, num_samples: int | None = None, **sampling: Unpack[SamplingOptions]
    ) -> list[Completion]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        num_samples: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Completion | list[Completion]:
        """The completion of a prompt. A list where `prompts` is one, or where `num_samples` is given.

        A prompt is text or a record of the task; a conversation is the record `{"messages": [{"role": …, "content": …}]}`.
        Completions come in the order of the prompts, the samples of a prompt one after the other. `Completion.text` continues
        where the prompt ends in language modelling, and is the answer otherwise.

        Raises `ConfigError` for sampling options, `DataError` for a record that lacks a field or a prompt that is longer
        than the model's context.
        """
        chosen = self._sampling({**sampling, "num_samples": num_samples})
        records, alone = self._records(prompts)
        found = list(self._predictor.answers(records, chosen))
        return found[0] if alone and num_samples is None else found

    @overload
    def score(  # type: ignore[overload-overlap]
        self, records: Prompt, *, batch_size: int = 32, window: int | None = None
    ) -> ScoredRecord: ...

    @overload
    def score(
        self, records: Sequence[Prompt], *, batch_size: int = 32, window: int | None = None
    ) -> list[ScoredRecord]: ...

    def score(
        self, records: Prompt | Sequence[Prompt], *, batch_size: int = 32, window: int | None = None
    ) -> ScoredRecord | list[ScoredRecord]:
        """The log-probability of a text in language modelling; else of a record's answer, given its prompt. A list for a
        list.

        `window`: tokens seen at once in a long text; default: as long as the training blocks. Every token is
        scored once, with at least half a window before it. Raises `DataError` for a record that lacks a field.
        """
        rows, alone = self._records(records)
        answers = self._predictor.likelihoods(rows, batch_size=batch_size, window=window)
        found = [ScoredRecord(each.id, each.logprob, each.tokens, each.bytes) for each in answers]
        return found[0] if alone else found

    def _records(self, prompts: Prompt | Sequence[Prompt]) -> tuple[list[Record], bool]:
        """Prompts as records, and whether there is one that is not in a list."""
        if isinstance(prompts, str | Mapping):
            return [self._record(prompts, "the prompt")], True
        if not isinstance(prompts, Iterable):
            raise UsageError(f"a prompt is text or a record, not {type(prompts).__name__}", where="the prompt")
        return [self._record(each, f"prompt {place}") for place, each in enumerate(prompts, start=1)], False

    def _record(self, prompt: Prompt, origin: str) -> Record:
        if not isinstance(prompt, str | Mapping):
            raise UsageError(f"a prompt is text or a record, not {type(prompt).__name__}", where=origin)
        values = dict(self._predictor.task.record_of(prompt) if isinstance(prompt, str) else prompt)
        if values.keys() == {"role", "content"}:
            raise UsageError(
                "pass the conversation, not a single message",
                where=origin,
                hint='give {"messages": [...]} as one prompt',
            )
        for column in self._predictor.task.audio_columns:
            if isinstance(values.get(column), str | Path):
                values[column] = Audio(str(values[column]))
        name = values.pop("id", None)
        return Record(content_id(values) if name is None else str(name), values, origin)

    def _sampling(self, given: Mapping[str, Any]) -> Sampling:
        """Checked as the settings of `llmctl generate` are."""
        from llmctl.workflows.generate.spec import GenerateConfig

        known = [each.name for each in fields(Sampling)]
        faults = [
            Fault(name, "unknown key", near(name, known) or f"known keys: {', '.join(known)}")
            for name in given
            if name not in known
        ]
        if faults:
            raise ConfigError(faults)
        options = {**given, "stop": several(given.get("stop") or ())}
        config = validated(GenerateConfig, {"model": self.path, **options})
        chosen = Sampling(**{name: getattr(config, name) for name in known})
        chosen.check()
        if self._predictor.task.labelled and chosen.num_samples > 1:
            raise UsageError(f"{self.task} has one answer to each prompt", hint="leave num_samples out")
        return chosen
