"""Free memory of a container, read from the files of its control group."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl.training import machine


def control_group(folder: Path, limit: str, used: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("anon 300\nfile 500\ninactive_anon 0\ninactive_file 450\nactive_file 50\n")
    return folder


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [("1000", 800, 650), ("1000", 1600, 0), ("1000", 100, 1000), ("max", 800, None)],
    ids=["files that nobody looks at are free", "over its limit", "nothing but files", "no limit"],
)
def test_free_memory_of_a_container(limit: str, used: int, left: int | None, tmp_path: Path) -> None:
    assert machine.cgroup_free_bytes(control_group(tmp_path, limit, used)) == left


def test_a_missing_control_group_means_no_limit(tmp_path: Path) -> None:
    assert machine.cgroup_free_bytes(tmp_path) is None
