"""How far forecasts of memory are off: each architecture in two sizes, forecast and then trained for an epoch."""

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
    """A line for each architecture and size: forecast and measured peak, and how many times the one the other is."""
    with tempfile.TemporaryDirectory(prefix="llmctl-") as folder:
        place = Path(folder)
        for name in DATA.values():
            llmctl("preprocess", name, "--out", str(place / name))
        print(f"{'model':<24}{'forecast':>10}{'measured':>10}{'ratio':>8}   (wanted 0.85 to 1.15)")
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
    predicted = llmctl(*train, "--dry-run")["plan"]["forecast"]["memory"]["total_bytes"]
    measured = llmctl(*train)["peak_memory_bytes"]
    print(
        f"{model:<24}{predicted / 2**20:>6,.0f} MiB{measured / 2**20:>6,.0f} MiB{predicted / measured:>8.2f}",
        flush=True,
    )
