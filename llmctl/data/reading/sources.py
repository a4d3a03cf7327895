"""Resolves input arguments: files, folders, globs, built-in data sets and standard input."""

from __future__ import annotations

import atexit
import contextlib
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from llmctl import registry
from llmctl.data.reading.decode import compression_of
from llmctl.errors import EnvironmentFault, UsageError

Format = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "tmx", "arrow", "pair", "recording", "unknown"]

ENDINGS: Final[dict[str, Format]] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".tmx": "tmx",
    ".arrow": "arrow",
    ".feather": "arrow",
}
AUDIO: Final = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
"""Endings of recordings."""
TABLES: Final = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
"""Files that name the recordings beside them."""
TRANSCRIPTS: Final = (".txt", ".json")
"""Endings of files beside a recording that hold its text, or its fields, in the layout of WebDataset."""
SAVED_STATE: Final = "state.json"
SAVED_SPLITS: Final = "dataset_dict.json"
"""Files by which folders of `datasets.save_to_disk` are known."""
DESCRIPTIONS: Final = (SAVED_SPLITS, "dataset_info.json", "dataset_infos.json")
"""Files of `datasets` and of the Hugging Face Hub that describe data."""
ABOUT: Final = ("readme", "license", "licence")
"""Names of texts about data; in a folder they are no data, unless nothing else is there."""
FOREIGN: Final = {
    ".conll": "CoNLL columns",
    ".conllu": "CoNLL-U columns",
    ".pdf": "a PDF document",
    ".doc": "a Word document",
    ".docx": "a Word document",
    ".odt": "an OpenDocument text",
    ".epub": "an EPUB book",
    ".rtf": "an RTF document",
    ".xls": "an Excel workbook",
    ".xlsx": "an Excel workbook",
    ".html": "an HTML page",
    ".md": "Markdown; as plain text, give it the ending .txt",
    ".rst": "reStructuredText; as plain text, give it the ending .txt",
    ".py": "Python code; as plain text, give it the ending .txt",
    ".js": "JavaScript code; as plain text, give it the ending .txt",
    ".yml": "YAML",
    ".yaml": "YAML",
    ".bz2": "a bzip2 archive",
    ".xz": "an xz archive",
    ".tgz": "a tar archive",
    ".pkl": "a Python pickle, which may run code",
    ".npy": "a NumPy array",
    ".npz": "NumPy arrays",
    ".db": "a database",
    ".log": "a log; as plain text, give it the ending .txt",
    ".xml": "XML",
    ".zip": "a zip archive",
    ".tar": "a tar archive",
}
"""Kinds of files that are not read, by ending."""
_LANGUAGE: Final = re.compile(r"\.[a-z]{2,3}([-_][A-Za-z]{2,4})?")
"""The ending of one of two aligned files: a language (`corpus.en`, `corpus.zh-CN`)."""
STDIN: Final = "-"
STDIN_NAME: Final = "standard input"

_PACKAGED: Final = contextlib.ExitStack()
"""Built-in data sets in use; those of a zipped package stay unpacked until the process ends."""
atexit.register(_PACKAGED.close)


