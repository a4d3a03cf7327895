"""Cuts Chinese text into words and removes stop words: the last rules of cleaning, which a model keeps with the others.

Words are joined by single blanks, and a text cut again stays the same.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import string
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.data.spec import STOPWORDS, Clean, CleanRules
from llmctl.errors import DataError, MissingPackage, UsageError
from llmctl.types import TOOL_JSON

HAN: Final = "\u4e00-\u9fd5"
"""The characters that jieba 0.42.1 knows."""
MASK: Final = "(<[A-Z_]+>)"
"""A mask such as <EMAIL> is one word."""
LARGEST: Final = 16 << 20
"""Bytes of a list of stop words or a user dictionary, which every model keeps a copy of."""

LONGEST_RUN: Final = 1000
"""Chinese characters without a mark between them that are cut together: jieba takes quadratic time in a run that repeats one."""

_RUN: Final = re.compile(f"([{HAN}]{{{LONGEST_RUN}}})")
_HAN: Final = re.compile(f"[{HAN}]")
_MASK: Final = re.compile(MASK)
_CJK: Final = (
    "\u2e80-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U000323af"
)
JOINT: Final = f"(?<=[{_CJK}]) | (?=[{_CJK}])"
"""A blank beside a Chinese or Japanese character."""
_JOINT: Final = re.compile(JOINT)

Cut = Callable[[str], list[str]]


def check_segmenter(clean: Clean) -> None:
    """Raise `MissingPackage` where the rules need a package that is not installed."""
    if clean.segment == "jieba" and importlib.util.find_spec("jieba") is None:
        raise MissingPackage("jieba", needed_for="clean.segment=jieba", install="pip install 'llmctl[zh]'")


def rules_of(clean: Clean) -> CleanRules:
    """The rules with the content of their files. Raises `UsageError` for a missing file, `DataError` for one that is no
    list of words."""
    words: set[str] = set()
    for name in clean.stopwords:
        path = Path(__file__).parent / "stopwords" / f"{name}.txt" if name in STOPWORDS else Path(name).expanduser()
        words.update(line.lower() for line in _lines(path, "stopwords") if not line.startswith("# "))
    entries = () if clean.dictionary is None else tuple(_lines(clean.dictionary.expanduser(), "dictionary"))
    return CleanRules(**clean.model_dump(), stopword_list=tuple(sorted(words)), dictionary_entries=entries)


def _lines(path: Path, key: str) -> list[str]:
    if not path.is_file():
        lists = f"; lists: {', '.join(STOPWORDS)}" if key == "stopwords" else ""
        raise UsageError(f"clean.{key}: no such file: {path}", hint=f"name a file with a word on each line{lists}")
    if path.stat().st_size > LARGEST:
        raise DataError(f"larger than {LARGEST >> 20} MiB", where=str(path), hint="it is to be a list of words")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8", where=str(path), hint="convert it, for example with iconv") from error
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if not lines:
        raise DataError("has no words", where=str(path))
    return lines


class WordRules:
    """Applies the rules for words to texts. Use `words_of`, which makes none where the rules have nothing to do."""

    def __init__(self, rules: CleanRules) -> None:
        self._cut = cutter(rules.dictionary_entries) if rules.segment == "jieba" else None
        self._stop = frozenset(rules.stopword_list)

    def text(self, text: str, *, answer: bool = False) -> str:
        """The text in words. An `answer` keeps its stop words, because it is to be read."""
        stop = frozenset[str]() if answer else self._stop
        if not stop and (self._cut is None or not _HAN.search(text)):
            return text
        return "\n".join(_line(line, self._cut, stop) for line in text.split("\n"))

    def fields(self, fields: Mapping[str, Any], answers: Collection[str], label: str | None = None) -> dict[str, Any]:
        """The fields of a record in words. `answers`: the names of those that are not asked. `label`: is left alone."""
        return {
            name: value if name == label else self._value(value, answer=name in answers)
            for name, value in fields.items()
        }

    def _value(self, value: Any, *, answer: bool) -> Any:
        if isinstance(value, str):
            return self.text(value, answer=answer)
        if isinstance(value, list):
            return [self._value(each, answer=answer) for each in value]
        if isinstance(value, Mapping) and isinstance(value.get("content"), str) and value.get("role") not in TOOL_JSON:
            spoken = answer or value.get("role") == "assistant"
            return {**value, "content": self.text(value["content"], answer=spoken)}
        return value


def words_of(rules: CleanRules) -> WordRules | None:
    """What applies the rules for words; None if there are none. Raises `MissingPackage`."""
    check_segmenter(rules)
    return WordRules(rules) if rules.segment != "none" or rules.stopword_list else None


def _line(line: str, cut: Cut | None, stop: Collection[str]) -> str:
    if cut is not None and _HAN.search(line):
        words = [word for part in _MASK.split(line) for word in ([part] if _MASK.fullmatch(part) else cut(part))]
        words = [word for word in words if not word.isspace()]
    elif stop:
        words = line.split()
    else:
        return line
    return " ".join(word for word in words if not _is_stop(word, stop))


def _is_stop(word: str, stop: Collection[str]) -> bool:
    low = word.lower()
    return low in stop or low.strip(string.punctuation) in stop


def joined(text: str) -> str:
    """The text without the blanks beside Chinese and Japanese characters, as it is written."""
    return _JOINT.sub("", text)


class JoinedStream:
    """Passes the pieces of a text on without the blanks that `joined` removes: a blank waits for what follows it."""

    def __init__(self, stream: Callable[[str], None]) -> None:
        self._stream, self._before, self._held = stream, "", ""

    def __call__(self, piece: str) -> None:
        text = self._held + piece
        ready = text.rstrip(" ")
        self._held = text[len(ready) :]
        if ready:
            self._stream(joined(self._before + ready)[len(self._before) :])
            self._before = ready[-1]


@functools.lru_cache(maxsize=8)
def cutter(entries: tuple[str, ...] = ()) -> Cut:
    """jieba's cut with these entries of a user dictionary, repeated on each word until none can be cut further.

    jieba's model for words that it does not know depends on what is beside them; only words that it does not cut when
    they stand alone can be stored, joined by blanks, and cut again.
    """
    with warnings.catch_warnings():
        # Its source has invalid escapes, and it imports pkg_resources.
        warnings.simplefilter("ignore")
        import jieba
    tokenizer = jieba.Tokenizer()
    # What `initialize` does, without its cache: a file in the temporary folder that every user may write.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    if entries:
        tokenizer.load_userdict(io.StringIO("\n".join(entries)))

    @functools.lru_cache(maxsize=1 << 17)
    def within(word: str) -> tuple[str, ...]:
        pieces = tokenizer.lcut(word)
        return (word,) if len(pieces) < 2 else tuple(part for piece in pieces for part in within(piece))

    def cut(text: str) -> list[str]:
        return [part for run in _RUN.split(text) for word in tokenizer.cut(run) for part in within(word)]

    return cut
