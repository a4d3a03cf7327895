"""Files that users really have: what `preprocess` reads of each, and what it says about it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmctl.cli.main import run
from llmctl.data.storing.text import read_text
from llmctl.data.storing.tokens import TokenStore
from llmctl.store.prepared import open_prepared
from tests.tool_templates import HERMES, LLAMA, tokenizer_with

FILES = Path(__file__).parent / "data"
SPLITS = ("train", "validation", "test")
NO_SPLIT = ("--set", "splits.validation=0", "--set", "splits.test=0")


class Answer(NamedTuple):
    code: int
    document: dict[str, Any]
    talk: str

    @property
    def problem(self) -> str:
        error = self.document["error"]
        return f"{error['message']}\n{error['hint']}"


Prepare = Callable[..., Answer]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    """Run `preprocess FILE --task TASK --json` with small vocabulary into `out`; the file may be one of `FILES`."""
    monkeypatch.chdir(tmp_path)

    def prepared(name: str, task: str, *words: str, out: str = "out") -> Answer:
        place = name if Path(name).exists() else str(FILES / name)
        code = run(["preprocess", place, "--task", task, "--vocab-size", "300", "--out", out, "--json", *words])
        said = capsys.readouterr()
        return Answer(code, json.loads(said.out), said.err)

    return prepared


def rows(folder: str = "out") -> list[dict[str, Any]]:
    """The records of all splits."""
    prepared = open_prepared(Path(folder))
    return [
        {**record.fields, "split": split, "id": record.id, "origin": record.origin}
        for split in SPLITS
        for record in read_text(prepared.text(split))
    ]


def manifest(folder: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    return found


# ---------------------------------------------------------------------------------------------------------------
# Splits


def test_own_splits_are_kept(prepare: Prepare) -> None:
    answer = prepare("own-splits", "classification")
    assert answer.document["splits"] == {"train": 40, "validation": 10, "test": 10}
    assert "keep the split that their files are named after" in answer.talk
    assert manifest()["split_by"] == "files"
    for split, numbers in {"train": range(40), "validation": range(40, 50), "test": range(50, 60)}.items():
        assert {row["id"] for row in rows() if row["split"] == split} == {f"r{number}" for number in numbers}


def test_own_splits_can_be_pooled(prepare: Prepare) -> None:
    assert prepare("own-splits", "classification", "--set", "splits.from=content").document["split_by"] == "input"
    assert {row["split"] for row in rows() if row["id"] in {f"r{n}" for n in range(40)}} == set(SPLITS)


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "dev.jsonl", "test.jsonl"),
        ("train-00000-of-00002.jsonl", "valid-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"),
        ("data/train-0.jsonl", "data/val-0.jsonl", "data/test-0.jsonl"),
        ("train/a.jsonl", "validation/a.jsonl", "test/a.jsonl"),
        ("my_train.jsonl", "my_dev.jsonl", "my_test.jsonl"),
    ],
)
def test_names_of_splits_of_every_style(prepare: Prepare, names: tuple[str, ...]) -> None:
    for name, given in zip(names, SPLITS, strict=True):
        path = Path("given", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FILES / "own-splits" / f"{given}.jsonl", path)
    assert prepare("given", "classification").document["splits"] == {"train": 40, "validation": 10, "test": 10}


@pytest.mark.parametrize("names", [("train.jsonl",), ("latest.jsonl", "trained.jsonl"), ("test.jsonl", "more.jsonl")])
def test_names_that_are_not_splits_of_one_data_set(prepare: Prepare, names: tuple[str, ...]) -> None:
    """A single `train.jsonl` still gets a held-out share, and `latest` is not `test`."""
    Path("given").mkdir()
    for number, name in enumerate(names):
        text = "".join(json.dumps({"text": f"text {number} {n}"}) + "\n" for n in range(60))
        Path("given", name).write_text(text)
    answer = prepare("given", "lm")
    assert answer.document["split_by"] == "input"
    assert all(answer.document["splits"].values())


def test_splits_by_file_need_names(prepare: Prepare) -> None:
    answer = prepare("conf.jsonl", "classification", "--set", "splits.from=files")
    assert answer.code == 2
    assert "not that of one split" in answer.problem


def test_the_same_text_with_two_labels(prepare: Prepare) -> None:
    answer = prepare("conf.jsonl", "classification")
    assert answer.document["repeated_inputs"] == {"contradictory": 100}
    assert "100 records repeat the input of an earlier one with another label" in answer.talk
    splits: dict[str, set[str]] = {}
    for row in rows():
        splits.setdefault(row["text"], set()).add(row["split"])
    assert len(splits) == 100
    assert all(len(each) == 1 for each in splits.values())


def test_an_input_in_two_files_of_different_splits(prepare: Prepare) -> None:
    Path("given").mkdir()
    for name, label in (("train", "a"), ("test", "b")):
        lines = [{"text": f"text {n}", "label": "ab"[n % 2] if name == "train" else label} for n in range(10)]
        lines += [{"text": f"{name} {n}", "label": "ab"[n % 2]} for n in range(10)]
        Path("given", f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = prepare("given", "classification")
    assert answer.document["repeated_inputs"]["in_several_splits"] == 5
    assert "an input that is in another split too" in answer.talk


@pytest.mark.parametrize("what", ["summary", "translation", "chat"])
def test_one_input_is_in_one_split_for_every_task(prepare: Prepare, what: str) -> None:
    def record(asked: str, answer: str) -> dict[str, Any]:
        if what == "chat":
            turns = [("user", asked), ("assistant", answer), ("user", answer), ("assistant", "well")]
            return {"messages": [{"role": role, "content": text} for role, text in turns]}
        return dict(
            zip(("document", "summary") if what == "summary" else ("source", "target"), (asked, answer), strict=True)
        )

    lines = [record(f"question {n}", f"answer {n} {m}") for n in range(60) for m in range(2)]
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert prepare("a.jsonl", {"summary": "summarization"}.get(what, what)).code == 0
    splits: dict[str, set[str]] = {}
    for row in rows():
        asked = row["messages"][0]["content"] if what == "chat" else row["document" if what == "summary" else "source"]
        splits.setdefault(asked, set()).add(row["split"])
    assert len(splits) == 60
    assert all(len(each) == 1 for each in splits.values())


def test_records_that_all_ask_the_same_are_trained_on(prepare: Prepare) -> None:
    answer = prepare("code_chat.jsonl", "chat")
    assert answer.document["splits"]["train"] == 40
    assert "all records ask the same" in answer.talk


# ---------------------------------------------------------------------------------------------------------------
# Cleaning


def test_code_keeps_its_indentation(prepare: Prepare) -> None:
    answer = prepare("indent.jsonl", "lm", *NO_SPLIT)
    [first, *_] = rows()
    assert first["text"] == "def f0(x):\n    if x:\n        return 0\n    return 0"
    assert answer.document["cleaned"]["whitespace"] == 12  # the newline at the end of each


def test_nested_lists_and_code_blocks_keep_their_indentation(prepare: Prepare) -> None:
    prepare("nest.txt", "lm", *NO_SPLIT)
    assert rows()[0]["text"].startswith("- one\n    - two\n        - three\n\n")
    prepare("code_chat.jsonl", "chat", out="chat")
    answer = rows("chat")[0]["messages"][1]["content"]
    assert "\n    if x:\n        return " in answer
    assert answer.endswith("\n- a\n    - nested")


def test_cleaning_is_counted_by_rule(prepare: Prepare) -> None:
    given = ["plain text", "two  blanks", "e\u0301", "bell\x07", "a\r\nb", " label "]
    Path("a.jsonl").write_text(
        "".join(json.dumps({"text": text, "label": f"{'ab'[n % 2]}"}) + "\n" for n, text in enumerate(given))
    )
    answer = prepare("a.jsonl", "classification", *NO_SPLIT)
    cleaned = {name: answer.document["cleaned"].get(name) for name in ("whitespace", "unicode", "control", "newlines")}
    assert cleaned == {"whitespace": 2, "unicode": 1, "control": 1, "newlines": 1}


# ---------------------------------------------------------------------------------------------------------------
# Tables


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("excel.csv", 60, "the delimiter is a semicolon"),
        ("excel2.csv", 60, "the delimiter is a semicolon"),
        ("sep.csv", 20, "the delimiter is a semicolon"),
        ("u16.csv", 20, "read as UTF-16"),
        ("spacehdr.csv", 40, ""),
        ("swallow.tsv", 60, "quotes are characters"),
        ("tsv_quote2.tsv", 40, "quotes are characters"),
    ],
)
def test_every_row_of_a_table_is_read(prepare: Prepare, name: str, count: int, said: str) -> None:
    answer = prepare(name, "classification")
    assert answer.document["records"] == {"read": count, "kept": count, "dropped": {}, "rejected": 0}
    assert said in answer.talk
    assert len(answer.document["labels"]) == 2


def test_a_quoted_cell_of_two_lines_is_one_cell(prepare: Prepare) -> None:
    prepare("excel.csv", "classification", *NO_SPLIT)
    assert rows()[0]["text"] == 'red bright gamma large delta run; "quoted"\n second'


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("stray", ['"Well text', '"never closed'])
def test_a_stray_quote_costs_one_record(prepare: Prepare, ending: str, stray: str) -> None:
    mark = "," if ending == "csv" else "\t"
    lines = [f"text number {n}{mark}{'ab'[n % 2]}" for n in range(30)]
    lines[3] = f"{stray}{mark}a"
    if "never" not in stray:
        lines[20] = f'he said"{mark}b'
    Path(f"a.{ending}").write_text(f"text{mark}label\n" + "\n".join(lines) + "\n")
    answer = prepare(f"a.{ending}", "classification", "--set", "quoting=quoted" if "never" in stray else "quoting=auto")
    if ending == "tsv" and "never" not in stray:
        assert answer.document["records"]["kept"] == 30  # quotes are characters there
        return
    assert (answer.code, answer.problem.count(f"a.{ending}:5")) == (3, 1)
    answer = prepare(
        f"a.{ending}",
        "classification",
        "--on-bad-record",
        "skip",
        *(("--set", "quoting=quoted") if "never" in stray else ()),
    )
    assert answer.document["records"] == {"read": 30, "kept": 29, "dropped": {"bad_record": 1}, "rejected": 0}
    assert (
        prepare(f"a.{ending}", "classification", "--set", "quoting=none", out="none").document["records"]["kept"] == 30
    )


def test_a_table_without_a_header(prepare: Prepare) -> None:
    answer = prepare("noheader.csv", "classification")
    assert answer.code == 3
    assert "the first line is taken as the header" in answer.problem
    assert "'large cloud dark river red large'" in answer.problem
    assert "skip" not in answer.problem


# ---------------------------------------------------------------------------------------------------------------
# Labels


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("lab_int.jsonl", ["0", "1"]),
        ("lab_bool.jsonl", ["false", "true"]),
        ("label-int8.parquet", ["0", "1"]),
        ("label-classlabel.parquet", ["neg", "pos"]),
        ("saved-to-disk", ["neg", "pos"]),
    ],
)
def test_labels_of_every_type(prepare: Prepare, name: str, labels: list[str]) -> None:
    assert prepare(name, "classification").document["labels"] == labels


def test_labels_are_counted_and_near_equal_ones_named(prepare: Prepare) -> None:
    answer = prepare("lab_space.jsonl", "classification")
    assert sum(answer.document["label_counts"].values()) == answer.document["splits"]["train"]
    assert "labels that differ in case or blanks alone: 'Pos', 'pos'" in answer.talk
    assert answer.document["cleaned"]["label"] > 0


def test_a_single_label_is_warned_of_and_not_trained_on(prepare: Prepare, capsys: pytest.CaptureFixture[str]) -> None:
    answer = prepare("lab_one.jsonl", "classification")
    assert "has the label 'same': there is nothing to learn" in answer.talk
    assert run(["train", "--data", "out", "--model", "lstm-classifier:nano", "--out", "run"]) == 3
    assert "there is nothing to learn" in capsys.readouterr().err


def test_a_null_label_is_called_null(prepare: Prepare) -> None:
    answer = prepare("lab_null.jsonl", "classification")
    assert answer.code == 3
    assert "the field 'label' is null" in answer.problem
    assert "--columns" not in answer.problem
    assert prepare("lab_null.jsonl", "classification", "--on-bad-record", "skip").document["records"]["dropped"]


# ---------------------------------------------------------------------------------------------------------------
# Kinds of files


@pytest.mark.parametrize(
    ("name", "kind"), [("asciidoc.txt", "a PDF"), ("rtf.txt", "an RTF"), ("zip_as.txt", "a zip archive")]
)
def test_a_file_that_is_no_text_is_named(prepare: Prepare, name: str, kind: str) -> None:
    answer = prepare(name, "lm", "--document", "line", "--on-bad-record", "skip")
    assert answer.code == 3
    assert f"not text: it is {kind}" in answer.problem


def test_another_kind_is_named_by_its_ending(prepare: Prepare) -> None:
    answer = prepare("ner.conll", "classification")
    assert answer.code == 2
    assert "CoNLL" in answer.problem


def test_a_gzip_without_the_ending_is_read(prepare: Prepare) -> None:
    Path("a.jsonl").write_bytes(gzip.compress((FILES / "indent.jsonl").read_bytes(), mtime=0))
    assert prepare("a.jsonl", "lm").document["records"]["kept"] == 12


def test_a_file_name_of_other_bytes(prepare: Prepare) -> None:
    Path("given").mkdir()
    with open(b"given/\xff\xfe.jsonl", "wb") as file:
        file.write((FILES / "indent.jsonl").read_bytes())
    assert prepare("given", "lm").document["inputs"][0]["path"] == "given/\\xff\\xfe.jsonl"
    assert rows()[0]["origin"].startswith("given/\\xff\\xfe.jsonl:")


def test_a_flipped_bit_in_a_parquet_file(prepare: Prepare) -> None:
    table = pa.table({"text": [f"zażółć number {n}" for n in range(50)]})
    pq.write_table(table, "a.parquet", compression="none", use_dictionary=False, write_statistics=False)
    content = Path("a.parquet").read_bytes()
    Path("a.parquet").write_bytes(content.replace("żółć".encode(), b"\xff\xff\xff\xff\xff\xff\xff\xff"))
    answer = prepare("a.parquet", "lm")
    assert answer.code == 3
    assert "not a valid Parquet file" in answer.problem


# ---------------------------------------------------------------------------------------------------------------
# Layouts


@pytest.mark.parametrize(
    ("name", "task", "words", "kept", "layout"),
    [
        ("sharegpt.json", "chat", (), 40, "ShareGPT (conversations)"),
        ("alpaca.json", "chat", (), 40, "Alpaca (instruction, input, output)"),
        ("alpaca.json", "qa", (), 40, "Alpaca (instruction, input, output)"),
        ("squadhf.jsonl", "qa", (), 22, "SQuAD (answers.text)"),
        ("qa_str.jsonl", "qa", (), 30, "one answer as text"),
        ("ch_system.jsonl", "chat", (), 30, "system in a column"),
    ],
)
def test_common_layouts_are_read(
    prepare: Prepare, name: str, task: str, words: tuple[str, ...], kept: int, layout: str
) -> None:
    answer = prepare(name, task, *words)
    assert answer.document["records"]["kept"] == kept
    assert layout in answer.document["layouts"]
    assert layout in answer.talk


@pytest.mark.parametrize("field", ["data", None])
def test_an_object_that_holds_the_records(prepare: Prepare, field: str | None) -> None:
    words = ("--set", f"records={field}") if field else ()
    assert prepare("wrapdata.json", "classification", *words).document["records"]["read"] == 30


def test_squad_as_published(prepare: Prepare) -> None:
    assert prepare("squad.json", "qa").document["records"]["kept"] == 30
    assert all(row["context"] and row["question"] and row["answers"] for row in rows())


def test_text_in_content_parts(prepare: Prepare) -> None:
    answer = prepare("parts.jsonl", "chat")
    assert answer.document["changed"] == {"content in parts: joined": 20}
    assert all(isinstance(turn["content"], str) for row in rows() for turn in row["messages"])


def test_an_empty_answer_costs_itself_alone(prepare: Prepare) -> None:
    assert prepare("qa_empty.jsonl", "qa").document["records"]["kept"] == 30
    assert all(len(row["answers"]) == 1 for row in rows())


def test_nested_columns(prepare: Prepare) -> None:
    answer = prepare("mt_nested.jsonl", "translation")
    assert "translation.en, translation.de" in answer.problem
    words = ("--columns", "source=translation.en,target=translation.de")
    assert prepare("mt_nested.jsonl", "translation", *words).document["records"]["kept"] == 30


def test_columns_of_a_recipe_may_be_a_mapping(prepare: Prepare) -> None:
    Path("r.yaml").write_text("preprocess:\n  columns: {source: translation.en, target: translation.de}\n")
    assert prepare("mt_nested.jsonl", "translation", "--config", "r.yaml").document["records"]["kept"] == 30


@pytest.mark.parametrize("name", ["ch_callkept.jsonl", "tools.jsonl", "ch_fc.jsonl"])
def test_tool_calls_without_a_chat_template_are_refused_or_left_out_and_counted(prepare: Prepare, name: str) -> None:
    answer = prepare(name, "chat")
    assert (answer.code, "--set tool_calls=drop" in answer.problem) == (3, True)
    answer = prepare(name, "chat", "--set", "tool_calls=drop")
    assert answer.document["changed"]["turns and calls of tools: left out"] == answer.document["records"]["read"]
    assert all(turn["role"] in ("system", "user", "assistant") for row in rows() for turn in row["messages"])


@pytest.mark.parametrize("name", ["ch_callkept.jsonl", "tools.jsonl", "ch_fc.jsonl"])
def test_tool_calls_go_through_a_chat_template_that_knows_them(prepare: Prepare, name: str) -> None:
    tokenizer = tokenizer_with(HERMES, Path("tokenizer"))
    answer = prepare(name, "chat", "--tokenizer", "tokenizer", *NO_SPLIT)
    assert answer.code == 0
    read = answer.document["records"]["read"]
    assert (answer.document["records"]["kept"], answer.document["layouts"]) == (read, {"tools and their calls": read})
    given = [json.loads(line) for line in (FILES / name).read_text(encoding="utf-8").splitlines()]
    for row in given:
        for message in row["messages"]:
            if call := message.pop("function_call", None):
                message["tool_calls"] = [{"function": call}]
            for each in message.get("tool_calls", []):
                each["function"]["arguments"] = json.loads(each["function"]["arguments"])
    store = TokenStore.open(Path("out/tokens"), "train")
    found = [[int(token) for part in store.record(number) for token in part.ids] for number in range(len(store))]
    rendered = [tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False) for row in given]
    assert found == [tokenizer.encode(text, add_special_tokens=False) for text in rendered]


def test_conversations_that_a_template_does_not_render_are_bad_records(prepare: Prepare) -> None:
    """Llama's template takes one call at once."""
    tokenizer_with(LLAMA, Path("tokenizer"), eos="<|eot|>")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked, said = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}
    rows_ = [[asked, {"role": "assistant", "tool_calls": [call] * count}, said] for count in (1, 2)]
    Path("a.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows_))
    answer = prepare("a.jsonl", "chat", "--tokenizer", "tokenizer")
    assert (answer.code, "single tool-calls" in answer.problem) == (3, True)
    assert "a.jsonl:2" in answer.talk
    answer = prepare("a.jsonl", "chat", "--tokenizer", "tokenizer", "--on-bad-record", "skip")
    assert (answer.code, answer.document["records"]["dropped"]) == (0, {"bad_record": 1})
    answer = prepare("a.jsonl", "chat", "--tokenizer", "tokenizer", "--set", "tool_calls=drop", out="without")
    assert (answer.code, answer.document["changed"]["turns and calls of tools: left out"]) == (0, 2)


def test_turns_of_weight_0_are_not_in_the_loss(prepare: Prepare) -> None:
    turns = [("user", "hello", None), ("assistant", "no", 0), ("user", "again", None), ("assistant", "yes", 1)]
    messages = [{"role": role, "content": text, "weight": weight} for role, text, weight in turns]
    Path("a.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    assert prepare("a.jsonl", "chat", *NO_SPLIT, "--tokenizer", "byte").code == 0
    assert [part.in_loss for part in TokenStore.open(Path("out/tokens"), "train").record(0)] == [
        False,
        False,
        False,
        True,
    ]
    answer = prepare("ch_extra.jsonl", "chat", out="none")
    assert (answer.code, "30 not_in_loss" in answer.problem) == (3, True)


def test_fields_that_are_not_read_are_counted(prepare: Prepare) -> None:
    Path("a.jsonl").write_text("".join(json.dumps({"text": f"text {n}", "date": "today"}) + "\n" for n in range(40)))
    assert prepare("a.jsonl", "lm").document["unused"] == {"date": 40}
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(40)], "date": ["today"] * 40}), "a.parquet")
    assert prepare("a.parquet", "lm", out="more").document["unused"] == {"date": 40}


