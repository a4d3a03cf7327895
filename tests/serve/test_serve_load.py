"""`llmctl serve` under load. A small one; with LLMCTL_LOAD=200 in the environment 32 clients send so many requests each,
beside 1,000 idle connections."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.serve import load

MEBIBYTE: Final = 1 << 20


def _check(found: dict[str, Any]) -> None:
    print(json.dumps(found, indent=1))
    assert found["statuses"] == {"200": found["requests"]}
    assert set(found["statuses_beside_idle_sockets"]) == {"200"}
    assert found["wrong_answers"] == 0
    assert found["load_at_the_end"] == found["failures"] == 0
    assert found["memory_grown_bytes"] < 64 * MEBIBYTE


def test_every_answer_is_the_right_one_and_nothing_is_left_over(folders: Callable[[str], Path]) -> None:
    _check(load.measure(folders("endless"), clients=8, requests=6, idle=100, gone=2))


@pytest.mark.slow
@pytest.mark.skipif("LLMCTL_LOAD" not in os.environ, reason="takes long; LLMCTL_LOAD=200 is the full measure")
def test_the_full_load(folders: Callable[[str], Path]) -> None:
    requests = int(os.environ["LLMCTL_LOAD"])
    _check(load.measure(folders("endless"), clients=32, requests=requests, idle=1000, gone=10))
