"""docs/tasks.md and its Chinese translation show what models really see."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import llmctl
from llmctl import registry

REPOSITORY = Path(llmctl.__file__).parent.parent
PAGE = REPOSITORY / "docs" / "tasks.md"


def test_the_pages_of_tasks_are_what_the_commands_print(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.shape.tasks_page", str(tmp_path)]
    made = subprocess.run(command, cwd=REPOSITORY, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()
    again = "make them again: python -m tests.shape.tasks_page docs"
    for page in (PAGE, PAGE.parent / "zh-CN" / "tasks.md"):
        written = tmp_path / page.relative_to(PAGE.parent)
        assert written.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), again


def test_every_task_stands_there_with_every_family_that_can_express_it() -> None:
    shown = re.findall(r"^task +(\S+)\nmodel +\S+\nfamily +(\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    tasks = [registry.load("tasks", entry.name) for entry in registry.entries("tasks") if entry.owner == registry.OWNER]
    assert set(shown) == {(task.name, family) for task in tasks for family in task.families}


def test_the_table_of_families_is_the_registry_s() -> None:
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (`[^|]+`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {model: family for family, models in rows for model in re.findall(r"`([^`]+)`", models)}
    models = [
        registry.load("models", entry.name) for entry in registry.entries("models") if entry.owner == registry.OWNER
    ]
    assert shown == {spec.name: spec.family for spec in models}
