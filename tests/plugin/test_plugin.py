"""A package that adds to the registry, installed as pip installs it, from `llmctl list` to a score of its own metric."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WORDS = ["".join(letters) for letters in itertools.product("aeiou", "dlnrst", "aeio")]


def install(package: str, to: Path) -> None:
    source = to / "source"
    shutil.copytree(HERE / package, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-index", "--target", str(to / "site"), str(source)],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spelling")
    install("spelling", folder)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """With the packages that are installed in the folder, too."""
    path = filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def llmctl(folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "llmctl", *words, "--json"], capture_output=True, env=environment(folder), cwd=folder
    )
    assert done.returncode == code, done.stderr.decode()
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_shell_completes_its_verb_and_its_names(installed: Path) -> None:
    script = llmctl(installed, "completions", "bash")["script"]
    assert "_llmctl_spell() {" in script
    assert "--upper" in script
    assert "window:tiny" in script


def test_list_names_its_owner_and_summary(installed: Path) -> None:
    entries = llmctl(installed, "list")["entries"]
    added = [entry for entry in entries if entry["owner"] == "llmctl-spelling"]
    assert [(entry["kind"], entry["name"]) for entry in added] == [
        ("models", "window"),
        ("tasks", "ending"),
        ("metrics", "letters"),
    ]
    assert added[0]["summary"] == "letters of words: a task, a metric, a verb, and a model that sees four tokens"


def test_show_describes_what_it_adds(installed: Path) -> None:
    model = llmctl(installed, "show", "models", "window")
    assert [size["size"] for size in model["sizes"]] == ["nano", "tiny"]
    assert model["sizes"][0]["parameters"] == 4096 * 16 + 65 * 48 + 49 * 4096
    assert llmctl(installed, "show", "tasks", "ending")["columns"][0]["name"] == "word"
    assert llmctl(installed, "show", "metrics", "letters")["options"][0]["name"] == "lowercase"


def test_its_names_are_near_misses_too(installed: Path) -> None:
    error = llmctl(installed, "show", "tasks", "endng", code=2)["error"]
    assert error["hint"] == "did you mean 'ending'?"


def test_doctor_loads_it(installed: Path) -> None:
    findings = {finding["check"]: finding for finding in llmctl(installed, "doctor")["findings"]}
    assert findings["model window of llmctl-spelling"]["status"] == "ok"


def test_the_whole_life_of_its_model_on_its_task_by_its_metric(installed: Path) -> None:
    (installed / "words.jsonl").write_text("".join(json.dumps({"word": word}) + "\n" for word in WORDS))
    (installed / "recipe.yaml").write_text(
        """
preprocess: {inputs: [words.jsonl], task: ending, out: prepared, tokenizer: char, splits: {validation: 0.1, test: 0.2}}
train: {data: prepared, model: window, out: speller, max_steps: 60, batch_size: 8, lr: 0.02, best_by: letters}
generate: {model: ./speller, prompt: [cat]}
eval: {model: ./speller, data: prepared, split: train, metric: ["letters:lowercase=true"], require: ["letters>0.5"]}
"""
    )
    stages = {stage["verb"]: stage["document"] for stage in llmctl(installed, "run", "recipe.yaml")["stages"]}
    assert stages["preprocess"]["task"] == "ending"
    assert stages["train"]["best"]["metric"] == "letters"
    assert stages["generate"]["completions"][0]["prompt"] == "cat"
    [score] = stages["eval"]["scores"]
    assert score["metric"] == "letters"
    assert score["signature"].startswith("case:lc")
    assert 0.5 < score["value"] <= 1
    assert json.loads((installed / "speller/model/config.json").read_text())["model_type"] == "llmctl-spelling-window"


def plain(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llmctl", *words], capture_output=True, env=environment(folder), cwd=folder
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_its_verb_is_in_the_help_with_panels_and_examples(installed: Path) -> None:
    assert "From other packages:\n  spell  letters of words" in plain(installed, "--help")
    text = plain(installed, "spell", "--help-all")
    assert "--upper " in text
    assert "upper=true|false" in text
    assert "Examples:\n  llmctl spell words.txt" in text


def test_its_verb_runs_from_the_command_line_and_refuses_what_every_verb_refuses(installed: Path) -> None:
    (installed / "list.txt").write_text("cat 猫\n")
    assert llmctl(installed, "spell", "list.txt", "--out", "a.json", "--dry-run")["plan"] == {"words": 2}
    assert not (installed / "a.json").exists()
    document = llmctl(installed, "spell", "list.txt", "--out", "a.json", "--upper")
    assert document["schema"] == "llmctl.spell/1"
    assert json.loads((installed / "a.json").read_text()) == ["C A T", "猫"]
    assert "--force" in llmctl(installed, "spell", "list.txt", "--out", "a.json", code=2)["error"]["hint"]
    error = llmctl(installed, "spell", "list.txt", "--out", "b.json", "--set", "uper=true", code=2)["error"]
    assert "did you mean 'upper'?" in str(error)
    assert "word  letters\ncat   c a t" in plain(installed, "spell", "list.txt", "--out", "c.json")


def test_its_verb_is_a_stage_of_a_recipe(installed: Path) -> None:
    (installed / "few.txt").write_text("dog\n")
    (installed / "spell.yaml").write_text("spell: {words: few.txt, out: few.json}\n")
    assert [stage["status"] for stage in llmctl(installed, "run", "spell.yaml")["stages"]] == ["ran"]
    assert [stage["status"] for stage in llmctl(installed, "run", "spell.yaml")["stages"]] == ["skipped"]
    again = llmctl(installed, "run", "spell.yaml", "--set", "spell.upper=true")["stages"]
    assert again[0]["why"] == "changed: upper"
    assert json.loads((installed / "few.json").read_text()) == ["D O G"]


def test_two_owners_of_one_name_are_both_named(tmp_path: Path) -> None:
    install("clashing", tmp_path)
    error = llmctl(tmp_path, "list", code=4)["error"]
    assert error["message"] == "metrics 'bleu' is claimed by both llmctl and llmctl-clashing"
    assert error["hint"] == "uninstall one of them: pip uninstall llmctl-clashing"
    findings = {finding["check"]: finding for finding in llmctl(tmp_path, "doctor", code=4)["findings"]}
    assert findings["metrics"]["status"] == "problem"
