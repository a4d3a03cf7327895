"""The documents tell the truth: commands parse, tables are the registry's, snippets run, paths are there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
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
from llmctl.config import validate
from llmctl.workflows.recipe import run as recipes

REPOSITORY = Path(llmctl.__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = (*READMES, "ARCHITECTURE.md", "CHANGELOG.md", "docs/tasks.md")
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


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(name), re.MULTILINE | re.DOTALL)


def lines(name: str) -> list[str]:
    """The lines of shell of a document, and the commands in its prose, in order."""
    shell = "".join(blocks(name, "sh")).replace("\\\n", " ").splitlines()
    prose = re.findall(r"`(llmctl [^`\n]+ [^`\n]+)`", text(name))
    return [line for line in (*shell, *prose) if line.strip()]


def commands(name: str) -> list[list[str]]:
    """Every `llmctl …` of a document as words."""
    found = []
    for line in lines(name):
        for part in re.split(r" && | \| |; ", line):
            words = shlex.split(part, comments=True)
            if words and Path(words[0]).name == "llmctl":
                found.append(words[1:])
    return found


def tables(name: str) -> dict[str, list[list[str]]]:
    """The rows of each table of a document by the head of its first column."""
    found: dict[str, list[list[str]]] = {}
    for table in re.findall(r"(?:^\|.*\|\n)+", text(name), re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines())
        found[head[0]] = rows
    return found


# ---------------------------------------------------------------------------------------------------------------
# Commands


@pytest.mark.parametrize("name", READMES)
def test_the_commands_of_a_fresh_machine_stand_there_to_the_letter(name: str) -> None:
    shell = "".join(blocks(name, "sh")).splitlines()
    assert INSTALL in shell
    assert TEST in shell


def test_continuous_integration_runs_the_readme_s_test_command() -> None:
    assert TEST in text(".ci/run").splitlines()


def asked(words: list[str]) -> Session:
    """What the command line asks, through the verb's own options. Raises what the command would."""
    row = next(each for each in VERBS if each.name == words[0])
    heard: list[Session] = []
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    options.add(app, row, replace(page_of(row), run=heard.append))
    app(args=words, standalone_mode=False)
    (session,) = heard
    return session


@pytest.mark.parametrize("words", [each for name in READMES for each in commands(name)], ids=" ".join)
def test_a_command_is_one_that_llmctl_takes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    session = asked(words)
    if session.verb == "run":
        assert recipes.load([Path(session.extra["recipe"])], sets=session.sets)
    elif session.extra.get("resume"):  # what is missing stands in the run
        begun = {"model": "lstm"} if session.verb == "train" else {"models": ["lstm"]}
        validate(session.spec, {"data": "data", **begun} | session.block())
    elif session.spec is not None:
        session.config(session.spec)
    elif session.verb in ("list", "show"):
        kind, name = session.extra["kind"], session.extra.get("name")
        assert kind in (None, "data", *registry.KINDS)
        if name and kind != "data":
            entry, _, size = name.partition(":")
            part = registry.load(kind, entry)
            assert not size or size in part.sizes
    elif session.verb == "completions":
        assert session.extra["shell"] in completions.PAGE.arguments[0].choices


def test_a_command_that_llmctl_does_not_take_is_found() -> None:
    with pytest.raises(typer.TyperException, match="bogus"):
        asked(["train", "--bogus", "1"])


def test_both_readmes_show_the_same_commands_and_output() -> None:
    english, chinese = READMES
    assert commands(chinese) == commands(english)
    for language in ("sh", "text", "json", "toml", "python"):
        assert blocks(chinese, language) == blocks(english, language)


def test_every_verb_is_shown() -> None:
    assert {row.name for row in VERBS} <= {words[0] for words in commands("README.md")} | {"doctor"}
    assert "llmctl doctor" in text("README.md")


# ---------------------------------------------------------------------------------------------------------------
# Tables


def test_the_table_of_exit_codes_is_that_of_the_help() -> None:
    rows = tables("README.md")["exit code"]
    assert [(int(code), meaning) for code, meaning in rows] == list(EXIT_CODES)
    translated = tables("README.zh-CN.md")["退出码"]
    assert [int(code) for code, _ in translated] == [code for code, _ in EXIT_CODES]


@pytest.mark.parametrize("name", READMES)
def test_tables_name_what_is_built_in_all_of_it_and_nothing_else(name: str) -> None:
    shown: dict[str, list[str]] = {}
    for head, rows in tables(name).items():
        if head in KIND_OF_HEAD:
            names = [each for row in rows for each in re.findall(r"`([^`]+)`", row[0])]
            shown[KIND_OF_HEAD[head]] = [each for each in names if each not in _aliases(KIND_OF_HEAD[head])]
    for kind in ("models", "tasks", "metrics", "datasets"):
        built_in = [entry.name for entry in registry.entries(kind) if entry.owner == registry.OWNER]
        assert sorted(shown[kind]) == sorted(built_in), kind


def _aliases(kind: str) -> set[str]:
    return {alias for entry in registry.entries(kind) for alias in entry.aliases}


@pytest.mark.parametrize("name", READMES)
def test_what_tables_say_of_a_part_is_so(name: str) -> None:
    found = {KIND_OF_HEAD[head]: rows for head, rows in tables(name).items() if head in KIND_OF_HEAD}
    for cell, family, _, nano, base in found["models"]:
        spec: Any = registry.load("models", cell.strip("`"))
        assert family == spec.family
        assert [nano, base] == [_millions(spec.parameters(spec.sizes[size], 4096)) for size in ("nano", "base")]
    for cell, _, families, metrics in found["tasks"]:
        task = registry.load("tasks", re.findall(r"`([^`]+)`", cell)[0])
        assert tuple(re.split(r"[,、] ?", families)) == task.families
        assert tuple(re.findall(r"`([^`]+)`", metrics)) == task.metrics
    for cell, records, *_ in found["datasets"]:
        assert int(records.replace(",", "")) == registry.load("datasets", cell.strip("`")).records


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count < 1e7 else f"{count / 1e6:.0f} M"


@pytest.mark.parametrize("name", READMES)
def test_every_recipe_is_in_the_table(name: str) -> None:
    linked = re.findall(r"\]\(examples/([\w-]+)\.yaml\)", text(name))
    assert sorted(linked) == sorted(path.stem for path in (REPOSITORY / "examples").glob("*.yaml"))


# ---------------------------------------------------------------------------------------------------------------
# What can be run and what can be followed


def test_the_plug_in_of_the_readme_works(tmp_path: Path) -> None:
    (project,) = blocks("README.md", "toml")
    (module,) = (each for each in blocks("README.md", "python") if "class " in each)
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
            env=os.environ | {"PYTHONPATH": str(site)},
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


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(name)):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        assert not path or (REPOSITORY / path).exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", text(path or name), re.MULTILINE)
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
