"""`preprocess` as a gate: shares and counts, reports for other tools, the page, and a sample in a dry run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llmctl.cli import main
from tests.unit.data.dirty import Row, corpus

Inside = Callable[..., dict[str, Any]]
FILTERS = ("--set", "languages=[en, zh]", "--set", "quality.max_boilerplate=0.3", "--set", "pii=mask")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(corpus(300))


@pytest.fixture(scope="module")
def dirty(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dirty") / "dirty.jsonl"
    path.write_text("\n".join(json.dumps({"text": row.text}) for row in rows), encoding="utf-8")
    return path


def words(dirty: Path, out: Path, *more: str | Path) -> tuple[str | Path, ...]:
    return ("preprocess", dirty, "--task", "lm", "--vocab-size", "300", "--out", out, *FILTERS, *more)


def test_gates_that_are_met(inside: Inside, dirty: Path, tmp_path: Path) -> None:
    gates = ("--require", "kept>=0.5", "--require", "languages<100", "--require", "quality.max_boilerplate<=0.2")
    document = inside(*words(dirty, tmp_path / "data", *gates))
    assert [gate["met"] for gate in document["gates"]] == [True, True, True]
    assert document["gates"][0]["value"] == document["records"]["kept"] / document["records"]["read"]


def test_a_gate_that_is_not_met_keeps_the_folder(inside: Inside, dirty: Path, rows: list[Row], tmp_path: Path) -> None:
    reports = ("--junit", tmp_path / "junit.xml", "--markdown", tmp_path / "report.md")
    gates = ("--require", "kept>=0.99", "--require", "pii==0", "--require", "rejected==0")
    document = inside(*words(dirty, tmp_path / "data", *gates, *reports), code=10)
    assert document["error"]["exit_code"] == 10
    assert [gate["met"] for gate in document["gates"]] == [False, False, True]
    assert document["gates"][1]["value"] == sum(bool(row.secret) for row in rows)
    assert (tmp_path / "data" / "manifest.json").is_file()
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite.get("failures") == "2"
    counted = {case.get("name"): case.findtext("system-out") for case in suite.iter("testcase")}
    assert counted["read"] == f"value: {len(rows)}"
    assert "| `pii==0` | **no** |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    inside("show", "data", tmp_path / "data")


def test_an_error_is_in_the_reports_too(inside: Inside, dirty: Path, tmp_path: Path) -> None:
    inside(*words(dirty.parent / "none.jsonl", tmp_path / "data", "--junit", tmp_path / "junit.xml"), code=2)
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().get("errors") == "1"


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("near_duplicate<=0.1", "dedup.near=0.8"),
        ("kept>=1", "kept>=1.0"),
        ("kept>=1.5", "never be met"),
        ("kepp>=0.9", "did you mean 'kept'"),
        ("kept>=baseline", "baseline"),
    ],
)
def test_gates_that_make_no_sense(
    dirty: Path, tmp_path: Path, gate: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(list(map(str, words(dirty, tmp_path / "data", "--require", gate)))) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


class Page(HTMLParser):
    """The tags that are open at the end, and everything that names another file or place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]
        if tag not in ("meta", "input", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag


def test_the_page_is_whole_and_has_no_personal_data(
    inside: Inside, dirty: Path, rows: list[Row], tmp_path: Path
) -> None:
    evil = tmp_path / "evil.jsonl"
    evil.write_text(json.dumps({"text": "<script>alert(1)</script> 短"}) + "\n", encoding="utf-8")
    with evil.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"ann.lee@example.org": "no text"}) + "\n")
    more = ("--set", "clean.min_chars=40", "--require", "kept>0", "--on-bad-record", "skip")
    document = inside(*words(dirty, tmp_path / "data", evil, *more))
    text = (tmp_path / "data" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "width=device-width" in text
    for reason, count in document["records"]["dropped"].items():
        assert re.search(rf"<code>{re.escape(reason)}</code>.*?<b>{count:,}</b>", text)
    assert "其他语言" in text
    assert not [row.secret for row in rows if row.secret and row.secret in text]
    assert "the field &#x27;text&#x27; is missing; fields found: &lt;EMAIL&gt;" in text


def test_the_same_input_gives_the_same_page(inside: Inside, dirty: Path, tmp_path: Path) -> None:
    pages = []
    for workers in ("1", "2"):
        inside(*words(dirty, tmp_path / workers / "data", "--workers", workers))
        pages.append((tmp_path / workers / "data" / "report.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


def test_a_dry_run_shows_what_would_be_dropped(inside: Inside, dirty: Path, rows: list[Row], tmp_path: Path) -> None:
    document = inside(*words(dirty, tmp_path / "data", "--dry-run", "--sample", "200"))
    sample = document["plan"]["sample"]
    assert sample["read"] == 200
    assert sample["dropped"]["languages"] == sum(row.wrong == "language" for row in rows[:200])
    assert sample["read"] == sample["kept"] + sum(sample["dropped"].values())
    assert sample["examples"]["languages"][0]["origin"].endswith("dirty.jsonl:16")
    assert list(tmp_path.iterdir()) == []


def test_a_sample_is_for_a_dry_run(dirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(list(map(str, words(dirty, tmp_path / "data", "--sample", "5")))) == 2
    assert "--dry-run" in capsys.readouterr().err
