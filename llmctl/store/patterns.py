"""Tries the patterns of a tokenizer.json on texts that make patterns backtrack, in a child process with limits.

The library matches by backtracking: a pattern such as `(a|aa)+$` takes exponential time, `a*a*a*b` cubic time, and neither can
be interrupted. Published patterns take microseconds for each of these texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llmctl.errors import IntegrityError
from llmctl.store import limited
from llmctl.store.border import border

SECONDS: Final = 1.0
MEGABYTES: Final = 512
LENGTH: Final = 2000
"""Characters of a text. Here exponential and cubic time exceed the limit, quadratic time does not."""
MOST_CHARACTERS: Final = 32
"""Characters of the pattern itself that are repeated."""
_OTHERS: Final = ("a", "1", " ", "\n", ".", "-", "中", "é", " a", "a.")
_PASSED: Final = set[str]()
"""Patterns that were tried in this process and take no time."""
_GAVE_UP: Final = "retry-limit"
"""In the message of the library where it gives up."""


def check_pattern(pattern: str, where: str, path: Path) -> None:
    """Raise `IntegrityError` for a pattern that takes too long on a short text. A pattern that is not valid is left to the
    library."""
    if pattern in _PASSED:
        return
    own = [each for each in dict.fromkeys(pattern) if each.isprintable()][:MOST_CHARACTERS]
    texts = [(each * LENGTH)[:LENGTH] + "\x01" + "".join(own) for each in (*own, *_OTHERS)]

    def match() -> str:
        from tokenizers import Regex, pre_tokenizers

        with border("the pattern fails", path, silent=True):
            split = pre_tokenizers.Split(Regex(pattern), "isolated")
            for text in texts:
                split.pre_tokenize_str(text)
        return ""

    import tokenizers  # noqa: F401 - imported here so that the time limit does not include the import

    problem = ""
    try:
        limited.call(match, seconds=SECONDS, megabytes=MEGABYTES)
    except limited.LimitExceeded as error:
        problem = str(error)
    except RuntimeError as error:
        problem = "backtracks without end" if _GAVE_UP in str(error) else ""
    if problem:
        raise IntegrityError(
            f"the pattern {problem} on a text of {LENGTH:,} characters",
            where=where,
            hint="use the tokenizer files that the model was published with",
        )
    _PASSED.add(pattern)
