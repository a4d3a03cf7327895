"""Cuts a regular expression at its repetitions, so that each can be tried apart from the rest.

A repetition backtracks only where what follows it fails, and which text makes that happen depends on the rest of the pattern:
`(.*)*x` is harmless until a line ends before its x. Apart from the rest, `(.*)*` can be made to fail on any text.

The syntax is that of Oniguruma (https://github.com/kkos/oniguruma/blob/master/doc/RE), which the library `tokenizers` uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_QUANTIFIERS: Final = re.compile(r"(?:(?:[*+?]|\{\d+,?\d*\}|\{,\d+\})[?+]?)*")
_ESCAPE: Final = re.compile(
    r"\\(?:[pP]\{[^}]*\}|x\{[^}]*\}|x[\da-fA-F]{1,2}|u[\da-fA-F]{4}|[kg]<[^>]*>|[kg]'[^']*'|.?)", re.S
)
_OPENING: Final = re.compile(r"\((?:\?(?:#[^)]*\)|<[=!]|[:=!>~]|<\w+>|'\w+'|[a-zA-Z-]*(?:\)|:)))?")
_REFERENCE: Final = re.compile(r"\\(?:[1-9]|[kg][<'])")


@dataclass
class _Level:
    """What lies between two brackets: the alternative at hand."""

    options: str = ""
    """Options that hold here, such as `(?i)`."""
    opened: int = 0
    """Where its bracket opens."""
    repeats: bool = False
    """There is a repetition in it."""
    starts: list[int] = field(default_factory=list)
    """Where repetitions, and groups with some in them, begin in this alternative."""
    end: int = 0
    """Where the last one ends."""
    least: int = 0
    """How often the last one has to match."""


def repeated_parts(pattern: str) -> list[str]:
    r"""The stretches of a pattern, in each alternative at each depth, from a repetition to the last one of the alternative.

    Leaves out a repetition at the end of the pattern or of one of its alternatives: nothing follows that could fail, so that
    `\p{N}{1,3}+`, as GPT-4's tokenizer has it, never backtracks there.

    Raises `ValueError` for a pattern that refers to its own groups, or whose brackets are not in pairs.
    """
    found: dict[str, None] = {}
    levels, at = [_Level()], 0

    def alternative_ends() -> None:
        level = levels[-1]
        if len(levels) == 1 and level.starts and level.end == at and level.least < 2:
            level.starts.pop()
        found.update(dict.fromkeys(level.options + pattern[start : level.end] for start in level.starts))
        level.starts = []

    while at < len(pattern):
        level, begin, repeats = levels[-1], at, False
        if _REFERENCE.match(pattern, at):
            raise ValueError("refers to its own groups")
        if pattern[at] == "(":
            opening = _OPENING.match(pattern, at)
            assert opening is not None
            at, text = opening.end(), opening.group()
            if not text.endswith(")"):
                own = f"{text[:-1]})" if text.endswith(":") and text != "(?:" else ""
                levels.append(_Level(level.options + own, begin))
            elif not text.startswith("(?#"):
                level.options += text
            continue
        if pattern[at] == "|":
            alternative_ends()
            at += 1
            continue
        if pattern[at] == ")":
            alternative_ends()
            begin, repeats = levels.pop().opened, level.repeats
            if not levels:
                raise ValueError("has a bracket without its partner")
            level, at = levels[-1], at + 1
        elif pattern[at] == "\\":
            escape = _ESCAPE.match(pattern, at)
            assert escape is not None
            at = escape.end()
        else:
            at = _class_end(pattern, at) if pattern[at] == "[" else at + 1
        quantifiers = _QUANTIFIERS.match(pattern, at)
        assert quantifiers is not None
        if repeats or quantifiers.group():
            level.repeats = True
            level.starts.append(begin)
            level.end = quantifiers.end()
            level.least = max(map(int, re.findall(r"\{(\d+)", quantifiers.group())), default=0)
        at = quantifiers.end()
    if len(levels) > 1:
        raise ValueError("has a bracket without its partner")
    alternative_ends()
    return list(found)


def _class_end(pattern: str, at: int) -> int:
    """Where a class of characters that begins at `at` ends; classes may be nested."""
    depth, begin = 0, at
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]" and pattern[begin:at] not in ("[", "[^"):
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    raise ValueError("has a bracket without its partner")
