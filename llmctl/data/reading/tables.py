"""Rows of CSV and TSV files: finds the delimiter and the quoting, and resumes at the next line after a bad one."""

from __future__ import annotations

import csv
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import Final, Literal

from llmctl.data.reading.decode import Text
from llmctl.data.reading.formats import TRUNCATED, Bad, RawRecord
from llmctl.errors import DataError

Delimiter = Literal["auto", "comma", "semicolon", "tab", "pipe"]
Quoting = Literal["auto", "quoted", "none"]

DELIMITERS: Final[dict[str, str]] = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
NONE: Final = "\x1f"
"""The delimiter of a table of one column: a character that texts do not have."""
SAMPLE_CHARACTERS: Final = 1 << 18
"""Characters at the start of a TSV file from which its quoting is found."""
MOST_VALUES: Final = 64
"""Values of the last column that are remembered."""
MOST_LINES: Final = 10_000
"""Lines of one quoted cell; beyond them its opening quote is taken for a stray one."""


class _Lines:
    """The lines of a text, numbered; lines can be pushed back."""

    def __init__(self, text: Text) -> None:
        self._lines = text.lines(keep_ends=True)
        self._pushed: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []
        """Lines taken since the caller last cleared this list."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MOST_LINES:
            raise StopIteration
        row = self._pushed.popleft() if self._pushed else next(self._lines)
        self.taken.append(row)
        return row[1]

    def push_back(self, lines: list[tuple[int, str]]) -> None:
        self._pushed.extendleft(reversed(lines))

    def sample(self) -> tuple[list[str], bool]:
        """The lines of the first `SAMPLE_CHARACTERS`, which stay to be read, and whether they are all lines."""
        held: list[tuple[int, str]] = list(self._pushed)
        size = sum(len(line) for _, line in held)
        self._pushed.clear()
        for row in self._lines:
            held.append(row)
            size += len(row[1])
            if size >= SAMPLE_CHARACTERS:
                break
        self._pushed.extend(held)
        return [line for _, line in held], size < SAMPLE_CHARACTERS


def table(
    text: Text,
    default: str,
    *,
    delimiter: Delimiter = "auto",
    quoting: Quoting = "auto",
    wanted: Collection[str] = (),
    say: Callable[[str], None] = lambda note: None,
) -> Iterator[RawRecord | Bad]:
    """CSV or TSV with a header. Cells are kept as verbatim text: `NA`, `null` and `001` have no special meaning.

    `default`: the delimiter that the file's ending indicates; `wanted`: columns that the right delimiter would show.
    `say` receives what was found to be other than the ending says. A bad line costs one record.
    """
    csv.field_size_limit(text.limits.record_characters)
    lines = _Lines(text)
    found = _delimiter(lines, default, delimiter, wanted)
    if found not in (default, NONE):
        named = next(name for name, mark in DELIMITERS.items() if mark == found)
        say(f"{text.name}: the delimiter is a {named}")
    quoted = quoting != "none" if default == "," or quoting != "auto" else _is_quoted(*lines.sample(), found)
    if quoting == "auto" and not quoted:
        say(f"{text.name}: quotes are characters, because they do not enclose cells consistently")
    yield from _rows(text, lines, found, quoted=quoted, strict=quoting == "auto")


def _rows(text: Text, lines: _Lines, delimiter: str, *, quoted: bool, strict: bool) -> Iterator[RawRecord | Bad]:
    """`strict`: a cell of several lines, each of which would be a whole row, is a stray quote."""
    style: Final = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    header: list[str] | None = None
    last_cells: set[str] = set()
    reader = csv.reader(lines, delimiter=delimiter, quoting=style, strict=True)
    while True:
        lines.taken.clear()
        problem = ""
        cells: list[str] | None = None
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cut = "unexpected end of data" in str(error)
            problem = f"{TRUNCATED}a quote is never closed" if cut else f"not valid CSV: {error}"
        if not lines.taken:
            return
        number = lines.taken[0][0]
        where = f"{text.name}:{number}"
        fault = next(filter(None, (text.fault(*line) for line in lines.taken)), None) if text.faulty else None
        if cells and header is not None and not any(cells[len(header) :]):
            cells = cells[: len(header)]  # a spreadsheet may end rows in empty cells
        if not (problem or fault) and cells and header is not None and len(cells) != len(header):
            problem = f"the row has {len(cells)} cells, the header has {len(header)}"
        hint = None
        if (
            len(lines.taken) > 1
            and not (problem or fault)
            and strict
            and _is_stray(lines.taken, delimiter, header, last_cells)
        ):
            problem = f"a quote runs on for {len(lines.taken):,} lines, each of which is a whole row"
            hint = 'escape it as ""; --set quoting=none if quotes are characters, quoted if the cell has these lines'
        if problem or fault:
            if header is None:
                raise fault or DataError(problem, where=where)
            yield Bad(fault or DataError(problem, where=where, hint=hint), lines.taken[0][1])
            # Only the first line is at fault: a stray quote must not take the lines after it.
            lines.push_back(lines.taken[1:])
            reader = csv.reader(lines, delimiter=delimiter, quoting=style, strict=True)
        elif header is None:
            header = [name.strip() for name in cells or ()]
            counts = Counter(name for name in header if name)
            if twice := [name for name, count in counts.items() if count > 1]:
                raise DataError(f"duplicate column {min(twice)!r} in the header", where=where)
            if not header:
                header = None  # a blank line before the header
        elif cells:
            if len(last_cells) <= MOST_VALUES:
                last_cells.add(cells[-1].strip())
            fields = dict(zip(header, cells, strict=True))
            fields.pop("", None)
            yield RawRecord(where, fields)


def _is_stray(
    lines: list[tuple[int, str]], delimiter: str, header: list[str] | None, last_cells: Collection[str]
) -> bool:
    """Whether the quote that joins these lines does not enclose a cell: each line is a whole row by itself, there are
    many of them or the first ends as other rows do, and no quote is doubled, as it would be by a program."""
    width = len(header or ())
    if len(lines) == 1 or width < 2 or any(line.count(delimiter) != width - 1 or '""' in line for _, line in lines):
        return False
    return len(lines) > 2 or lines[0][1].rpartition(delimiter)[2].strip() in last_cells


def _delimiter(lines: _Lines, default: str, asked: Delimiter, wanted: Collection[str]) -> str:
    """The delimiter: as asked, as a first line `sep=;` says (which is skipped), or the one that splits the header best."""
    first: list[tuple[int, str]] = []
    for line in lines:
        if not line.isspace():
            first = [lines.taken[-1]]
            break
    head = first[0][1].strip("\r\n") if first else ""
    declared = head[4:] if head.lower().startswith("sep=") and len(head) == 5 else ""
    if not declared:
        lines.push_back(first)
    lines.taken.clear()
    if asked != "auto":
        return DELIMITERS[asked]
    if declared in DELIMITERS.values():
        return declared

    def fitness(mark: str) -> tuple[int, bool, int]:
        names = {name.strip().strip('"') for name in head.split(mark)}
        return len(names & set(wanted)), mark == default and mark in head, head.count(mark)

    best = max(DELIMITERS.values(), key=fitness)
    if best in head:
        return best
    return NONE if head.strip().strip('"') in wanted else default


def _is_quoted(sample: list[str], complete: bool, delimiter: str) -> bool:
    """Whether quotes enclose cells: they do if read that way every row has the width of the header, and no row that is
    whole without them runs on to another line."""
    if not any('"' in line for line in sample):
        return True
    plain = [len(row) for row in csv.reader(sample, delimiter=delimiter, quoting=csv.QUOTE_NONE) if row]
    rows: list[int] = []
    try:
        for row in csv.reader(sample, delimiter=delimiter, strict=True):
            if row:
                rows.append(len(row))
    except csv.Error as error:
        if complete or "unexpected end of data" not in str(error):
            return False
    if len(set(plain)) == 1:
        return len(rows) == len(plain) and len(set(rows)) == 1
    widths = itertools.islice(rows, len(rows) if complete else max(1, len(rows) - 1))
    return len(set(widths)) == 1
