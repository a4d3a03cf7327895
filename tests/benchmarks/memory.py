"""What two processes take that share a model: `share`. How far forecasts are off: `measure`, each architecture in two sizes and both precisions, forecast (the seconds from a few measured
steps) and then trained for an epoch; encoder-decoders also for a few steps on long texts."""

from __future__ import annotations

import itertools
import json
import os
import socket
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

GIVEN: Final = {
    "gpt2": "import sys, torch, transformers as t; t.GPT2LMHeadModel(t.GPT2Config(vocab_size=24000, n_embd=512, n_layer=12, "
    "n_head=8)).to(torch.bfloat16).save_pretrained(sys.argv[1])",
    "llama": "import sys, torch, transformers as t; t.LlamaForCausalLM(t.LlamaConfig(vocab_size=24000, hidden_size=512, "
    "intermediate_size=1408, num_hidden_layers=12, num_attention_heads=8)).to(torch.bfloat16).save_pretrained(sys.argv[1])",
}
"""Programs that write a model folder of 50 to 63 million weights in bfloat16."""


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


def share() -> None:
    """Peaks of one of two processes (`spread_memory.py`), as ratios."""
    for tokens, way, bound in ((64, "ddp", 1.0), (64, "fsdp", 0.55), (1024, "fsdp+checkpointing", 0.6)):
        before, after = _peak("flat", str(tokens)), _peak(way, str(tokens))
        _ratio(f"{way}, {tokens} tokens a step, to one sum of all gradients", before, after, bound)
    with tempfile.TemporaryDirectory(prefix="llmctl-") as folder:
        for name, save in GIVEN.items():
            subprocess.run([sys.executable, "-c", save, f"{folder}/{name}"], check=True)
            full, meta = _peak("full", f"{folder}/{name}"), _peak("meta", f"{folder}/{name}")
            _ratio(f"opening {name} by parts, to opening all of it", full, meta, 0.6)


def _ratio(what: str, before: tuple[str, float], after: tuple[str, float], bound: float) -> None:
    print(f"{what:<64}{after[1] / before[1]:6.2f}  ({before[1]:,.0f} and {after[1]:,.0f} MiB; wanted <= {bound})")
    print(f"  {before[0]}, {after[0]}", flush=True)


def _peak(way: str, what: str) -> tuple[str, float]:
    """The loss and the peak that process 0 of two prints."""
    words = [sys.executable, "-m", "tests.benchmarks.spread_memory", way, what]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            words,
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [each.communicate()[0] for each in started]
    if any(each.returncode for each in started):
        raise SystemExit(f"{' '.join(words)} failed")
    text, _, peak = outputs[0].strip().rpartition(" ")
    return text, float(peak)


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
