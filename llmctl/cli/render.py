"""Terminal output: colour, progress bars, tables. Without a terminal: plain lines, progress at most every 10 s."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from llmctl.cli.terminal import columns, fancy, plain, width
from llmctl.errors import EnvironmentFault, UsageError, naming
from llmctl.readable import from_here, progress_text
from llmctl.types import Event

if TYPE_CHECKING:
    from llmctl.verbs import Table

SECONDS_BETWEEN_LINES: Final = 10.0


def draw(each: Table) -> None:
    """Print a table; with `split`, print several that each fit the terminal and repeat the first column."""
    lines = [list(each.headings), *map(list, each.rows)]
    room = width(sys.stdout) if each.split and fancy(sys.stdout) else None
    for part in _parts(lines, room):
        heads, *rows = ([line[place] for place in part] for line in lines)
        right = [number for number, place in enumerate(part) if place in each.right]
        table(heads, rows, right=right, names=each.names, least=() if each.split else each.least)


GAP: Final = 3
"""Largest gap between two cells of a split table, in terminal columns."""


def _parts(lines: Sequence[Sequence[Any]], room: int | None) -> list[list[int]]:
    """The column indices of each table; `room` is the terminal width, None for no limit."""
    if room is None:
        return [list(range(len(lines[0])))]
    widths = [max(columns(str(cell)) for cell in column) + GAP for column in zip(*lines, strict=True)]
    parts: list[list[int]] = [[0]]
    for place in range(1, len(widths)):
        if sum(widths[each] for each in (*parts[-1], place)) > room and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(place)
    return parts


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    right: Sequence[int] = (),
    names: Sequence[int] = (0,),
    least: Sequence[int] = (),
) -> None:
    """Print a table: with rich on a terminal, as aligned columns elsewhere.

    `right`: right-aligned columns (numbers). `names`: columns with names that users type. Neither is ever truncated; on a
    narrow terminal the other columns wrap, and those in `least` are dropped in order.
    """
    cells = [[plain(str(cell)).replace("\n", "\\n").replace("\t", "\\t") for cell in row] for row in rows]
    lines = [list(headings), *cells]
    widths = [max(columns(line[number]) for line in lines) for number in range(len(headings))]
    if fancy(sys.stdout):
        _draw_table(lines, widths, right=right, names=names, least=least)
        return
    for line in lines:
        padded = [
            " " * (widths[number] - columns(cell)) + cell
            if number in right
            else cell + " " * (widths[number] - columns(cell))
            for number, cell in enumerate(line)
        ]
        print("  ".join(padded).rstrip())


WRAPPED: Final = 16
"""Smallest readable width of wrapped text; below it, columns in `least` are dropped."""
SQUEEZED: Final = 6
"""Smallest width of wrapped text before names are folded."""
BETWEEN: Final = 3
"""Gap between two cells of a rich table."""


def _draw_table(
    lines: Sequence[Sequence[str]],
    widths: Sequence[int],
    *,
    right: Sequence[int],
    names: Sequence[int],
    least: Sequence[int],
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    unwrapped = {*right, *names}
    shown, left_out = list(range(len(widths))), []

    def needed(text: int) -> int:
        """Width of the table if text columns get at most `text`."""
        cells = (widths[each] if each in unwrapped else min(widths[each], text) for each in shown)
        return sum(cells) + BETWEEN * len(shown) - 1

    for place in least:
        if needed(WRAPPED) > console.width:
            shown.remove(place)
            left_out.append(lines[0][place])
    fits = needed(SQUEEZED) <= console.width
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for each in shown:
        # If even the names do not fit, they are folded.
        justify: Any = "right" if each in right else "left"
        drawn.add_column(lines[0][each], justify=justify, no_wrap=fits and each in unwrapped, overflow="fold")
    for line in lines[1:]:
        drawn.add_row(*(line[each] for each in shown))
    console.print(drawn)
    if left_out:
        aside(f"columns hidden on a narrow terminal: {', '.join(left_out)}")


def error_lines(kind: str, message: str, hint: str | None) -> str:
    """Format an error: where and what, then the hint on a line of its own. Each of several faults is a line."""
    head = f"error: {plain(message)}"
    return f"{head}\n  {plain(hint)}" if hint else head


def aside(text: str) -> None:
    """Print a remark to standard error, dimmed if colour is available."""
    shown = plain(text)
    print(f"\x1b[2m{shown}\x1b[0m" if fancy(sys.stderr) else shown, file=sys.stderr, flush=True)


def marked(cells: Iterable[tuple[str, bool]], *, colour: bool) -> str:
    """Join cells with spaces, with a line break after each ↵. Marked cells are coloured or, without colour, in [brackets];
    brackets in the text are then escaped."""
    found = []
    for text, mark in cells:
        safe = plain(text) if colour else plain(text).replace("[", "\\[").replace("]", "\\]")
        shown = safe if not mark else f"\x1b[1;32m{safe}\x1b[0m" if colour else f"[{safe}]"
        found.append(shown + ("\n" if text.endswith("↵") else " "))
    return "".join(found).rstrip()


class ProgressReporter:
    """Show events on standard error and write them to the file of `--events`."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, events: str | None = None) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._events: IO[str] | None = None
        self._events_path = Path(events or "-")
        if events:
            self._events = sys.stderr if events == "-" else _appending(events)
        self._fancy = fancy(sys.stderr) and not quiet and events != "-"
        self._bar: Any = None
        self._task: Any = None
        self._is_starting = False
        self._unfinished = False
        self._last_line = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.name == "annotation":  # for the CI system, which reads whole lines of standard error
            self.clear()
            print(event.fields["text"], end="", file=sys.stderr, flush=True)
            return
        if self._events is not None:
            self._record(event, self._events)
            if self._events is sys.stderr:
                return
        if event.name == "warning":
            self._line(f"warning: {event.fields['text']}")
        elif self.quiet or (event.name in ("detail", "request") and not self.verbose):
            return
        elif event.name in ("progress", "train"):
            self._progress(event)
        elif event.name in ("note", "detail", "request", "evaluation"):
            self._line(event.fields["text"])

    def starting(self, text: str) -> None:
        """On a terminal, show what is done before the first event, such as importing PyTorch, which takes seconds."""
        if self._fancy:
            self._draw(f"{text}…", None, None)
            self._bar.refresh()  # now: an import may keep the thread that draws from running
            self._is_starting = True

    def clear(self) -> None:
        """Remove the progress bar, so that other text can be written; the next progress shows it again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._is_starting = False

    def finish(self) -> None:
        """Fill the progress bar, because the work is done, and remove it."""
        if self._bar is not None and self._bar.tasks[0].total:
            self._bar.update(self._task, completed=self._bar.tasks[0].total, refresh=True)
        self.clear()

    def close(self) -> None:
        """Remove the progress bar and close the events file."""
        self.clear()
        if self._events is not None and self._events is not sys.stderr:
            self._events.close()
            self._events = None

    def _record(self, event: Event, file: IO[str]) -> None:
        """Write an event to the file of `--events`; after a failure, no more."""
        try:
            with naming(self._events_path):
                file.write(json.dumps({"event": event.name, **event.fields}, ensure_ascii=False, default=str) + "\n")
                file.flush()
        except (OSError, EnvironmentFault):
            self._events = None
            with contextlib.suppress(OSError):  # what is left in its buffer cannot be written either
                file.close()
            raise

    def _line(self, text: str) -> None:
        if self._is_starting:
            self.clear()
        if self._bar is not None:
            self._bar.console.print(plain(text), markup=False, highlight=False)
        else:
            print(plain(text), file=sys.stderr, flush=True)

    def _progress(self, event: Event) -> None:
        text = progress_text(event.fields)
        done, total = event.fields.get("done"), event.fields.get("total")
        if self._fancy:
            self._is_starting = False
            self._draw(text, done, total)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or (
            # The last line says that all is done, if one said that some was.
            self._unfinished and isinstance(done, int | float) and done == total
        ):
            self._unfinished = done != total
            self._last_line = time.monotonic()
            share = f" {done / total:4.0%}" if isinstance(done, int | float) and total else ""
            print(f"{plain(text)}{share}", file=sys.stderr, flush=True)

    def _draw(self, text: str, done: Any, total: Any) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        self._bar.update(self._task, description=plain(text), completed=done or 0, total=total)


def _appending(path: str) -> IO[str]:
    """Open the file of `--events` for appending. Raises `UsageError` if that fails."""
    try:
        return open(path, "a", encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise UsageError(f"cannot write --events to {path}: {error.strerror}", hint="choose another file") from error


_HASH: Final = re.compile(r"[0-9a-f]{64}")
HASH_SHOWN: Final = 12
"""Digits shown of a hash."""
DIGITS: Final = 6
"""Significant digits in a listing: more than any measurement has, and enough for integer settings."""


def readable(value: Any, *, exact: bool = False) -> Any:
    """Prepare a document for display as YAML: paths relative to the current folder, control characters escaped; unless
    `exact`, numbers rounded and hashes shortened."""
    if isinstance(value, Mapping):
        return {name: readable(inner, exact=exact) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [readable(inner, exact=exact) for inner in value]
    if isinstance(value, float) and math.isfinite(value) and not exact:
        return float(round(value)) if abs(value) >= 10**DIGITS else float(f"{value:.{DIGITS}g}")
    if isinstance(value, str):
        return plain(f"{value[:HASH_SHOWN]}…" if _HASH.fullmatch(value) and not exact else from_here(value))
    return value
