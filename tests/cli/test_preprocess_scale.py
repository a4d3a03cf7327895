"""`preprocess` in parts: the same bytes however many processes read and wherever, and near-duplicates over all parts."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmctl import registry
from llmctl.cli import main
from llmctl.data.reading import parts
from llmctl.data.storing.text import read_text, shards
from llmctl.store.prepared import open_prepared

Ask = Callable[..., dict[str, Any]]
WORDS = [f"{first}{second}" for first in ("ka", "lo", "mi", "ru", "ste") for second in ("ba", "de", "fi", "go", "nu")]


def texts(count: int, *, chinese: bool = False) -> list[str]:
    rng = random.Random(count)
    if chinese:
        return ["".join(chr(rng.randrange(0x4E00, 0x5A00)) for _ in range(80)) for _ in range(count)]
    return [" ".join(f"{rng.choice(WORDS)}{rng.randrange(99)}" for _ in range(60)) for _ in range(count)]


def changed(text: str, number: int) -> str:
    """The text with one word, or character, replaced: a Jaccard index of 0.9 or more."""
    if " " in text:
        words = text.split(" ")
        return " ".join([*words[:30], f"other{number}", *words[31:]])
    return f"{text[:40]}{chr(0x6000 + number)}{text[41:]}"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files, read in parts of about 8 kB, with exact and near copies in other parts than their originals."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts, "SMALL_BYTES", 32_000)
    folder = tmp_path / "corpus"
    folder.mkdir()
    originals = [*texts(150), *texts(150, chinese=True)]
    rows = [*originals, *originals[:20], *(changed(text, number) for number, text in enumerate(originals[40:280:4]))]
    random.Random(1).shuffle(rows)
    for number, part in enumerate((rows[:250], rows[250:270], rows[270:])):
        lines = [json.dumps({"text": text, "id": f"{number}-{at}"}, ensure_ascii=False) for at, text in enumerate(part)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(*words: object, out: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        command = ["preprocess", *map(str, words), "--out", out, "--vocab-size", "400", "--json"]
        assert main.run(command) == code
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def files(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


NEAR = ("--task", "lm", "--set", "dedup.near=0.8")


def test_near_copies_are_dropped_and_the_bytes_are_the_same_for_any_number_of_processes(
    corpus: Path, prepare: Ask
) -> None:
    one = prepare(corpus, *NEAR, "--workers", 1, out="one")
    assert one["records"]["dropped"] == {"duplicate": 20, "near_duplicate": 60}
    assert one["records"]["kept"] == 300
    assert len(shards(Path("one/text"), "train")) > 5
    records = list(read_text(shards(Path("one/text"), "train")))
    for record in records[::20]:
        file, line = record.origin.rsplit(":", 1)
        row = json.loads(Path(file).read_text("utf-8").splitlines()[int(line) - 1])
        assert (record.id, record.fields["text"]) == (row["id"], row["text"])
    prepare(corpus, *NEAR, "--workers", 3, out="three")
    assert files("one") == files("three")
    manifests = [json.loads(Path(name, "manifest.json").read_text("utf-8")) for name in ("one", "three")]
    assert manifests[0]["files"] == manifests[1]["files"]
    facts = manifests[0]["near_duplicates"]
    assert (facts["clusters"], facts["largest"]) == (60, 2)
    assert {"threshold", "shingle", "permutations", "bands", "rows"} <= facts.keys()
    content = open_prepared(Path("one")).content
    manifests[0]["config"]["workers"] = 3
    Path("one/manifest.json").write_text(json.dumps(manifests[0]), "utf-8")
    assert open_prepared(Path("one")).content == content


def kept(folder: str) -> set[str]:
    return {str(each.fields["text"]) for each in read_text(sorted(Path(folder, "text").glob("*.parquet")))}


def test_of_near_copies_the_same_one_stays_in_any_order(corpus: Path, prepare: Ask) -> None:
    prepare(corpus, *NEAR, out="forward")
    rows = [line for path in sorted(corpus.iterdir()) for line in path.read_text("utf-8").splitlines()]
    Path("backward.jsonl").write_text("\n".join(reversed(rows)), encoding="utf-8")
    prepare("backward.jsonl", *NEAR, out="backward")
    assert kept("forward") == kept("backward")


def test_a_near_copy_of_what_is_held_out_leaves_the_train_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Ask
) -> None:
    monkeypatch.chdir(tmp_path)
    originals = [*texts(30), *texts(30, chinese=True)]
    held = originals[::2]
    copies = [*held[:4], *(changed(text, number) for number, text in enumerate(held[4:14]))]
    for name, rows in (("train", [*originals[1::2], *copies]), ("test", held), ("valid", [changed(held[20], 77)])):
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in rows]
        Path(f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = prepare("train.jsonl", "test.jsonl", "valid.jsonl", *NEAR, out="data")
    assert found["records"]["dropped"] == {"leakage": 14, "near_duplicate": 1}
    assert found["splits"]["train"] == 30
    assert sum(found["splits"].values()) == 60
    alone = prepare("train.jsonl", "test.jsonl", "valid.jsonl", "--task", "lm", out="exact")
    assert alone["records"]["dropped"] == {"duplicate": 4}
    assert alone["splits"]["test"] == 30


@pytest.mark.parametrize(("policy", "code"), [("fail", 3), ("skip", 0), ("reject", 10)])
def test_bad_records_in_other_parts(
    corpus: Path, prepare: Ask, policy: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (corpus / "0.jsonl").read_text("utf-8").splitlines()
    lines[200] = '{"text": 7}'
    lines[210] = json.dumps({"id": "0-3", "text": "another text under a known id"})
    (corpus / "0.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = prepare(corpus, "--task", "lm", "--workers", 2, "--on-bad-record", policy, out="data", code=code)
    if policy == "fail":
        assert "0.jsonl:201" in found["error"]["message"]
    elif policy == "skip":
        assert found["records"]["dropped"]["bad_record"] == 2
    else:
        rows = [json.loads(line) for line in Path("data/rejects.jsonl").read_text("utf-8").splitlines()]
        assert [row["where"].partition(".jsonl:")[2] for row in rows] == ["201:text", "211:id"]
        records = found["records"]
        assert records["read"] == records["kept"] + sum(records["dropped"].values()) + records["rejected"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'llmctl[ray]'")
@pytest.mark.filterwarnings("ignore")
def test_ray_writes_the_same_bytes(corpus: Path, prepare: Ask) -> None:
    prepare(corpus, *NEAR, out="local")
    prepare(corpus, *NEAR, "--executor", "ray", "--workers", 2, out="ray")
    assert files("local") == files("ray")
    manifests = [json.loads(Path(name, "manifest.json").read_text("utf-8")) for name in ("local", "ray")]
    assert manifests[0]["files"] == manifests[1]["files"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_its_command_is_told_before_anything_is_read(corpus: Path, prepare: Ask) -> None:
    found = prepare(corpus, *NEAR, "--executor", "ray", out="data", code=4)
    assert "pip install 'llmctl[ray]'" in found["error"]["hint"]
    assert not Path("data").exists()


KILLED = """
import os, resource, signal, sys
from importlib import import_module
from llmctl import registry
from llmctl.cli import main
from llmctl.data.reading import parts

