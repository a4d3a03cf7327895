"""Layouts of public data sets, and JSON in every wrapping: what `preprocess` reads of each, and what it counts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmctl.cli.main import run
from llmctl.data.storing.text import read_text
from llmctl.store.prepared import open_prepared
from llmctl.tasks.chat import Chat
from llmctl.types import Record
from llmctl.workflows.generate.prompts import input_rows

SPLITS = ("train", "validation", "test")


class Found(NamedTuple):
    code: int
    document: dict[str, Any]
    talk: str

    @property
    def problem(self) -> str:
        error = self.document["error"]
        return f"{error['message']}\n{error['hint']}"

    def rows(self) -> list[dict[str, Any]]:
        """The fields of the records that are kept, sorted."""
        prepared = open_prepared(Path("out"))
        found = [record for split in SPLITS for record in read_text(prepared.text(split))]
        return [dict(record.fields) for record in sorted(found, key=lambda record: json.dumps(record.fields))]

    def turns(self) -> list[tuple[str, str]]:
        """Roles and contents of the only conversation."""
        (fields,) = self.rows()
        return [(turn["role"], turn["content"]) for turn in fields["messages"]]

    def counts(self, name: str) -> dict[str, int]:
        """Counts of the manifest, which are those of the document."""
        manifest = json.loads(Path("out/manifest.json").read_text(encoding="utf-8"))
        assert manifest.get(name, {}) == self.document.get(name, {})
        counts: dict[str, int] = manifest.get(name, {})
        return counts


Prepare = Callable[..., Found]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    """Write the files and run `preprocess` on them, or on `inputs`, with everything in the train split."""
    monkeypatch.chdir(tmp_path)

    def prepared(
        files: Mapping[str, Any], task: str, *words: str, inputs: tuple[str, ...] = (), whole: bool = True
    ) -> Found:
        for name, content in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, list):
                content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        nothing = ("--set", "splits.validation=0", "--set", "splits.test=0") if whole else ()
        words = ("--task", task, "--tokenizer", "byte", "--out", "out", "--json", *nothing, *words)
        code = run(["preprocess", *(inputs or files), *words])
        said = capsys.readouterr()
        return Found(code, json.loads(said.out), said.err)

    return prepared


def parquet(rows: list[dict[str, Any]]) -> bytes:
    place = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), place)
    return place.getvalue()


# ---------------------------------------------------------------------------------------------------------------
# Conversations

ASKED = [("user", "q1"), ("assistant", "a1")]
TWICE = [*ASKED, ("user", "q2"), ("assistant", "a2")]
MOSS = {
    "turn_1": {"Human": "<|Human|>: q1<eoh>\n", "Commands": "<|Commands|>: None<eoc>\n", "MOSS": "<|MOSS|>: a1<eom>\n"},
    "turn_2": {"Human": "<|Human|>: q2<eoh>\n", "MOSS": "<|MOSS|>: a2<eom>\n"},
}


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        pytest.param({"instruction": "q1", "context": "", "response": "a1"}, ASKED, id="Dolly"),
        pytest.param(
            {"instruction": "q1", "context": "c", "response": "a1"}, [("user", "q1\n\nc"), ASKED[1]], id="Dolly-context"
        ),
        pytest.param({"kind": "NLI", "input": "q1", "target": "a1"}, ASKED, id="Firefly"),
        pytest.param(
            {"conversation": [{"human": "q1", "assistant": "a1"}, {"human": "q2", "assistant": "a2"}]},
            TWICE,
            id="Firefly-turns",
        ),
        pytest.param({"conversation": [{"input": "q1", "output": "a1"}]}, ASKED, id="Capybara"),
        pytest.param({"id": "0", "data": ["q1", "a1", "q2", "a2"]}, TWICE, id="UltraChat"),
        pytest.param({"conversations": ["q1", "a1"], "source": "wiki"}, ASKED, id="LIMA"),
        pytest.param({"dialog": ["q1", "a1", "q2", "a2"]}, TWICE, id="DailyDialog"),
        pytest.param({"meta_instruction": "s", "chat": MOSS}, [("system", "s"), *TWICE], id="MOSS"),
        pytest.param(
            {"system_prompt": "s", "question": "q1", "response": "a1"}, [("system", "s"), *ASKED], id="OpenOrca"
        ),
        pytest.param(
            {"messages": [{"role": "prompter", "text": "q1"}, {"role": "assistant", "text": "a1"}]},
            ASKED,
            id="prompter",
        ),
        pytest.param(
            {"conversations": [{"from": "Human", "value": "q1"}, {"from": "GPT", "value": "a1"}]}, ASKED, id="case"
        ),
        pytest.param(
            {"dialogue": [{"speaker": "user", "text": "q1"}, {"speaker": "ai", "text": "a1"}]}, ASKED, id="speaker"
        ),
        pytest.param({"conversation": [{"user": "q1"}, {"assistant": "a1"}]}, ASKED, id="one-key"),
        pytest.param({"conversation": [["q1", "a1"], ["q2", "a2"]]}, TWICE, id="lists-of-two"),
        pytest.param({"prompt": "q2", "response": "a2", "history": [["q1", "a1"]]}, TWICE, id="ChatGLM"),
        pytest.param(
            {
                "instruction": "q2",
                "input": "",
                "output": "a2",
                "history": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}],
            },
            TWICE,
            id="history-of-messages",
        ),
        pytest.param({"inputs": "q1", "targets": "a1"}, ASKED, id="FLAN"),
        pytest.param({"id": "1", "prompt": "q1", "text": "a1", "finish_reason": "stop"}, ASKED, id="generate --output"),
        pytest.param({"user": "q1", "assistant": "a1"}, ASKED, id="columns-by-role"),
    ],
)
def test_conversations_of_public_data_sets(
    prepare: Prepare, record: dict[str, Any], turns: list[tuple[str, str]]
) -> None:
    assert prepare({"a.jsonl": [record]}, "chat").turns() == turns


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps([{"from": "human", "value": "q1"}, {"from": "gpt", "value": "a1"}]),
        str([{"from": "human", "value": "q1"}, {"from": "gpt", "value": "a1"}]),
    ],
)
def test_a_conversation_in_a_cell_of_a_table(prepare: Prepare, cell: str) -> None:
    """As JSON, or as pandas writes a list into CSV."""
    quoted = cell.replace('"', '""')
    assert prepare({"a.csv": f'conversations\n"{quoted}"\n'}, "chat").turns() == ASKED


def test_numbers_and_lists_in_an_instruction_are_text_and_counted(prepare: Prepare) -> None:
    rows = [{"instruction": "q1", "input": ["a", "b"], "output": "x"}, {"instruction": "q2", "input": 21, "output": 42}]
    found = prepare({"a.json": json.dumps(rows)}, "chat")
    asked = [fields["messages"][0]["content"] for fields in found.rows()]
    assert sorted(asked) == ["q1\n\na\nb", "q2\n\n21"]
    assert found.counts("changed") == {"values that are no text: written as text": 2}


def test_what_of_a_conversation_is_not_read_is_counted(prepare: Prepare) -> None:
    """A system message beside one in the turns, an input that is no text, and what MOSS says to itself."""
    rows = [
        {"system": "A", "messages": [{"role": "system", "content": "B"}, {"role": "user", "content": "q"},
                                     {"role": "assistant", "content": "a"}]},
        {"instruction": "q", "input": {"deep": 1}, "output": "a"},
        {"chat": MOSS},
    ]  # fmt: skip
    found = prepare({"a.jsonl": rows}, "chat")
    assert found.counts("unused") == {"system": 1, "input": 1, "messages.Commands": 1}


def test_a_system_message_in_a_column_of_parquet(prepare: Prepare) -> None:
    rows = [
        {"system_prompt": "s", "messages": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]}
    ]
    assert prepare({"a.parquet": parquet(rows)}, "chat").turns() == [("system", "s"), *ASKED]


def test_a_turn_of_three_texts_is_refused(prepare: Prepare) -> None:
    rows = [{"instruction": "q", "output": "a", "history": [["q1", "a1", "?"]]}]
    assert "the role is None" in prepare({"a.jsonl": rows}, "chat").problem


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Answer in one word.", "question": "q1", "answer": "a1"},
        {"prompt": "You are given a question. {question}", "question": "q1", "answer": "a1"},
        {"instruction": "Answer in one word.", "query": "q1", "response": "a1"},
        {"prompt": "q1", "completion": "a1", "question": "q", "answer": "a"},
    ],
)
def test_an_instruction_beside_a_question_is_not_the_question(prepare: Prepare, record: dict[str, Any]) -> None:
    assert prepare({"a.jsonl": [record]}, "chat").turns() == ASKED


def test_nulls_of_merged_tables_hide_no_question_and_no_answer(prepare: Prepare) -> None:
    rows = [
        {"instruction": f"q{n}", "output": f"a{n}"} if n < 2 else {"prompt": f"q{n}", "response": f"a{n}"}
        for n in range(4)
    ]
    whole = [{name: row.get(name) for name in ("instruction", "output", "prompt", "response")} for row in rows]
    found = prepare({"a.parquet": parquet(whole)}, "chat")
    assert [[turn["content"] for turn in fields["messages"]] for fields in found.rows()] == [
        [f"q{n}", f"a{n}"] for n in range(4)
    ]
    rows = [{"prompt": "q1", "completion": None, "response": "a1", "question": None, "answers": None}]
    assert prepare({"b.jsonl": rows}, "chat", "--force").turns() == ASKED
    assert prepare({"b.jsonl": rows}, "qa", "--force").rows()[0]["answers"] == ["a1"]


def test_turns_of_one_role_each_in_parquet(prepare: Prepare) -> None:
    """Each turn has a null for the other role."""
    assert (
        prepare({"a.parquet": parquet([{"conversation": [{"user": "q1"}, {"assistant": "a1"}]}])}, "chat").turns()
        == ASKED
    )


@pytest.mark.parametrize("name", ["data", "turns", "dialogue", "chat"])
@pytest.mark.parametrize("tags", [["tag1", "tag2"], [], [1, 2]])
def test_a_list_of_tags_is_no_conversation(prepare: Prepare, name: str, tags: list[Any]) -> None:
    found = prepare({"a.jsonl": [{"prompt": "q1", "completion": "a1", name: tags}]}, "chat")
    assert found.turns() == ASKED
    assert found.counts("unused") == {name: 1}
    Path("p.jsonl").write_text(json.dumps({"prompt": "hi there", name: tags}), encoding="utf-8")
    (asked,) = input_rows("p.jsonl", Chat())
    assert isinstance(asked, Record)
    assert asked.fields == {"messages": [{"role": "user", "content": "hi there"}]}


@pytest.mark.parametrize("roles", [("user", "assistant"), ("Human", "GPT")])
def test_lists_of_a_role_and_its_text(prepare: Prepare, roles: tuple[str, str]) -> None:
    assert prepare({"a.jsonl": [{"messages": [[roles[0], "q1"], [roles[1], "a1"]]}]}, "chat").turns() == ASKED


PLANETS = ["Mars", "Venus", "Earth"]


@pytest.mark.parametrize(
    "record",
    [
        {"choices": PLANETS, "answer": 2},
        {"options": PLANETS, "answer": "c"},
        {"options": dict(zip("ABC", PLANETS, strict=True)), "answer": "C"},
        {"choices": {"text": PLANETS, "label": ["1", "2", "3"]}, "answer": "3"},
    ],
)
def test_multiple_choice_trains_the_text_of_the_choice(prepare: Prepare, record: dict[str, Any]) -> None:
    """As MMLU, RACE, MedQA and ARC write it."""
    record = {"question": "Which planet?", **record}
    found = prepare({"a.jsonl": [record]}, "chat")
    assert found.turns() == [("user", "Which planet?\n\nMars\nVenus\nEarth"), ("assistant", "Earth")]
    assert found.counts("changed") == {"answers by the number or letter of a choice: its text": 1}
    (fields,) = prepare({"a.jsonl": [record]}, "qa", "--force").rows()
    assert (fields["answers"], fields["context"]) == (["Earth"], "Mars\nVenus\nEarth")


@pytest.mark.parametrize("answer", [3, "D"])
def test_an_answer_that_is_none_of_the_choices_is_refused(prepare: Prepare, answer: Any) -> None:
    found = prepare({"a.jsonl": [{"question": "Which planet?", "choices": PLANETS, "answer": answer}]}, "qa")
    assert f"a.jsonl:1:answer: the answer {answer!r} is none of the choices" in found.talk
    assert "number the choices from 0" in found.problem


@pytest.mark.parametrize(
    ("choices", "answer"), [(PLANETS, "Earth"), ([1, 2, 3], 2), (["3", "1"], "1"), ({"temperature": "1"}, "0")]
)
def test_an_answer_in_words_stays_where_choices_are_listed(prepare: Prepare, choices: Any, answer: Any) -> None:
    found = prepare({"a.jsonl": [{"question": "q", "options": choices, "answer": answer}]}, "qa")
    assert found.rows()[0]["answers"] == [str(answer)]


# ---------------------------------------------------------------------------------------------------------------
# Questions and answers


@pytest.mark.parametrize(
    ("record", "answers", "context"),
    [
        pytest.param(
            {"question": "q", "answer": "a", "context": [["T", ["One.", "Two."]], ["U", ["Three."]]]},
            ["a"],
            "T\nOne. Two.\nU\nThree.",
            id="HotpotQA",
        ),
        pytest.param(
            {"question": "q", "answer": "a", "context": {"title": ["T"], "sentences": [["One.", " Two."]]}},
            ["a"],
            "T\nOne. Two.",
            id="HotpotQA-columns",
        ),
        pytest.param({"question": "q", "answers": ["a"], "context": ["p1", "p2"]}, ["a"], "p1\np2", id="paragraphs"),
        pytest.param(
            {"question": "q", "answer": {"value": "a", "aliases": ["a", "b"]}}, ["a", "b"], None, id="TriviaQA"
        ),
        pytest.param({"question": "q", "answers": {"text": "a", "answer_start": 1}}, ["a"], None, id="SQuAD-one"),
        pytest.param({"question": "q", "answer": 42}, ["42"], None, id="number"),
        pytest.param({"question": "q", "answer": True}, ["true"], None, id="BoolQ"),
        pytest.param({"question": "q", "answers": [42, "b"]}, ["42", "b"], None, id="numbers"),
        pytest.param({"question": "q", "answers": None, "answer": "a"}, ["a"], None, id="null-and-one"),
        pytest.param({"question": "q", "answers": ["a", None, ""]}, ["a"], None, id="null-inside"),
        pytest.param({"question": "q", "answer": "[2, 3, 5]"}, ["[2, 3, 5]"], None, id="answer-in-brackets"),
        pytest.param({"instruction": "q", "context": "c", "response": "a"}, ["a"], "c", id="Dolly"),
        pytest.param(
            {"question": "q", "evidences": {"1": {"answer": ["a"], "evidence": "e1"}, "2": {"answer": ["no_answer"]}}},
            ["a"],
            "e1",
            id="WebQA",
        ),
    ],
)
def test_questions_of_public_data_sets(
    prepare: Prepare, record: dict[str, Any], answers: list[str], context: str | None
) -> None:
    (fields,) = prepare({"a.jsonl": [record]}, "qa").rows()
    assert (fields["question"], fields["answers"], fields["context"]) == ("q", answers, context)


@pytest.mark.parametrize("cell", ["['a', 'b']", '["a", "b"]', "{'text': ['a', 'b'], 'answer_start': [0, 1]}"])
def test_answers_in_a_cell_of_a_table(prepare: Prepare, cell: str) -> None:
    quoted = cell.replace('"', '""')
    (fields,) = prepare({"a.csv": f'question,answers\nq,"{quoted}"\n'}, "qa").rows()
    assert fields["answers"] == ["a", "b"]


@pytest.mark.parametrize("cell", ["['a' 'b']", "{'text': array(['a'], dtype=object)}"])
def test_a_printed_array_is_never_learned_as_an_answer(prepare: Prepare, cell: str) -> None:
    found = prepare({"a.csv": f'question,answers\nq,"{cell}"\n'}, "qa")
    assert found.code == 3
    assert "an array as Python prints it" in found.problem
    assert "JSONL or Parquet" in found.problem


@pytest.mark.parametrize("answer", ['{"name": "Ann"}', "{}", "{'a': 'b'}", "[]"])
def test_an_answer_in_json_or_python_stays_text(prepare: Prepare, answer: str) -> None:
    quoted = answer.replace('"', '""')
    files = {"a.jsonl": [{"question": "q", "answer": answer}], "a.csv": f'question,answer\nq,"{quoted}"\n'}
    for name, content in files.items():
        assert prepare({name: content}, "qa", "--force").rows()[0]["answers"] == [answer]


@pytest.mark.parametrize("name", ["answer", "answers"])
@pytest.mark.parametrize(
    "answer",
    ['[Laughs] "Yes" "No"', '{ echo "a" "b"; }', "[np.array([1])]", '{"name": "Ann"}', 'array(["a"], dtype=object)'],
)
def test_ordinary_text_is_no_printed_array(prepare: Prepare, name: str, answer: str) -> None:
    assert prepare({"a.jsonl": [{"question": "q", name: answer}]}, "qa").rows()[0]["answers"] == [answer]


ARTICLE = {"context_text": "c", "title": "t", "qas": [{"query_id": "Q1", "query_text": "q", "answers": ["a"]}]}
SQUAD = {
    "title": "t",
    "paragraphs": [{"context": "c", "qas": [{"id": "Q1", "question": "q", "answers": [{"text": "a"}]}]}],
}


@pytest.mark.parametrize(
    "files",
    [{"a.json": json.dumps([ARTICLE])}, {"a.jsonl": [ARTICLE]}, {"a.jsonl": [SQUAD]}, {"a.json": json.dumps(SQUAD)}],
)
def test_articles_with_questions_in_lists_and_in_lines(prepare: Prepare, files: dict[str, Any]) -> None:
    """CMRC 2018, and SQuAD with an article on each line."""
    assert prepare(files, "qa").rows() == [{"question": "q", "answers": ["a"], "context": "c"}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("task", "record"),
    [
        ("lm", {"text": "whole page", "qas": [{"question": "q", "answers": ["a"]}]}),
        ("lm", {"text": "whole page", "paragraphs": [{"t": "x", "qas": []}]}),
        ("chat", {"conversations": ["q1", "a1"], "qas": [{"question": "q"}]}),
    ],
)
def test_a_record_with_questions_beside_what_the_task_reads_is_one(
    prepare: Prepare, name: str, task: str, record: dict[str, Any]
) -> None:
    found = prepare({name: json.dumps(record)}, task)
    if task == "chat":
        assert found.turns() == ASKED
    else:
        assert found.rows() == [{"text": "whole page"}]


# ---------------------------------------------------------------------------------------------------------------
# JSON

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.json", {"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}, id="pandas"),
        pytest.param("a.json", {"0": ROWS[0], "1": ROWS[1]}, id="pandas-index"),
        pytest.param(
            "a.json",
            {"columns": ["text", "label"], "index": [0, 1], "data": [["a", "x"], ["b", "y"]]},
            id="pandas-split",
        ),
        pytest.param("a.json", {"schema": {"fields": [{"name": "text"}]}, "data": ROWS}, id="pandas-table"),
        pytest.param("a.json", {"text": ["a", "b"], "label": ["x", "y"]}, id="lists"),
        pytest.param("a.json", {"doc-1": ROWS[0], "doc-2": ROWS[1]}, id="by-id"),
        pytest.param("a.json", {"info": {"by": "me"}, "tags": ["t"], "items": ROWS}, id="after-other-members"),
        pytest.param("a.jsonl", ROWS, id="array-called-jsonl"),
    ],
)
def test_records_in_an_object_of_any_form(prepare: Prepare, name: str, content: Any) -> None:
    found = prepare({name: json.dumps(content, indent=1)}, "classification")
    assert found.rows() == ROWS
    assert f"{name}: " in found.talk


def test_json_lines_called_json_whose_records_have_lists_of_objects(prepare: Prepare) -> None:
    """As DuReader's: the list is a part of the record."""
    rows = [{"spans": [{"from": 1}], **row} for row in ROWS]
    found = prepare({"a.json": rows}, "classification")
    assert found.rows() == ROWS
    assert found.counts("unused") == {"spans": 2}


