"""The page on Python and the notebook run as they stand."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

import llmctl

REPOSITORY = Path(llmctl.__file__).parent.parent
NOTEBOOK = REPOSITORY / "examples/poems.ipynb"
NOTEBOOK_BYTES = 200_000


def test_the_page_on_python_runs(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    script = tmp_path / "page.py"
    script.write_text(re.sub(r"max_steps=200\b", "max_steps=20", "\n".join(blocks)), encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "max_stps: unknown key; did you mean 'max_steps'" in done.stdout
    assert "did you mean 'gpt2'" in done.stdout


def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_small_and_was_executed() -> None:
    assert NOTEBOOK.stat().st_size < NOTEBOOK_BYTES
    code = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    for cell in code:
        ast.parse(cell.source)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["module://matplotlib_inline.backend_inline", "module://not_installed.backend", None]
)
def test_the_notebook_runs(backend: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter sets MPLBACKEND in the kernel's environment; another environment's kernel may lack that package."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    made = notebook()
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert 'max_time = "60s"' in code[0].source
    code[0].source = code[0].source.replace('"60s"', '"1s"')
    setting = f"os.environ['MPLBACKEND'] = {backend!r}" if backend else "os.environ.pop('MPLBACKEND', None)"
    code[0].source = f"import os\n{setting}\n{code[0].source}"
    if backend != "module://matplotlib_inline.backend_inline":
        made.cells = made.cells[: made.cells.index(next(cell for cell in code if "Image(" in cell.source)) + 1]
    client = nbclient.NotebookClient(
        made, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in code for output in cell.get("outputs", ())]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
