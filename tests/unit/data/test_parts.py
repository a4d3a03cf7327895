"""Inputs cut into parts have the records of the whole, with the same origins, whoever reads them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llmctl.data.reading.formats import Bad
from llmctl.data.reading.parts import LARGE_BYTES, MOST_PARTS, PARTS, Part, cut, part_bytes
from llmctl.data.reading.read import ReadContext, scan
from llmctl.data.reading.sources import find_sources
from llmctl.data.workers import SMALL_BYTES, Workers
from llmctl.tasks.language_modeling import LanguageModeling

LINES = [json.dumps({"text": f"第 {number} 行 " + "x" * (number % 90)}, ensure_ascii=False) for number in range(200)]


def parts_of(*paths: Path, size: int, **reading: str) -> list[Part]:
    sources = find_sources([str(path) for path in paths])
    document = reading.get("document", "line")
    return cut(sources, [None] * len(sources), document=document, encoding=None, executor=Workers(1), size=size)  # type: ignore[arg-type]


def read(parts: list[Part]) -> list[tuple[str, object]]:
    found = []
    for part in parts:
        context = ReadContext(fields_of=LanguageModeling().record_of)
        for item in scan(part.sources, context):
            found.append((str(item.error), item.raw) if isinstance(item, Bad) else (item.origin, item.fields))
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r", "\r\r\n\n"])
def test_lines_and_their_numbers_are_those_of_the_whole_file(tmp_path: Path, end: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(end.join([*LINES[:120], "{bad", *LINES[120:], '{"text": "cut o']).encode())
    whole = read(parts_of(path, size=1 << 30))
    parts = parts_of(path, size=700)
    assert len(parts) > 5 or end == "\r"  # a part ends with a line feed
    assert read(parts) == whole
    assert len(whole) == 202
    assert whole[-1][0].startswith(f"{path}:")
    assert "truncated" in whole[-1][0]


def test_text_is_cut_where_a_line_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(LINES).encode())
    assert len(parts_of(path, size=1000)) > 5
    assert read(parts_of(path, size=1000)) == read(parts_of(path, size=1 << 30))
    assert len(parts_of(path, size=1000, document="paragraph")) == 1


def test_what_has_no_lines_to_cut_at_is_whole(tmp_path: Path) -> None:
    text = "\n".join(LINES)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.jsonl").write_bytes(text.encode("utf-16"))
    (tmp_path / "d.json").write_text(json.dumps([json.loads(line) for line in LINES]))
    for path in sorted(tmp_path.iterdir()):
        parts = parts_of(path, size=1000)
        assert [len(part.sources) for part in parts] == [1], path
        assert len(read(parts)) == 200, path


def test_small_files_are_read_together(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.jsonl").write_text(LINES[number] + "\n")
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    parts = parts_of(tmp_path, size=sum(sizes) // 3)
    assert 3 <= len(parts) <= 5
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [item[0] for item in read(parts)] == [f"{tmp_path}/{number}.jsonl:1" for number in range(10)]


def test_the_size_of_a_part_grows_with_the_input_within_bounds() -> None:
    assert part_bytes(10) == part_bytes(SMALL_BYTES) == SMALL_BYTES
    assert part_bytes(2 * SMALL_BYTES) == SMALL_BYTES // 4
    assert part_bytes(PARTS * (8 << 20)) == 8 << 20
    assert part_bytes(1 << 40) == LARGE_BYTES
    assert part_bytes(60 * 10**12) * MOST_PARTS == pytest.approx(60 * 10**12, rel=0.001)
