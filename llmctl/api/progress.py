"""What is shown of a long call from Python."""

from __future__ import annotations

import importlib
import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Final

from llmctl.readable import progress_text
from llmctl.types import Event, EventSink

Progress = bool | Callable[[Event], None]
"""False: warnings go to the logger `llmctl`, and what else is said with level INFO or DEBUG. True: lines are printed, also
fit for notebooks. A function: it is called with every event, also from other threads."""
SECONDS_BETWEEN_LINES: Final = 5.0


def sink(progress: Progress) -> EventSink:
    """Where a workflow sends its events."""
    if callable(progress):
        return progress
    return _Printed() if progress else _logged


def _logged(event: Event) -> None:
    """To the logger `llmctl`; unless `logging` is configured, Python shows warnings alone."""
    text = event.fields.get("text") or progress_text(event.fields)
    levels = {"warning": logging.WARNING, "note": logging.INFO, "evaluation": logging.INFO}
    logging.getLogger("llmctl").log(levels.get(event.name, logging.DEBUG), "%s", text)


class _Printed:
    """Whole lines on standard output, of progress one every few seconds: nothing moves the cursor."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.name in ("warning", "note", "evaluation"):
            print(f"warning: {event.fields['text']}" if event.name == "warning" else event.fields["text"], flush=True)
        elif event.name in ("progress", "train") and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(progress_text(event.fields), flush=True)


def quiet_imports() -> None:
    """In notebooks without ipywidgets the bars of libraries warn when they are imported; llmctl shows none of them."""
    if "ipykernel" in sys.modules and "tqdm.auto" not in sys.modules:
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module("tqdm.auto")
