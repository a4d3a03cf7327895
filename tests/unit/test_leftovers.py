"""What killed processes leave beside an output is removed by the next one that writes it, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl.errors import UsageError
from llmctl.store import atomic

WRITE = """
import os, sys
from pathlib import Path
from llmctl.store import atomic
with atomic.{what}(Path(sys.argv[1])) as made:
    (made.write(b"half"), made.flush()) if {file} else (made / "part").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def writer(what: str, path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing."""
    code = WRITE.format(what=what, file=what == "atomic_file")
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def temporaries(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith(atomic.TEMPORARY))


@pytest.mark.parametrize("what", ["atomic_file", "atomic_folder"])
def test_the_next_one_removes_what_a_killed_process_left(what: str, tmp_path: Path) -> None:
    with writer(what, tmp_path / "out") as process:
        process.send_signal(signal.SIGKILL)
    assert temporaries(tmp_path)
    (tmp_path / ".llmctl-out-notes").write_text("mine")
    (tmp_path / ".llmctl-outer-01234567").write_text("of another output")
    with getattr(atomic, what)(tmp_path / "out"):
        pass
    assert (tmp_path / "out").exists()
    assert temporaries(tmp_path) == [".llmctl-out-notes", ".llmctl-outer-01234567"]


@pytest.mark.parametrize("what", ["atomic_file", "atomic_folder"])
def test_what_another_process_is_writing_stays(what: str, tmp_path: Path) -> None:
    with writer(what, tmp_path / "out") as process:
        [before] = temporaries(tmp_path)
        atomic.remove_leftovers(tmp_path / "out")
        assert temporaries(tmp_path) == [before]
        process.communicate("")
    assert process.returncode == 0
    assert (tmp_path / "out").exists()
    assert temporaries(tmp_path) == []


def test_an_output_that_was_not_replaced_gets_its_name_back(tmp_path: Path) -> None:
    """Killed between two renames: the former output lies under a temporary name, complete."""
    kept = tmp_path / ".llmctl-old-out-01234567"
    kept.mkdir()
    (kept / "manifest.json").write_text("{}")
    atomic.remove_leftovers(tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_text() == "{}"
    (tmp_path / "out").rename(kept)
    with pytest.raises(UsageError, match="exists"), atomic.atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "manifest.json").read_text() == "{}"
