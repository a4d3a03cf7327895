"""A verb as a stage of a recipe: what it reads, what it makes, how it is run, and the record it leaves beside its output.

The record is `stage.json` in a folder that a stage made, `NAME.stage.json` beside a file. It says what went in and
came out, by content hash; a stage of the same settings, inputs and output needs not run again.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, ValidationError

from llmctl import __version__, registry
from llmctl.config import Spec
from llmctl.data.sources import STDIN, find_sources
from llmctl.models.spec import HUB
from llmctl.store import runs, whole
from llmctl.store.prepared import MANIFEST, is_prepared
from llmctl.types import Tell

STAGES: Final = ("preprocess", "train", "generate", "eval")
"""The verbs that can be stages, in their order."""
RECORD: Final = "stage.json"
ROWS: Final = "completions"
"""What an output file holds already is not written into its record again."""


# ---------------------------------------------------------------------------------------------------------------
# Running one


@dataclass(frozen=True, slots=True)
class Asked:
    """What the process was asked beside the settings."""

    tell: Tell
    force: bool = False
    offline: bool = False
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """A verb's functions: `check(config, asked)` finds faults before anything slow and returns a plan;
    `do(config, plan, asked)` returns the document of the verb; `foresee(config)` finds those faults that can be found
    while an input is yet to be made."""

    check: Callable[[Any, Asked], Any]
    do: Callable[[Any, Any, Asked], dict[str, Any]]
    foresee: Callable[[Any], None]


def real(verb: str) -> Work:
    """The verb itself; its workflow is imported when it is first called for."""
    return {
        "preprocess": Work(_check_preprocess, _preprocess, _foresee_preprocess),
        "train": Work(_check_train, _train, _foresee_train),
        "generate": Work(_check_generate, _generate, _foresee_generate),
        "eval": Work(_check_eval, _eval, _foresee_eval),
    }[verb]


def _check_preprocess(config: Any, asked: Asked) -> Any:
    from llmctl.workflows.preprocess import run as preprocess

    return preprocess.preflight(config, force=asked.force, offline=asked.offline)


def _foresee_preprocess(config: Any) -> None:
    whole.refuse_same(config.out, inputs("preprocess", config))


def _preprocess(config: Any, plan: Any, asked: Asked) -> dict[str, Any]:
    from llmctl.workflows.preprocess import run as preprocess

    document: dict[str, Any] = preprocess.preprocess(config, plan, asked.tell, force=asked.force).document()
    return document


def _check_train(config: Any, asked: Asked) -> Any:
    from llmctl.workflows.train import run as train

    return train.preflight(config, force=asked.force, offline=asked.offline, resume=asked.resume)


def _foresee_train(config: Any) -> None:
    from llmctl.store.adapters import check_installed
    from llmctl.workflows.train import checks as train_checks

    if config.adapter is not None:
        check_installed()
    train_checks.refuse_inside_run(config.out)
    whole.refuse_same(config.out, inputs("train", config))


def _train(config: Any, plan: Any, asked: Asked) -> dict[str, Any]:
    from llmctl.workflows.train import run as train

    return train.train(config, plan, asked.tell, force=asked.force).document()


def _check_generate(config: Any, asked: Asked) -> Any:
    from llmctl.workflows.generate import run as generate

    # A recipe that asks nothing must not wait for a person to type.
    return generate.preflight(config, force=asked.force, offline=asked.offline, stdin_is_tty=True)


def _foresee_generate(config: Any) -> None:
    if config.output is not None:
        whole.refuse_same(config.output, _places(config.input))


def _generate(config: Any, plan: Any, asked: Asked) -> dict[str, Any]:
    from llmctl.workflows.generate import run as generate

    return generate.generate(config, plan, asked.tell).document()


def _check_eval(config: Any, asked: Asked) -> Any:
    from llmctl.workflows.evaluate import run as evaluate

    return evaluate.preflight(config, force=asked.force, offline=asked.offline)


def _foresee_eval(config: Any) -> None:
    from llmctl.workflows.evaluate import checks as evaluate_checks

    if config.metric:
        evaluate_checks.metrics_of(config, None)
    if config.out is not None:
        whole.refuse_same(config.out, _places(config.data, config.predictions, config.baseline, *config.references))


def _eval(config: Any, plan: Any, asked: Asked) -> dict[str, Any]:
    from llmctl.workflows.evaluate import run as evaluate

    result = evaluate.evaluate(config, plan, asked.tell, force=asked.force)
    if refused := evaluate.finish(result):
        raise refused
    return result.document()


# ---------------------------------------------------------------------------------------------------------------
# What it reads and makes


def inputs(verb: str, config: Any) -> list[Path]:
    """The places that a stage reads. What has a name only (an architecture, the hub's) is settled by the settings."""
    named: list[Any] = []
    if verb == "preprocess":
        made_later = [word for word in config.inputs if not _matches(word) and registry.looks_like_path(word)]
        there = [word for word in config.inputs if word not in (*made_later, STDIN)]
        found = [path for source in (find_sources(there) if there else ()) for path in source.paths]
        return [*found, *map(Path, made_later), *_places(config.source_file, config.target_file, config.tokenizer)]
    if verb == "train":
        named = [config.data, config.model.name]
    elif verb == "generate":
        named = [config.model, config.input]
    elif verb == "eval":
        named = [config.model, config.data, config.predictions, config.baseline, *config.references]
    return _places(*named)


def _matches(word: str) -> bool:
    """Whether a path, or anything that a glob stands for, is there."""
    return os.path.exists(word) or (glob.has_magic(word) and any(glob.iglob(word, recursive=True)))


def _places(*named: str | Path | None) -> list[Path]:
    return [
        Path(each).expanduser()
        for each in named
        if isinstance(each, Path)
        or (isinstance(each, str) and each != STDIN and not each.startswith(HUB) and registry.looks_like_path(each))
    ]


def output(verb: str, config: Any) -> Path | None:
    """What a stage makes: a folder or a file; None where it only tells."""
    place: Path | None = config.output if verb == "generate" else config.out
    return place


def repeatable(verb: str, config: Any) -> bool:
    """Whether the same settings and inputs mean the same: not where standard input is read."""
    return STDIN not in (config.inputs if verb == "preprocess" else (getattr(config, "input", None),))


# ---------------------------------------------------------------------------------------------------------------
# The record


class Record(Spec):
    """`stage.json`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verb: str
    llmctl: str
    config: dict[str, Any]
    inputs: dict[str, str]
    output: str
    document: dict[str, Any]
    at: str


def settings(config: Spec) -> dict[str, Any]:
    """The settings as they are recorded and compared."""
    found: dict[str, Any] = json.loads(config.model_dump_json())
    return found


def record_path(place: Path) -> Path:
    return place / RECORD if place.is_dir() else place.with_name(f"{place.name}.{RECORD}")


def read_record(place: Path) -> Record | None:
    """The record of the stage that made `place`; None where there is none that can be read."""
    try:
        return Record.model_validate(json.loads(record_path(place).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None  # not a stage's output, or an edited record: it counts as not made by a stage


def write_record(verb: str, config: Spec, read: Mapping[str, str], place: Path, document: Mapping[str, Any]) -> None:
    record = Record(
        verb=verb,
        llmctl=__version__,
        config=settings(config),
        inputs=dict(read),
        output=fingerprint(place),
        document={name: value for name, value in document.items() if name != ROWS or not place.is_file()},
        at=runs.now(),
    )
    whole.write_json(record_path(place), record.model_dump())


def recalled(record: Record, place: Path) -> dict[str, Any]:
    """The document of the stage that made `place`; answers are read from the file that holds them."""
    if not place.is_file():
        return record.document
    rows = [json.loads(line) for line in place.read_text(encoding="utf-8").split("\n") if line]
    return {ROWS: [row for row in rows if "error" not in row], **record.document}


def _claim(place: Path) -> Path:
    return place.parent / f"{whole.TEMPORARY}{place.name}-stage"


@contextlib.contextmanager
def claimed(place: Path) -> Iterator[None]:
    """Say that what appears at `place` is a stage's, for as long as there is no record that says so."""
    whole.write_text(_claim(place), f"{os.getpid()}\n")
    try:
        yield
    except BaseException:
        if not place.exists():
            _claim(place).unlink(missing_ok=True)
        raise
    _claim(place).unlink(missing_ok=True)


def is_claimed(place: Path) -> bool:
    """Whether a stage made or began `place` and did not end well: killed, stopped, or a gate was not met."""
    return _claim(place).is_file()


def holds_others(place: Path) -> bool:
    """Whether a run holds scores that no stage made: they would go with it."""
    evals = place / "evals"
    found = [each for each in evals.iterdir() if each.is_dir()] if evals.is_dir() else []
    return any(not (each / RECORD).is_file() and not is_claimed(each) for each in found)


def fingerprint(place: Path) -> str:
    """The content of a file or folder as one hash; empty where there is nothing.

    Of a run it is the model; of prepared data the manifest, which holds the hashes of the text, and the names and
    sizes of the rest; of any other folder every file.
    """
    if place.is_file():
        return whole.sha256(place)
    if (place / runs.RUN).is_file():
        place = place / "model"
    by_size = is_prepared(place)
    found = hashlib.sha256()
    empty = True
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if name == RECORD or not path.is_file() or path.name.startswith(whole.TEMPORARY):
            continue
        of = str(path.stat().st_size) if by_size and name != MANIFEST else whole.sha256(path)
        found.update(f"{name}\0{of}\n".encode("utf-8", "surrogateescape"))
        empty = False
    return "" if empty else found.hexdigest()
