"""The output file of `generate`: rows are kept as they are finished, and an interrupted file can be continued.

Unfinished rows lie beside the output in `OUTPUT.KEY.partial`, where KEY is a hash of what decides the answers. The file
takes the name of the output once it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from llmctl.errors import BusyError, EnvironmentFault, Stopped, UsageError, naming
from llmctl.store import atomic
from llmctl.workflows.generate.prompts import PromptRow, row_id
from llmctl.workflows.generate.spec import GenerateConfig
from llmctl.workflows.inference.model import ModelHandle

ENDING: Final = ".partial"


class Rows:
    """The rows of an output file: those of an earlier, interrupted command, and new ones."""

    def __init__(self, file: IO[bytes], samples: int, earlier: int = 0) -> None:
        """`earlier`: bytes of the rows that are there."""
        self._file, self._samples, self._earlier = file, samples, earlier
        self.count = 0
        """Rows in the file, as far as they are known."""

    def earlier(self) -> Iterator[list[dict[str, Any]]]:
        """The rows of each input row that an earlier command has answered."""
        if not self._earlier:
            return
        with open(self._file.name, "rb") as file:
            while file.tell() < self._earlier:
                group = [json.loads(file.readline())]
                while "error" not in group[0] and len(group) < self._samples:
                    group.append(json.loads(file.readline()))
                self.count += len(group)
                yield group

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row; it survives the end of this process, however it ends."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()
        self.count += 1


def partials(output: Path) -> list[Path]:
    """What interrupted commands left of an output file."""
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(output.parent))
        return [output.parent / each for each in names if each.startswith(f"{output.name}.") and each.endswith(ENDING)]
    return []


def check_resume(output: Path | None, key: str) -> None:
    """Raise `UsageError` if `--resume` has no file to go on with, or one that other settings began."""
    if output is None:
        raise UsageError("--resume continues an output file", hint="name it: --output FILE")
    left = partials(output)
    if left and _partial(output, key) not in left:
        raise UsageError(
            f"{left[0]} was started with other settings or another model",
            hint="give the same settings, or leave --resume out to begin again",
        )
    if not left and output.exists():
        raise UsageError(f"the output {output} is complete", hint="name another, or use --force to make it again")


def _partial(output: Path, key: str) -> Path:
    return output.parent / f"{output.name}.{key}{ENDING}"


@contextlib.contextmanager
def open_rows(output: Path, key: str, *, resume: bool, samples: int) -> Iterator[Rows]:
    """Write the rows of an output file, `samples` rows for each answered input row.

    If the block is interrupted, the finished rows stay: raises `Stopped` where there are some. Raises `BusyError` if
    another process writes this file.
    """
    if atomic.is_stream(output):
        with atomic.atomic_file(output) as stream:
            yield Rows(stream, samples)
        return
    place = _partial(output, key)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("a+b")
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write {output}: {error.strerror or error}", hint="name another output, or change its permissions"
        ) from error
    with naming(output), file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{output} is being written by another process", hint="wait for it, or stop it") from None
        file.truncate(_whole(file, samples) if resume else 0)
        earlier = file.seek(0, os.SEEK_END)
        if not resume:
            for other in partials(output):
                if other != place:
                    other.unlink(missing_ok=True)
        rows = Rows(file, samples, earlier)
        try:
            yield rows
            os.fsync(file.fileno())
            place.replace(output)
            atomic.sync(output.parent)
        except BaseException as error:
            if not file.seek(0, os.SEEK_END):
                place.unlink(missing_ok=True)
            elif not isinstance(error, (Exception, GeneratorExit)):  # a signal
                raise Stopped(
                    f"interrupted: {rows.count:,} rows are kept in {place}",
                    hint="the same command with --resume continues",
                ) from error
            raise


def _whole(file: IO[bytes], samples: int) -> int:
    """The bytes of the rows of input rows that were answered completely; what follows is the work of a process that was
    killed."""
    file.seek(0)
    end = position = held = 0
    for line in file:
        position += len(line)
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            break
        held += 1
        if "error" in row or held == samples:
            held, end = 0, position
    return end


def check_same(earlier: Sequence[dict[str, Any]], row: PromptRow | None, number: int, output: Path) -> None:
    """Raise `UsageError` unless the rows of an interrupted output answer row `number` of the input; None: it has none."""
    if row is None:
        raise UsageError(f"{output} has more rows than the input", hint="leave --resume out to begin again")
    if earlier[0].get("id") != row_id(row):
        raise UsageError(
            f"row {number} of the input is not the one that {output} has an answer to: the input has changed",
            hint="leave --resume out to begin again",
        )


def key_of(config: GenerateConfig, model: ModelHandle) -> str:
    """A hash of the settings that decide the answers, and of the size and time of the weights."""
    settings = config.model_dump(mode="json", exclude={"output", "explain", "batch_size"})
    weights = [
        (each.name, (found := each.stat()).st_size, found.st_mtime_ns)
        for each in sorted(model.folder.path.glob("*.safetensors"))
    ]
    text = json.dumps([settings, weights], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