TURNS = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]


@pytest.mark.parametrize("name", ["messages", "conversation", "dialog", "dialogue", "turns", "chat", "data"])
@pytest.mark.parametrize("more", [{}, {"id": 7}])
def test_one_conversation_in_a_json_file_is_one_record(prepare: Prepare, name: str, more: dict[str, Any]) -> None:
    assert prepare({"a.json": json.dumps({**more, name: TURNS}, indent=1)}, "chat").turns() == ASKED


@pytest.mark.parametrize("name", ["data", "chat", "dialog"])
@pytest.mark.parametrize("record", [{"messages": TURNS}, {"prompt": "q1", "completion": "a1"}])
def test_a_list_of_conversations_is_one_of_records(prepare: Prepare, name: str, record: dict[str, Any]) -> None:
    assert prepare({"a.json": json.dumps({name: [record]})}, "chat").turns() == ASKED


def test_records_larger_than_what_is_read_at_once(prepare: Prepare) -> None:
    content = {"version": "1", "data": [{"text": "a " * 600_000, "label": "x"}, {"text": "b", "label": "y"}]}
    found = prepare({"a.json": json.dumps(content)}, "classification")
    assert [fields["label"] for fields in found.rows()] == ["x", "y"]


def test_an_object_of_several_lines_called_jsonl(prepare: Prepare) -> None:
    text = "".join(json.dumps(row, indent=2) + "\n" for row in ROWS)
    assert prepare({"a.jsonl": text}, "classification").rows() == ROWS


