"""The included data sets match their specs and are fit to read."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import struct
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmctl import catalog, registry
from llmctl.data.audio import sound
from llmctl.data.sets import spec, spoken_numbers
from llmctl.data.sets.spec import DataSetSpec
from llmctl.types import Audio

ALL = {each.name: each for each in vars(spec).values() if isinstance(each, DataSetSpec)}
SETS = {name: each for name, each in ALL.items() if each.task != "speech-recognition"}
SPOKEN = {name: each for name, each in ALL.items() if each.task == "speech-recognition"}
FOLDER = Path(spec.__file__).parent
KILOBYTE = 1000

# The documented columns of each task; deliberately not taken from the task classes.
COLUMNS: dict[str, dict[str, type]] = {
    "language-modeling": {"text": str},
    "translation": {"source": str, "target": str},
    "classification": {"text": str, "label": str},
    "question-answering": {"question": str, "answers": list},
    "chat": {"messages": list},
    "summarization": {"document": str, "summary": str},
    "preference": {"prompt": list, "chosen": str, "rejected": str},
}

REPEATED_REVIEWS = 18
"""Sentences that the published set of 3,000 has twice."""

every_set = pytest.mark.parametrize("name", SETS)


@cache
def records(name: str) -> list[dict[str, Any]]:
    with SETS[name].path() as path, gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def content(record: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if key != "id"}, ensure_ascii=False, sort_keys=True)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


def han_share(text: str) -> float:
    letters = [character for character in text if character.isalpha()]
    return sum("\u4e00" <= character <= "\u9fff" for character in letters) / max(len(letters), 1)


def test_every_set_of_the_catalog_exists() -> None:
    for row in catalog.ROWS["datasets"]:
        part = registry.load("datasets", row.name)
        assert part is ALL[row.name]
        assert part.task in {task.name for task in catalog.ROWS["tasks"]}


def test_describing_the_sets_imports_nothing_heavy() -> None:
    code = "import sys, llmctl.data.sets.spec; print(sorted({'torch', 'pydantic', 'numpy', 'gzip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@every_set
def test_the_spec_gives_the_number_of_records(name: str) -> None:
    assert len(records(name)) == SETS[name].records


@every_set
def test_records_have_the_columns_of_the_task_and_none_is_empty(name: str) -> None:
    columns = COLUMNS[SETS[name].task]
    for record in records(name):
        assert record.keys() == {"id", *columns}, record["id"]
        assert all(isinstance(record[column], kind) and record[column] for column, kind in columns.items()), record[
            "id"
        ]
        assert all(text and text == text.strip() for text in strings(record)), record["id"]


@every_set
def test_the_task_accepts_every_record(name: str) -> None:
    from llmctl.types import Record

    task = registry.load("tasks", SETS[name].task)()
    for fields in records(name):
        record = Record(fields["id"], fields)
        task.check(record)
        assert task.segments(record)


@every_set
def test_ids_are_unique_and_content_is_not_repeated(name: str) -> None:
    rows = records(name)
    assert len({row["id"] for row in rows}) == len(rows)
    repeats = len(rows) - len({content(row) for row in rows})
    assert repeats == (REPEATED_REVIEWS if name == "reviews" else 0)


@every_set
def test_text_is_composed_and_free_of_control_characters(name: str) -> None:
    for record in records(name):
        for text in strings(record):
            assert unicodedata.is_normalized("NFC", text), record["id"]
            odd = {character for character in text if unicodedata.category(character)[0] == "C" and character != "\n"}
            assert not odd, (record["id"], odd)
            assert not re.search(r"[\u00a0\u2000-\u200f\u2028-\u202f\ufeff\ufffd]| {2}| \n|<[a-z/]", text), record["id"]


@every_set
def test_a_file_is_small_and_has_no_time_or_name_in_its_header(name: str) -> None:
    with SETS[name].path() as path:
        head = path.read_bytes()[:10]
        assert path.stat().st_size < 200 * KILOBYTE
    magic, flags, modified = struct.unpack("<2sxBI2x", head)  # RFC 1952, section 2.3
    assert (magic, flags, modified) == (b"\x1f\x8b", 0, 0)


def test_all_together_stay_under_a_megabyte_and_each_file_has_a_spec() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.glob("*.gz")}
    assert files.keys() == {each.file for each in SETS.values()}
    assert sum(files.values()) < 1000 * KILOBYTE


@pytest.mark.parametrize("name", SPOKEN)
def test_spoken_numbers_are_recordings_of_numbers(name: str) -> None:
    with SPOKEN[name].path() as path:
        assert path.stat().st_size <= 1500 * KILOBYTE
        rows = pq.read_table(path).to_pylist()
    assert len(rows) == SPOKEN[name].records
    assert len({row["id"] for row in rows}) == len(rows)
    write = spoken_numbers.chinese if "-zh" in name else spoken_numbers.english
    for row in rows:
        assert row["text"] == write(int(row["id"].rpartition("-")[2]))
        assert row["id"].startswith(row["speaker"])
        seconds = sound.seconds_of(Audio(row["audio"]["path"], row["audio"]["bytes"]))
        assert 0.1 < seconds < 1.5
    voices = {row["speaker"] for row in rows}
    assert voices == set(spoken_numbers.SETS[name].voices)
    assert not voices & set(spoken_numbers.SETS[name.removesuffix("-voices")].voices) or not name.endswith("-voices")


def test_numbers_are_written_as_they_are_said() -> None:
    assert [spoken_numbers.english(each) for each in (0, 13, 20, 42)] == ["zero", "thirteen", "twenty", "forty two"]
    assert [spoken_numbers.chinese(each) for each in (0, 7, 10, 13, 20, 42)] == [
        "零",
        "七",
        "十",
        "十三",
        "二十",
        "四十二",
    ]


@pytest.mark.parametrize("name", ALL)
def test_the_notice_names_the_set_its_owner_and_its_licence(name: str) -> None:
    each = ALL[name]
    paragraphs = (FOLDER / "NOTICE").read_text(encoding="utf-8").split("\n\n")
    (own,) = [" ".join(text.split()) for text in paragraphs if text.startswith(f"{name}\n")]
    assert each.notice in own
    assert each.licence in own
    assert each.source in own


@pytest.mark.parametrize(
    ("words", "sets"),
    [
        ("BSD 3-Clause", {"trivia", "smalltalk-en", "smalltalk-zh"}),
        ("UNICODE LICENSE V3", {"dates-en-zh"}),
        ("The above copyright notice and this permission notice shall be included", {"udhr-en-zh", "reviews"}),
    ],
)
def test_the_notice_reproduces_licences_that_require_it(words: str, sets: set[str]) -> None:
    assert sets <= SETS.keys()
    assert words in " ".join((FOLDER / "NOTICE").read_text(encoding="utf-8").split())


def test_the_sonnets_are_all_there_in_fourteen_lines() -> None:
    rows = {row["id"]: row["text"].split("\n") for row in records("sonnets")}
    assert rows["sonnet-018"][0] == "Shall I compare thee to a summer's day?"
    assert rows["sonnet-130"][-2:] == [
        "And yet by heaven, I think my love as rare,",
        "As any she belied with false compare.",
    ]
    # Sonnet 99 has fifteen lines and sonnet 126 has twelve, in the first edition too.
    assert {name: len(lines) for name, lines in rows.items() if len(lines) != 14} == {
        "sonnet-099": 15,
        "sonnet-126": 12,
    }


def test_a_tang_poem_is_title_author_and_couplets() -> None:
    poems = [row["text"].split("\n") for row in records("tang-poems")]
    assert ["《登鹳雀楼》", "王之涣", "白日依山尽，黄河入海流。", "欲穷千里目，更上一层楼。"] in poems
    for title, author, *lines in poems:
        assert re.fullmatch(r"《[\u4e00-\u9fff·，。]+》", title), title
        assert re.fullmatch(r"[\u4e00-\u9fff]{2,4}", author), title
        assert lines, title
        assert all(re.fullmatch(r"[\u4e00-\u9fff，。？！：]+", line) for line in lines), title


@pytest.mark.parametrize("name", [name for name, each in SETS.items() if "zh-Hans" in each.languages])
def test_chinese_is_chinese(name: str) -> None:
    columns = {"translation": "target", "language-modeling": "text", "chat": "messages", "classification": "text"}
    column = (columns | {"preference": "rejected"})[SETS[name].task]
    text = "".join(
        each for row in records(name) for each in strings(row[column]) if each not in ("role", "user", "assistant")
    )
    assert han_share(text) > 0.97
    assert not re.search(r"[\u4e00-\u9fff][,;?!]", text), "half-width punctuation"
    assert not set("這們說時會對國來過個學") & set(text), "traditional characters"


@pytest.mark.parametrize("name", [name for name, each in SETS.items() if each.task == "translation"])
def test_one_source_has_one_target(name: str) -> None:
    pairs = {row["source"]: row["target"] for row in records(name)}
    assert len(pairs) == SETS[name].records
    assert all(han_share(source) == 0 for source in pairs)


WEEKDAYS = "一二三四五六日"


@pytest.mark.parametrize(
    ("pattern", "chinese"),
    [
        ("%A, %B %d, %Y", "{0.year}年{0.month}月{0.day}日星期{1}"),
        ("%A, %d %B %Y", "{0.year}年{0.month}月{0.day}日星期{1}"),
        ("%B %d, %Y", "{0.year}年{0.month}月{0.day}日"),
        ("%d %b %Y", "{0.year}年{0.month}月{0.day}日"),
        ("%a, %b %d, %Y", "{0.year}年{0.month}月{0.day}日周{1}"),
        ("%m/%d/%Y", "{0.year}/{0.month}/{0.day}"),
        ("%d %b %Y, %H:%M:%S", "{0.year}年{0.month}月{0.day}日 {0:%H:%M:%S}"),
        ("%H:%M", "{0:%H:%M}"),
    ],
)
def test_dates_mean_the_same_day_in_both_languages(pattern: str, chinese: str) -> None:
    """Read anew with the standard library: the weekday is that of the date, and every number arrived."""
    checked = 0
    for row in records("dates-en-zh"):
        try:
            when = datetime.strptime(row["source"], pattern)
        except ValueError:
            continue
        assert row["target"] == chinese.format(when, WEEKDAYS[when.weekday()]), row
        if "%A" in pattern or "%a" in pattern:
            assert f"{when:%A}".startswith(row["source"][:3]), row
        checked += 1
    assert checked >= 40


def test_twelve_hour_times_keep_their_half_of_the_day() -> None:
    checked = 0
    for row in records("dates-en-zh"):
        if found := re.fullmatch(r"(\d+:\d\d) ([AP])M", row["source"]):
            assert row["target"] == {"A": "上午", "P": "下午"}[found[2]] + found[1]
            checked += 1
    assert checked >= 100


def test_dates_are_varied() -> None:
    """The shape of a source is what stays when its numbers and names are hidden."""
    shapes = {re.sub(r"\d+", "0", re.sub(r"[A-Z][a-z]+", "A", row["source"])) for row in records("dates-en-zh")}
    assert len(shapes) > 60


@pytest.mark.parametrize("other", ["zh", "de", "fr"])
def test_the_declaration_is_paired_article_by_article(other: str) -> None:
    rows = {row["id"]: row for row in records(f"udhr-en-{other}")}
    assert {int(name.split("-")[1].split(".")[0]) for name in rows if name.startswith("article")} == set(range(1, 31))
    assert (
        rows["article-3"]["target"]
        == {
            "zh": "人人有权享有生命、自由和人身安全。",
            "de": "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
            "fr": "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne.",
        }[other]
    )
    # Aligned texts are about equally long throughout; one that slipped by a sentence is not.
    ratios = sorted(len(row["target"]) / len(row["source"]) for row in rows.values())
    middle = ratios[len(ratios) // 2]
    assert middle / 2.2 < ratios[0] <= ratios[-1] < middle * 2.2


def test_reviews_are_balanced_by_origin_and_repeats_agree() -> None:
    rows = records("reviews")
    counts: dict[tuple[str, str], int] = {}
    labels: dict[str, set[str]] = {}
    for row in rows:
        key = row["id"].split("-")[0], row["label"]
        counts[key] = counts.get(key, 0) + 1
        labels.setdefault(row["text"], set()).add(row["label"])
    assert counts == {
        (origin, label): 500 for origin in ("imdb", "yelp", "amazon") for label in ("negative", "positive")
    }
    assert all(len(given) == 1 for given in labels.values())


@pytest.mark.parametrize("name", ["smalltalk-en", "smalltalk-zh"])
def test_conversations_alternate_and_end_with_the_assistant(name: str) -> None:
    for row in records(name):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2), row["id"]
        assert all(message.keys() == {"role", "content"} for message in row["messages"]), row["id"]
    assert any(len(row["messages"]) > 2 for row in records(name))


def test_trivia_asks_and_answers() -> None:
    rows = {row["question"]: row["answers"] for row in records("trivia")}
    assert all("?" in question or "…" in question for question in rows)
    assert all(len(set(answers)) == len(answers) for answers in rows.values())
    # In the original this pair is one string, for want of a dash.
    assert rows['In a game of bingo, which number is represented by the phrase "two little ducks"?'][0] == "22"


def test_a_summary_is_one_sentence_and_much_shorter() -> None:
    for row in records("abstracts"):
        assert re.fullmatch(r"[A-Z][^.!?]+\.", row["summary"]), row["id"]
        assert len(row["summary"]) < 0.75 * len(row["document"]), row["id"]


def test_a_set_read_from_a_zipped_package_is_still_a_real_file(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        for path in (FOLDER / "__init__.py", FOLDER / "spec.py", FOLDER / "trivia.jsonl.gz"):
            archive.write(path, f"zipped_sets/{path.name}")
    sys.path.insert(0, str(tmp_path / "zipped.zip"))
    try:
        with importlib.import_module("zipped_sets.spec").TRIVIA.path() as path:
            assert path.read_bytes() == (FOLDER / "trivia.jsonl.gz").read_bytes()
    finally:
        sys.path.remove(str(tmp_path / "zipped.zip"))
