"""`llmctl doctor`: each finding with a fix; exit 4 if something breaks a verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmctl import registry
from llmctl.cli.main import run


def found(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, dict[str, Any]]:
    assert run(["doctor", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "llmctl.doctor/1"
    assert document["status"] == ("ok" if code == 0 else "error")
    return {finding["check"]: finding for finding in document["findings"]}


def test_findings_have_the_contracts_fields(capsys: pytest.CaptureFixture[str]) -> None:
    findings = found(capsys)
    for finding in findings.values():
        assert set(finding) == {"check", "status", "message", "cure"}
        assert finding["status"] in ("ok", "warning")
        assert finding["cure"] or finding["status"] == "ok"
    assert findings["torch"]["message"][0].isdigit()
    assert "threads" in findings["torch imports"]["message"]
    assert findings["accelerators"]["message"]
    assert "--precision auto uses" in findings["bf16"]["message"]
    assert "NVIDIA GPUs since Ampere" in findings["tf32"]["message"] or "tf32=true" in findings["tf32"]["message"]
    assert "gloo" in findings["backends"]["message"]
    assert findings["models"]["message"] == f"{len(registry.entries('models'))} built in, 0 from packages"


def test_more_threads_than_cores_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    finding = found(capsys)["threads"]
    assert finding["status"] == "warning"
    assert finding["cure"] == f"export OMP_NUM_THREADS={len(os.sched_getaffinity(0))}"


def test_the_hub_is_said_to_be_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in found(capsys)["hub"]["message"]


def test_quiet_shows_what_is_wrong_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert run(["doctor", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning")
    assert not any(line.startswith("ok") for line in lines)


def test_an_old_package_and_a_broken_plug_in_are_problems(tmp_path: Path) -> None:
    """Both as a package manager would leave them: metadata on the path, seen by a fresh process."""
    old = tmp_path / "rouge_score-0.0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: rouge-score\nVersion: 0.0.1\n")
    broken = tmp_path / "broken_plugin-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\nSummary: breaks\n")
    (broken / "entry_points.txt").write_text("[llmctl.metrics]\nbreaking = no_such_module:METRIC\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "llmctl", "doctor", "--json"], capture_output=True, env=environment)
    document = json.loads(done.stdout)
    assert done.returncode == 4
    assert document["error"] == {
        "kind": "environment",
        "message": "problems found: rouge-score, metric breaking of broken-plugin",
        "hint": "each is listed with a fix",
        "exit_code": 4,
    }
    findings = {finding["check"]: finding for finding in document["findings"]}
    assert findings["rouge-score"]["message"] == "0.0.1 is installed, llmctl needs >=0.1.2"
    assert findings["rouge-score"]["cure"] == "pip install 'rouge-score>=0.1.2'"
    assert findings["metric breaking of broken-plugin"]["cure"] == "pip install --upgrade broken-plugin"