def test_an_array_of_texts_is_a_corpus(prepare: Prepare) -> None:
    assert prepare({"a.json": '["one text", "two text"]'}, "lm").rows() == [{"text": "one text"}, {"text": "two text"}]


# ---------------------------------------------------------------------------------------------------------------
# Folders and splits


def texts(start: int, count: int) -> list[dict[str, str]]:
    return [{"text": f"text {number}", "label": "xy"[number % 2]} for number in range(start, start + count)]


@pytest.mark.parametrize(
    "names",
    [
        ("trainset.jsonl", "devset.jsonl", "testset.jsonl"),
        ("TrainData.jsonl", "ValData.jsonl", "TestData.jsonl"),
        ("训练集.jsonl", "验证集.jsonl", "测试集.jsonl"),
        ("train.jsonl", "development.jsonl", "eval.jsonl"),
        ("train.jsonl", "eval.jsonl", "test.jsonl"),
        ("myTrainData.jsonl", "ValSplit.jsonl", "Test2024.jsonl"),
        ("train_data/a.jsonl", "dev-data/a.jsonl", "test_data/a.jsonl"),
        ("en/training-2024/a.jsonl", "en/valid.v2/a.jsonl", "en/test.v2/a.jsonl"),
    ],
)
def test_names_of_splits_in_other_spellings(prepare: Prepare, names: tuple[str, ...]) -> None:
    rows = (texts(0, 6), texts(10, 3), texts(20, 4))
    files = {f"given/{name}": each for name, each in zip(names, rows, strict=True)}
    found = prepare(files, "classification", inputs=("given",), whole=False)
    assert found.document["splits"] == {"train": 6, "validation": 3, "test": 4}


