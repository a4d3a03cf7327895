"""`llmctl completions`: the files are its output, and shells really complete with them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from llmctl.catalog import VERBS
from llmctl.cli import completion_scripts as workflow
from llmctl.cli.completions import commands
from llmctl.cli.main import run

FOLDER = Path(__file__).parents[2] / "completions"
FILES = {"bash": "llmctl.bash", "zsh": "llmctl.zsh", "fish": "llmctl.fish", "powershell": "llmctl.ps1"}


@pytest.mark.parametrize("shell", FILES)
def test_the_file_is_the_output(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completions", shell]) == 0
    text = capsys.readouterr().out
    assert text == (FOLDER / FILES[shell]).read_text(encoding="utf-8"), (
        f"make it again: llmctl completions {shell} > completions/{FILES[shell]}"
    )


@pytest.mark.parametrize("shell", FILES)
def test_every_verb_and_option_stands_in_every_script(shell: str) -> None:
    text = workflow.script(shell, commands())
    for command in commands():
        assert command.name in text
        for flag in command.flags:
            assert (f"-l {flag.name.removeprefix('--')} " if shell == "fish" else flag.name) in text


def test_every_verb_of_the_front_door_is_there() -> None:
    assert [command.name for command in commands()] == [row.name for row in VERBS]


def test_with_json_the_script_is_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completions", "fish", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["script"] == (FOLDER / "llmctl.fish").read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder and a file to complete."""
    (tmp_path / "my run").mkdir()
    (tmp_path / "recipe.yaml").touch()
    return tmp_path


CASES = [
    (["tr"], {"train"}),
    (["train", "--mod"], {"--model"}),
    (["train", "--model", "gpt2"], {"gpt2", "gpt2:nano", "gpt2:tiny", "gpt2:small", "gpt2:base"}),
    (["train", "--precision", "b"], {"bf16"}),
    (["train", "--set", "optimizer.l"], {"optimizer.lr="}),
    (["run", "r.yaml", "--set", "train.optimizer.l"], {"train.optimizer.lr="}),
    (["preprocess", "--task", "trans"], {"translation"}),
    (["preprocess", "son"], {"sonnets"}),
    (["preprocess", "--tokenizer", "wordp"], {"wordpiece"}),
    (["eval", "--metric", "ro"], {"rouge"}),
    (["eval", "--split", "v"], {"validation"}),
    (["eval", "--predictions", "rec"], {"recipe.yaml"}),
    (["eval", "--model", ""], {"my run"}),
    (["show", ""], {"models", "tasks", "metrics", "datasets", "engines", "data"}),
    (["show", "data", "x", "--split", "v"], {"validation"}),
    (["show", "metrics", "ble"], {"bleu"}),
    (["list", "da"], {"datasets"}),
    (["runs", "com"], {"compare"}),
    (["completions", "z"], {"zsh"}),
    (["doctor", "--q"], {"--quiet"}),
]


@pytest.mark.parametrize(("words", "offered"), CASES, ids=lambda case: " ".join(case) if isinstance(case, list) else "")
def test_bash_completes(words: list[str], offered: set[str], place: Path) -> None:
    typed = " ".join(shlex.quote(word) for word in ["llmctl", *words])
    program = (
        f"source {shlex.quote(str(FOLDER / FILES['bash']))}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; "
        '_llmctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=place, check=True)
    assert done.stderr == ""
    assert {line for line in done.stdout.split("\n") if line} == offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        # bash itself breaks words at `:` and `=` and holds what stands before them.
        ("llmctl train --model gpt2 : ti", ["tiny"]),
        ("llmctl train --model gpt2 :", ["nano", "tiny", "small", "base"]),
        ("llmctl train --precision = b", ["bf16"]),
        (
            "llmctl train --model = lstm-c",
            [f"lstm-classifier{size}" for size in ("", ":nano", ":tiny", ":small", ":base")],
        ),
    ],
)
def test_bash_completes_behind_its_own_word_breaks(typed: str, offered: list[str]) -> None:
    program = (
        f"source {shlex.quote(str(FOLDER / FILES['bash']))}; COMP_WORDS=({typed}); "
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _llmctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(("words", "offered"), CASES, ids=lambda case: " ".join(case) if isinstance(case, list) else "")
def test_fish_completes(words: list[str], offered: set[str], place: Path) -> None:
    line = "llmctl " + " ".join(words)
    program = f"source {shlex.quote(str(FOLDER / FILES['fish']))}; complete -C {shlex.quote(line)}"
    done = subprocess.run(["fish", "--no-config", "-c", program], capture_output=True, text=True, cwd=place, check=True)
    assert {row.split("\t")[0].rstrip("/") for row in done.stdout.splitlines()} == offered


@pytest.mark.parametrize(
    ("shell", "check"),
    [
        ("bash", ["bash", "-n"]),
        ("zsh", ["zsh", "-n"]),
        ("fish", ["fish", "--no-execute"]),
        ("powershell", ["pwsh", "-NoProfile", "-File"]),
    ],
)
def test_the_shell_can_read_it(shell: str, check: list[str]) -> None:
    if not shutil.which(check[0]):
        pytest.skip(f"{check[0]} is not installed")
    done = subprocess.run([*check, str(FOLDER / FILES[shell])], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
