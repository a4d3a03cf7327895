"""llmctl from Python: the settings, checks, files and errors of the command line, as functions.

    import llmctl

    data = llmctl.preprocess("tang-poems", out="data/poems")
    run = llmctl.train(data=data, model="gpt2:nano", out="runs/poems", max_steps=200)
    print(llmctl.load(run).generate("床前", max_new_tokens=20).text)

Settings are those of `llmctl COMMAND --help-all`, with their names and defaults; those with a dot are nested mappings:
`optimizer={"lr": 1e-3}`. What is wrong raises a subclass of `llmctl.errors.LlmctlError`, with the message, the hint and the
exit code of the command.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmctl import config, environment
from llmctl.api.progress import Progress, quiet_imports, sink
from llmctl.api.results import Evaluation, PreparedData, Run
from llmctl.api.settings import Place, block_of, several
from llmctl.verbs import Context, Verb, recorded_settings


def preprocess(
    *inputs: Place,
    out: Place,
    force: bool = False,
    offline: bool = False,
    progress: Progress = False,
    **settings: Any,
) -> PreparedData:
    """Read, clean, split and encode files, folders, globs or a built-in data set into the folder `out`.

    `settings`: those of `llmctl preprocess --help-all`: `task`, `columns`, `tokenizer`, `vocab_size`, `splits`, `seed` …
    `force` replaces what is in `out`. Raises `ConfigError` for settings, `DataError` for input that is bad, `GateError` where
    `on_bad_record="reject"` rejected records (the folder is made all the same).
    """
    from llmctl.workflows.preprocess.stage import Preprocess

    given = {**({"inputs": inputs} if inputs else {}), "out": out, **settings}
    return PreparedData(_run(Preprocess(), given, Context(sink(progress), force=force, offline=offline)))


def train(
    *,
    out: Place,
    data: Place | None = None,
    model: Place | Mapping[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
    offline: bool = False,
    progress: Progress = False,
    **settings: Any,
) -> Run:
    """Train a model on prepared data; `out` is the run folder to make.

    `model`: `NAME[:SIZE]` for random weights, a run or a model folder, `hf:ID`, or a mapping with settings of the
    architecture: `{"name": "gpt2:nano", "layers": 3}`. `settings`: those of `llmctl train --help-all`: `max_steps`, `epochs`,
    `max_time` ("10m"), `batch_size`, `lr`, `adapter`, `seed` …

    `resume=True` continues the run in `out` with the settings it was started with, where the call gives no others; it
    starts one if there is none and `data` and `model` are given. Raises `Stopped` when interrupted, after all state was
    saved; `ConfigError`, `UsageError` where `out` has something already; `DivergedError`.
    """
    from llmctl.workflows.train.stage import Train

    given = {"data": data, "model": model, "out": out, **settings}
    switches = frozenset({"resume"}) if resume else frozenset[str]()
    return Run(_run(Train(), given, Context(sink(progress), force=force, offline=offline, switches=switches)))


def evaluate(
    model: Place | None = None,
    *,
    data: Place | None = None,
    metric: str | Sequence[str] = (),
    require: str | Sequence[str] = (),
    predictions: Place | None = None,
    references: Place | Sequence[Place] = (),
    force: bool = False,
    offline: bool = False,
    progress: Progress = False,
    **settings: Any,
) -> Evaluation:
    """Score a model on `data` (prepared data, or a file of records), or `predictions` against `references`.

    `metric`: names, with options as in `bleu:tokenize=zh`; those of the task when not given. `require`: gates such as
    `bleu>=20`. `settings`: those of `llmctl eval --help-all`: `split`, `limit`, `baseline`, `out` …
    Raises `GateError` where a gate is not met; its `document` has the scores.
    """
    from llmctl.workflows.evaluate.stage import Evaluate

    given = {
        "model": model,
        "data": data,
        "metric": several(metric),
        "require": several(require),
        "predictions": predictions,
        "references": several(references),
        **settings,
    }
    return Evaluation(_run(Evaluate(), given, Context(sink(progress), force=force, offline=offline)))


def _run(verb: Verb[Any], given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """The document of a verb. Raises its refusal, with the document, where a gate is not met."""
    environment.prepare()
    quiet_imports()
    block = block_of(verb.spec, given)
    recorded = (recorded_settings(verb, block) if context.resume else None) or {}
    validated = config.validate(verb.spec, config.merge(config.combine(verb.spec, [recorded]), block))
    plan = verb.check(validated, context)
    with _script_not_imported():
        output = verb.run(plan, context)
    if output.refusal:
        output.refusal.document = output.document
        raise output.refusal
    return output.document


@contextlib.contextmanager
def _script_not_imported() -> Iterator[None]:
    """Started processes import the script that runs, and would begin its work again where it has no
    `if __name__ == "__main__":`. Ours need nothing of it."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)
