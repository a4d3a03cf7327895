"""Files that users score, and what CI sees when they cannot be scored."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

Inside = Callable[..., dict[str, Any]]

HYPOTHESES = "the cat sat on the mat\nhello world again here\n"
REFERENCES = "the cat sat on a mat\nhello world again there\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("hyp.txt").write_text(HYPOTHESES)
    Path("ref.txt").write_text(REFERENCES)
    Path("one.txt").write_text("the cat\n")
    return tmp_path


FAILURES: list[tuple[str, tuple[str, ...], int, str]] = [
    ("rows differ", ("--references", "one.txt", "--metric", "bleu"), 3, "hyp.txt:2: 2 predictions but 1 references"),
    ("no such file", ("--references", "gone.txt", "--metric", "bleu"), 2, "no such file of references: gone.txt"),
    ("no such metric", ("--references", "ref.txt", "--metric", "blue"), 2, "no metric named 'blue'"),
    ("no such option", ("--references", "ref.txt", "--metrics", "bleu"), 2, "no such option: --metrics"),
    ("folder that takes no files", ("--references", "ref.txt", "--metric", "bleu", "--out", "/proc/x"), 4, "/proc/x"),
]


@pytest.mark.parametrize(("words", "code", "said"), [each[1:] for each in FAILURES], ids=[each[0] for each in FAILURES])
def test_ci_sees_an_error_that_left_no_scores(
    here: Path,
    inside: Inside,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    reports = ("--require", "bleu>=20", "--junit", "scores.xml", "--markdown=scores.md")
    document = inside("eval", "--predictions", "hyp.txt", *words, *reports, code=code)
    assert said in document["error"]["message"]
    (error,) = ElementTree.parse("scores.xml").iter("error")
    assert said in error.attrib["message"]
    assert f"exit code {code} " in (error.text or "")
    assert ElementTree.parse("scores.xml").getroot().attrib["errors"] == "1"
    assert f"| {code} |" in Path("scores.md").read_text()


def test_an_error_never_overwrites_a_file_or_an_input(here: Path, inside: Inside) -> None:
    Path("old.xml").write_text("mine")
    words = ("eval", "--predictions", "hyp.txt", "--references", "one.txt", "--metric", "bleu")
    inside(*words, "--junit", "old.xml", code=2)
    assert Path("old.xml").read_text() == "mine"
    inside(*words, "--junit", "hyp.txt", "--force", code=2)
    assert Path("hyp.txt").read_text() == HYPOTHESES


def test_the_summary_of_a_step_is_appended_to(here: Path, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("summary").write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary"))
    words = ("eval", "--predictions", "hyp.txt", "--metric", "bleu", "--markdown", "summary", "--references")
    inside(*words, "ref.txt")
    inside(*words, "one.txt", code=3)
    text = Path("summary").read_text()
    assert text.startswith("# before\n| metric |")
    assert "| error | exit code |" in text


def test_a_pipe_is_read_as_a_file_is(here: Path, inside: Inside) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text(HYPOTHESES), daemon=True)
    writer.start()
    score = ("eval", "--references", "ref.txt", "--metric", "bleu", "--predictions")
    assert inside(*score, "pipe")["scores"] == inside(*score, "hyp.txt")["scores"]


@pytest.mark.parametrize(
    ("predictions", "references", "metric", "value"),
    [
        ("the cat sat on the mat\rhello world\n", "the cat sat on the mat\nhello world\n", "exact_match", 1),
        ("1\n0\n", [{"text": "x", "label": 1}, {"text": "y", "label": 0}], "accuracy", 1),
        ([{"prediction": 1.0}], [{"label": 1}], "acc", 1),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], [{"id": "a", "target": "x"}, {"id": "a", "target": "y"}],
         "EM", 1),
        ([{"text": "Bern"}], [{"answers": {"text": ["Bern", "Berne"], "answer_start": [0, 0]}}], "f1", 1),
        ([{"text": "hi"}], [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "hi"}]}],
         "exact_match", 1),
    ],
)  # fmt: skip
def test_rows_that_users_have_are_scored(
    here: Path, inside: Inside, predictions: Any, references: Any, metric: str, value: float
) -> None:
    words = []
    for name, rows in (("predictions", predictions), ("references", references)):
        path = Path(f"{name}.txt" if isinstance(rows, str) else f"{name}.jsonl")
        path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
        words += [f"--{name}", str(path)]
    assert inside("eval", *words, "--metric", metric)["scores"][0]["value"] == value


def test_several_answers_to_a_prompt_are_refused_with_the_cure(here: Path, inside: Inside) -> None:
    Path("h.jsonl").write_text('{"id":"a","text":"x","sample":0}\n{"id":"a","text":"y","sample":1}\n')
    Path("r.jsonl").write_text('{"id":"a","target":"x"}\n')
    error = inside("eval", "--predictions", "h.jsonl", "--references", "r.jsonl", "--metric", "bleu", code=3)["error"]
    assert error["message"].startswith("h.jsonl:2: the row is answer 2 to one prompt")
    assert "jq -c 'select(.sample == 0)'" in error["hint"]


def test_an_earlier_scores_json_is_a_baseline(here: Path, inside: Inside) -> None:
    words = ("eval", "--references", "ref.txt", "--metric", "bleu", "--predictions")
    inside(*words, "hyp.txt", "--out", "old")
    document = inside(*words, "hyp.txt", "--baseline", "old/scores.json", "--require", "BLEU>=baseline")
    assert document["gates"][0]["met"]
    assert document["comparison"][0]["difference"] == 0
    assert document["comparison"][0]["p_bootstrap"] is None


def test_a_device_is_written_into_and_never_replaced(here: Path, inside: Inside) -> None:
    inside("eval", "--predictions", "hyp.txt", "--references", "ref.txt", "--metric", "bleu", "--junit", "/dev/null")
    assert not Path("/dev/null").is_file()
