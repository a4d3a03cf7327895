"""Plug-ins whose code ends the process, hangs, or is no part at all: `doctor` names each, a verb refuses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CODES = {
    "calls_exit": "import sys; sys.exit(3)",
    "ends_at_once": "import os; os._exit(3)",
    "raises_a_base_exception": "class Odd(BaseException): pass\nraise Odd('odd')",
    "is_interrupted": "raise KeyboardInterrupt",
    "prints": "print('hello'); METRIC = 1",
    "sleeps": "import time; time.sleep(600)",
    "loops": "while True: pass",
}
WORDS = {
    "calls_exit": "it calls sys.exit(3)",
    "ends_at_once": "ends the process with code 3",
    "raises_a_base_exception": "odd",
    "is_interrupted": "ends the process",
    "prints": "is not a MetricSpec: prints:METRIC is int",
    "sleeps": "was not loaded after 10 seconds",
    "loops": "was not loaded after 10 seconds",
}


def install(name: str, folder: Path) -> dict[str, str]:
    """An environment with a package that adds a metric from the module `name`."""
    facts = folder / f"odd_{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: odd-{name}\nVersion: 1.0\nSummary: odd\n")
    (facts / "entry_points.txt").write_text(f"[llmctl.metrics]\nodd = {name}:METRIC\n")
    (folder / f"{name}.py").write_text(CODES[name])
    path = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def llmctl(environment: dict[str, str], *words: str, code: int) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "llmctl", *words, "--json"], capture_output=True, env=environment)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CODES)
def test_doctor_names_the_plug_in_and_goes_on(name: str, tmp_path: Path) -> None:
    environment = install(name, tmp_path)
    begin = time.monotonic()
    findings = {each["check"]: each for each in llmctl(environment, "doctor", code=4)["findings"]}
    assert time.monotonic() - begin < 60
    finding = findings[f"metric odd of odd-{name}"]
    assert finding["status"] == "problem"
    assert WORDS[name] in finding["message"]
    assert finding["cure"]
    assert findings["engines"]["status"] == "ok"


@pytest.mark.parametrize("name", ["calls_exit", "raises_a_base_exception", "prints"])
def test_a_verb_that_needs_the_plug_in_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    error = llmctl(install(name, tmp_path), "show", "metrics", "odd", code=4)["error"]
    assert WORDS[name] in error["message"]
    assert error["hint"] == f"pip install --upgrade odd-{name}"
