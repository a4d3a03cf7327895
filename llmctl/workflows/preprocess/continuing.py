"""What an interrupted `preprocess` has read, for the same command: parts whose files are as they were written.

.scratch/key           a hash of the settings, the inputs and the versions; with another one nothing is used
.scratch/done-PART     files of a part with sizes and hashes, and its counts; written last
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmctl import __version__
from llmctl.data.cleaning.judge import DroppedRecord
from llmctl.data.cleaning.near import FILES, named
from llmctl.data.reading.parts import Part
from llmctl.data.reading.sources import find_sources
from llmctl.data.spec import SPLITS
from llmctl.data.storing.text import shard
from llmctl.errors import EnvironmentFault, LlmctlError, Terminated, untranslated
from llmctl.store import atomic, integrity
from llmctl.store.locks import NAME as LOCK
from llmctl.store.locks import locked
from llmctl.store.prepared import MANIFEST, is_prepared
from llmctl.store.tokenizers import template_source
from llmctl.types import Event, EventSink
from llmctl.workflows.preprocess.outcome import ADAPTING, COUNTS, SCRATCH, TEXT, ReadResult, place_of
from llmctl.workflows.preprocess.spec import PreprocessConfig

if TYPE_CHECKING:
    from llmctl.workflows.preprocess.checks import PreprocessPlan

KEY: Final = "key"
DONE: Final = "done"
PACKAGES: Final = ("jieba", "numpy", "py3langid", "pyarrow")
"""Packages that what is read depends on."""


def key_of(config: PreprocessConfig, plan: PreprocessPlan) -> str | None:
    """A hash of all that parts depend on; None: an input cannot be read again."""
    if any(source.path is None for source in plan.sources):
        return None
    paths = [path for source in plan.sources for path in source.paths]
    for name in config.decontaminate:
        held = Path(name)
        paths += (
            [held / MANIFEST]
            if is_prepared(held)
            else [path for source in find_sources([name]) for path in source.paths]
        )
    facts = {
        "llmctl": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "config": config.model_dump(mode="json", exclude={"workers", "executor"}),
        "clean": plan.clean.model_dump(mode="json"),
        "task": [plan.task.name, plan.task.version],
        "template": template_source(plan.template) if plan.template is not None else "",
        "inputs": [[str(path), integrity.state(path)] for path in paths],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def leftover(out: Path, key: str | None, emit: EventSink) -> Path | None:
    """The folder of an interrupted process that this one continues, without what is half made; all others are removed.

    `key`: None to continue nothing. Raises `BusyError` if a running process is creating `out`.
    """
    found = None
    name = re.compile(f"{re.escape(atomic.TEMPORARY + out.name)}-[0-9a-f]{{{2 * atomic.TOKEN_BYTES}}}")
    for each in sorted(out.absolute().parent.glob(f"{atomic.TEMPORARY}*")):
        if not name.fullmatch(each.name) or not any((each / file).is_file() for file in (LOCK, f"{SCRATCH}/{KEY}")):
            continue
        with locked(each):
            if found is None and key is not None and _key_in(each) == key and _tidy(each):
                found = each
                continue
            shutil.rmtree(each)
        emit(Event("note", {"text": f"removed leftovers of an interrupted preprocess: {each.name}"}))
    return found


def begin(folder: Path, key: str | None) -> None:
    """Make the scratch folder of a prepared folder in the making, and record what it is for."""
    scratch = folder / SCRATCH
    (scratch / TEXT).mkdir(parents=True, exist_ok=True)
    if key is not None:
        (scratch / KEY).write_text(key)


def stays(out: Path, emit: EventSink, *, force: bool) -> Callable[[Path, BaseException], bool]:
    """Decides about the temporary folder of an interrupted command: it stays if the same command can use parts of it."""

    def decide(folder: Path, error: BaseException) -> bool:
        stopped = isinstance(error, KeyboardInterrupt | Terminated)
        if not stopped and not (
            isinstance(error, Exception)
            and isinstance(error if isinstance(error, LlmctlError) else untranslated(error), EnvironmentFault)
        ):
            return False
        if _key_in(folder) is None or (force and out.exists()):
            return False
        if not stopped:  # a second signal leaves worker processes that still write; what is half made is removed later
            _tidy(folder)
        parts = [_record_in(done).get("files", {}) for done in (folder / SCRATCH).glob(f"{DONE}-*")]
        if parts:
            how = "the same command without --force" if force else "the same command"
            size = sum(each[0] for files in parts for each in files.values())
            what = "1 part of the input stays" if len(parts) == 1 else f"{len(parts):,} parts of the input stay"
            text = f"{what} read ({size:,} bytes in {folder}): {how} continues"
            emit(Event("note", {"text": text}))
        return bool(parts)

    return decide


def _key_in(folder: Path) -> str | None:
    try:
        return (folder / SCRATCH / KEY).read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _tidy(folder: Path) -> bool:
    """Remove all but the files of finished parts; whether there are any."""
    scratch = folder / SCRATCH
    finished = sorted(scratch.glob(f"{DONE}-*"))
    keep = {scratch / KEY, *finished}
    for done in finished:
        keep |= {scratch / name for name in _record_in(done).get("files", ())}
    for each in folder.iterdir():
        if each.name not in (SCRATCH, LOCK):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    for each in [path for path in scratch.rglob("*") if path.is_file() and path not in keep]:
        each.unlink()
    return bool(finished)


def _record_in(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def files_of(scratch: Path, part: int) -> list[Path]:
    """The files of a part, those that exist."""
    near = place_of(scratch, "near", part)
    made = [place_of(scratch, kind, part) for kind in ("candidates", "rejects")]
    made += [shard(scratch / TEXT, split, part) for split in SPLITS]
    return [path for path in (*made, *(named(near, name) for name in FILES)) if path.exists()]


def finish(scratch: Path, part: Part, result: ReadResult) -> None:
    """Record that a part was read."""
    files = integrity.hashes(scratch, files_of(scratch, part.number))
    record = {
        "part": repr(part),
        "files": {name: [each.bytes, each.sha256] for name, each in files.items()},
        **{name: getattr(result, name) for name in COUNTS},
        "dropped": result.dropped,
        "samples": {
            reason: [[each.why, each.text, each.origin] for each in found] for reason, found in result.samples.items()
        },
        "labels": result.labels[0],
        "recordings": result.recordings,
        "marks": list(result.marks[0].items()),
        "adapting": {name: getattr(result.adapting, name) for name in ADAPTING},
        "notes": list(result.notes),
    }
    done = place_of(scratch, DONE, part.number)
    making = done.with_name(f"making-{done.name}")
    making.write_text(json.dumps(record))
    making.replace(done)


def finished(scratch: Path, part: Part) -> ReadResult | None:
    """What was read of a part, if its files and the recordings that it names are as they were; else None, and its files
    are removed."""
    done = place_of(scratch, DONE, part.number)
    record = _record_in(done)
    try:
        if (
            record
            and record["part"] == repr(part)
            and all(integrity.state(Path(name)) == state for name, state in record["recordings"].items())
            and _unchanged(scratch, record["files"], part.number)
        ):
            return _result_of(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        pass  # a damaged record
    for path in (done, *files_of(scratch, part.number)):
        path.unlink(missing_ok=True)
    return None


def _unchanged(scratch: Path, files: dict[str, list[Any]], part: int) -> bool:
    paths = files_of(scratch, part)
    if {path.relative_to(scratch).as_posix() for path in paths} != files.keys():
        return False
    sizes = all(path.stat().st_size == files[path.relative_to(scratch).as_posix()][0] for path in paths)
    return sizes and all(atomic.sha256(path) == files[path.relative_to(scratch).as_posix()][1] for path in paths)


def _result_of(record: dict[str, Any]) -> ReadResult:
    result = ReadResult(**{name: record[name] for name in COUNTS}, reused=1)
    result.dropped.update(record["dropped"])
    for reason, found in record["samples"].items():
        result.samples[reason] += [DroppedRecord(reason, *each) for each in found]
    result.labels = [record["labels"]]
    result.marks = [{(tuple(rules), tuple(map(tuple, found))): number for (rules, found), number in record["marks"]}]
    for name in ADAPTING:
        getattr(result.adapting, name).update(record["adapting"].get(name, {}))
    result.notes = dict.fromkeys(record["notes"])
    return result