@dataclass(frozen=True, slots=True)
class InputSource:
    """One existing input. `path` is None for standard input, whose format is detected from its content."""

    name: str
    """The name shown in origins and messages."""
    path: Path | None
    format: Format
    target: Path | None = None
    """The file with the targets, for a pair of aligned files; that with the text of a recording, None if it has none."""
    named: bool = True
    """Whether the user named it, as opposed to a folder or glob that contains it."""
    task: str | None = None
    """Task of a built-in data set."""
    start: int = 0
    """First byte that is read, and the number of the line that starts there; see `parts.py`."""
    first_line: int = 1
    stop: int | None = None
    """End of the bytes that are read; None: all."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(each for each in (self.path, self.target) if each is not None)


def find_sources(
    inputs: Sequence[str],
    source_file: Path | None = None,
    target_file: Path | None = None,
    *,
    unknown: Format | None = None,
) -> list[InputSource]:
    """Resolve all inputs, in the order given; the files of folders and globs are sorted by name.

    An existing path takes precedence over a data set of the same name. `unknown`: the format of named files with an
    unknown ending. Raises `UsageError` for missing inputs and unknown endings, `EnvironmentFault` for unreadable files.
    """
    if (source_file is None) != (target_file is None):
        missing = "--target-file" if target_file is None else "--source-file"
        raise UsageError(f"aligned files come in pairs: {missing} is missing")
    found: list[InputSource] = []
    words = list(inputs)
    while words:
        pair = _pair(words) if unknown is None else None
        found += [pair] if pair else _find(words[0], unknown)
        del words[: 2 if pair else 1]
    if source_file is not None and target_file is not None:
        for path in (source_file, target_file):
            if path.exists() and not path.is_file():
                raise UsageError(f"{path} is not a file", hint="aligned files are read more than once: name two files")
            if not path.is_file():
                raise _missing(str(path))
        found.append(InputSource(shown(source_file), source_file, "pair", target=target_file))
    if not found:
        raise UsageError(
            "no input",
            hint="name files, folders, built-in data sets (llmctl list datasets), or - for standard input",
        )
    if sum(source.path is None for source in found) > 1:
        raise UsageError("standard input (-) can be read only once")
    for source in found:
        for path in source.paths:
            if not os.access(path, os.R_OK):
                raise EnvironmentFault(f"cannot read {path}", hint="change its permissions")
    return found


def _pair(words: Sequence[str]) -> InputSource | None:
    """The first two words, if they are aligned files in the layout of Moses: names that differ in the language alone."""
    source, target = map(Path, words[:2]) if len(words) > 1 else (None, None)
    if source is None or target is None or not (source.is_file() and target.is_file()):
        return None
    (stem, language), (other_stem, other_language) = map(_of_language, (source, target))
    if not language or not other_language or language == other_language or stem != other_stem:
        return None
    return InputSource(shown(source), source, "pair", target=target)


def _of_language(path: Path) -> tuple[Path, str]:
    """What comes before the ending of an aligned file, and its language; an empty one for other files."""
    bare = _uncompressed(path)
    known = format_of(path) != "unknown" or bare.suffix.lower() in FOREIGN
    return bare.with_suffix(""), "" if known or not _LANGUAGE.fullmatch(bare.suffix) else bare.suffix[1:]


def _find(word: str, unknown: Format | None) -> list[InputSource]:
    if word == STDIN:
        return [InputSource(STDIN_NAME, None, "unknown")]
    path = Path(word)
    if path.is_dir():
        inside = _inside(path)
        data = [each for each in inside if not _is_about(each)]
        others = any(_holds_data(each) or each.suffix.lower() in AUDIO for each in data)
        return _several(data if others else inside, f"no file in the folder {word} has a known format")
    if path.exists():
        return [_file(path, unknown)]
    if glob.has_magic(word):
        return _several(
            sorted(map(Path, glob.glob(word, recursive=True))), f"no file with a known format matches {word}"
        )
    if word in registry.table("datasets").lookup:
        spec = registry.load("datasets", word)
        packaged = _PACKAGED.enter_context(spec.path())
        return [InputSource(word, packaged, format_of(packaged), task=str(spec.task))]
    raise _missing(word)


def _missing(word: str) -> UsageError:
    path, datasets = Path(word), registry.table("datasets").lookup
    if os.sep in word:
        hint = registry.near_path(path) or registry.near(path.name, datasets)
    else:
        hint = registry.near_path(path, *datasets)
    return UsageError(f"no such file or built-in data set: {word}", hint=hint or "see: llmctl list datasets")


def _several(paths: Iterable[Path], problem: str) -> list[InputSource]:
    listed = list(paths)
    if any(path.suffix.lower() in AUDIO for path in listed):
        tables = [path for path in listed if path.name.lower() in TABLES]
        if not tables and (spoken := _with_transcripts(listed)):
            return spoken
        listed = tables or listed
    saved = {path.parent for path in listed if path.name == SAVED_STATE}
    """Folders that `datasets.save_to_disk` wrote: their records are in Arrow files, and their JSON files hold none."""
    files: list[tuple[Path, Format]] = []
    for path in listed:
        if path.parent in saved:
            if path.suffix == ".arrow":
                files.append((path, "arrow"))
        elif path.is_file() and _holds_data(path):
            files.append((path, format_of(path)))
    recordings = [path for path in listed if path.suffix.lower() in AUDIO]
    if not files and recordings:
        name = recordings[0].with_suffix(".txt").name
        raise UsageError(
            f"recordings without a text: {shown(recordings[0])}",
            hint=f"put texts beside them, such as {name}, or a table that names them, {TABLES[0]}",
        )
    if not files:
        raise UsageError(problem, hint=f"known endings: {_endings()}")
    return [InputSource(shown(path), path, kind, named=False) for path, kind in files]


def _holds_data(path: Path) -> bool:
    return format_of(path) != "unknown" and path.name not in DESCRIPTIONS


def _is_about(path: Path) -> bool:
    """Whether a text file describes the data beside it."""
    return format_of(path) == "text" and _named_about(path)


def _named_about(path: Path) -> bool:
    return path.name.partition(".")[0].lower() in ABOUT


def unread(inputs: Sequence[str], sources: Sequence[InputSource]) -> Counter[str]:
    """Files in the given folders that are not read, by ending; recordings are read by the names in a table, and texts about
    the data are expected there, unless they end as data does."""
    read = {path for source in sources for path in source.paths}
    files = (path for word in inputs if Path(word).is_dir() for path in _inside(Path(word)) if path not in read)
    skipped = (*DESCRIPTIONS, SAVED_STATE)
    return Counter(
        path.suffix.lower() or path.name
        for path in files
        if path.name not in skipped
        and path.suffix.lower() not in AUDIO
        and not (_named_about(path) and format_of(path) == "unknown")
    )


def _with_transcripts(paths: Sequence[Path]) -> list[InputSource]:
    """The recordings, each with the file of the same name that holds its text; none if no recording has one, or if
    other files hold records. Raises `UsageError` for texts that belong to no recording: they would be left out."""
    texts = {path for path in paths if format_of(path) in ("text", "json")}
    if any(path not in texts and format_of(path) != "unknown" for path in paths):
        return []
    found = []
    for path in paths:
        if path.suffix.lower() in AUDIO:
            beside = (path.with_suffix(ending) for ending in TRANSCRIPTS)
            text = next((each for each in beside if each in texts), None)
            found.append(InputSource(shown(path), path, "recording", target=text))
    used = {source.target for source in found} - {None}
    if used and (others := sorted(texts - used)):
        raise UsageError(
            f"{shown(others[0])} belongs to no recording, but other texts do",
            hint="move it elsewhere; or name what to read, such as 'FOLDER/*.txt'",
        )
    return found if used else []


def _inside(folder: Path) -> list[Path]:
    """All files in the folder and below, without hidden ones, sorted by path."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root) / name for name in names if not name.startswith(".")]
    return sorted(found)


