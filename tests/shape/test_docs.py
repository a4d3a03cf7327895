"""The documents tell the truth: commands parse, tables are the registry's, snippets run, paths are there."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

import llmctl
from llmctl import registry
from llmctl.catalog import VERBS
from llmctl.cli import completions, options
from llmctl.cli.main import EXIT_CODES
from llmctl.cli.pages import page_of
from llmctl.cli.session import Session
from llmctl.config import Spec, spec_of, validate
from llmctl.workflows.recipe import run as recipes

REPOSITORY = Path(llmctl.__file__).parent.parent


def chinese(page: str) -> str:
    """The place of a page's Chinese translation."""
    if page.startswith("docs/"):
        return page.replace("docs/", "docs/zh-CN/")
    return page.replace("README.md", "README.zh-CN.md")


PAGES = (
    "README.md",
    *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))),
    "examples/README.md",
)
"""What users read, in English."""
TRANSLATED = PAGES
"""Pages that have a Chinese translation: all."""
EVERY_PAGE = (*PAGES, *map(chinese, TRANSLATED))
DOCUMENTS = (*EVERY_PAGE, "ARCHITECTURE.md", "CHANGELOG.md")
README_LINES = 220
IMAGE_BYTES = 100_000
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt . && .venv/bin/llmctl quickstart"
TEST = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt '.[test]' && .venv/bin/python -m pytest"
KIND_OF_HEAD = {
    "model": "models",
    "模型": "models",
    "task": "tasks",
    "任务": "tasks",
    "metric": "metrics",
    "指标": "metrics",
    "data set": "datasets",
    "数据集": "datasets",
}
"""Tables of the registry, by the head of their first column."""
SETTING_HEADS = {"key", "setting", "键", "设置"}
"""Tables of settings, by the head of their first column."""


PRIVATE_WORDS = (
    *("shall", "foretell", "foretold", "mend(s|ed|ing)?", "tells?", "told", "asker", "given weights", "whole life"),
    *("(?<!small )talk", "by heart", "to be learned", "anew", "begun", "goes on", "stands? twice", "unasked"),
)
"""Words that the field does not use for these things."""


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(name), re.MULTILINE | re.DOTALL)


def all_blocks(name: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block of a document."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text(name), re.MULTILINE | re.DOTALL)


def prose(name: str) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(name), flags=re.MULTILINE | re.DOTALL)


def shell_lines(name: str) -> list[str]:
    """The lines of the shell blocks of a document."""
    return "".join(blocks(name, "sh")).replace("\\\n", " ").splitlines()


def prose_commands(name: str) -> list[str]:
    """The commands in the prose of a document; one that is only begun ends with an ellipsis."""
    return [each for each in re.findall(r"`(llmctl [^`\n]+ [^`\n]+)`", prose(name)) if not each.endswith("…")]


def commands(name: str) -> list[list[str]]:
    """Every `llmctl …` of a document as words."""
    found = []
    for line in (*shell_lines(name), *prose_commands(name)):
        for part in re.split(r" && | \| |; ", line):
            words = shlex.split(re.split(r" [<>] ", part)[0], comments=True)
            if words and Path(words[0]).name == "llmctl":
                found.append(words[1:])
    return found


def tables(name: str) -> Iterator[tuple[str, list[list[str]]]]:
    """The head of the first column of each table of a document, and the table's rows."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text(name), re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines())
        yield head[0], rows


def table(name: str, head: str) -> list[list[str]]:
    """The rows of the one table of a document with that head."""
    (rows,) = (rows for each, rows in tables(name) if each == head)
    return rows


def code(cell: str) -> list[str]:
    """What stands in code spans."""
    return re.findall(r"`([^`]+)`", cell)


# ---------------------------------------------------------------------------------------------------------------
# Commands


@pytest.mark.parametrize("name", [page for page in EVERY_PAGE if "/" not in page])
def test_the_commands_of_a_fresh_machine_stand_there_to_the_letter(name: str) -> None:
    shell = shell_lines(name)
    assert INSTALL in shell
    assert TEST in shell


def test_continuous_integration_runs_the_readme_s_test_command() -> None:
    assert TEST in text(".ci/run").splitlines()


def asked(words: Sequence[str]) -> Session:
    """What the command line asks, through the verb's own options. Raises what the command would."""
    row = next((each for each in VERBS if each.name == words[0]), None)
    assert row is not None, f"no such command: {words[0]}"
    heard: list[Session] = []
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    options.add(app, row, replace(page_of(row), run=heard.append))
    app(args=list(words), standalone_mode=False)
    (session,) = heard
    return session


