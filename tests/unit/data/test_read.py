"""Records from every format, and the location and wording of every file error."""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from llmctl.data.reading.decode import Limits
from llmctl.data.reading.formats import Bad
from llmctl.data.reading.read import ReadContext, read_records, scan
from llmctl.data.reading.sources import find_sources
from llmctl.errors import DataError, EnvironmentFault, LlmctlError, UsageError
from llmctl.tasks.classification import Classification
from llmctl.tasks.language_modeling import LanguageModeling
from llmctl.types import Record

LM = LanguageModeling()


def texts(*inputs: Path | str, **options: Any) -> list[str]:
    options.setdefault("check", LM.check)
    options.setdefault("fields_of", LM.record_of)
    return [record.fields["text"] for record in read_records([str(each) for each in inputs], **options)]


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


ROWS = [{"text": "one"}, {"text": "zwei, ü"}, {"text": "三"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'id,text\n7,one\n8,"zwei, ü"\n9,三\n'


def as_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)),
        ("a.jsonl.zst", zstandard.compress(JSONL.encode())),
        ("a.jsonl.gz", gzip.compress(JSONL[:9].encode(), mtime=0) + gzip.compress(JSONL[9:].encode(), mtime=0)),
        ("no newline at the end.jsonl", JSONL.rstrip("\n")),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n")),
        ("cr.jsonl", JSONL.replace("\n", "\r")),
        ("bom.jsonl", "\ufeff" + JSONL),
        ("blank lines.jsonl", "\n  \n" + JSONL.replace("\n", "\n\n")),
        ("list.json", json.dumps(ROWS, indent=2)),
        ("objects.json", JSONL),
        ("一.csv", CSV),
        ("a.tsv", 'text\tid\none\t1\n"zwei, ü"\t2\n三\t3\n'),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("cr.csv", CSV.replace("\n", "\r")),
        ("a.parquet", as_parquet()),
        ("utf-16 with a mark.csv", CSV.encode("utf-16")),
        ("utf-16 with a mark.jsonl", JSONL.encode("utf-16")),
        ("compressed without the ending.jsonl", gzip.compress(JSONL.encode(), mtime=0)),
        ("zstd without the ending.jsonl", zstandard.compress(JSONL.encode())),
        ("semicolon.csv", CSV.replace(",", ";").replace('"zwei; ü"', "zwei, ü")),
        ("sep.csv", "sep=|\nid|text\n1|one\n2|zwei, ü\n3|三\n"),
        ("tabs.csv", "text\tid\none\t1\nzwei, ü\t2\n三\t3\n"),
        ("blank header.csv", CSV.replace("id,text", "id , text ")),
        ("held.json", json.dumps({"version": "1", "data": ROWS, "more": [1]}, indent=1)),
        ("-dash\n and newline.txt", "one\nzwei, ü\n\n三"),
    ],
)
def test_every_format_gives_the_same_records(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert texts(put(tmp_path / name, content)) == ["one", "zwei, ü", "三"]


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_records_do_not_depend_on_block_boundaries(tmp_path: Path, block: int, name: str) -> None:
    content = {"a.jsonl": JSONL.replace("\n", "\r\n"), "a.json": json.dumps(ROWS), "a.csv": CSV}[name]
    assert texts(put(tmp_path / name, content), limits=Limits(block_bytes=block)) == ["one", "zwei, ü", "三"]


def test_documents_of_plain_text(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", "a\nb\n\n \nc\n")
    assert texts(path, document="line") == ["a", "b", "c"]
    assert texts(path, document="paragraph") == ["a\nb", "c"]
    assert texts(path, document="file") == ["a\nb\n\n \nc\n"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_only_newlines_split_records(tmp_path: Path, mark: str) -> None:
    assert texts(put(tmp_path / "a.txt", f"a{mark}b\nc\n")) == [f"a{mark}b", "c"]
    raw = json.dumps({"text": f"a{mark}b"}, ensure_ascii=mark < " ")
    assert texts(put(tmp_path / "a.jsonl", f"{raw}\n{raw}\n")) == [f"a{mark}b"] * 2
    assert texts(put(tmp_path / "a.csv", f"text,n\na{mark}b,1\n")) == [f"a{mark}b"]


def test_cells_stay_text_byte_for_byte(tmp_path: Path) -> None:
    cells = ["NA", "null", "001", "1e5", "", " a ", 'say "hi"', "two\r\nlines", "three\n\nlines", "NaN", "True"]
    quoted = "".join('"' + cell.replace('"', '""') + '",1\n' for cell in cells)
    assert texts(put(tmp_path / "a.csv", "text,n\n" + quoted)) == cells


def test_origins_are_file_and_line(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'text\n"two\nlines"\nlast\n')
    assert [record.origin for record in read_records([str(path)])] == [f"{path}:2", f"{path}:4"]
    path = put(tmp_path / "a.json", '[{"text":\n"a"},\n\n {"text": "b"}]')
    assert [record.origin for record in read_records([str(path)])] == [f"{path}:1", f"{path}:4"]


def test_ids_are_kept_or_derived_from_content(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"id": 7, "text": "a"}\n{"text": "b"}\n{"text": "b"}\n')
    ids = [record.id for record in read_records([str(path)])]
    assert ids[0] == "7"
    assert ids[1] == ids[2] != ""


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "body,stars\nfine,5\n")
    [record] = read_records([str(path)], columns="text=body,label=stars", check=Classification().check)
    assert (record.fields["text"], record.fields["label"]) == ("fine", "5")


def test_big_integers_are_exact(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"text": "a", "n": 123456789012345678901234567890}\n')
    [record] = read_records([str(path)])
    assert record.fields["n"] == 123456789012345678901234567890


def test_folders_and_globs_are_sorted_and_skip_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("z.txt", "b/a.txt", "b/c/a.jsonl.gz", ".hidden.txt", ".git/a.txt", "b/notes.md"):
        row = gzip.compress(json.dumps({"text": name}).encode(), mtime=0) if name.endswith("gz") else name
        put(tmp_path / name, row)
    assert texts(tmp_path) == ["b/a.txt", "b/c/a.jsonl.gz", "z.txt"]
    assert texts(str(tmp_path / "**" / "*.txt")) == ["b/a.txt", "z.txt"]


@pytest.mark.parametrize(
    ("piped", "expected"),
    [('\n {"text": "a"}\n{"text": "b"}\n', ["a", "b"]), ("a\nb\n", ["a", "b"]), ('\ufeff{"text": "a"}', ["a"])],
)
def test_standard_input_is_json_lines_or_text(monkeypatch: pytest.MonkeyPatch, piped: str, expected: list[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
    assert texts("-") == expected


def test_a_path_takes_precedence_over_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(texts("sonnets")) == 154
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sonnets").mkdir()
    put(tmp_path / "sonnets" / "a.txt", "mine")
    assert texts("sonnets") == ["mine"]


FAULTS: list[tuple[str, str | bytes, type[LlmctlError], list[str]]] = [
    ("empty.jsonl", "", DataError, ["empty.jsonl", "no records"]),
    ("blank.txt", "\n \n\r\n", DataError, ["no records"]),
    ("zero.jsonl.gz", gzip.compress(b"", mtime=0), DataError, ["no records"]),
    ("header.csv", "text,label\n", DataError, ["no records"]),
    ("latin.txt", b"a\n" * 6 + b"caf\xe9\n", DataError, ["latin.txt:7:4", "\\xe9", "iconv -f ENCODING"]),
    (
        "latin.jsonl",
        b'{"text": "a"}\n{"text": "\xe9"}\n',
        DataError,
        ["latin.jsonl:2:11", "\\xe9", "iconv -f ENCODING"],
    ),
    ("latin.csv", b"text\na\n\xe9\n", DataError, ["latin.csv:3:1", "\\xe9"]),
    ("latin.json", b'[\n{"text": "\xe9"}]', DataError, ["latin.json:2:11", "\\xe9"]),
    ("wide.txt", ("text" * 9).encode("utf-16-le"), DataError, ["wide.txt:1:2", "\\x00", "iconv -f utf-16le "]),
    ("cut.jsonl", '{"text": "a"}\n{"text": "b', DataError, ["cut.jsonl:2", "looks truncated"]),
    ("cut.jsonl", '{"text": "a"}\n{"text": "b"\n\n', DataError, ["cut.jsonl:2", "looks truncated"]),
    ("cut.json", '[{"text": "a"},\n{"text": "b', DataError, ["cut.json:2", "looks truncated"]),
    ("cut.json", '[{"text": "a"},', DataError, ["cut.json:1", "looks truncated"]),
    ("cut.csv", 'text\n"a\nb\n', DataError, ["cut.csv:2", "looks truncated"]),
    ("bad.jsonl", '{"text": }\n{"text": "b"}\n', DataError, ["bad.jsonl:1", "not valid JSON", "column 10"]),
    ("bad.json", '[{"text": "a"}\n{"text": "b"}]', DataError, ["bad.json:2", "expected , or ]"]),
    ("deep.jsonl", '{"text": ' + "[" * 100_000 + "\n", DataError, ["deep.jsonl:1", "nested too deep"]),
    ("deep.json", "[" * 100_000, DataError, ["deep.json:1", "nested too deep"]),
    ("nan.jsonl", '{"text": "a", "n": NaN}\n', DataError, ["nan.jsonl:1", "NaN"]),
    (
        "twice.jsonl",
        '{"text": "a"}\n{"text": "a", "text": "b"}\n',
        DataError,
        ["twice.jsonl:2", "duplicate key 'text'"],
    ),
    ("huge.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}\n", DataError, ["huge.jsonl:1", "digits"]),
    ("half.jsonl", '{"text": "ok"}\n{"text": "\\ud83d"}\n', DataError, ["half.jsonl:2", "lone surrogate", "ud83d"]),
    ("list.jsonl", "[1]\n", DataError, ["list.jsonl:1", "list", "object"]),
    ("none.jsonl", '{"body": "a"}\n', DataError, ["none.jsonl:1:text", "missing", "body", "required fields: text"]),
    ("type.jsonl", '{"text": "a"}\n{"text": 5}\n', DataError, ["type.jsonl:2:text", "int", "expected str"]),
    ("short.csv", "text,n\na,1\nb\n", DataError, ["short.csv:3", "1 cells", "2"]),
    ("twice.csv", "text,text\na,b\n", DataError, ["duplicate column 'text'"]),
    ("quote.csv", 'text\n"a"b\n', DataError, ["quote.csv:2", "not valid CSV"]),
    ("cut.jsonl.gz", gzip.compress(JSONL.encode() * 99, mtime=0)[:-9], DataError, ["cut.jsonl.gz", "truncated"]),
    ("cut.jsonl.zst", zstandard.compress(JSONL.encode() * 99)[:-9], DataError, ["cut.jsonl.zst", "truncated"]),
    ("not.txt.gz", b"not gzip", DataError, ["not.txt.gz", ".gz"]),
    ("not.txt.zst", b"not zstandard", DataError, ["not.txt.zst", ".zst"]),
    ("cut.parquet", as_parquet()[:-20], DataError, ["cut.parquet", "Parquet"]),
    ("not.parquet", b"PAR1", DataError, ["not.parquet", "Parquet"]),
]


@pytest.mark.parametrize(("name", "content", "kind", "words"), FAULTS, ids=lambda value: str(value)[:20])
def test_errors_show_where_and_what(
    tmp_path: Path, name: str, content: str | bytes, kind: type[LlmctlError], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        texts(put(tmp_path / name, content))
    shown = f"{caught.value} {caught.value.hint}"
    assert [word for word in words if word not in shown] == [], shown


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_a_decompression_bomb_is_refused(tmp_path: Path, ending: str, pack: Any) -> None:
    even = put(tmp_path / f"b.jsonl.{ending}", pack(JSONL.encode() * 20_000))
    assert len(texts(even)) == 60_000
    path = put(tmp_path / f"a.jsonl.{ending}", pack(b" " * (4 << 20)))
    with pytest.raises(EnvironmentFault, match=r"a\.jsonl.*500 times"):
        texts(path, limits=Limits(bomb_floor=1 << 20))


def test_a_bomb_behind_ordinary_data_is_refused_too(tmp_path: Path) -> None:
    ordinary = random.Random(0).randbytes(3 << 10).hex()
    path = put(tmp_path / "a.txt.gz", gzip.compress((ordinary + "\n" + " " * (8 << 20)).encode()))
    with pytest.raises(EnvironmentFault, match=r"a\.txt.*[0-9] bytes decompress to more than 500 times"):
        texts(path, limits=Limits(bomb_floor=1 << 20))


def test_a_parquet_file_of_another_schema_names_file_and_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet:1:text.*'text' is missing; fields found: body"):
        texts(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_an_endless_line_is_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, '[{"text": "' + "x" * (4 << 20))
    with pytest.raises(EnvironmentFault, match="longer than"):
        texts(path, limits=Limits(record_characters=1 << 20))


def test_encodings(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le", "latin-1", "utf-8-sig"):
        path = put(tmp_path / "a.txt", "café\nü\n".encode(encoding))
        assert texts(path, encoding=encoding) == ["café", "ü"]
    path = put(tmp_path / "zh.txt", "汉字\n".encode("gb18030"))
    assert texts(path, encoding="gb18030") == ["汉字"]
    with pytest.raises(DataError, match=r"zh\.txt:1:1"):
        texts(path)


def test_a_bad_row_does_not_stop_the_scan(tmp_path: Path) -> None:
    path = put(
        tmp_path / "a.jsonl",
        b'{"text": "a"}\nnot json\n{"text": 5}\n{"text": "\xe9"}\n{"text": "\\ud800"}\n{"text": "b"}\n{"text": "cut',
    )
    items = list(scan(find_sources([str(path)]), ReadContext(check=LM.check)))
    assert [item.fields["text"] for item in items if isinstance(item, Record)] == ["a", "b"]
    bad = [item for item in items if isinstance(item, Bad)]
    assert [str(item.error.where).removeprefix(str(path)) for item in bad] == [":2", ":3:text", ":4:11", ":5", ":7"]
    assert bad[0].raw == "not json"


def test_aligned_files(tmp_path: Path) -> None:
    left, right = put(tmp_path / "a.en", "a\n\nc\n"), put(tmp_path / "a.zh", "甲\n乙\n丙")
    rows = list(scan(find_sources([], left, right), ReadContext()))
    assert [(row.fields["source"], row.fields["target"]) for row in rows if isinstance(row, Record)] == [
        ("a", "甲"),
        ("", "乙"),
        ("c", "丙"),
    ]
    put(right, "甲\n")
    with pytest.raises(DataError, match=r"a\.en has 3 lines, .*a\.zh has 1; "):
        list(scan(find_sources([], left, right), ReadContext()))
    with pytest.raises(UsageError, match="--target-file is missing"):
        find_sources([], left, None)


def test_files_that_differ_in_their_language_are_aligned(tmp_path: Path) -> None:
    words = [str(put(tmp_path / f"train.{each}", f"{each} 1\n{each} 2\n")) for each in ("zh-CN", "en")]
    other = str(put(tmp_path / "other.txt", "not a pair\n"))
    pair, alone = find_sources([*words, other])
    assert [path.name for path in pair.paths] == ["train.zh-CN", "train.en"]
    assert alone.format == "text"
    rows = [row.fields for row in scan([pair], ReadContext()) if isinstance(row, Record)]
    assert rows == [{"source": "zh-CN 1", "target": "en 1"}, {"source": "zh-CN 2", "target": "en 2"}]
    with pytest.raises(UsageError) as caught:
        find_sources(words[:1])
    assert f"name two aligned files, the source first: {words[0]} {tmp_path / 'train'}.LANGUAGE" in str(
        caught.value.hint
    )


MEMORY = """<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx version="1.4"><header srclang="en-US"/><body>
<tu><tuv xml:lang="en-US"><seg>Press <bpt i="1">&lt;b&gt;</bpt>OK<ept i="1">&lt;/b&gt;</ept> &amp; wait</seg></tuv>
<tuv xml:lang="zh-CN"><seg>按<hi>确定</hi>并等待</seg></tuv></tu>
<tu srclang="zh-CN"><tuv lang="zh-CN"><seg>你好</seg></tuv><tuv lang="en-US"><seg>Hello</seg></tuv></tu>
<tu><tuv xml:lang="en-US"><seg>alone</seg></tuv></tu>
<tu><tuv xml:lang="zh-CN"><seg>您好</seg></tuv><tuv xml:lang="zh-CN"><seg>你好</seg></tuv></tu>
</body></tmx>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_translation_memory(tmp_path: Path, encoding: str) -> None:
    path = put(tmp_path / "memory.tmx", MEMORY.encode(encoding))
    context = ReadContext()
    *rows, bad, twice = scan(find_sources([str(path)]), context)
    assert isinstance(twice, Bad)
    assert str(twice.error) == f"{path}:6: the unit has several texts in 'zh-CN'"
    assert [(row.fields, row.origin) for row in rows if isinstance(row, Record)] == [
        ({"source": "Press OK & wait", "target": "按确定并等待"}, f"{path}:2"),
        ({"source": "你好", "target": "Hello"}, f"{path}:4"),
    ]
    assert isinstance(bad, Bad)
    assert "no pair of languages" in bad.error.message
    columns = ReadContext(rename={"source": "zh", "target": "EN"})
    *rows, _, _ = scan(find_sources([str(path)]), columns)
    assert [row.fields["source"] for row in rows if isinstance(row, Record)] == ["按确定并等待", "你好"]
    assert not columns.adapting.unused


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (MEMORY[: len(MEMORY) // 2], "looks truncated"),
        ("<html><body/></html>", "its root element is <html>"),
        (MEMORY.replace('SYSTEM "tmx14.dtd"', '[<!ENTITY a "aa"><!ENTITY b "&a;&a;">]'), "declares entities"),
        ("<tmx>" + "<a>" * 200, "nested too deeply"),
        ("<tmx><seg></tmx>", "not valid XML: mismatched tag"),
        ("", "no records"),
    ],
)
def test_files_that_are_no_translation_memories(tmp_path: Path, content: str, problem: str) -> None:
    path = put(tmp_path / "memory.tmx", content)
    with pytest.raises(DataError, match=problem):
        list(scan(find_sources([str(path)]), ReadContext()))


def test_recordings_with_their_text_beside_them(tmp_path: Path) -> None:
    for name, content in (("a.flac", "-"), ("a.txt", "one\n"), ("b.WAV", "-"), ("b.json", '{"text": "二", "id": "x"}')):
        put(tmp_path / name, content)
    put(tmp_path / "c.wav", "-")
    *rows, bad = scan(find_sources([str(tmp_path)]), ReadContext())
    assert [row.fields for row in rows if isinstance(row, Record)] == [
        {"audio": "a.flac", "text": "one"},
        {"audio": "b.WAV", "text": "二", "id": "x"},
    ]
    assert isinstance(bad, Bad)
    assert str(bad.error) == f"{tmp_path / 'c.wav'}: the recording has no text beside it: c.txt"
    book = put(tmp_path / "book.txt", "a chapter\n")
    with pytest.raises(UsageError, match=r"book\.txt belongs to no recording, but other texts do"):
        find_sources([str(tmp_path)])
    assert [source.path for source in find_sources([f"{book.parent}/b*.txt"])] == [book]
    with pytest.raises(UsageError, match=r"recordings without a text: .*c\.wav"):
        find_sources([f"{book.parent}/c*"])


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("sonets", ["sonets", "did you mean 'sonnets'?"]),
        ("nothing-like-it-at-all", ["llmctl list datasets"]),
        ("*.nothing", ["no file with a known format matches *.nothing"]),
        (".", ["no file in the folder .", ".jsonl"]),
    ],
)
def test_missing_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        find_sources([word])
    shown = f"{caught.value} {caught.value.hint}"
    assert [each for each in words if each not in shown] == [], shown


def test_a_text_file_cannot_hold_records_of_several_fields(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plain text"):
        texts(put(tmp_path / "a.txt", "a"), fields_of=None)
    with pytest.raises(UsageError, match="not that of a known format"):
        texts(put(tmp_path / "a.doc", "a"))
