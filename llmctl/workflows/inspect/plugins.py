"""Load one part of another package and print whether it works: `python -m llmctl.workflows.inspect.plugins KIND NAME PARENT`."""

from __future__ import annotations

import json
import sys
from typing import Final

from llmctl import processes, registry
from llmctl.errors import LlmctlError

MARK: Final = "llmctl-plugin "
"""Starts the line with the result, a JSON list of message and hint; other lines are the part's own."""
VERBS: Final = "verbs"


def main() -> None:
    kind, name, parent = sys.argv[1:]
    processes.end_with(int(parent))
    problem: tuple[str | None, str | None] = (None, None)
    try:
        if kind == VERBS:
            row = registry.verbs()[name]
            registry.load_verb(row)
        else:
            registry.load(kind, name)
    except LlmctlError as error:
        problem = (error.message, error.hint)
    print(f"\n{MARK}{json.dumps(problem)}")


if __name__ == "__main__":
    main()
