"""Check this machine and installation. Findings include fixes; nothing is changed."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llmctl import __version__, registry
from llmctl.catalog import ADDED
from llmctl.errors import LlmctlError
from llmctl.training import machine
from llmctl.workflows.inspect import plugins

GIB: Final = 1024**3
MEMORY_WANTED: Final = 2 * GIB
DISK_WANTED: Final = 5 * GIB
DISK_NEEDED: Final = GIB // 4
SHARED_WANTED: Final = 64 * 1024**2
"""Shared memory that torch processes exchange tensors through; Docker provides 64 MiB by default."""

OPTIONAL: Final = (
    ("peft", "train --adapter lora and its runs", "pip install 'llmctl[adapters]'"),
    ("gguf", "--model FILE.gguf and export --to gguf", "pip install 'llmctl[gguf]'"),
    ("ctranslate2", "export --to ctranslate2 and its engine", "pip install 'llmctl[ctranslate2]'"),
    ("onnxruntime", "export --to onnx and its engine", "pip install 'llmctl[onnx]'"),
    ("jieba", "preprocess --segment jieba and models trained on its words", "pip install 'llmctl[zh]'"),
    ("py3langid", "preprocess --set languages=[zh, en]", "pip install 'llmctl[langid]'"),
    ("MeCab", "BLEU of Japanese, bleu:tokenize=ja-mecab", "pip install 'sacrebleu[ja]'"),
    ("mecab_ko", "BLEU of Korean, bleu:tokenize=ko-mecab", "pip install 'sacrebleu[ko]'"),
)
"""Optional packages: module, what needs it, how to install it."""
SECONDS_TO_LOAD: Final = 10
"""How long loading a part of another package may take."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. A problem breaks a verb; a warning makes it slower or worse."""

    check: str
    status: Literal["ok", "warning", "problem"]
    message: str
    cure: str | None = None


def examine(folder: Path = Path(".")) -> list[Finding]:
    """Run all checks. `folder` is where runs would be written."""
    return [
        *_python(),
        *_packages(),
        *_optional(),
        *_torch(),
        *_memory(),
        *_disk(folder),
        *_text(),
        *_threads(),
        *_hub(),
        *_registry(),
    ]


def document(findings: list[Finding]) -> dict[str, Any]:
    """The fields of `--json`."""
    return {"llmctl": __version__, "findings": [asdict(finding) for finding in findings]}


def _python() -> Iterator[Finding]:
    wanted = SpecifierSet(_own_metadata().get("Requires-Python") or ">=3.11")
    here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.python_version() in wanted:
        yield Finding("python", "ok", here)
    else:
        yield Finding("python", "problem", f"{here}; llmctl needs {wanted}", "install a newer Python")


def _own_metadata() -> Any:
    try:
        return metadata.metadata("llmctl")
    except metadata.PackageNotFoundError:
        return {}


def _packages() -> Iterator[Finding]:
    """Compare each required package with its version bound. Nothing is imported."""
    try:
        required = [Requirement(line) for line in metadata.requires("llmctl") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages", "warning", "llmctl is not installed, so its requirements are unknown", "pip install ."
        )
        return
    for requirement in required:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        cure = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "problem", "not installed", cure)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield Finding(requirement.name, "ok", found)
        else:
            yield Finding(
                requirement.name, "problem", f"{found} is installed, llmctl needs {requirement.specifier}", cure
            )


def _optional() -> Iterator[Finding]:
    for module, needed_for, cure in OPTIONAL:
        if find_spec(module):
            yield Finding(module, "ok", f"installed; used by {needed_for}")
        else:
            yield Finding(module, "ok", f"not installed; only needed for {needed_for}", cure)
    if machine.cpp_compiler():
        yield Finding("compiler", "ok", "a C++ compiler, for train --set compile=true")
    else:
        yield Finding("compiler", "ok", "no C++ compiler; only needed for train --set compile=true", "install g++")


