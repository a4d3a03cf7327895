"""`compile=true` in real runs: graphs are made of the model's forward pass, few of them, and the losses stay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo
from torch._dynamo.utils import counters

from llmctl.training import machine

Inside = Callable[..., dict[str, Any]]
SMALL = ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32", "model.dropout=0")
needs_compiler = pytest.mark.skipif(machine.cpp_compiler() is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled before, nothing left after."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def losses(run: Path) -> list[float]:
    """Of every step and every evaluation."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows for name in ("loss", "validation_loss") if name in row]


@needs_compiler
@pytest.mark.parametrize(("model", "data"), [("gpt2", "sonnets"), ("attention", "dates"), ("marian", "dates")])
def test_compile_compiles_the_model_and_keeps_the_losses(
    inside: Inside, request: pytest.FixtureRequest, tmp_path: Path, fresh_compiler: None, model: str, data: str
) -> None:
    """Batches of `dates` have many widths: they must share graphs, and none may run uncompiled for want of room."""

    def train(name: str, *more: str) -> list[float]:
        sets = [f"--set={each}" for each in (*SMALL, "max_steps=8", "log_every=1", "batch_size=8", *more)]
        where = ("--data", request.getfixturevalue(data), "--out", tmp_path / name)
        inside("train", "--model", model, *where, "--precision", "fp32", *sets)
        return losses(tmp_path / name)

    plain = train("plain")
    assert counters["stats"]["unique_graphs"] == 0
    compiled = train("compiled", "compile=true")
    assert compiled == pytest.approx(plain, rel=1e-4)
    graphs, calls = counters["stats"]["unique_graphs"], counters["stats"]["calls_captured"]
    assert 2 <= graphs <= 16, "one for training and one for evaluation at least, not one for each width"
    assert calls / graphs > 5, "the model's forward pass is in them"
    assert counters["inductor"], "they became code"


@needs_compiler
@pytest.mark.timeout(900)
def test_two_processes_compile_too_and_keep_the_losses(sonnets: Path, tmp_path: Path, llmctl: Any) -> None:
    def train(name: str, *more: str) -> list[float]:
        sets = [f"--set={each}" for each in (*SMALL, "max_steps=4", "log_every=1", "batch_size=8", *more)]
        where = ("--data", sonnets, "--out", tmp_path / name)
        made = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
        words = ("train", "--model", "gpt2", *where, "--processes", "2", "--precision", "fp32", *sets)
        done = llmctl(*words, env=made, timeout=800)
        assert done.returncode == 0, done.stderr
        return losses(tmp_path / name)

    plain = train("plain")
    assert not list(tmp_path.glob("cache/**/*.so"))
    assert train("compiled", "compile=true") == pytest.approx(plain, rel=1e-4)
    assert list(tmp_path.glob("cache/**/*.so")), "code was made"


def test_compile_without_a_compiler_is_refused_before_anything_is_made(
    inside: Inside, sonnets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    words = ("--data", sonnets, "--model", "lstm", "--out", tmp_path / "run", "--set", "compile=true")
    error = inside("train", *words, code=4)["error"]
    assert "C++ compiler" in error["message"]
    assert "g++" in error["hint"]
    assert not (tmp_path / "run").exists()