parts.SMALL_BYTES = 32_000
place, times, how, *words = sys.argv[1:]
module, _, name = place.rpartition(".")
module = import_module(f"llmctl.workflows.preprocess.{module}")
work, left = getattr(module, name), [int(times)]

def killed(*arguments, **named):
    result = work(*arguments, **named)
    left[0] -= 1
    if not left[0] and how == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    elif not left[0]:
        os.kill(os.getpid(), getattr(signal, how))
    return result

setattr(module, name, killed)
sys.exit(main.run(words))
"""


ENDS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130, "full disk": 4}


def kill(corpus: Path, place: str, times: int, *words: object, how: str = "SIGKILL") -> Path:
    """Run `preprocess` until it has called a function of its own so many times; returns what it leaves."""
    command = ["preprocess", str(corpus), *NEAR, *map(str, words), "--out", "data", "--vocab-size", "400"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, place, str(times), how, *command], capture_output=True, check=False
    )
    assert done.returncode == ENDS[how], done.stderr
    assert (b"the same command continues" in done.stderr) == (how != "SIGKILL"), done.stderr
    [left] = Path().glob(".llmctl-data-*")
    assert not Path("data").exists()
    return left


def again(capsys: pytest.CaptureFixture[str], corpus: Path, *words: str, out: str = "data") -> str:
    capsys.readouterr()
    assert main.run(["preprocess", str(corpus), *NEAR, *words, "--out", out, "--vocab-size", "400"]) == 0
    assert not list(Path().glob(".llmctl-*"))
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "times", "read"),
    [
        ("reading.finish", 6, 6),
        ("admission.keep", 3, 16),
        ("run.make_tokenizer", 1, 16),
        ("run.write_report", 1, 0),
    ],
)
def test_a_killed_command_continues_with_the_parts_that_it_has_read(
    corpus: Path, capsys: pytest.CaptureFixture[str], place: str, times: int, read: int
) -> None:
    left = kill(corpus, place, times, "--workers", 1)
    assert len(list(left.glob(".scratch/done-*"))) == read
    printed = again(capsys, corpus)
    assert (f"{read} of 16 parts were read before this command was interrupted" in printed) == bool(read)
    assert ("removed leftovers" in printed) == (not read)
    assert "interrupted" not in again(capsys, corpus, out="other")
    assert files("data") == files("other")


def test_a_killed_command_begins_anew_where_something_changed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = kill(corpus, "reading.finish", 6, "--workers", 1)
    place = next(left.glob(".scratch/text/train-00002*"))
    place.write_bytes(place.read_bytes()[:-1] + b"?")
    assert "5 of 16 parts" in again(capsys, corpus)
    shutil.rmtree("data")
    for change in ("setting", "force", "input"):
        kill(corpus, "reading.finish", 6, "--workers", 1)
        if change == "input":
            (corpus / "2.jsonl").touch()
        words = {"setting": ("--set", "clean.min_chars=2"), "force": ("--force",)}.get(change, ())
        printed = again(capsys, corpus, *words)
        assert "removed leftovers" in printed
        assert "were read before" not in printed
        shutil.rmtree("data")


@pytest.mark.parametrize(
    ("how", "place", "times", "workers", "read"),
    [
        ("SIGTERM", "reading.finish", 6, 1, 6),
        ("SIGINT", "run.make_tokenizer", 1, 2, 16),
        ("full disk", "reading.finish", 3, 1, 3),
        ("full disk", "run.make_tokenizer", 1, 1, 16),
    ],
)
def test_what_was_read_is_not_lost_by_ctrl_c_sigterm_or_a_full_disk(
    corpus: Path, capsys: pytest.CaptureFixture[str], how: str, place: str, times: int, workers: int, read: int
) -> None:
    left = kill(corpus, place, times, "--workers", workers, how=how)
    assert len(list(left.glob(".scratch/done-*"))) == read
    if how == "full disk":
        assert not list(left.glob("t*"))
        assert len(list(left.glob(".scratch/candidates-*"))) == read
    printed = again(capsys, corpus)
    assert f"{read} of 16 parts were read before this command was interrupted" in printed
    again(capsys, corpus, out="other")
    assert files("data") == files("other")


def test_nothing_stays_of_a_terminated_command_that_cannot_continue(corpus: Path) -> None:
    command = ("preprocess", "-", *NEAR, "--out", "data", "--vocab-size", "400")
    words = [sys.executable, "-c", KILLED, "run.make_tokenizer", "1", "SIGTERM", *command]
    with (corpus / "0.jsonl").open("rb") as standard_input:
        done = subprocess.run(words, stdin=standard_input, capture_output=True, check=False)
    assert done.returncode == 143
    assert b"continues" not in done.stderr
    assert not list(Path().glob(".llmctl-*"))


@pytest.mark.parametrize("change", ["setting", "force", "input"])
def test_what_a_terminated_command_left_is_removed_where_it_cannot_be_used(
    corpus: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    kill(corpus, "reading.finish", 6, "--workers", 1, how="SIGTERM")
    if change == "input":
        (corpus / "2.jsonl").touch()
    printed = again(capsys, corpus, *{"setting": ("--set", "clean.min_chars=2"), "force": ("--force",)}.get(change, ()))
    assert "removed leftovers" in printed
    assert "were read before" not in printed


@pytest.mark.parametrize("changed", [True, False])
def test_a_recording_replaced_after_the_interruption_is_read_again(tmp_path: Path, changed: bool) -> None:
    """The table that names it was the same, so the old sound was used."""
    pytest.importorskip("soundfile")
    clips = tmp_path / "clips"
    clips.mkdir()
    with registry.load("datasets", "spoken-numbers-en").path() as path:
        rows = pq.read_table(path).to_pylist()[:9]
    for number, row in enumerate(rows):
        (clips / f"{number}.flac").write_bytes(row["audio"]["bytes"])
    lines = [json.dumps({"audio": f"{number}.flac", "text": row["text"]}) for number, row in enumerate(rows[:8])]
    (clips / "all.jsonl").write_text("\n".join(lines) + "\n")
    words = ["preprocess", str(clips / "all.jsonl"), "--task", "asr", "--tokenizer", "char"]
    words += ["--set=splits.validation=0", "--set=splits.test=0", "--out"]

    def run(out: str, place: str, how: str, code: int) -> str:
        command = [sys.executable, "-c", KILLED, place, "1", how, *words, out]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stderr

    run("data", "run.make_tokenizer", "SIGTERM", 143)
    if changed:
        (clips / "8.flac").replace(clips / "0.flac")
    assert ("were read before" in run("data", "run._hash_of", "SIGCONT", 0)) != changed
    run("other", "run._hash_of", "SIGCONT", 0)
    assert files(str(tmp_path / "data")) == files(str(tmp_path / "other"))