@pytest.mark.parametrize(
    "words", dict.fromkeys(tuple(each) for name in EVERY_PAGE for each in commands(name)), ids=" ".join
)
def test_a_command_is_one_that_llmctl_takes(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    session = asked(words)
    if session.verb == "run":
        assert recipes.load([Path(session.extra["recipe"])], sets=session.sets)
    elif session.extra.get("resume"):  # what is missing stands in the run
        begun = {"model": "lstm"} if session.verb == "train" else {"models": ["lstm"]}
        validate(session.spec, {"data": "data", **begun} | session.block())
    elif "RUN/config.yaml" in words:
        assert session.verb == "train"
    elif session.spec is not None:
        session.config(session.spec)
    elif session.verb in ("list", "show"):
        kind, name = session.extra["kind"], session.extra.get("name")
        assert kind in (None, "data", *registry.KINDS)
        if name and kind != "data" and not session.extra.get("nearest"):  # the neighbours are those in a run
            entry, _, size = name.partition(":")
            part = registry.load(kind, entry)
            assert not size or size in part.sizes
    elif session.verb == "completions":
        assert session.extra["shell"] in completions.PAGE.arguments[0].choices


def test_a_command_that_llmctl_does_not_take_is_found() -> None:
    with pytest.raises(typer.TyperException, match="bogus"):
        asked(["train", "--bogus", "1"])


def test_every_verb_is_shown() -> None:
    assert {row.name for row in VERBS} <= {words[0] for page in PAGES for words in commands(page)}
    described = {name for cell, *_ in table("README.md", "command") for name in code(cell)}
    assert described == {row.name for row in VERBS}


# ---------------------------------------------------------------------------------------------------------------
# Translations


def without_comments(language: str, block: str) -> str:
    """A block's code; what stands behind `#` is prose."""
    if language == "sh":
        return "\n".join(shlex.join(shlex.split(line, comments=True)) for line in block.splitlines())
    if language in ("python", "toml", "yaml"):
        return re.sub(r"(^|\s+)#.*$", "", block, flags=re.MULTILINE)
    return block


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_translation_shows_the_same_code(page: str) -> None:
    english, translated = (
        [(language, without_comments(language, block)) for language, block in all_blocks(name)]
        for name in (page, chinese(page))
    )
    assert translated == english
    assert sorted(prose_commands(chinese(page))) == sorted(prose_commands(page))


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_translation_has_the_same_parts(page: str) -> None:
    heads, images = r"^(#+) ", r"!\[[^\]]*\]\((?:\.\./)*([^)]+)\)"
    assert re.findall(heads, text(chinese(page)), re.MULTILINE) == re.findall(heads, text(page), re.MULTILINE)
    own, other = ([Path(each).name for each in re.findall(images, text(name))] for name in (page, chinese(page)))
    assert other == own


# ---------------------------------------------------------------------------------------------------------------
# Tables


def test_the_table_of_exit_codes_is_that_of_the_help() -> None:
    rows = table("docs/ci.md", "exit code")
    assert [(int(each), meaning) for each, meaning in rows] == list(EXIT_CODES)
    translated = table(chinese("docs/ci.md"), "退出码")
    assert [int(each) for each, _ in translated] == [each for each, _ in EXIT_CODES]


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_tables_name_what_is_built_in_all_of_it_and_nothing_else(name: str) -> None:
    for head, rows in tables(name):
        if (kind := KIND_OF_HEAD.get(head)) is not None:
            shown = [each for row in rows for each in code(row[0]) if each not in _aliases(kind)]
            built_in = [entry.name for entry in registry.entries(kind) if entry.owner == registry.OWNER]
            assert sorted(shown) == sorted(built_in), kind


def _aliases(kind: str) -> set[str]:
    return {alias for entry in registry.entries(kind) for alias in entry.aliases}


@pytest.mark.parametrize("name", [page for page in EVERY_PAGE if "/" not in page])
def test_what_the_readme_s_tables_say_of_a_part_is_so(name: str) -> None:
    found = {KIND_OF_HEAD[head]: rows for head, rows in tables(name) if head in KIND_OF_HEAD}
    assert found.keys() == {"models", "tasks", "metrics"}
    for cell, family, _, nano, base in found["models"]:
        spec: Any = registry.load("models", cell.strip("`"))
        assert family == spec.family
        assert [nano, base] == [_millions(spec.parameters(spec.sizes[size], 4096)) for size in ("nano", "base")]
    for cell, _, families, metrics in found["tasks"]:
        task = registry.load("tasks", code(cell)[0])
        assert tuple(re.split(r"[,、] ?", families)) == task.families
        assert tuple(code(metrics)) == task.metrics


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count < 1e7 else f"{count / 1e6:.0f} M"


@pytest.mark.parametrize(("name", "head"), [("docs/data.md", "data set"), ("docs/zh-CN/data.md", "数据集")])
def test_what_is_said_of_data_sets_is_so(name: str, head: str) -> None:
    for cell, records, *_ in table(name, head):
        assert int(records.replace(",", "")) == registry.load("datasets", cell.strip("`")).records


@pytest.mark.parametrize(("name", "head"), [("docs/evaluation.md", "metric"), ("docs/zh-CN/evaluation.md", "指标")])
def test_what_is_said_of_metrics_is_so(name: str, head: str) -> None:
    for cell, scores, described, _ in table(name, head):
        for name in code(cell):
            spec = registry.load("metrics", name)
            assert spec.scores == (tuple(code(scores)) or (name,))
            assert sorted(code(described)) == sorted(spec.options.model_fields)


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_settings_in_tables_are_settings(name: str) -> None:
    keys = [key for head, rows in tables(name) if head in SETTING_HEADS for row in rows for key in code(row[0])]
    specs = [page.spec for row in VERBS if (page := page_of(row)).spec is not None]
    unknown = [key for key in keys if not key.startswith("-") and not any(_has(spec, key) for spec in specs)]
    assert unknown == []


def _has(spec: type[Spec], key: str) -> bool:
    name, _, rest = key.partition(".")
    info = spec.model_fields.get(name)
    if info is None or not rest:
        return info is not None
    inner = spec_of(info.annotation)
    return inner is not None and _has(inner, rest)


@pytest.mark.parametrize("name", ["examples/README.md", "examples/README.zh-CN.md"])
def test_every_recipe_is_in_the_table(name: str) -> None:
    linked = re.findall(r"\]\(([\w-]+)\.yaml\)", text(name))
    assert sorted(linked) == sorted(path.stem for path in (REPOSITORY / "examples").glob("*.yaml"))


# ---------------------------------------------------------------------------------------------------------------
# The README


@pytest.mark.parametrize("name", [page for page in EVERY_PAGE if "/" not in page])
def test_the_readme_is_short_and_shows_small_pictures(name: str) -> None:
    assert len(text(name).splitlines()) <= README_LINES
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text(name))
    assert len(pictures) == 2
    for each in pictures:
        assert (REPOSITORY / each).stat().st_size < IMAGE_BYTES