# ---------------------------------------------------------------------------------------------------------------
# Answers longer than the context


def test_a_question_is_never_emptied(prepare: Prepare, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("longanswer-mt.jsonl", "translation", *NO_SPLIT)
    assert run(["show", "data", "out", "--model", "gpt2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "does not fit 256 tokens" in shown["left_out"]
    assert run(["train", "--data", "out", "--model", "gpt2:nano", "--max-steps", "1", "--out", "run"]) == 3
    assert "no answer of the train split fits" in capsys.readouterr().err
    words = [
        "--data",
        "out",
        "--model",
        "gpt2:nano",
        "--max-steps",
        "1",
        "--out",
        "run",
        "--set",
        "long_answers=cut",
        "--force",
    ]
    assert run(["train", *words]) == 0


def chats(*conversations: list[tuple[str, str]]) -> str:
    turns = [[{"role": role, "content": text} for role, text in each] for each in conversations]
    Path("chats.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return "chats.jsonl"


def test_turns_that_are_left_out_are_counted(prepare: Prepare) -> None:
    turns = [
        ("user", "hi"),
        ("assistant", ""),
        ("user", " \u200b"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "and?"),
    ]
    name = chats(turns, [("user", "hello"), ("assistant", "good day")], turns[3:])
    answer = prepare(name, "chat", *NO_SPLIT)
    empty, after = "empty turns: left out", "turns after the last answer: not in the loss"
    assert answer.document["changed"] == {empty: 1, after: 2}
    assert answer.document["turns"] == manifest()["turns"] == {empty: 2, after: 2}
    assert f"1 records have {empty} (2 turns)" in answer.talk


def test_the_longest_conversation_is_said_before_a_model_cuts_it(
    prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    name = chats([("user", "hello"), ("assistant", "good day")] * 12, [("user", "hi"), ("assistant", "hello")])
    longest = prepare(name, "chat", *NO_SPLIT).document["lengths"]["train"]["longest"]
    assert run(["preprocess", name, "--task", "chat", "--vocab-size", "300", "--out", "again", *NO_SPLIT]) == 0
    assert f"longest conversation: {longest:,} tokens; training leaves out" in capsys.readouterr().out


def test_an_answer_of_control_characters_costs_its_turn_alone(prepare: Prepare) -> None:
    name = chats([("user", "hi"), ("assistant", "\x00\x01"), ("user", "a"), ("assistant", "b")])
    assert prepare(name, "chat", *NO_SPLIT).document["records"]["kept"] == 1
    assert [turn["content"] for turn in rows()[0]["messages"]] == ["hi", "a", "b"]


@pytest.mark.parametrize("policy", ["skip", "reject"])
def test_where_every_record_is_bad_the_first_one_is_named(prepare: Prepare, policy: str) -> None:
    answer = prepare("noheader.csv", "classification", "--on-bad-record", policy)
    assert answer.code == 3
    assert "none of 39 records is left" in answer.problem
    assert "noheader.csv:2:text: the field 'text' is missing" in answer.problem


def test_a_nested_column_of_another_name_is_told_the_names_there_are(prepare: Prepare) -> None:
    answer = prepare("mt_nested.jsonl", "translation", "--columns", "source=translation.en,target=translation.zh")
    assert answer.code == 3
    assert "fields found: translation.en, translation.de" in answer.problem
    assert "'translation.de'" in answer.problem


def test_a_column_in_other_case_is_named_in_the_hint(prepare: Prepare) -> None:
    Path("upper.csv").write_text("Text,Label\n" + "a b,pos\n" * 9)
    assert "--columns text=Text" in prepare("upper.csv", "classification").problem


def test_of_two_lists_of_records_none_is_chosen_in_silence(prepare: Prepare) -> None:
    Path("two.json").write_text(json.dumps({"train": [{"text": "a b"}], "test": [{"text": "c d"}]}))
    answer = prepare("two.json", "lm", *NO_SPLIT)
    assert answer.code == 3
    assert "several lists of records: 'train' and 'test'" in answer.problem
    assert prepare("two.json", "lm", *NO_SPLIT, "--set", "records=test").document["records"]["kept"] == 1
    assert [row["text"] for row in rows()] == ["c d"]


def test_a_list_of_stop_words_and_a_tokenizer_of_unknown_names_are_said_at_once(prepare: Prepare) -> None:
    answer = prepare("indent.jsonl", "lm", "--stopwords", "ch", "--tokenizer", "wrod")
    assert answer.code == 2
    assert "no list of stop words is named 'ch'" in answer.problem
    assert "no tokenizer named 'wrod'; did you mean 'word'?" in answer.problem


def test_the_tokenizer_of_quantised_weights_is_used(prepare: Prepare) -> None:
    prepare("indent.jsonl", "lm", *NO_SPLIT, out="first")
    config = {"model_type": "gpt2", "vocab_size": 300, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    Path("first/tokenizer/config.json").write_text(json.dumps(config))
    answer = prepare("indent.jsonl", "lm", *NO_SPLIT, "--tokenizer", "first/tokenizer")
    assert answer.code == 0
    assert answer.document["tokenizer"]["vocab_size"] == manifest("first")["tokenizer"]["vocab_size"]


def test_a_dry_run_of_two_aligned_files_lists_both(prepare: Prepare) -> None:
    for language in ("en", "de"):
        Path(f"corpus.{language}").write_text("one\ntwo\n")
    answer = prepare("corpus.en", "translation", "corpus.de", "--dry-run")
    assert answer.document["plan"]["inputs"] == [
        {"path": "corpus.en", "format": "pair"},
        {"path": "corpus.de", "format": "pair"},
    ]
