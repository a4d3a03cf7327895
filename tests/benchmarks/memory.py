"""How far forecasts are off: each architecture in two sizes and both precisions, forecast (the seconds from a few measured
steps) and then trained for an epoch; encoder-decoders also for a few steps on long texts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from llmctl import registry
from llmctl.models.spec import ModelSpec

SIZES: Final = ("nano", "small")
PRECISIONS: Final = ("bf16", "fp32")
DATA: Final = {"decoder": ("sonnets",), "encoder-decoder": ("udhr-en-zh", "abstracts"), "encoder": ("reviews",)}
"""What each family learns here, of the built-in data."""
PREPARED: Final = {"abstracts": ("--tokenizer", "char")}
"""How what is not prepared as usual is: as texts of a thousand tokens."""
TRAINED: Final = {"abstracts": ("--batch-size", "4", "--max-steps", "4")}
"""For how long, where not for an epoch."""


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
        for name in itertools.chain(*DATA.values()):
            llmctl("preprocess", name, "--out", str(place / name), *PREPARED.get(name, ()))
        head = f"{'model':<22}{'':<6}{'data':<12}{'forecast':>9}{'measured':>9}  ratio"
        print(f"{head}   (memory wanted 0.85 to 1.15; then seconds)")
        for entry in registry.entries("models"):
            spec: ModelSpec = registry.load("models", entry.name)
            for data, size, precision in itertools.product(DATA[spec.family], SIZES, PRECISIONS):
                _line(f"{spec.name}:{size}", precision, place / data)


def _line(model: str, precision: str, data: Path) -> None:
    out = data.parent / f"{model.replace(':', '-')}-{precision}-{data.name}"
    length = TRAINED.get(data.name, ("--epochs", "1"))
    place = ("--data", str(data), "--out", str(out))
    train = ("train", *place, "--model", model, "--precision", precision, *length)
    forecast = llmctl(*train, "--dry-run", "--measure")["plan"]["forecast"]
    done = llmctl(*train)
    line = [f"{model:<22}{precision:<6}{data.name:<12}"]
    for predicted, measured, unit in (
        (forecast["memory"]["total_bytes"] / 2**20, done["peak_memory_bytes"] / 2**20, "MiB"),
        (forecast["measured"]["seconds"], done["seconds"], "s"),
    ):
        line.append(f"{predicted:>9,.1f}{measured:>9,.1f} {unit:<4}{predicted / measured:>6.2f}")
    print("".join(line), flush=True)
