"""The files of `examples/serve`: what they start is a command that llmctl takes, and they leave time to drain."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import llmctl
from llmctl.config import validate
from llmctl.workflows.serve.spec import ServeConfig

EXAMPLES = Path(llmctl.__file__).parent.parent / "examples" / "serve"
UNIT, DOCKERFILE, COMPOSE = (EXAMPLES / name for name in ("llmctl-serve.service", "Dockerfile", "docker-compose.yml"))


def started() -> dict[str, list[str]]:
    """The words after `llmctl serve` in the unit and in the image."""
    unit = re.search(r"^ExecStart=\S+/llmctl serve (.*)$", UNIT.read_text(), re.MULTILINE)
    image = re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    assert unit
    assert image
    words = json.loads(image[1])
    assert words[:2] == ["llmctl", "serve"]
    return {"unit": shlex.split(unit[1]), "image": words[2:]}


@pytest.mark.parametrize("name", ["unit", "image"])
def test_the_command_is_one_that_llmctl_takes(
    name: str, folders: Callable[[str], Path], inside: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    words = started()[name]
    (tmp_path / "keys").write_text("a-key-of-some-length")
    own = {"--model": folders("lm"), "--api-key-file": tmp_path / "keys", "--port": "0"}
    given = [own.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    plan = inside("serve", *given, "--dry-run")
    assert plan["serve"]["host"] == "0.0.0.0"
    assert plan["plan"]["keys"] == 1


def test_they_leave_time_for_the_longest_request() -> None:
    longest = validate(ServeConfig, {"model": "./m"}).request_timeout
    unit = re.search(r"^TimeoutStopSec=(\d+)min$", UNIT.read_text(), re.MULTILINE)
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert unit
    assert int(unit[1]) * 60 > longest
    assert int(services["llmctl"]["stop_grace_period"].removesuffix("m")) * 60 > longest


def test_files_that_they_name_are_there() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    build = services["llmctl"]["build"]
    root = (EXAMPLES / build["context"]).resolve()
    assert (root / "pyproject.toml").is_file()
    assert (root / build["dockerfile"]).samefile(DOCKERFILE)
    (scrape,) = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["llmctl:8000"]}]
    assert ".[serve]" in DOCKERFILE.read_text()


def test_the_image_holds_what_is_installed_and_no_keys() -> None:
    root = EXAMPLES.parent.parent
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"  # later lines win
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "constraints.txt", "llmctl", project["readme"], *project["license-files"]}
    assert sent == {each for each in needed if not each.startswith("llmctl/")}
    assert all((root / each).exists() for each in sent)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/llmctl/bin/llmctl", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert UNIT.name not in done.stderr, done.stderr
