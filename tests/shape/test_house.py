"""The architecture itself: floors, light files, names, sizes; what the design promises and a change could break."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

import llmctl
from llmctl import registry
from llmctl.config import Spec

ROOT = Path(llmctl.__file__).parent
REPOSITORY = ROOT.parent
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = ("torch", "transformers", "datasets", "numpy", "tokenizers", "pyarrow", "sacrebleu", "yaml", "rich", "typer")
SPEC_MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in FILES if path.name == "spec.py"
)


def test_imports_point_down() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_no_circle_of_files() -> None:
    """Layers see rooms; inside a room, and through late imports, files must not need each other in a circle either."""
    graph = grimp.build_graph("llmctl", exclude_type_checking_imports=True, cache_dir=None)
    unseen = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while free := {module for module, needs in unseen.items() if not needs & unseen.keys()}:
        unseen = {module: needs for module, needs in unseen.items() if module not in free}
    assert sorted(unseen) == []


def test_the_layers_of_architecture_are_those_that_are_checked() -> None:
    """The drawing of ARCHITECTURE.md names every layer of the contracts, in their order."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    whole, inside, data = ([re.findall(r"\w+", layer) for layer in contract["layers"]] for contract in contracts)
    _, first, _, second, *_ = (REPOSITORY / "ARCHITECTURE.md").read_text().partition("## Layers")[2].split("```")
    for layers, drawing in ((whole, first), (inside, first), (data, second)):
        places = [min(drawing.index(f"{name}") for name in layer) for layer in layers]
        assert places == sorted(places), layers


def test_a_class_name_means_one_thing() -> None:
    names = [name for path in FILES for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.MULTILINE)]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_row_of_the_catalog_resolves(entry: registry.Entry) -> None:
    part = registry.load(entry.kind, entry.name)
    assert part.name == entry.name


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_entry_has_a_summary_of_one_line(kind: str) -> None:
    for entry in registry.entries(kind):
        assert entry.summary.strip()
        assert "\n" not in entry.summary


def test_builders_of_specs_are_there() -> None:
    """`implementation` strings lead somewhere: a light file cannot know by itself."""
    for kind in ("models", "metrics", "engines"):
        for entry in registry.entries(kind):
            module, _, attribute = registry.load(kind, entry.name).implementation.partition(":")
            assert callable(getattr(importlib.import_module(module), attribute)), entry


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_file_is_a_grab_bag() -> None:
    bags = {"utils", "util", "common", "helpers", "helper", "misc", "shared", "tools"}
    assert [path for path in FILES if path.stem in bags] == []


def test_workflows_is_a_row_of_folders() -> None:
    """A folder per verb, and two that several share: what is no verb has another place."""
    entries = {path.name for path in (ROOT / "workflows").iterdir()} - {"__init__.py", "__pycache__"}
    assert len(entries) <= 14
    assert all((ROOT / "workflows" / name / "__init__.py").is_file() for name in entries)


def test_package_files_are_empty() -> None:
    packages = [path for path in FILES if path.name == "__init__.py" and path.parent != ROOT]
    assert packages
    assert [path for path in packages if path.read_text(encoding="utf-8").strip()] == []


def _specs() -> list[type[Spec]]:
    for module in pkgutil.walk_packages(llmctl.__path__, "llmctl."):
        if module.name.endswith(".spec") or module.name.startswith("llmctl.store."):
            importlib.import_module(module.name)
    found, queue = [], [Spec]
    while queue:
        for each in queue.pop().__subclasses__():
            found.append(each)
            queue.append(each)
    return [each for each in found if each.__module__ in SPEC_MODULES]


@pytest.mark.parametrize("spec", _specs(), ids=lambda spec: spec.__name__)
def test_every_setting_says_what_it_is(spec: type[Spec]) -> None:
    for name, field in spec.model_fields.items():
        assert field.description, f"{spec.__name__}.{name}"


def test_specs_need_pydantic_and_nothing_heavy() -> None:
    imports = "; ".join(f"import {name}" for name in SPEC_MODULES)
    probe = f"import sys; {imports}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