def test_eval_beside_train_alone_is_the_validation_split(prepare: Prepare) -> None:
    found = prepare({"train.jsonl": texts(0, 6), "eval.jsonl": texts(10, 4)}, "classification", whole=False)
    assert found.document["splits"] == {"train": 6, "validation": 4, "test": 0}


def test_capitals_inside_a_name_make_no_split(prepare: Prepare) -> None:
    files = {name: texts(start, 6) for start, name in enumerate(("train.jsonl", "DevOps.jsonl", "TestKitchen.jsonl"))}
    assert prepare(files, "classification", "--dry-run", whole=False).document["plan"] is not None
    assert "not named after one split" not in prepare(files, "classification", whole=False).talk


def test_texts_that_a_glob_names_are_read(prepare: Prepare) -> None:
    names = ("n/a/notice.txt", "n/citation.txt", "n/README.txt")
    found = prepare({name: name for name in names}, "lm", "--document", "file", inputs=("n/**/*.txt",))
    assert [fields["text"] for fields in found.rows()] == sorted(names)


def test_of_a_folder_only_what_describes_it_is_left_out_and_counted(prepare: Prepare) -> None:
    files = {"f/notice.txt": "n", "f/README.txt": "r", "f/LICENSE": "l", "f/README.md": "m"}
    found = prepare(files, "lm", inputs=("f",))
    assert found.rows() == [{"text": "n"}]
    assert "files that are not read: .txt 1\n" in found.talk
    assert prepare({"g/README.txt": "r"}, "lm", "--force", inputs=("g",)).rows() == [{"text": "r"}]
    spoken = prepare({"h/README.txt": "r", "h/a.wav": "RIFF"}, "speech-recognition", inputs=("h",))
    assert "recordings without a text" in spoken.problem


