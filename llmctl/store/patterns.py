"""Tries the patterns of a tokenizer.json on texts that make patterns backtrack, in a child process with limits.

The library matches by backtracking: a pattern such as `(a|aa)+$` takes exponential time, `a*a*a*b` cubic time, and neither can
be interrupted. Published patterns take microseconds for each of these texts. A pattern is tried whole, and each of its
repetitions apart from the rest, made to fail.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmctl.errors import IntegrityError
from llmctl.store import limited
from llmctl.store.border import border
from llmctl.store.pattern_parts import repeated_parts

SECONDS: Final = 1.0
MEGABYTES: Final = 512
LENGTH: Final = 2000
"""Characters of a text for the whole pattern. Here exponential and cubic time exceed the limit, quadratic time does not."""
PART_LENGTH: Final = 200
"""Characters of a text for a part, which fails at every one: quartic time exceeds the limit, cubic time does not."""
MOST_CHARACTERS: Final = 32
"""Characters of the pattern itself that are repeated."""
MOST_PARTS: Final = 200
_PAIRED: Final = 6
"""Characters of a part that are repeated in pairs."""
_NEVER: Final = "(?!)"
"""Matches nowhere."""
_OTHERS: Final = ("a", "1", " ", "\n", ".", "-", "中", "é", " a", "a.")
_PASSED: Final = set[str]()
"""Patterns that were tried in this process and take no time."""
_GAVE_UP: Final = "retry-limit"
"""In the message of the library where it gives up."""


def check_pattern(pattern: str, where: str, path: Path) -> None:
    """Raise `IntegrityError` for a pattern that takes too long on a short text, or that refers to its own groups, so that its
    parts cannot be tried. A pattern that is not valid is left to the library."""
    if pattern in _PASSED:
        return
    import tokenizers  # noqa: F401 - imported here so that the time limit does not include the import

    try:
        problem = limited.call(lambda: _try(pattern, path), seconds=SECONDS, megabytes=MEGABYTES)
    except limited.LimitExceeded as error:
        problem = f"{error} on short texts"
    except RuntimeError as error:
        problem = "backtracks without end on a short text" if _GAVE_UP in str(error) else ""
    if problem:
        raise IntegrityError(
            f"the pattern {problem}",
            where=where,
            hint="use the tokenizer files that the model was published with",
        )
    _PASSED.add(pattern)


def _try(pattern: str, path: Path) -> str:
    """Match the pattern and its parts; returns why the parts cannot be tried."""
    from tokenizers import Regex, pre_tokenizers

    def match(expression: str, texts: Iterator[str]) -> None:
        with border("the pattern fails", path, silent=True):
            split = pre_tokenizers.Split(Regex(expression), "isolated")
            for text in texts:
                split.pre_tokenize_str(text)

    match(pattern, _texts(pattern))
    try:
        parts = repeated_parts(pattern)
    except ValueError as error:
        return str(error)
    if len(parts) > MOST_PARTS:
        return f"has more than {MOST_PARTS} repetitions"
    for part in parts:
        match(f"(?:{part}){_NEVER}", _texts_for_part(part))
    return ""


def _texts(pattern: str) -> Iterator[str]:
    own = [each for each in dict.fromkeys(pattern) if each.isprintable()][:MOST_CHARACTERS]
    for each in (*own, *_OTHERS):
        yield (each * LENGTH)[:LENGTH] + "\x01" + "".join(own)


def _texts_for_part(part: str) -> Iterator[str]:
    """Repeated characters, pairs of characters and words of the part, and other characters."""
    literal = re.sub(r"\\(?:[pP]\{[^}]*\}|\w)", " ", part)
    own = [each for each in dict.fromkeys(literal) if each.isprintable()][:MOST_CHARACTERS]
    words = re.findall(r"\w{2,}", literal)[:MOST_CHARACTERS]
    pairs = map("".join, itertools.permutations([each for each in own if each.isalnum()][:_PAIRED], 2))
    for each in dict.fromkeys((*own, *_OTHERS, *words, "".join(words), *pairs)):
        if each:
            yield (each * PART_LENGTH)[:PART_LENGTH]
