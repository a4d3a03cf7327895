"""llmctl from Python: the settings, checks, files and errors of the command line, as functions.

    import llmctl

    data = llmctl.preprocess("tang-poems", out="data/poems")
    run = llmctl.train(data=data, model="gpt2:nano", out="runs/poems", max_steps=200)
    print(llmctl.load(run).generate("床前", max_new_tokens=20).text)

Settings are those of `llmctl COMMAND --help-all`; a dot becomes a nested mapping: `optimizer={"lr": 1e-3}`. Errors are
subclasses of `llmctl.errors.LlmctlError` with the message, the hint and the exit code of the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from llmctl import config as configuration
from llmctl.data.read import content_id
from llmctl.engines.spec import Sampling
from llmctl.errors import UsageError
from llmctl.types import Completion, Event, Record, null_sink
from llmctl.verbs import Context, Output, Verb

if TYPE_CHECKING:
    from llmctl.workflows.inference.session import Predictor

Place = str | os.PathLike[str]
Progress = Callable[[Event], None]


@dataclass(frozen=True)
class Result:
    """What a command returned. `document` is the JSON document that the command line prints with `--json`."""

    document: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.document[name]


@dataclass(frozen=True)
class Prepared(Result):
    """A prepared folder."""

    @property
    def path(self) -> Path:
        return Path(self.document["out"])

    @property
    def records(self) -> Mapping[str, Any]:
        """Counts: `read`, `kept`, `dropped` by reason, `rejected`."""
        found: Mapping[str, Any] = self.document["records"]
        return found

    @property
    def splits(self) -> Mapping[str, int]:
        """Records of each split."""
        found: Mapping[str, int] = self.document["splits"]
        return found

    def __fspath__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Run(Result):
    """A finished training run."""

    @property
    def path(self) -> Path:
        return Path(self.document["run"])

    @property
    def model(self) -> Path:
        """The model folder, in the Hugging Face layout."""
        return Path(self.document["model"])

    @property
    def steps(self) -> int:
        return int(self.document["steps"])

    @property
    def validation(self) -> Mapping[str, float]:
        """Scores on the validation split: `loss`, in nats a token, and what `best_by` names."""
        return dict(self.document["validation"] or {})

    def __fspath__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Evaluation(Result):
    """Scores with their intervals and signatures."""

    @property
    def scores(self) -> Mapping[str, float]:
        """Value of each score by name."""
        return {score["metric"]: score["value"] for score in self.document["scores"]}


@dataclass(frozen=True)
class Scored:
    """How likely a model finds a text or an answer: `logprob` in nats, summed over `tokens` tokens (`bytes` in UTF-8)."""

    id: str
    logprob: float
    tokens: int
    bytes: int


def preprocess(
    *inputs: Place,
    out: Place,
    force: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Prepared:
    """Read, clean, split and encode files, folders, globs or a built-in data set into the folder `out`."""
    from llmctl.workflows.preprocess.stage import Preprocess

    given = {"inputs": [os.fspath(each) for each in inputs], "out": out, **settings}
    context = Context(progress or null_sink, force=force, offline=offline)
    return Prepared(_run(Preprocess(), given, context).document)


def train(
    *,
    data: Place,
    model: Place,
    out: Place,
    resume: bool = False,
    force: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Train a model on prepared data. `model`: `NAME[:SIZE]` for random weights, a run, a folder, or `hf:ID`."""
    from llmctl.workflows.train.stage import Train

    switches = frozenset({"resume"}) if resume else frozenset[str]()
    context = Context(progress or null_sink, force=force, offline=offline, switches=switches)
    return Run(_run(Train(), {"data": data, "model": model, "out": out, **settings}, context).document)