def test_a_file_beside_named_splits_that_is_not_named_so_is_said(prepare: Prepare) -> None:
    files = {"train.jsonl": texts(0, 6), "test.jsonl": texts(10, 4), "more.jsonl": texts(20, 8)}
    assert "more.jsonl: not named after one split" in prepare(files, "classification", whole=False).talk


def test_a_folder_of_the_hub_with_its_descriptions(prepare: Prepare) -> None:
    """Its JSON about the data is no data, and what else is not read is said."""
    files = {
        "hub/data/train-00000-of-00001-0a1b.parquet": parquet(texts(0, 6)),
        "hub/data/test-00000-of-00001-0a1b.parquet": parquet(texts(10, 4)),
        "hub/dataset_infos.json": '{"default": {"features": {}}}',
        "hub/README.md": "# Card",
        "hub/LICENSE.txt": "MIT",
        "hub/more.jsonl.bz2": b"BZh91AY",
    }
    found = prepare(files, "classification", inputs=("hub",), whole=False)
    assert found.document["splits"] == {"train": 6, "validation": 0, "test": 4}
    assert "files that are not read: .bz2 1, .txt 1" in found.talk


@pytest.mark.parametrize(("name", "indexed"), [("a.arrow", False), ("a.arrow", True), ("a.feather", True)])
def test_a_single_arrow_file(prepare: Prepare, name: str, indexed: bool) -> None:
    table = pa.Table.from_pylist(ROWS)
    place = io.BytesIO()
    with (pa.ipc.new_file if indexed else pa.ipc.new_stream)(place, table.schema) as writer:
        writer.write_table(table)
    assert prepare({name: place.getvalue()}, "classification").rows() == ROWS
    assert prepare({name: place.getvalue()[:60]}, "classification", "--force").code == 3


