"""`llmctl runs`: list, show, compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli.main import run
from llmctl.store import atomic, runs
from llmctl.store.locks import is_locked, locked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: one finished and scored, one stopped, one whose process died."""
    monkeypatch.chdir(tmp_path)
    good, stopped, dead = (tmp_path / "runs" / name for name in ("good", "stopped", "dead"))
    for each, lr in ((good, 0.001), (stopped, 0.002), (dead, 0.001)):
        record = runs.begin(each, "train", model="gpt2:nano", task="translation", parents={"data": "abc"})
        atomic.write_text(each / "config.yaml", f"train:\n  batch_size: 8\n  optimizer: {{lr: {lr}}}\n")
        atomic.write_jsonl(each / "metrics.jsonl", [{"step": 10, "loss": 4.0}, {"step": 20, "loss": 3.5}])
        if each is not dead:
            status = "finished" if each is good else "stopped"
            best = {"step": 20, "metric": "loss", "value": 3.25 if each is good else 3.75}
            runs.end(each, record, status, exit_code=0, result={"steps": 20, "best": best, "train_loss": 3.5})
    atomic.write_json(good / "evals" / "test" / "scores.json", {"scores": [{"metric": "bleu", "value": 21.5, "n": 10}]})
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["runs", *words, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["schema"] == "llmctl.runs/1"
    return document


def test_list_is_what_runs_does_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = asked(capsys)["runs"]
    assert rows == asked(capsys, "list", ".")["runs"]
    assert [(row["run"], row["status"]) for row in rows] == [
        ("runs/dead", "died"),
        ("runs/good", "finished"),
        ("runs/stopped", "stopped"),
    ]
    good = rows[1]
    assert (good["model"], good["task"], good["steps"]) == ("gpt2:nano", "translation", 20)
    assert good["best"] == {"step": 20, "metric": "loss", "value": 3.25}
    assert rows[0]["steps"] == 20, "of a run that died: the last line of its metrics"


def test_a_narrow_terminal_shows_more_than_the_runs_and_says_what_it_leaves_out(folder: Path, on_terminal: Any) -> None:
    seen = on_terminal(40, "runs", "list", "runs", cwd=folder)
    assert "runs/stopped   stopped    loss 3.75" in seen
    assert "columns hidden on a narrow terminal: task, steps, when, model" in seen


def test_a_person_is_shown_no_whole_hashes_and_floats_and_paths_from_here(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = runs.read(folder / "runs" / "good")
    parents = {"data": "a1b2c3d4" * 8, "data_path": str(folder / "data" / "dates")}
    runs.write(folder / "runs" / "good", record.replace(parents=parents, result={"train_loss": 3.426080751419067}))
    assert run(["runs", "show", "runs/good"]) == 0
    shown = capsys.readouterr().out
    assert "parents: {data: a1b2c3d4a1b2…, data_path: data/dates}" in shown
    assert "train_loss: 3.42608}" in shown
    assert run(["runs", "compare", "runs/good", "runs/dead"]) == 0
    shown = capsys.readouterr().out
    assert "a1b2c3d4a1b2…" in shown
    assert " data/dates" in shown
    document = asked(capsys, "show", "runs/good")
    assert (document["parents"], document["result"]) == (parents, {"train_loss": 3.426080751419067})


def test_list_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "runs"]) == 0
    heading, dead, good, _ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "status", "model", "task", "steps", "best", "when"]
    assert dead.split()[:2] == ["runs/dead", "died"]
    assert "loss 3.25" in good


def test_a_run_is_running_only_while_its_lock_is_held(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = folder / "runs" / "dead"
    with locked(dead):
        assert is_locked(dead)
        assert asked(capsys, "show", "runs/dead")["status"] == "running"
    assert not is_locked(dead)
    (dead / ".lock").write_text("{}")  # left behind by a process that was killed
    assert not is_locked(dead)
    assert asked(capsys, "show", "runs/dead")["status"] == "died"


def test_show_says_what_made_it_and_what_it_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "show", "runs/good")
    assert document["parents"] == {"data": "abc"}
    assert document["config"]["train"]["batch_size"] == 8
    assert document["scores"] == [{"evaluation": "test", "metric": "bleu", "value": 21.5, "n": 10}]
    assert document["last_metrics"] == {"step": 20, "loss": 3.5}
    assert document["versions"]["llmctl"]
    assert document["hardware"]["cpu_count"]
    assert run(["runs", "show", "runs/good"]) == 0
    text = capsys.readouterr().out
    assert "metric: bleu" in text
    assert "batch_size: 8" in text