def private_words(english: str) -> list[str]:
    return [each[0] for each in re.finditer(rf"\b({'|'.join(PRIVATE_WORDS)})\b", english, re.IGNORECASE)]


@pytest.mark.parametrize("name", [*PAGES, "ARCHITECTURE.md", "CHANGELOG.md"])
def test_pages_speak_the_language_of_the_field(name: str) -> None:
    assert private_words(prose(name)) == []


CODE = sorted(path for path in (REPOSITORY / "llmctl").rglob("*.py") if path.name != "quickstart.py")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_help_and_messages_speak_the_language_of_the_field(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = (each.value for each in ast.walk(tree) if isinstance(each, ast.Constant))
    found = [(each, words) for each in constants if isinstance(each, str) and (words := private_words(each))]
    assert [each for each in found if not each[0].startswith("Shall I compare")] == []


@pytest.mark.parametrize(("index", "pages"), [("docs/README.md", PAGES), ("docs/zh-CN/README.md", TRANSLATED)])
def test_every_page_can_be_reached(index: str, pages: tuple[str, ...]) -> None:
    for page in pages:
        if page.startswith("docs/") and page != "docs/README.md":
            assert f"]({Path(page).name})" in text(index), page


# ---------------------------------------------------------------------------------------------------------------
# What can be run and what can be followed


def test_the_plug_in_of_the_documentation_works(tmp_path: Path) -> None:
    (project,) = blocks("docs/plugins.md", "toml")
    (module,) = (each for each in blocks("docs/plugins.md", "python") if "Task" in each)
    assert len([line for line in (project + module).splitlines() if line.strip()]) <= 20
    import tomllib

    described = tomllib.loads(project)["project"]
    site, folder = tmp_path / "site", tmp_path / "site/llmctl_headlines-1.0.dist-info"
    folder.mkdir(parents=True)
    (site / "llmctl_headlines.py").write_text(module, encoding="utf-8")
    facts = f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: 1.0\nSummary: {described['description']}\n"
    (folder / "METADATA").write_text(facts, encoding="utf-8")
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in rows.items())
        for group, rows in described["entry-points"].items()
    )
    (folder / "entry_points.txt").write_text(points, encoding="utf-8")
    rows = [{"article": f"Number {n} went up, then down again.", "headline": f"Number {n} moves"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "llmctl", *words, "--json"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert ("headlines", "llmctl-headlines") in {(each["name"], each["owner"]) for each in run("list")["entries"]}
    run("preprocess", "rows.jsonl", "--task", "headlines", "--vocab-size", "300", "--out", "data")
    small = ("--set", "model.hidden=8", "--set", "model.embedding=8", "--max-steps", "2")
    run("train", "--data", "data", "--model", "lstm", "--out", "run", *small)
    asked = run("generate", "--model", "run", "--prompt", "Number 3 went up.", "--max-new-tokens", "4")
    assert len(asked["completions"]) == 1
    scores = run("eval", "--model", "run", "--data", "data", "--set", "max_new_tokens=4")["scores"]
    assert [score["metric"] for score in scores] == ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def test_the_other_code_of_the_page_on_plug_ins_is_of_a_tested_package() -> None:
    package = "".join(path.read_text("utf-8") for path in (REPOSITORY / "tests/plugin/spelling").rglob("*.py"))
    shown = [each for each in blocks("docs/plugins.md", "python") if "Task" not in each]
    assert shown
    assert [each for each in shown if each not in package] == []


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_python_and_data_in_pages_can_be_read(name: str) -> None:
    for language, block in all_blocks(name):
        if language == "python":
            compile(block, name, "exec")
        elif language == "json":
            values = [block] if block.startswith("{\n") else block.splitlines()
            assert all(isinstance(json.loads(each), dict) for each in values)


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_a_recipe_in_a_page_is_one(name: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(name, "yaml")):
        recipe = tmp_path / f"{number}.yaml"
        recipe.write_text(block, encoding="utf-8")
        assert recipes.load([recipe])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(name)):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        place = REPOSITORY / (Path(name).parent / path if path else name)
        assert place.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", place.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_every_place_that_architecture_names_is_there() -> None:
    named = re.findall(r"`((?:llmctl|tests|examples|completions)/[\w./-]*)`", text("ARCHITECTURE.md"))
    assert len(named) > 20
    assert [each for each in named if not (REPOSITORY / each).exists()] == []
    drawn = re.findall(r"^  (\w+(?:\.py|/)) ", text("ARCHITECTURE.md"), re.MULTILINE)
    there = [path.name + ("/" if path.is_dir() else "") for path in (REPOSITORY / "llmctl").iterdir()]
    expected = {each for each in there if not each.startswith("__") and each != "py.typed"}
    assert set(drawn) >= expected


def test_the_changelog_tells_of_this_version() -> None:
    assert re.search(rf"^## {re.escape(llmctl.__version__)} - \d{{4}}-\d\d-\d\d$", text("CHANGELOG.md"), re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_names_a_place_of_somebody_s_machine(name: str) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|root|tmp|home|Users)\b", text(name)) == []
