"""Counts of what the server did, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the buckets in seconds."""


class Histogram:
    """Durations in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str) -> Iterator[str]:
        so_far = 0
        for bound, count in zip((*BOUNDS, "+Inf"), self.counts, strict=True):
            so_far += count
            yield f'{name}_bucket{{le="{bound}"}} {so_far}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {so_far}"


class Counters:
    """What is counted over the requests. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, int]] = Counter()
        """By endpoint and status."""
        self.seconds = Histogram()
        self.first_text = Histogram()
        self.prompt_tokens = self.answer_tokens = 0

    def finished(self, endpoint: str, status: int, seconds: float) -> None:
        with self._lock:
            self.requests[endpoint, status] += 1
            self.seconds.add(seconds)

    def answered(self, prompt_tokens: int, answer_tokens: int) -> None:
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.answer_tokens += answer_tokens

    def started(self, seconds: float) -> None:
        """The first text of an answer was there after so many seconds."""
        with self._lock:
            self.first_text.add(seconds)

    def text(self, gauges: Mapping[str, tuple[str, float]], totals: Mapping[str, tuple[str, float]]) -> str:
        """The page. `gauges` and `totals`: further numbers with what they say, by name."""
        with self._lock:
            lines = list(self._lines(gauges, totals))
        return "\n".join([*lines, ""])

    def _lines(self, gauges: Mapping[str, tuple[str, float]], totals: Mapping[str, tuple[str, float]]) -> Iterator[str]:
        yield from _head(
            "requests_total", "counter", "Requests by endpoint and HTTP status; 499: the client went away."
        )
        for (endpoint, status), count in sorted(self.requests.items()):
            yield f'llmctl_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
        yield from _head("request_seconds", "histogram", "Time from the head of a request to the end of its answer.")
        yield from self.seconds.lines("llmctl_request_seconds")
        yield from _head("first_text_seconds", "histogram", "Time until the first text of a streamed answer.")
        yield from self.first_text.lines("llmctl_first_text_seconds")
        own = {
            "prompt_tokens_total": (
                "Tokens of answered prompts and of the windows of scored texts.",
                float(self.prompt_tokens),
            ),
            "answer_tokens_total": ("Tokens of complete answers.", float(self.answer_tokens)),
        }
        for kind, numbers in (("counter", own | dict(totals)), ("gauge", gauges)):
            for name, (help, value) in numbers.items():
                yield from _head(name, kind, help)
                yield f"llmctl_{name} {value:g}" if value != int(value) else f"llmctl_{name} {int(value)}"


def _head(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP llmctl_{name} {help}"
    yield f"# TYPE llmctl_{name} {kind}"