# ---------------------------------------------------------------------------------------------------------------
# Text that is none, and what helps


def test_texts_that_show_nothing_are_empty(prepare: Prepare) -> None:
    rows = [{"text": "\u200b\u200b"}, {"text": "\ufeff"}, {"text": "می‌خواهم"}, {"text": "👩‍👧"}]
    found = prepare({"a.jsonl": rows}, "lm")
    assert found.document["records"]["dropped"] == {"empty": 2}
    assert [fields["text"] for fields in found.rows()] == ["می‌خواهم", "👩‍👧"]


def test_labels_that_look_alike_are_named(prepare: Prepare) -> None:
    labels = ["good", "good\u200b", "ｇｏｏｄ", "caf\u00e9", "cafe\u0301", "bad"]
    found = prepare(
        {"a.jsonl": [{"text": f"t{n}", "label": label} for n, label in enumerate(labels)]}, "classification"
    )
    assert found.talk.count("differ in case or blanks alone") == 2


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json", "a.parquet", "a.arrow"])
def test_a_pointer_of_git_lfs_is_never_learned(prepare: Prepare, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    found = prepare({name: pointer}, "lm")
    assert found.code == 3
    assert "git lfs pull" in found.problem


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("a.csv", "text,label\n你好世界,好评\n", "gb18030"),
        ("a.jsonl", '{"text": "今天天气很好。", "label": "好"}\n', "gbk"),
    ],
)
def test_chinese_in_gb_18030_is_named(prepare: Prepare, name: str, text: str, encoding: str) -> None:
    found = prepare({name: text.encode(encoding)}, "classification")
    assert "it looks like Chinese in GB 18030" in found.problem
    assert found.problem.endswith("--encoding gb18030")
    assert prepare({name: text.encode(encoding)}, "classification", "--encoding", "gb18030").code == 0


