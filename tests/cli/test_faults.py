"""What a user saw that should not have been: wrong exit codes, wrong files read, wrong numbers said without a word."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Inside = Callable[..., dict[str, Any]]
TINY = ("--set", "model.layers=1", "--set", "model.hidden=16", "--set", "model.embedding=8", "--batch-size", "8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = [f"line {number} of the text" for number in range(60)]
    Path("good.jsonl").write_text(rows({"text": text} for text in texts))
    pq.write_table(pa.table({"text": texts, "name": [f"n{number}" for number in range(60)]}), "good.parquet")
    Path("good.parquet.gz").write_bytes(gzip.compress(Path("good.parquet").read_bytes(), mtime=0))
    Path("hyp.txt").write_text("a b c d\n")
    Path("one.jsonl").write_text(rows([{"id": "a", "text": "a b c d"}, {"id": "b", "text": "e f g h"}]))
    Path("other.jsonl").write_text(rows([{"id": "b", "text": "e f g h"}, {"id": "a", "text": "a b c d"}]))
    Path("twice.jsonl").write_text(rows([{"id": "a", "text": "a b c d"}, {"id": "a", "text": "a b c d"}]))
    Path("right.jsonl").write_text(rows([{"id": "a", "target": "a b c d"}, {"id": "b", "target": "z z z z"}]))
    return tmp_path


def rows(values: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in values)


PREPROCESS = ("preprocess", "good.jsonl", "--task", "lm", "--vocab-size", "300", "--out", "out")
FILES = ("eval", "--references", "right.jsonl", "--metric", "exact_match", "--predictions")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((*PREPROCESS, "--columns", "text=boddy"), 3, "'boddy' of --columns is missing"),
        ((*PREPROCESS, "--columns", "txt=text"), 2, "did you mean 'text'"),
        ((*PREPROCESS, "--events", "nowhere/events.jsonl"), 2, "cannot write --events"),
        (("train", "--resume", "nowhere"), 2, "not a run that can be resumed"),
        (("preprocess", "no\nsuch.jsonl", "--task", "lm", "--out", "out"), 2, "no\\nsuch.jsonl"),
        ((*FILES, "twice.jsonl"), 3, "duplicate id"),
        ((*FILES, "one.jsonl", "--data", "good.jsonl"), 2, "is for --model"),
        ((*FILES, "one.jsonl", "--junit", "hyp.txt"), 2, "exists"),
        ((*FILES, "one.jsonl", "--markdown", "-"), 2, "the output cannot be standard output (-)"),
        ((*PREPROCESS[:-1], "-"), 2, "the output cannot be standard output (-)"),
    ],
)
def test_what_is_wrong_is_said(here: Path, inside: Inside, words: tuple[str, ...], code: int, said: str) -> None:
    document = inside(*words, code=code)
    assert said in document["error"]["message"]
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "code", "kind", "lines"),
    [
        (
            ("train", "--model", "t55", "--best-by", "blue", "--data", "good.jsonl", "--out", "full"),
            2,
            "config",
            ["model.name: no model named 't55'; did you mean 't5'?", "best_by: no metric named 'blue'; did you mean"],
        ),
        (
            ("train", "--model", "./nodir", "--data", "nodata", "--out", "full"),
            2,
            "config",
            [
                "data: no such prepared folder: nodata",
                "model: no such model folder: nodir",
                "out: the output full exists",
            ],
        ),
        (
            ("train", "--model", "rnn", "--best-by", "bleu:tokenise=zh", "--data", "good.jsonl", "--out", "run"),
            2,
            "config",
            ["best_by.bleu.tokenise: unknown key; did you mean 'tokenize'?"],
        ),
        (
            ("eval", "--model", "./nodir", "--data", "nodata", "--metric", "blue", "--require", "bleu"),
            2,
            "config",
            [
                "metric.0: no metric named 'blue'; did you mean 'bleu'?",
                "require.0: 'bleu' is not a gate",
                "no such file or folder: nodir",
                "no such file or folder: nodata",
            ],
        ),
        (
            ("eval", "--model", "./nodir", "--data", "nodata", "--out", "full", "--junit", "good.jsonl"),
            2,
            "config",
            [
                "data: no such data: nodata; a prepared folder, a file of records o",
                "model: no such model folder: nodir",
                "out: the output full exists",
                "junit: the output good.jsonl exists",
            ],
        ),
        (
            ("eval", "--references", "nowhere.txt", "--metric", "bleu", "--predictions", "gone.txt"),
            2,
            "config",
            [
                "predictions: no such file of predictions: gone.txt",
                "references: no such file of references: nowhere.txt",
            ],
        ),
        (
            ("generate", "--model", "./nodir", "--input", "nowhere.jsonl", "--output", "good.jsonl"),
            2,
            "config",
            ["input: no such file", "model: no such model folder: nodir", "output: the output good.jsonl exists"],
        ),
        (
            (
                "preprocess",
                "nowhere.jsonl",
                "--task",
                "lm",
                "--encoding",
                "utf-9",
                "--tokenizer",
                "./none",
                "--out",
                "full",
            ),
            2,
            "config",
            [
                "encoding: no encoding named 'utf-9'",
                "inputs: no such file",
                "out: the output full exists",
                "tokenizer: ",
            ],
        ),
        # An input that is bad (3) beside an output that is there (2): what was asked comes first.
        (
            (*PREPROCESS[:-1], "full", "--columns", "text=boddy"),
            2,
            "config",
            ["inputs: good.jsonl:1:text: the column 'boddy'", "out: the output full exists"],
        ),
        # Two faults that are not of what was asked end with the least of their codes.
        (
            (*PREPROCESS[:-1], "full/out", "--columns", "text=boddy", "--tokenizer", "./unsafe"),
            3,
            "data",
            ["inputs: good.jsonl:1:text: the column 'boddy'", "tokenizer: "],
        ),
    ],
)
def test_faults_are_told_all_at_once(
    here: Path, inside: Inside, llmctl: Any, words: tuple[str, ...], code: int, kind: str, lines: list[str]
) -> None:
    Path("full").mkdir()
    Path("full/kept.txt").write_text("kept")
    Path("unsafe").mkdir()
    Path("unsafe/tokenizer.json").write_text("{}")
    Path("unsafe/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "evil.Evil"}}')
    error = inside(*words, code=code)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    told = error["message"].split("\n")
    assert [line[: len(start)] for line, start in zip(told, lines, strict=True)] == lines
    done = llmctl(*words, cwd=here)
    assert (done.returncode, done.stderr.splitlines()) == (code, [f"error: {told[0]}", *told[1:]])
    assert sorted(each.name for each in Path("full").iterdir()) == ["kept.txt"]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ("train", "--data", "./no1", "--model", "./no2", "--lr", "-1", "--out", "out"),
            [
                "optimizer.lr: must be greater than 0.0, not -1",
                "no such file or folder: no1",
                "no such file or folder: no2",
            ],
        ),
        (
            ("eval", "--model", "./no1", "--data", "./no2", "--metric", "belu"),
            ["metric.0: no metric named 'belu'", "no such file or folder: no1", "no such file or folder: no2"],
        ),
        (
            ("generate", "--model", "./no1", "--prompt", "a", "--temperature", "-1"),
            ["temperature: must be at least 0.0, not -1", "no such file or folder: no1"],
        ),
        (("generate", "--model", ".", "--prompt", "a", "--temperature", "-1"), ["temperature: must be at least 0.0"]),
        (("eval", "--model", ".", "--data", "sonnets", "--metric", "belu"), ["metric.0: no metric named 'belu'"]),
        (
            ("generate", "--model", "http://localhost:1/v1", "--prompt", "a", "--temperature", "-1"),
            ["temperature: must be at least 0.0"],
        ),
    ],
)
def test_a_wrong_setting_does_not_hide_a_missing_input(
    here: Path, inside: Inside, words: tuple[str, ...], lines: list[str]
) -> None:
    found = inside(*words, code=2)["error"]["message"].split("\n")
    assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines


def test_a_fault_alone_is_told_as_it_is(here: Path, inside: Inside) -> None:
    error = inside("generate", "--model", "./nodir", "--prompt", "a", code=2)["error"]
    hint = "name a run (llmctl runs list), a model folder or hf:ID"
    assert error == {"kind": "usage", "message": "no such model folder: nodir", "hint": hint, "exit_code": 2}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("preprocess reviews.csv --task classification --columns text=sentense,label=mood --out out", "'sentence'?"),
        ("preprocess reviews.csv --task classification --out out", "--columns text=YOUR_COLUMN"),
        ("preprocess broken.jsonl --task lm --out out", "--on-bad-record skip|reject"),
        ("preprocess sub/broken.json --task lm --out out", "did you mean 'sub/broken.jsonl'?"),
        ("generate --model ./nothere --prompt a", "name a run (llmctl runs list), a model folder or hf:ID"),
        ("generate --model sub/nothere --prompt a", "did you mean 'sub/nothere2'?"),
        ("runs list sub/nothere", "did you mean 'sub/nothere2'?"),
        ("runs shwo runs/one", "did you mean 'show'?"),
        ("eval --predictions one.jsonl --references right.jsonl --require chrf>=5", "--metric chrf"),
        ("run sub/recipe.yaml", "did you mean 'sub/recipes.yaml'?"),
        ("show data dates.en", "--source-file dates.en --target-file FILE --task translation --out data/dates"),
        ("train --data hyp.txt --model lstm --out run", "llmctl preprocess hyp.txt --task lm --out data/hyp"),
        ("train --data good.jsonl --model lstm --out run", "preprocess good.jsonl --task TASK --out data/good"),
        ("train --data sonnets --model lstm --out run", "llmctl preprocess sonnets --out data/sonnets"),
    ],
)
def test_a_hint_can_be_followed_as_it_stands(here: Path, inside: Inside, words: str, hint: str) -> None:
    Path("reviews.csv").write_text("sentence,mood\nfine,good\n")
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')
    Path("sub/nothere2").mkdir(parents=True)
    for name in ("sub/broken.jsonl", "sub/recipes.yaml", "dates.en"):
        Path(name).write_text("")
    code = 3 if words.startswith("preprocess") and "sub/" not in words else 2
    assert hint in inside(*words.split(), code=code)["error"]["hint"]


def test_an_output_inside_an_input_folder_is_not_said_to_overwrite_it(here: Path, inside: Inside) -> None:
    error = inside("preprocess", ".", "--task", "lm", "--out", "x3", code=2)["error"]
    assert "out: the output x3 lies inside the input .; name an output outside it" in error["message"].split("\n")


def test_the_last_line_of_eval_says_what_the_file_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llmctl.cli.main import run

    assert run([*FILES, "one.jsonl"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "predictions: one.jsonl"


def test_a_compressed_parquet_file_is_read_with_a_renamed_id(here: Path, inside: Inside) -> None:
    inside("preprocess", "good.parquet.gz", *PREPROCESS[2:], "--columns", "id=name")
    assert pq.read_table("out/text/train-00000.parquet")["id"][0].as_py().startswith("n")


def test_a_baseline_in_another_order_is_compared_row_for_row(here: Path, inside: Inside) -> None:
    document = inside(*FILES, "one.jsonl", "--baseline", "other.jsonl")
    assert document["comparison"][0]["p_bootstrap"] == 1.0


def test_limit_keeps_the_pairs_of_ids(here: Path, inside: Inside) -> None:
    assert inside(*FILES, "other.jsonl", "--limit", "1")["scores"][0]["value"] == 0.0


def test_labels_that_one_system_alone_predicts_can_be_compared(here: Path, inside: Inside) -> None:
    Path("strange.jsonl").write_text(rows([{"id": "a", "text": "a b c d"}, {"id": "b", "text": "?"}]))
    words = ("eval", "--references", "right.jsonl", "--metric", "macro_f1", "--predictions")
    assert inside(*words, "strange.jsonl", "--baseline", "right.jsonl")["comparison"][0]["difference"] < 0


def test_a_run_does_not_go_on_with_data_that_was_made_anew(here: Path, inside: Inside) -> None:
    inside(*PREPROCESS)
    inside("train", "--data", "out", "--model", "rnn", "--out", "run", "--max-steps", "2", *TINY)
    inside(*PREPROCESS, "--force")  # the same data again is the same
    inside("train", "--resume", "run", "--max-steps", "3")
    inside(*PREPROCESS[:-4], "--vocab-size", "310", "--out", "out", "--force")
    document = inside("train", "--resume", "run", "--max-steps", "4", code=2)
    assert "has changed since the run" in document["error"]["message"]


def test_a_busy_run_is_not_touched_by_the_one_that_is_refused(here: Path, inside: Inside) -> None:
    from llmctl.store import locks

    inside(*PREPROCESS)
    inside("train", "--data", "out", "--model", "rnn", "--out", "run", "--max-steps", "2", *TINY)
    half = Path("run/checkpoints/.llmctl-step-00000003-ab")
    half.mkdir()
    with locks.locked(Path("run")):
        inside("train", "--resume", "run", "--max-steps", "3", code=7)
        inside("train", "--data", "out", "--model", "rnn", "--out", "run", "--force", code=7)
    assert half.is_dir()
    assert Path("run/model/model.safetensors").is_file()


def test_two_processes_asked_to_stop_save_and_end_soon(here: Path, inside: Inside) -> None:
    inside(*PREPROCESS)
    words = ["train", "--data", "out", "--model", "rnn", "--out", "run", "--max-steps", "100000", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llmctl", *words, *TINY, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    metrics = Path("run/metrics.jsonl")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 75, err.decode()
    # A step by number: the workers ended by themselves and said so, the launcher did not kill them after its patience.
    assert re.search(r"stopped at step \d+", json.loads(out)["error"]["message"])
    assert b"torch/" not in err
