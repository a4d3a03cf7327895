"""The first second: what a terminal shows, what a signal leaves, options and commands of other tools."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LLMCTL = [sys.executable, "-m", "llmctl"]
SMALL = ["--model", "rnn", "--precision", "fp32", "--set=model.hidden=8", "--set=model.layers=1", "--max-steps", "3"]


def shown(command: list[str], **more: Any) -> tuple[bytes, int]:
    """Everything that a terminal receives, escape sequences too, and the exit code."""
    screen, terminal = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=environment | {"TERM": "xterm"}, **more
    )
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal is closed at its other end
        while piece := os.read(screen, 65536):
            seen += piece
    os.close(screen)
    return seen, process.wait(timeout=60)


def test_a_terminal_shows_something_before_torch_is_imported(dates: Path, tmp_path: Path) -> None:
    """A module named torch, found first, says when it is imported."""
    (tmp_path / "torch.py").write_text("import os; os.write(2, b'TORCH IS IMPORTED'); os._exit(9)\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    words = ["train", "--data", str(dates), *SMALL, "--out", str(tmp_path / "run")]
    code = f"import os, sys; os.environ['PYTHONPATH'] = {path!r}; os.execv(sys.executable, {[*LLMCTL, *words]!r})"
    seen, _ = shown([sys.executable, "-c", code])
    before, marker, _ = seen.partition(b"TORCH IS IMPORTED")
    assert marker, seen
    assert "loading PyTorch…".encode() in before


def test_the_progress_bar_ends_full(dates: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(dates), *SMALL, "--out", str(tmp_path / "run"), "--set=log_every=2"]
    seen, code = shown([*LLMCTL, *words])
    assert code == 0, seen
    assert [int(each) for each in re.findall(rb"(\d+)%", seen)][-1] == 100


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_command_line_is_imported_leaves_no_traceback(number: signal.Signals, code: int) -> None:
    """The process signals itself at each of the first imports of `main`."""
    for module in ("typer", "llmctl.catalog", "llmctl.registry", "llmctl.cli.help", "llmctl.cli.options"):
        program = (
            "import os, sys\n"
            "class Finder:\n"
            "    def find_spec(self, name, *_):\n"
            f"        if name == {module!r}: os.kill(os.getpid(), {int(number)})\n"
            "sys.meta_path.insert(0, Finder())\n"
            "sys.argv = ['llmctl', 'train', '--help']\n"
            "from llmctl.__main__ import main\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True)
        assert done.returncode == code, (module, done.stderr)
        assert done.stderr in (b"error: interrupted\n", b"error: terminated\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_library_is_imported_is_not_called_a_bug(number: int, code: int, tmp_path: Path) -> None:
    """transformers makes a ModuleNotFoundError of whatever ends an import; here a module named yaml does."""
    module = f"import os\ntry: os.kill(os.getpid(), {int(number)}); [None] * 10\nexcept BaseException: raise ModuleNotFoundError('yaml')\n"
    (tmp_path / "yaml.py").write_text(module)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    (tmp_path / "recipe.yaml").write_text("train: {}\n")
    command = [*LLMCTL, "run", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == code, done.stderr
    assert b"bug" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_in_the_first_half_second_leave_no_traceback(number: signal.Signals, tmp_path: Path) -> None:
    """Also twice. Before the interpreter has started, the signal itself ends the process."""
    for delay in (0.1, 0.2, 0.3, 0.4, 0.5):
        process = subprocess.Popen(
            [*LLMCTL, "preprocess", "sonnets", "--out", str(tmp_path / "out"), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(delay)
        process.send_signal(number)
        time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if b"Fatal Python error: init_import_site" in err:
            continue  # Python itself had not started
        assert process.returncode in (-number, 128 + number), err
        assert process.returncode == -number or b"Traceback" not in err, err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("serve", "is required"),
        ("server", "did you mean 'serve'?"),
        ("finetune", "did you mean 'train'?"),
        ("predict", "did you mean 'generate'?"),
        ("evaluate", "did you mean 'eval'?"),
        ("trian", "did you mean 'train'?"),
        ("train --device cuda", "CUDA_VISIBLE_DEVICES"),
        ("generate --device cpu --model x", "CUDA_VISIBLE_DEVICES"),
        ("train --num_train_epochs 3", "did you mean --epochs?"),
        ("train --num-train-epochs=3", "did you mean --epochs?"),
        ("train --per_device_train_batch_size 8", "did you mean --batch-size?"),
        ("train --learning_rate 1e-3", "did you mean --lr?"),
        ("train --learning-rate 1e-3", "did you mean --lr?"),
        ("train --model_name_or_path gpt2", "did you mean --model?"),
        ("train --max_seq_length 64", "did you mean --set max_length=VALUE?"),
        ("preprocess --max_seq_length 64", "did you mean --max-length or --set block_size=VALUE?"),
        ("train --max_grad_norm 1", "did you mean --set clip_norm=VALUE?"),
        ("train --lora_r 8", "did you mean --set adapter.rank=VALUE?"),
        ("train --output_dir x", "did you mean --out?"),
        ("train --nproc_per_node 2", "did you mean --processes?"),
        ("train --resume_from_checkpoint x", "llmctl train --resume RUN"),
        ("train --trust_remote_code", "never runs code"),
        ("train --fp16", "did you mean --precision?"),
        ("generate --max_tokens 3", "did you mean --max-new-tokens?"),
        ("generate --model Qwen/Qwen2.5-0.5B --prompt x", "hf:Qwen/Qwen2.5-0.5B"),
        ("eval --model Qwen/Qwen2.5-0.5B --data x", "hf:Qwen/Qwen2.5-0.5B"),
        ("preprocess sonnets --tokenizer Qwen/Qwen2.5-0.5B --out x", "hf:Qwen/Qwen2.5-0.5B"),
    ],
)
def test_a_name_of_another_tool_is_answered_with_ours(
    line: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmctl.cli.main import run

    monkeypatch.chdir(tmp_path)
    assert run(line.split()) == 2
    err = capsys.readouterr().err
    assert hint in err
    assert "merge" not in err
    assert len(err.splitlines()) <= 3


def test_a_recipe_with_names_of_another_tool_is_answered_with_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmctl.cli.main import run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rec_bad.yaml").write_text(
        "preprocess: {inputs: [sonnets], out: data, preprocessing_num_workers: 2}\n"
        "train: {data: data, model: rnn, out: run, learning_rate: 1e-3, num_train_epochs: 3, max_seq_length: 64,\n"
        "  per_device_train_batch_size: 8, device: cuda, warmup_ratio: 0.1, model_name_or_path: gpt2}\n"
    )
    assert run(["run", "rec_bad.yaml"]) == 2
    lines = capsys.readouterr().err.removeprefix("error: ").splitlines()
    assert "preprocess.preprocessing_num_workers: unknown key; did you mean 'workers'?" in lines
    assert "train.learning_rate: unknown key; did you mean 'optimizer.lr' (--lr)?" in lines
    assert "train.num_train_epochs: unknown key; did you mean 'epochs'?" in lines
    assert "train.max_seq_length: unknown key; did you mean 'max_length'?" in lines
    assert "train.per_device_train_batch_size: unknown key; did you mean 'batch_size'?" in lines
    assert "train.warmup_ratio: unknown key; did you mean 'schedule.warmup_steps'?" in lines
    assert "train.model_name_or_path: unknown key; did you mean 'model'?" in lines
    assert any(line.startswith("train.device: unknown key; an accelerator is used") for line in lines)