def evaluate(
    model: Place | None = None,
    *,
    data: Place | None = None,
    metrics: Sequence[str] = (),
    force: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Evaluation:
    """Score a model on `data`, or `predictions` against `references`.

    Raises `GateError` where a gate (`require`) is not met; its `document` has the scores.
    """
    from llmctl.workflows.evaluate.stage import Evaluate

    given = {"model": model, "data": data, "metric": list(metrics) or None, **settings}
    context = Context(progress or null_sink, force=force, offline=offline)
    return Evaluation(_run(Evaluate(), given, context).document)


def load(
    model: Place,
    *,
    task: str | None = None,
    precision: str = "fp32",
    engine: str = "torch",
    offline: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Open a run, a model folder or `hf:ID` for inference."""
    from llmctl.workflows.generate.spec import GenerateConfig
    from llmctl.workflows.inference.session import open_predictor

    given = {"model": os.fspath(model), "task": task, "precision": precision, "engine": engine}
    config = _validated(GenerateConfig, given)
    return Model(
        open_predictor(
            config.model,
            task=config.task,
            precision=config.precision,
            engine=config.engine,
            offline=offline,
            emit=progress or null_sink,
        )
    )


Prompt = str | Mapping[str, Any]
"""Text, or a record of the model's task: `{"question": …}`, `{"messages": […]}`."""


class Model:
    """A model with the prompt format that it was trained with."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @property
    def task(self) -> str:
        """The task whose prompt format is used."""
        return self._predictor.task.name

    @overload
    def generate(self, prompts: Prompt, **sampling: Any) -> Completion: ...

    @overload
    def generate(self, prompts: list[Prompt] | list[str], **sampling: Any) -> list[Completion]: ...

    def generate(self, prompts: Any, **sampling: Any) -> Completion | list[Completion]:
        """The completion of a prompt, or of each of a list, in their order; greedy unless a sampling option is given.

        `sampling`: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `min_p`, `num_beams`, `num_samples`, `stop`,
        `seed`, `batch_size` and others of `llmctl generate`. With `num_samples` several follow each other, numbered by
        `Completion.sample`, so the result is a list.
        """
        chosen = _sampling(sampling)
        alone = isinstance(prompts, str | Mapping)
        records = [self._record(each) for each in ([prompts] if alone else prompts)]
        found = list(self._predictor.answers(records, chosen))
        return found[0] if alone and chosen.num_samples == 1 else found

    @overload
    def score(self, records: Prompt, *, batch_size: int = 32) -> Scored: ...

    @overload
    def score(self, records: list[Prompt] | list[str], *, batch_size: int = 32) -> list[Scored]: ...

    def score(self, records: Any, *, batch_size: int = 32) -> Scored | list[Scored]:
        """The log-probability of what a record teaches: a text for language modelling, else the answer to its prompt."""
        alone = isinstance(records, str | Mapping)
        rows = [self._record(each) for each in ([records] if alone else records)]
        answers = self._predictor.likelihoods(rows, batch_size=batch_size)
        found = [Scored(each.id, each.logprob, each.tokens, each.bytes) for each in answers]
        return found[0] if alone else found

    def _record(self, prompt: Any) -> Record:
        task = self._predictor.task
        values: dict[str, Any] = dict(prompt) if isinstance(prompt, Mapping) else dict(task.record_of(prompt))
        name = values.pop("id", None)
        return Record(content_id(values) if name is None else str(name), values, "prompt")


S = TypeVar("S", bound=configuration.Spec)


def _validated(spec: type[S], given: Mapping[str, Any]) -> S:
    """Settings from Python: paths and results of other calls may stand for text; None means not given."""
    block = {name: _plain(value) for name, value in given.items() if value is not None}
    return configuration.validate(spec, configuration.combine(spec, [block]))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _run(verb: Verb[Any], given: Mapping[str, Any], context: Context) -> Output:
    config = _validated(verb.spec, given)
    output = verb.run(config, verb.check(config, context), context)
    if output.refusal:
        output.refusal.document = output.document
        raise output.refusal
    return output


def _sampling(given: Mapping[str, Any]) -> Sampling:
    known = {each.name for each in fields(Sampling)}
    if unknown := sorted(given.keys() - known):
        raise UsageError(f"unknown sampling option: {', '.join(unknown)}", hint=f"options: {', '.join(sorted(known))}")
    stop = given.get("stop", ())
    chosen = Sampling(**{**given, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})
    chosen.check()
    return chosen
