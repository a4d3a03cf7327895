"""How far forecasts are off: each architecture in two sizes, forecast (the seconds from a few measured steps) and then
trained for an epoch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.models.spec import ModelSpec

SIZES: Final = ("nano", "small")
DATA: Final = {"decoder": "sonnets", "encoder-decoder": "udhr-en-zh", "encoder": "reviews"}
"""What each family learns here, of the built-in data."""


def llmctl(*words: str) -> Any:
    """The JSON document of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "llmctl", *words, "--json"], capture_output=True, text=True, check=False
    )
    document = json.loads(done.stdout)
    if document["status"] != "ok":
        raise SystemExit(f"llmctl {' '.join(words)}: {document['error']['message']}")
    return document


def measure() -> None:
    """A line for each architecture and size: forecast and measured peak and seconds, and how many times the one the other is."""
    with tempfile.TemporaryDirectory(prefix="llmctl-") as folder:
        place = Path(folder)
        for name in DATA.values():
            llmctl("preprocess", name, "--out", str(place / name))
        print(f"{'model':<24}{'forecast':>9}{'measured':>9}  ratio   (memory wanted 0.85 to 1.15; then seconds)")
        for entry in registry.entries("models"):
            spec: ModelSpec = registry.load("models", entry.name)
            for size in SIZES:
                _line(f"{spec.name}:{size}", place / DATA[spec.family])


def _line(model: str, data: Path) -> None:
    train = (
        "train",
        "--data",
        str(data),
        "--model",
        model,
        "--epochs",
        "1",
        "--out",
        str(data.parent / model.replace(":", "-")),
    )
    forecast = llmctl(*train, "--dry-run", "--measure")["plan"]["forecast"]
    done = llmctl(*train)
    told = [f"{model:<24}"]
    for predicted, measured, unit in (
        (forecast["memory"]["total_bytes"] / 2**20, done["peak_memory_bytes"] / 2**20, "MiB"),
        (forecast["measured"]["seconds"], done["seconds"], "s"),
    ):
        told.append(f"{predicted:>9,.1f}{measured:>9,.1f} {unit:<4}{predicted / measured:>6.2f}")
    print("".join(told), flush=True)