def test_a_half_written_last_line_is_passed_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "runs" / "dead" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')
    assert asked(capsys, "show", "runs/dead")["last_metrics"]["step"] == 20


def test_compare_tells_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "compare", "runs/good", "runs/stopped")
    assert document["runs"] == ["runs/good", "runs/stopped"]
    assert document["config"] == {"train.optimizer.lr": [0.001, 0.002]}
    assert document["scores"]["best.value"] == [3.25, 3.75]
    assert document["scores"]["test.bleu"] == [21.5, None]
    assert run(["runs", "compare", "runs/good", "runs/stopped"]) == 0
    text = capsys.readouterr().out
    assert [line.split() for line in text.splitlines() if "optimizer.lr" in line] == [
        ["train.optimizer.lr", "0.001", "0.002"]
    ]


def test_compare_puts_the_newest_score_of_each_split_side_by_side(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of automatic evaluations are named after the moment, so that no two runs have the same."""

    def evaluated(name: str, at: str, suffix: str, value: float, split: str = "test", tok: str = "zh") -> None:
        stamp = at.replace("-", "").replace(":", "")
        score = {"metric": "bleu", "value": value, "n": 10, "signature": f"tok:{tok}"}
        document = {"data": "/data/d", "split": split, "at": at, "scores": [score]}
        atomic.write_json(folder / "runs" / name / "evals" / f"{split}-{stamp}{suffix}" / "scores.json", document)

    evaluated("good", "2026-01-01T10:00:00Z", "-10", 30.0)
    evaluated("good", "2026-01-01T10:00:00Z", "-9", 20.0)
    evaluated("good", "2026-01-01T09:00:00Z", "", 10.0)
    evaluated("good", "2026-01-01T09:00:00Z", "", 55.0, split="validation")
    evaluated("stopped", "2026-01-02T10:00:00Z", "", 40.0)
    scores = asked(capsys, "compare", "runs/good", "runs/stopped")["scores"]
    assert scores["test.bleu"] == [30.0, 40.0]
    assert scores["validation.bleu"] == [55.0, None]
    assert not [name for name in scores if name.endswith((".data", ".n", ".signature"))]
    assert run(["runs", "compare", "runs/good", "runs/stopped"]) == 0
    assert ["test.bleu", "30", "40"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    evaluated("stopped", "2026-01-03T10:00:00Z", "", 50.0, tok="13a")
    scores = asked(capsys, "compare", "runs/good", "runs/stopped")["scores"]
    assert (scores["test.bleu"], scores["test.bleu.signature"]) == ([30.0, 50.0], ["tok:zh", "tok:13a"])


def test_a_record_edited_by_hand_does_not_hide_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "runs" / "good" / "run.json").write_text("{}")
    rows = {row["run"]: row for row in asked(capsys)["runs"]}
    assert rows["runs/good"]["status"] == "unreadable"
    assert rows["runs/stopped"]["status"] == "stopped"
    assert run(["runs", "show", "runs/good"]) == 5
    assert "runs/good/run.json: not written by llmctl, or edited since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["show"], "error: runs show needs exactly one run\n  see: llmctl runs list\n"),
        (["show", "runs"], "error: runs is not a run folder: it has no run.json\n  see: llmctl runs list\n"),
        (["compare", "runs/good"], "error: runs compare needs at least two runs\n  llmctl runs compare RUN RUN\n"),
        (["lst"], "error: no such folder: lst\n  did you mean 'list'?\n"),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    assert run(["runs", *words]) == 2
    assert capsys.readouterr() == ("", error)


def test_no_runs_is_said_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["runs"]) == 0
    assert capsys.readouterr() == ("", "no runs under .\n")
