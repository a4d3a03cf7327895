"""`llmctl preprocess`: the folder it makes, the document it prints, and every fault with its exit code and words."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from llmctl.cli.main import run
from llmctl.data.storing.tokens import TokenStore
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.store.prepared import open_prepared


class Answer(NamedTuple):
    code: int
    document: dict[str, Any]
    talk: str


Ask = Callable[..., Answer]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run `llmctl preprocess … --json` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def asked(*words: str, out: str | None = "out") -> Answer:
        code = run(["preprocess", "--json", *(["--out", out] if out else []), *words])
        said = capsys.readouterr()
        return Answer(code, json.loads(said.out), said.err)

    return asked


def put(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def rows(*values: dict[str, Any]) -> str:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in values)


def numbered(count: int = 40, **more: Any) -> str:
    return rows(*({"text": f"this is text number {n}", **more} for n in range(count)))


def talks(count: int = 40) -> str:
    turns = [[("system", ""), ("user", f"what is {n}?"), ("assistant", f"{n} it is")][n % 2 :] for n in range(count)]
    return rows(*({"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns))


def visible() -> list[str]:
    return sorted(os.listdir())


def texts(folder: str = "out") -> list[str]:
    return sorted(
        text
        for split in ("train", "validation", "test")
        for text in pq.read_table(f"{folder}/text/{split}-00000.parquet")["text"].to_pylist()
    )


# ---------------------------------------------------------------------------------------------------------------
# What it makes


def test_a_built_in_data_set(ask: Ask, tmp_path: Path) -> None:
    answer = ask("sonnets")
    assert answer.code == 0
    document = answer.document
    assert document["schema"] == "llmctl.preprocess/1"
    assert document["records"] == {"read": 154, "kept": 154, "dropped": {}, "rejected": 0}
    assert sum(document["splits"].values()) == 154
    assert document["tokenizer"]["kind"] == "bpe"
    assert document["tokenizer"]["vocab_size"] == 4096
    assert document["inputs"][0]["path"] == "sonnets"
    assert len(document["inputs"][0]["sha256"]) == 64
    assert document["seconds"] > 0
    assert visible() == ["out"]
    assert sorted(os.listdir("out")) == ["README.md", "manifest.json", "report.html", "text", "tokenizer", "tokens"]

    prepared = open_prepared(Path("out"))
    assert (prepared.manifest.task, prepared.manifest.block_size) == ("language-modeling", 256)
    tokenizer = load_tokenizer(prepared.tokenizer)
    for split, count in document["splits"].items():
        table = pq.read_table(prepared.text(split))
        assert table.column_names == ["id", "text", "origin"]
        store = TokenStore.open(prepared.tokens, split)
        assert (len(store), store.total_tokens) == (count, document["tokens"][split])
        [segment] = store.record(count - 1)
        assert (segment.ids[0], segment.ids[-1]) == (1, 2)
        assert tokenizer.decode(segment.ids[1:-1]) == table["text"][-1].as_py()
    assert pq.read_table("out/text/train-00000.parquet")["origin"][0].as_py().startswith("sonnets:")


def test_datasets_opens_the_folder(ask: Ask) -> None:
    import datasets

    answer = ask("udhr-en-zh")
    opened = datasets.load_dataset("out", cache_dir="cache")
    assert {split: len(opened[split]) for split in opened} == answer.document["splits"]
    assert set(opened["train"].column_names) == {"id", "source", "target", "origin"}


def test_the_same_command_gives_the_same_bytes(ask: Ask) -> None:
    made: list[dict[str, bytes]] = []
    put("talks.jsonl", talks())
    for number in range(2):
        answer = ask("talks.jsonl", "--task", "chat", "--workers", str(number + 1), out=f"made-{number}")
        assert answer.code == 0
        made.append(
            {
                str(path.relative_to(f"made-{number}")): path.read_bytes()
                for path in sorted(Path(f"made-{number}").rglob("*"))
                if path.is_file() and path.name != "manifest.json"
            }
        )
    assert made[0] == made[1]


def test_adding_data_moves_no_record(ask: Ask) -> None:
    ask(put("a.jsonl", numbered(60)), "--task", "lm")
    ask(put("b.jsonl", numbered(90)), "--task", "lm", out="more")
    for split in ("train", "validation", "test"):
        few = set(pq.read_table(f"out/text/{split}-00000.parquet")["text"].to_pylist())
        many = set(pq.read_table(f"more/text/{split}-00000.parquet")["text"].to_pylist())
        assert few <= many


def test_conversations(ask: Ask) -> None:
    answer = ask(put("a.jsonl", talks()), "--task", "chat", "--tokenizer", "byte")
    assert answer.document["records"]["kept"] == 40
    [first, *_] = pq.read_table("out/text/train-00000.parquet")["messages"].to_pylist()
    store = TokenStore.open(Path("out/tokens"), "train")
    assert [(part.role, len(part.ids), part.in_loss) for part in store.record(0)] == [
        (turn["role"], len(turn["content"]), turn["role"] == "assistant") for turn in first
    ]


def test_labels_are_sorted_and_numbered(ask: Ask) -> None:
    answer = ask("reviews", "--tokenizer", "word")
    assert answer.document["labels"] == ["negative", "positive"]
    store = TokenStore.open(Path("out/tokens"), "test")
    labels = pq.read_table("out/text/test-00000.parquet")["label"].to_pylist()
    assert [answer.document["labels"][store.label(number)] for number in range(len(store))] == labels


def test_a_label_that_train_lacks(ask: Ask) -> None:
    ask(put("a.jsonl", rows(*({"text": f"text {n}", "label": "x"} for n in range(40)))), "--task", "classification")
    [first, *_] = pq.read_table("out/text/test-00000.parquet")["text"].to_pylist()
    changed = [{"text": f"text {n}", "label": "odd" if f"text {n}" == first else "x"} for n in range(200)]
    for label in range(200):
        # Content moves with its label: find one that falls into test.
        changed.append({"text": f"odd {label}", "label": f"only-{label}"})
    answer = ask(put("b.jsonl", rows(*changed)), "--task", "classification", out="more")
    assert answer.code == 3
    assert "no record of the train split has the label" in answer.document["error"]["message"]
    assert not Path("more").exists()


def test_everything_read_is_accounted_for(ask: Ask) -> None:
    put("a.jsonl", numbered(30) + numbered(5) + rows({"text": "  "}, {"text": "ok"}) + "broken\n" + rows({"text": 5}))
    put("b.txt", "this is text number 3\n")
    answer = ask(
        *("a.jsonl", "b.txt", "--task", "lm", "--on-bad-record", "skip", "--set", "clean.min_chars=3"),
        *("--document", "line"),
    )
    assert answer.code == 0
    expected = {"duplicate": 6, "empty": 1, "too_short": 1, "bad_record": 2}
    assert answer.document["records"] == {"read": 40, "kept": 30, "dropped": expected, "rejected": 0}


def test_rejected_records_are_kept_with_their_reasons(ask: Ask) -> None:
    put("a.jsonl", numbered(30).encode() + b'broken\n{"text": 5}\n{"text": "caf\xe9"}\n')
    answer = ask("a.jsonl", "--task", "lm", "--on-bad-record", "reject")
    assert answer.document["records"]["rejected"] == 3
    refused = [json.loads(line) for line in Path("out/rejects.jsonl").read_text().splitlines()]
    assert [row["where"] for row in refused] == ["a.jsonl:31", "a.jsonl:32:text", "a.jsonl:33:14"]
    assert [row["record"] for row in refused] == ["broken", {"text": 5}, '{"text": "caf\udce9"}']
    assert "expected str" in refused[1]["reason"]
    assert answer.code == 10


def test_too_long_records_leave_everything(ask: Ask) -> None:
    put("a.jsonl", numbered(40) + rows({"text": "long " * 50}, {"text": "longer " * 90}))
    answer = ask("a.jsonl", "--task", "lm", "--max-length", "40", "--tokenizer", "byte")
    assert answer.document["records"]["dropped"] == {"too_long": 2}
    assert answer.document["records"]["kept"] == sum(answer.document["splits"].values()) == 40
    assert len(texts()) == 40
    assert open_prepared(Path("out")).manifest.records.kept == 40


@pytest.mark.parametrize("kind", ["unigram", "wordpiece", "char", "word", "byte"])
def test_every_kind_of_tokenizer(ask: Ask, kind: str) -> None:
    answer = ask("tang-poems", "--tokenizer", kind)
    assert answer.code == 0
    assert answer.document["tokenizer"]["kind"] == kind
    tokenizer = load_tokenizer(Path("out/tokenizer"))
    text = pq.read_table("out/text/train-00000.parquet")["text"][0].as_py()
    [segment] = TokenStore.open(Path("out/tokens"), "train").record(0)
    assert tokenizer.decode(segment.ids[1:-1]) == text


def test_a_given_tokenizer(ask: Ask) -> None:
    first = ask("sonnets", "--vocab-size", "500", out="first")
    answer = ask(put("a.jsonl", numbered()), "--task", "lm", "--tokenizer", "first")
    assert answer.document["tokenizer"]["sha256"] == first.document["tokenizer"]["sha256"]
    again = ask("a.jsonl", "--task", "lm", "--tokenizer", "out/tokenizer", out="again")
    assert again.document["tokens"] == answer.document["tokens"]


def test_pairs_of_aligned_files(ask: Ask) -> None:
    put("a en.txt", "".join(f"line {n}\n" for n in range(40)))
    put("甲.zh", "".join(f"第{n}行\r\n" for n in range(40)))
    answer = ask("--task", "translation", "--source-file", "a en.txt", "--target-file", "甲.zh")
    assert answer.document["records"]["kept"] == 40
    assert [each["path"] for each in answer.document["inputs"]] == ["a en.txt", "甲.zh"]


def test_standard_input(tmp_path: Path) -> None:
    data = numbered().encode()
    words = [
        sys.executable,
        "-m",
        "llmctl",
        "preprocess",
        "-",
        "--task",
        "lm",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    done = subprocess.run(words, input=data, capture_output=True, check=True)
    [stdin] = json.loads(done.stdout)["inputs"]
    assert (stdin["path"], stdin["bytes"]) == ("-", len(data))
    done = subprocess.run([*words, "--force"], input=b"", capture_output=True, check=False)
    assert done.returncode == 3
    assert b"no records" in done.stdout
    assert len(texts(str(tmp_path / "out"))) == 40


# ---------------------------------------------------------------------------------------------------------------
# Odd input that is no fault


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", "\ufeff" + numbered()),
        ("crlf.jsonl", numbered().replace("\n", "\r\n")),
        ("cr.jsonl", numbered().replace("\n", "\r")),
        ("end.jsonl", numbered().rstrip()),
        ("nul.jsonl", numbered().replace("is text", "is\\u0000 text")),
        ("blanks.jsonl", numbered().replace("is text", "is \\u3000 text ")),
        ("-dash \n汉.jsonl", numbered()),
        ("deep/er/a.jsonl.gz", gzip.compress(numbered().encode(), mtime=0)),
    ],
)
def test_the_same_records_as_the_plain_file(ask: Ask, name: str, content: str | bytes) -> None:
    ask(put("plain.jsonl", numbered()), "--task", "lm", out="plain")
    answer = ask("--task", "lm", "--", "./" + put(name, content))
    assert answer.code == 0
    assert texts() == texts("plain")


def test_marks_and_nul_are_counted(ask: Ask) -> None:
    answer = ask(put("a.jsonl", "\ufeff" + numbered().replace("is text", "is\\u0000 text")), "--task", "lm")
    assert "removed 1 byte-order marks and 40 NUL characters" in answer.talk
    assert json.loads(Path("out/manifest.json").read_text())["cleaned"] == {
        "byte_order_marks": 1,
        "nul_characters": 40,
        "control": 40,
    }


def test_one_long_line(ask: Ask) -> None:
    put("a.txt", "word after word " * 60_000)
    answer = ask("a.txt", "--task", "lm", "--set", "splits.validation=0", "--set", "splits.test=0")
    assert answer.code == 0
    assert answer.document["splits"] == {"train": 1, "validation": 0, "test": 0}


def test_an_empty_split_is_warned_of(ask: Ask) -> None:
    answer = ask(put("a.jsonl", numbered(2)), "--task", "lm", "--set", "splits.test=0.0001")
    assert answer.code == 0
    assert "the test split is empty" in answer.talk


# ---------------------------------------------------------------------------------------------------------------
# Faults

GOOD = numbered()
FAULTS: list[tuple[str, dict[str, str | bytes], list[str], int, list[str]]] = [
    ("empty file", {"a.jsonl": ""}, ["a.jsonl"], 3, ["a.jsonl", "no records"]),
    ("blank lines", {"a.txt": "\n \n"}, ["a.txt"], 3, ["a.txt", "no records"]),
    ("nothing in a folder", {"d/a.jsonl": "", "d/b.txt": ""}, ["d"], 3, ["no records", "d/a.jsonl"]),
    (
        "Latin-1",
        {"a.txt": b"a\n" * 6 + b"\xe9"},
        ["a.txt", "--document", "line"],
        3,
        ["a.txt:7:1", "\\xe9", "--encoding"],
    ),
    ("cut JSON", {"a.jsonl": GOOD[:-9]}, ["a.jsonl"], 3, ["a.jsonl:40", "looks truncated"]),
    (
        "field missing",
        {"a.jsonl": GOOD + '{"body": "x"}\n'},
        ["a.jsonl"],
        3,
        ["a.jsonl:41:text", "missing", "--columns"],
    ),
    ("wrong type", {"a.jsonl": GOOD + '{"text": 1}\n'}, ["a.jsonl"], 3, ["a.jsonl:41:text", "int", "expected str"]),
    (
        "cut gzip",
        {"a.jsonl.gz": gzip.compress(GOOD.encode(), mtime=0)[:-9]},
        ["a.jsonl.gz"],
        3,
        ["a.jsonl.gz", "truncated"],
    ),
    (
        "one id, several contents",
        {"a.jsonl": rows(*({"id": "same", "text": f"{n}"} for n in range(9)))},
        ["a.jsonl"],
        3,
        ["one id for different content", "a.jsonl:2:id", "a.jsonl:6:id", "'same'", "--on-bad-record skip"],
    ),
    ("only the empty", {"a.jsonl": '{"text": " "}\n' * 3}, ["a.jsonl"], 3, ["none of 3 records is left", "3 empty"]),
    ("one document", {"a.txt": "one\n\ntwo\n"}, ["a.txt"], 3, ["only record", "--document paragraph or line"]),
    ("no such file", {}, ["nothing.jsonl"], 2, ["nothing.jsonl"]),
    ("a name nearly right", {}, ["sonets"], 2, ["did you mean 'sonnets'"]),
    ("an unknown ending", {"a.doc": "x"}, ["a.doc"], 2, ["a.doc", ".jsonl"]),
    ("no input", {}, [], 2, ["no input"]),
    ("an unknown encoding", {"a.txt": "x"}, ["a.txt", "--encoding", "utf-9"], 2, ["encoding", "utf-9"]),
    ("no encoding of text", {"a.txt": "x"}, ["a.txt", "--encoding", "zlib"], 2, ["encoding", "zlib"]),
    ("everything held out", {"a.txt": "x"}, ["a.txt", "--set", "splits.test=0.95"], 2, ["splits", "1.05"]),
    ("a small vocabulary", {"a.jsonl": GOOD}, ["a.jsonl", "--vocab-size", "99"], 2, ["vocab_size", "99", "265"]),
    (
        "a small vocabulary of characters",
        {"a.jsonl": GOOD},
        ["a.jsonl", "--tokenizer", "char", "--vocab-size", "20"],
        2,
        ["vocab_size", "20", "31"],
    ),
    ("no tokenizer there", {"a.jsonl": GOOD}, ["a.jsonl", "--tokenizer", "./no"], 2, ["no", "does not exist"]),
    (
        "the hub, offline",
        {"a.jsonl": GOOD},
        ["a.jsonl", "--tokenizer", "hf:some/one", "--offline"],
        4,
        ["hf:some/one", "copy"],
    ),
    ("output is there", {"a.jsonl": GOOD, "out/x": "mine"}, ["a.jsonl"], 2, ["out exists", "--force"]),
    ("somebody's folder", {"a.jsonl": GOOD, "out/x": "mine"}, ["a.jsonl", "--force"], 2, ["manifest.json", "another"]),
    ("output holds the input", {"out/a.jsonl": GOOD}, ["out/a.jsonl", "--force"], 2, ["out"]),
]


@pytest.mark.parametrize(
    ("files", "words", "code", "said"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS]
)
def test_faults(ask: Ask, files: dict[str, str | bytes], words: list[str], code: int, said: list[str]) -> None:
    for name, content in files.items():
        put(name, content)
    before = {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    answer = ask(*words, "--task", "lm")
    told = f"{answer.document['error']['message']} {answer.document['error']['hint']}"
    assert answer.code == answer.document["error"]["exit_code"] == code, told
    assert [each for each in said if each not in told] == [], told
    assert {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_task_is_asked_for(ask: Ask) -> None:
    answer = ask(put("a.jsonl", GOOD))
    assert (answer.code, "--task" in answer.document["error"]["message"]) == (2, True)


@pytest.mark.parametrize("task", ["translation", "classification", "chat"])
def test_plain_text_for_records_of_several_fields(ask: Ask, task: str) -> None:
    answer = ask(put("a.txt", "x"), "--task", task)
    assert answer.code == 2
    assert "--source-file" in answer.document["error"]["hint"]


def test_aligned_files_of_different_length(ask: Ask) -> None:
    put("a.en", "x\n" * 5)
    put("a.zh", "y\n" * 3)
    answer = ask("--task", "translation", "--source-file", "a.en", "--target-file", "a.zh")
    assert answer.code == 3
    assert "a.en has 5 lines, a.zh has 3" in answer.document["error"]["message"]


def test_force_replaces_what_preprocess_made(ask: Ask) -> None:
    ask(put("a.jsonl", GOOD), "--task", "lm")
    assert ask("sonnets").code == 2
    assert ask("sonnets", "--force").document["records"]["kept"] == 154
    assert visible() == ["a.jsonl", "out"]


def test_an_input_reached_by_a_link_is_no_output(ask: Ask) -> None:
    put("data/a.jsonl", GOOD)
    Path("link").symlink_to("data")
    answer = ask("data", "--task", "lm", "--force", out="link")
    assert answer.code == 2
    assert Path("data/a.jsonl").read_text() == GOOD


def test_the_plan_writes_nothing(ask: Ask) -> None:
    answer = ask(put("a.jsonl", GOOD), "--task", "lm", "--dry-run")
    assert answer.code == 0
    assert answer.document["plan"]["inputs"] == [{"path": "a.jsonl", "format": "jsonl"}]
    assert visible() == ["a.jsonl"]


@pytest.mark.parametrize(("task", "content"), [("language-modeling", numbered()), ("chat", talks())])
def test_nothing_heavy_is_imported(tmp_path: Path, task: str, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    code = (
        "import sys; from llmctl.cli.main import run; "
        f"code = run(['preprocess', {str(path)!r}, '--task', {task!r}, '--out', {str(tmp_path / 'out')!r}]); "
        "print(code, sorted({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_preprocess_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    with reading(tmp_path) as process:
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode == code
    assert os.listdir(tmp_path) == []


def test_a_killed_preprocess_leaves_nothing_visible_and_the_next_one_clears_it(tmp_path: Path) -> None:
    with reading(tmp_path) as process:
        process.kill()
        process.communicate(timeout=30)
    [left] = os.listdir(tmp_path)
    assert left.startswith(".llmctl-out-")
    words = [sys.executable, "-m", "llmctl", "preprocess", "sonnets", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert left in done.stderr
    assert os.listdir(tmp_path) == ["out"]


def test_two_at_once_on_one_folder(tmp_path: Path) -> None:
    with reading(tmp_path) as process:
        words = [sys.executable, "-m", "llmctl", "preprocess", "sonnets", "--out", str(tmp_path / "out")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 7
        assert f"process {process.pid}" in done.stderr
        process.kill()
        process.communicate(timeout=30)


@contextlib.contextmanager
def reading(folder: Path) -> Any:
    """A preprocess that waits for the rest of its standard input, its folder begun and locked."""
    words = [sys.executable, "-m", "llmctl", "preprocess", "-", "--task", "lm", "--out", str(folder / "out")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"x" * 10)
        process.stdin.flush()
        try:
            until = time.monotonic() + 30
            while not any(held(each) for each in folder.glob(".llmctl-out-*/.lock")):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
