"""The front door is quick: nothing heavy is imported for help, the registry, completion or a config error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl import registry
from llmctl.catalog import VERBS

HEAVY = ("torch", "transformers", "datasets", "pandas", "numpy", "accelerate", "pyarrow", "tokenizers", "sacrebleu")

COMMANDS = [
    [],
    ["--version"],
    ["--help"],
    *([row.name, "--help"] for row in VERBS),
    *([row.name, "--help-all"] for row in VERBS if row.recipe != "no"),
    ["list"],
    ["list", "--json"],
    *(["list", kind] for kind in registry.KINDS),
    *(["show", entry.kind, entry.name] for entry in registry.entries()),
    ["runs"],
    ["runs", "show", "."],
    *(["completions", shell] for shell in ("bash", "zsh", "fish", "powershell")),
    ["trian"],
    ["train", "--modle", "x"],
    ["preprocess", "sonnets", "--out", "o", "--set", "cleen.unicode=nfc"],
    ["train", "--data", "d", "--model", "gpt2", "--out", "o", "--set", "model.layrs=3"],
    ["train", "--data", "d", "--model", "gtp2", "--out", "o"],
    ["generate", "--model", "./m", "--set", "topk=3"],
    ["chat", "--model", "./m", "--set", "topk=3"],
    ["chat", "--model", "gpt2"],
    ["eval", "--set", "interval.levle=0.9"],
    ["quickstart", "--set", "sead=1"],
    ["compare", "--data", "d", "--models", "rnn,gtp2", "--out", "o", "--set", "train.clip_nrom=1"],
    ["run", "recipe.yaml"],
]

PROBE = f"""
import contextlib, io, json, sys
from llmctl.cli.main import run
found = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run(words)
    found.append([words, code, [name for name in {HEAVY!r} if name in sys.modules]])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[str], int, list[str]]]:
    """Every command with its exit code and the heavy packages that are there after it, all in one process."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "recipe.yaml").write_text("train: {modle: gpt2}\n")
    return _answered(COMMANDS, folder)


def _answered(commands: list[list[str]], folder: Path) -> list[tuple[list[str], int, list[str]]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    return [tuple(row) for row in json.loads(done.stdout)]


def test_nothing_heavy_is_imported(answered: list[tuple[list[str], int, list[str]]]) -> None:
    first = next(((words, heavy) for words, _, heavy in answered if heavy), None)
    assert first is None, f"llmctl {' '.join(first[0])} imports {', '.join(first[1])}" if first else ""


def test_they_all_answer(answered: list[tuple[list[str], int, list[str]]]) -> None:
    mistakes = COMMANDS.index(["trian"])
    wrong = [
        (words, code) for words, code, _ in answered[:mistakes] if code != (2 if words[:2] == ["runs", "show"] else 0)
    ]
    assert wrong == []
    assert [(words, code) for words, code, _ in answered[mistakes:] if code != 2] == []


def test_a_forecast_is_arithmetic_alone(sonnets: Path, tmp_path: Path) -> None:
    commands = [
        ["show", "models", "gpt2", "--data", str(sonnets)],
        ["suggest", "--data", str(sonnets)],
        ["train", "--data", str(sonnets), "--model", "gpt2", "--out", "o", "--dry-run"],
    ]
    assert _answered(commands, tmp_path) == [(words, 0, []) for words in commands]


def test_a_training_example_is_shown_without_torch(sonnets: Path, tmp_path: Path) -> None:
    ((_, code, heavy),) = _answered([["show", "data", str(sonnets)]], tmp_path)
    assert code == 0
    assert "torch" not in heavy