def _file(path: Path, unknown: Format | None) -> InputSource:
    found = format_of(path)
    if found == "unknown":
        if unknown is not None:
            return InputSource(shown(path), path, unknown)
        if not path.is_file():
            raise UsageError(
                f"{path} is a pipe, and its name has no ending that says its format",
                hint="write a file, or let preprocess read standard input: COMMAND | llmctl preprocess - …",
            )
        kind = FOREIGN.get(path.suffix.lower())
        what = f": it seems to be {kind}" if kind else ""
        hint = f"{'convert it; ' if kind else ''}known endings: {_endings()}"
        if path.suffix.lower() in AUDIO:
            hint = "name the folder that holds it with its text, or the table that names it"
        if _of_language(path)[1]:
            hint = f"name two aligned files, the source first: {path} {_of_language(path)[0]}.LANGUAGE; {hint}"
        raise UsageError(f"the ending of {path} is not that of a known format{what}", hint=hint)
    return InputSource(shown(path), path, found)


def shown(path: Path) -> str:
    """The path as text that can be written anywhere: bytes of a file name that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def format_of(path: Path) -> Format:
    """The format that a file's ending indicates, ignoring `.gz` or `.zst`."""
    return ENDINGS.get(_uncompressed(path).suffix.lower(), "unknown")


def _uncompressed(path: Path) -> Path:
    """The path without `.gz` or `.zst`."""
    return path.with_suffix("") if compression_of(path.name) else path


def _endings() -> str:
    return f"{' '.join(ENDINGS)}, each also with .gz or .zst"
