"""Every recipe of examples/ whole, in small: what it makes, what a second run skips, what a changed setting runs again.

And the gate for CI as a person would run it: exit codes, JUnit, the workflow's own commands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import llmctl
from llmctl import registry

Inside = Callable[..., dict[str, Any]]

REPOSITORY = Path(llmctl.__file__).parent.parent
EXAMPLES = REPOSITORY / "examples"
RECIPES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))

SMALL = (
    "train.max_steps=4",
    "train.epochs=null",
    "train.batch_size=8",
    "train.best_by_limit=4",
    "train.precision=fp32",
    "generate.max_new_tokens=6",
    "eval.limit=6",
    "eval.max_new_tokens=6",
    "eval.require=[]",
)
RECURRENT = ("train.model.layers=1", "train.model.hidden=16", "train.model.embedding=16")
TRANSFORMER = ("train.model.layers=1", "train.model.hidden=16", "train.model.heads=2", "train.model.inner=32")
SHAPE = dict.fromkeys(("attention", "gpt2", "llama", "t5", "marian", "bart", "bert", "whisper"), TRANSFORMER)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples in it, as in a clone."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(recipe: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return found


def several(recipe: str, verb: str) -> list[dict[str, Any]]:
    """The blocks of a verb: one, or a list of them."""
    found: Any = blocks(recipe)[verb]
    return found if isinstance(found, list) else [found]


def shrunk(recipe: str) -> list[str]:
    """The overrides that make a recipe a matter of seconds."""
    sets = list(SMALL)
    for number, block in enumerate(several(recipe, "train")):
        model = block["model"]
        name = (model["name"] if isinstance(model, dict) else model).partition(":")[0]
        if "/" not in name:  # a run of this recipe has its shape
            sets += [each.replace("train.", f"train.{number}.", 1) for each in SHAPE.get(name, RECURRENT)]
    return [f"--set={each}" for each in sets]


def statuses(document: dict[str, Any]) -> dict[str, str]:
    """What became of each verb. Of one with several blocks all must have fared alike."""
    found = {stage["verb"]: stage["status"] for stage in document["stages"]}
    assert [found[stage["verb"]] for stage in document["stages"]] == [stage["status"] for stage in document["stages"]]
    return found


def trained(recipe: str) -> Iterator[tuple[str, str]]:
    """Task and architecture of each training of a recipe; a run that is trained further keeps its architecture."""
    tasks = {block["out"]: block["task"] for block in several(recipe, "preprocess")}
    runs: dict[str, str] = {}
    for block in several(recipe, "train"):
        model = block["model"]
        name = model["name"] if isinstance(model, dict) else model
        runs[block["out"]] = runs.get(name) or name.partition(":")[0]
        yield tasks[block["data"]], runs[block["out"]]


def built_in(kind: str) -> set[str]:
    return {entry.name for entry in registry.entries(kind) if entry.owner == "llmctl"}


SHOWN_BY_ANOTHER = {
    "udhr-en-fr": "translation-en-de says how it takes its place",
    "udhr-en-zh": "translation-en-de says how it takes its place",
    "spoken-numbers-zh-voices": "speech-ctc-zh transcribes it",
}
"""Data sets without a recipe of their own, and why."""


def test_there_is_a_recipe_for_every_task_with_every_family_that_learns_it() -> None:
    shown = {(task, registry.load("models", model).family) for recipe in RECIPES for task, model in trained(recipe)}
    tasks = [registry.load("tasks", name) for name in built_in("tasks")]
    assert {(task.name, family) for task in tasks for family in task.families} - shown == set()


def test_every_architecture_is_trained_by_a_recipe() -> None:
    assert built_in("models") - {model for recipe in RECIPES for _, model in trained(recipe)} == set()


def test_every_built_in_data_set_is_in_a_recipe_or_is_shown_by_another() -> None:
    read = {each for recipe in RECIPES for block in several(recipe, "preprocess") for each in block["inputs"]}
    assert built_in("datasets") - read == set(SHOWN_BY_ANOTHER)
    for name, why in SHOWN_BY_ANOTHER.items():
        assert name in (EXAMPLES / f"{why.partition(' ')[0]}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_makes_what_it_says_and_a_second_run_nothing(recipe: str, inside: Inside, here: Path) -> None:
    command = ["run", f"examples/{recipe}.yaml", *shrunk(recipe)]
    document = inside(*command)
    assert statuses(document) == dict.fromkeys(("preprocess", "train", "generate", "eval"), "ran")
    block = blocks(recipe)
    for each in several(recipe, "preprocess"):
        manifest = json.loads((here / each["out"] / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["task"] == each["task"]
        asked = {"train": 1, "validation": 0.05, "test": 0.05} | each.get("splits", {})
        if each["inputs"][0].endswith(".parquet"):  # files keep the splits that they are named after
            asked = {Path(name).name.partition("-")[0]: 1 for name in each["inputs"]}
        assert {split for split, count in manifest["splits"].items() if count} == {
            name for name in asked if asked[name]
        }
    for each in several(recipe, "train"):
        assert json.loads((here / each["out"] / "run.json").read_text(encoding="utf-8"))["status"] == "finished"
        weights = "adapter_model.safetensors" if "adapter" in each else "model.safetensors"
        assert (here / each["out"] / "model" / weights).is_file()
    scores = here / block["eval"]["out"]
    rows = [json.loads(line) for line in (here / block["generate"]["output"]).read_text("utf-8").splitlines()]
    if "input" in block["generate"]:
        assert len(rows) == registry.load("datasets", block["generate"]["input"]).records
    else:
        assert [row["prompt"] for row in rows] == block["generate"]["prompt"]
    found = {score["metric"] for score in json.loads((scores / "scores.json").read_text("utf-8"))["scores"]}
    assert found == {score for name in block["eval"]["metric"] for score in registry.load("metrics", name).scores}

    again = inside(*command)
    assert statuses(again) == dict.fromkeys(("preprocess", "train", "generate", "eval"), "skipped")
    assert all(stage["why"].startswith("unchanged since") for stage in again["stages"])
    documents = [{stage["verb"]: stage["document"] for stage in each["stages"]} for each in (document, again)]
    assert documents[1]["eval"]["scores"] == documents[0]["eval"]["scores"]


@pytest.mark.parametrize(
    ("setting", "run_again"),
    [
        ("preprocess.vocab_size=400", ("preprocess", "train", "generate", "eval")),
        ("train.max_steps=5", ("train", "generate", "eval")),
        ("generate.max_new_tokens=5", ("generate",)),
        ("eval.limit=5", ("eval",)),
    ],
)
def test_a_changed_setting_runs_its_stage_and_what_reads_it_again(
    setting: str, run_again: tuple[str, ...], inside: Inside, here: Path
) -> None:
    command = ["run", "examples/language-modeling-lstm.yaml", *shrunk("language-modeling-lstm")]
    inside(*command)
    again = inside(*command, "--set", setting)
    assert tuple(verb for verb, status in statuses(again).items() if status == "ran") == run_again
    changed = next(stage for stage in again["stages"] if stage["status"] == "ran")
    assert changed["why"] == f"changed: {setting.partition('.')[2].partition('=')[0]}"


def test_recipes_of_one_text_share_its_prepared_data(inside: Inside, here: Path) -> None:
    inside("run", "examples/language-modeling-rnn.yaml", *shrunk("language-modeling-rnn"))
    document = inside("run", "examples/language-modeling-gpt2.yaml", *shrunk("language-modeling-gpt2"))
    assert statuses(document)["preprocess"] == "skipped"


# ---------------------------------------------------------------------------------------------------------------
# The gate


def gate(*words: str) -> subprocess.CompletedProcess[str]:
    """`examples/ci/gate.sh` with the `llmctl` of this installation first on the path."""
    folders = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        ["examples/ci/gate.sh", *words], env=os.environ | {"PATH": folders}, capture_output=True, text=True
    )


@pytest.fixture
def translator(inside: Inside, here: Path) -> tuple[str, str]:
    """A run that translates badly, and its prepared data."""
    inside("run", "examples/translation-en-zh.yaml", *shrunk("translation-en-zh"))
    block = blocks("translation-en-zh")
    return block["train"]["out"], block["preprocess"]["out"]


def test_the_gate_passes_fails_and_reports(translator: tuple[str, str], here: Path) -> None:
    passed = gate(*translator, "0", "--limit", "8")
    assert passed.returncode == 0, passed.stderr
    suite = ElementTree.parse(here / "scores.xml").getroot()
    assert suite.findall(".//testcase")
    assert suite.findall(".//failure") == []
    assert "bleu" in (here / "scores.md").read_text(encoding="utf-8")

    failed = gate(*translator, "99.9", "--limit", "8")
    assert failed.returncode == 10, failed.stderr
    assert "a gate is not met: bleu is" in failed.stderr
    assert "NOT MET: bleu>=99.9" in failed.stdout
    (failure,) = ElementTree.parse(here / "scores.xml").getroot().findall(".//failure")
    assert "bleu" in (failure.get("message") or "")


def test_the_gate_without_its_arguments_says_how_it_is_used(here: Path) -> None:
    done = gate()
    assert done.returncode not in (0, 10)
    assert "usage: gate.sh RUN PREPARED" in done.stderr


def test_the_workflow_is_yaml_whose_commands_exist(inside: Inside, here: Path) -> None:
    workflow = yaml.safe_load((EXAMPLES / "ci/github-workflow.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    asked = [shlex.split(line) for line in lines if line.startswith("llmctl ")]
    assert asked
    for words in asked:
        assert inside(*words[1:], "--dry-run")["dry_run"] is True
    (gated,) = [line for line in lines if "gate.sh" in line]
    script, run, data, bound = shlex.split(gated)
    block = blocks("translation-en-zh")
    assert (run, data) == (block["train"]["out"], block["preprocess"]["out"])
    assert os.access(here / script, os.X_OK)
    assert block["eval"]["require"] == [f"bleu>={bound}"]
    written = re.findall(r"scores\.\w+", (here / script).read_text(encoding="utf-8"))
    assert set(re.findall(r"scores\.\w+", "\n".join(str(step) for step in job["steps"]))) == set(written)