def test_western_text_is_not_called_chinese(prepare: Prepare) -> None:
    assert "Chinese" not in prepare({"a.txt": "créée à l'été, naïve façade".encode("latin-1")}, "lm").problem


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Text,Label", "--columns text=Text,label=Label"),
        ("文本,标签", "--columns text=YOUR_COLUMN,label=YOUR_COLUMN"),
        ("text,stars", "--columns label=YOUR_COLUMN"),
    ],
)
def test_all_columns_to_name_are_said_at_once(prepare: Prepare, header: str, columns: str) -> None:
    assert prepare({"a.csv": f"{header}\na,b\n"}, "classification").problem.endswith(columns)


def test_the_columns_of_a_question_and_its_answer_can_be_named(prepare: Prepare) -> None:
    rows = [{"frage": "q1", "antwort": "a1"}]
    assert "--columns prompt=YOUR_COLUMN,completion=YOUR_COLUMN" in prepare({"a.jsonl": rows}, "chat").problem
    assert prepare({"a.jsonl": rows}, "chat", "--columns", "prompt=frage,completion=antwort").turns() == ASKED


def test_a_file_without_answers_is_for_generate(prepare: Prepare) -> None:
    files = {"train.jsonl": texts(0, 6), "test.jsonl": [{"text": f"t{n}", "label": None} for n in range(4)]}
    problem = prepare(files, "classification").problem
    assert "the field 'label' is null" in problem
    assert "generate --input" in problem


def test_markdown_is_not_taken_for_a_language(prepare: Prepare) -> None:
    problem = prepare({"a.md": "# Title"}, "lm").problem
    assert "Markdown" in problem
    assert "aligned" not in problem


# ---------------------------------------------------------------------------------------------------------------
# Tables