def _torch() -> Iterator[Finding]:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Finding("torch imports", "problem", str(error), "pip install --force-reinstall torch")
        return
    yield Finding(
        "torch imports", "ok", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        yield Finding("accelerators", "ok", f"{torch.accelerator.device_count()} × {kind}")
    else:
        yield Finding("accelerators", "ok", "none; everything runs on the CPU")
    from llmctl.training import devices

    on = "the CPU" if not devices.has_accelerator() else "the accelerator"
    if devices.resolve_precision("auto") == "bf16":
        yield Finding("bf16", "ok", f"{on} has bfloat16 instructions: --precision auto uses bf16")
    else:
        yield Finding("bf16", "ok", f"{on} has no bfloat16 instructions: --precision auto uses fp32")
    if torch.cuda.is_available() and devices.has_tf32(torch.device("cuda", 0)):
        yield Finding("tf32", "ok", "for train --precision fp32 --set tf32=true")
    else:
        yield Finding("tf32", "ok", "none; only NVIDIA GPUs since Ampere have it")
    spread = torch.distributed
    if spread.is_available():
        known = {
            "gloo": spread.is_gloo_available(),
            "nccl": spread.is_nccl_available(),
            "xccl": spread.is_xccl_available(),
        }
        found = ", ".join(name for name, here in known.items() if here)
        yield Finding("backends", "ok", f"{found or 'none'}; used by several processes")
    else:
        yield Finding("backends", "ok", "none in this torch; only needed for several processes")


def _memory() -> Iterator[Finding]:
    if find_spec("psutil") is None:
        return  # reported as a missing package
    free = machine.free_memory_bytes()
    text = f"{_gib(free)} free"
    if free < MEMORY_WANTED:
        yield Finding("memory", "warning", text, "close other programs, or train a smaller model: --model NAME:nano")
    else:
        yield Finding("memory", "ok", text)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).free
        cure = "docker run --shm-size=1g, or remount /dev/shm larger"
        if size < SHARED_WANTED:
            yield Finding("shared memory", "warning", f"{_gib(size)} free in {shared}", cure)
        else:
            yield Finding("shared memory", "ok", f"{_gib(size)} free in {shared}")


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    status: Literal["ok", "warning", "problem"] = "ok"
    if free < DISK_WANTED:
        status = "problem" if free < DISK_NEEDED else "warning"
    cure = None if status == "ok" else "free some disk space, or work in another folder"
    yield Finding("disk", status, f"{_gib(free)} free here", cure)
    if os.access(folder, os.W_OK | os.X_OK):
        yield Finding("this folder", "ok", "writable")
    else:
        yield Finding("this folder", "warning", "not writable", "work in another folder, or write outputs elsewhere")


def _text() -> Iterator[Finding]:
    encoding = (getattr(sys.__stdout__, "encoding", None) or "utf-8").lower().replace("_", "-")
    if encoding in ("utf-8", "utf8"):
        yield Finding("text", "ok", "standard output is UTF-8")
    else:
        yield Finding("text", "warning", f"standard output is {encoding}", "export LC_ALL=C.UTF-8, or PYTHONUTF8=1")


def _threads() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    requested = os.environ.get("OMP_NUM_THREADS")
    if requested and requested.isdigit() and int(requested) > cores:
        yield Finding(
            "threads",
            "warning",
            f"OMP_NUM_THREADS={requested} on {cores} cores: threads will wait for each other",
            f"export OMP_NUM_THREADS={cores}",
        )
    else:
        yield Finding("threads", "ok", f"{cores} cores" + (f", OMP_NUM_THREADS={requested}" if requested else ""))
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.upper() == "PASSIVE":
        yield Finding("waiting threads", "ok", "OMP_WAIT_POLICY=PASSIVE: idle threads sleep")
    else:
        yield Finding(
            "waiting threads",
            "warning",
            f"OMP_WAIT_POLICY={policy}: idle threads spin, which is slow beside other programs",
            "unset OMP_WAIT_POLICY: llmctl sets PASSIVE",
        )


def _hub() -> Iterator[Finding]:
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "")
    how = "HF_HUB_OFFLINE is set: hf:NAME uses the cache only" if offline else "only hf:NAME accesses the network"
    yield Finding("hub", "ok", how)


def _registry() -> Iterator[Finding]:
    """Build the table of every kind, which fails if two packages claim a name, and load what packages add."""
    for kind in registry.KINDS:
        try:
            entries = registry.entries(kind)
        except LlmctlError as error:
            yield Finding(kind, "problem", str(error), error.hint)
            continue
        added = [entry for entry in entries if entry.owner != registry.OWNER]
        yield Finding(kind, "ok", f"{len(entries) - len(added)} built in, {len(added)} from packages")
        for entry in added:
            what = f"{registry.singular(entry.kind)} {entry.name} of {entry.owner}"
            yield _loads(what, entry.kind, entry.name, entry.target)
    try:
        verbs = [row for row in registry.verbs().values() if row.panel == ADDED]
    except LlmctlError as error:
        yield Finding("verbs", "problem", str(error), error.hint)
        return
    for row in verbs:
        yield _loads(f"verb {row.name}", plugins.VERBS, row.name, row.target)


def _loads(what: str, kind: str, name: str, target: str) -> Finding:
    """Load a part of another package in a process of its own, because its code may end the process, or never end."""
    command = [sys.executable, "-m", plugins.__name__, kind, name, str(os.getpid())]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS_TO_LOAD)
    except subprocess.TimeoutExpired:
        cure = "a plug-in should import heavy packages only when it is used"
        return Finding(what, "problem", f"{target} was not loaded after {SECONDS_TO_LOAD} seconds", cure)
    last = (done.stdout.decode("utf-8", "replace").splitlines() or [""])[-1]
    if done.returncode == 0 and last.startswith(plugins.MARK):
        message, hint = json.loads(last.removeprefix(plugins.MARK))
        return Finding(what, "problem", message, hint) if message else Finding(what, "ok", f"loads from {target}")
    return Finding(what, "problem", f"{target} ends the process with code {done.returncode}", "uninstall its package")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
