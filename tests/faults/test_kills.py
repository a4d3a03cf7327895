"""A kill at any moment: no orphans, nothing half made, and the same command or `--resume` ends as if nothing had happened.

A few kills, at the same moments every time; with LLMCTL_KILLS=50 in the environment that many over all verbs.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow
FEW = {
    "preprocess": ("SIGKILL", "SIGTERM twice", "SIGINT"),
    "preprocess, 2 processes": ("SIGKILL",),
    "train, 2 processes": ("SIGKILL",),
    "generate": ("SIGTERM",),
}


def _harness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kills", Path(__file__).with_name("kills.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


kills = _harness()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = kills.sources(tmp_path_factory.mktemp("kills") / "source")
    return folder


@pytest.mark.parametrize("name", FEW)
def test_killed_it_leaves_nothing_and_goes_on_to_the_same_outcome(name: str, source: Path, tmp_path: Path) -> None:
    wanted, seconds = kills.undisturbed(name, source, tmp_path / "whole")
    kills.kill_and_go_on(name, FEW[name], source, tmp_path / "killed", wanted, seconds, random.Random(name))


@pytest.mark.timeout(0)
@pytest.mark.skipif("LLMCTL_KILLS" not in os.environ, reason="takes long; LLMCTL_KILLS=50 is the full measure")
def test_killed_many_times_over_all_verbs(tmp_path: Path) -> None:
    assert kills.main(int(os.environ["LLMCTL_KILLS"]), seed=0) == 0