def test_a_table_of_one_column_needs_no_quotes(prepare: Prepare) -> None:
    found = prepare({"a.csv": 'text\nHello, world\n"Quoted; as ""usual"""\n'}, "lm")
    assert found.rows() == [{"text": "Hello, world"}, {"text": 'Quoted; as "usual"'}]


def test_empty_cells_at_the_end_of_a_row_hold_nothing(prepare: Prepare) -> None:
    found = prepare({"a.csv": "text,label\na,x,,\nb,y\nc,z,more\n"}, "classification", "--on-bad-record", "skip")
    assert found.rows() == ROWS
    assert found.document["records"]["dropped"] == {"bad_record": 1}


def test_eval_and_generate_read_files_as_preprocess_does(prepare: Prepare, capsys: pytest.CaptureFixture[str]) -> None:
    """A delimiter that only the column names show, and a table as pandas writes it."""
    rows = [
        {"text": f"{word}, it was; {n}", "label": label}
        for n in range(4)
        for word, label in (("good", "x"), ("bad", "y"))
    ]
    table = '"no, really";label;text\n' + "".join(f'-;{row["label"]};"{row["text"]}"\n' for row in rows)
    columns = {name: {str(n): row[name] for n, row in enumerate(rows)} for name in ("text", "label")}
    files = {"a.csv": table, "a.json": json.dumps(columns)}
    prepare(files, "classification")
    assert run(["train", "--data", "out", "--model", "lstm-classifier:nano", "--max-steps", "1", "--out", "run"]) == 0
    for name in files:
        assert run(["eval", "--model", "run", "--data", name, "--json"]) == 0
        assert run(["generate", "--model", "run", "--input", name, "--output", f"{name}.jsonl"]) == 0
        answers = [json.loads(line) for line in Path(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [answer["prompt"] for answer in answers] == [row["text"] for row in rows]


def test_a_turn_that_is_not_to_be_learned(prepare: Prepare) -> None:
    turns = [{"role": role, "content": text} for role, text in TWICE]
    found = prepare({"a.jsonl": [{"messages": [turns[0], {**turns[1], "train": False}, *turns[2:]]}]}, "chat")
    assert found.counts("turns") == {"weight 0: turns not in the loss": 1}


@pytest.mark.parametrize(
    ("files", "columns"),
    [
        ({"a.jsonl": [{"pair": ["Hello", "你好"]}]}, "source=pair.0,target=pair.1"),
        ({"a.csv": 't\n"{""en"": ""Hello"", ""zh"": ""你好""}"\n'}, "source=t.en,target=t.zh"),
        ({"a.jsonl": [{"t": [{"en": "Hello", "zh": "你好"}]}]}, "source=t.0.en,target=t.0.zh"),
    ],
)
def test_dots_lead_through_lists_and_cells(prepare: Prepare, files: dict[str, Any], columns: str) -> None:
    assert prepare(files, "translation", "--columns", columns).rows() == [{"source": "Hello", "target": "你好"}]


def test_an_array_of_objects_comes_through_a_pipe(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a text."""
    piped = io.TextIOWrapper(io.BytesIO(json.dumps(ROWS, indent=1).encode()))
    monkeypatch.setattr("sys.stdin", piped)
    assert prepare({}, "lm", inputs=("-",)).rows() == [{"text": "a"}, {"text": "b"}]


def test_numbers_of_rows_as_ids_of_several_files_can_be_left_out(prepare: Prepare) -> None:
    table = "id,text,label\n0,{}1,x\n1,{}2,y\n"
    files = {"train.csv": table.format("a", "a"), "test.csv": table.format("b", "b")}
    assert "--columns id=none" in prepare(files, "classification", whole=False).problem
    found = prepare(files, "classification", "--columns", "id=none", whole=False)
    assert found.document["splits"] == {"train": 2, "validation": 0, "test": 2}


def test_ids_that_are_left_out_hide_no_other_fault(prepare: Prepare) -> None:
    problem = prepare(
        {"a.jsonl": [{"id": 1, "text": "a", "label": None}]}, "classification", "--columns", "id=none"
    ).problem
    assert "the field 'label' is null" in problem
    assert "none" not in problem


def test_a_prepared_folder_as_input_is_named(prepare: Prepare) -> None:
    prepare({"a.jsonl": ROWS}, "classification")
    Path("out").rename("data")
    assert "data/text" in prepare({}, "classification", inputs=("data",)).problem
    assert prepare({}, "classification", inputs=("data/text",)).rows() == ROWS
