"""Speed as ratios against peers, in one run: `python -m tests.benchmarks [--only start|preprocess|near|train|generate|memory]`.

Each measurement is a process of its own; ours and the peer's take turns, and the median of the ratios is printed.
Nothing here is asserted in a test. Quiet machines only: the spread is printed beside each ratio.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmctl.environment import SPINS
from tests.benchmarks.memory import measure, share

HERE = Path(__file__).parent
WHAT = ("start", "preprocess", "near", "train", "generate", "memory")


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak memory (MB) of a process; of several, the largest."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, used.ru_maxrss / 1024


def printed(command: Sequence[str]) -> float:
    """The number that a process prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return float(done.stdout.split()[-1])


def emit(name: str, ratios: Sequence[float], unit: str, bound: str) -> None:
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{name:<52}{statistics.median(ratios):6.2f} x {unit:<14} ({spread}; wanted {bound})", flush=True)


def start(runs: int) -> None:
    """Time to answer, against a bare Typer program of two commands printing its help."""
    bare = [sys.executable, str(HERE / "bare_typer.py"), "--help"]
    llmctl = str(Path(sys.executable).with_name("llmctl"))
    with tempfile.TemporaryDirectory() as folder:
        # Compiled once, as installed packages are, whatever the environment says.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        started(bare, environment)
        for words, bound in (
            (("--help",), 1.0),
            (("train", "--help"), 1.6),
            (("compare", "--help"), 1.6),
            (("list",), 1.6),
            (("show", "models", "gpt2"), 1.6),
            (("train", "--set", "model.layrs=3", "--set", "schedule.nmae=x"), 1.6),
            (("preprocess", "sonnets", "--out", "o", "--set", "cleen.unicode=nfc"), 1.6),
        ):
            started([llmctl, *words], environment)
            ratios = []
            for number in range(runs):  # each goes first in every other pair
                theirs = started(bare, environment) if number % 2 else None
                ours = started([llmctl, *words], environment)
                ratios.append(ours / (theirs or started(bare, environment)))
            emit(f"llmctl {' '.join(words[:3])}", ratios, "bare typer", f"<= {bound}")


def started(command: Sequence[str], environment: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False, env=environment)
    return time.perf_counter() - began


def preprocess(runs: int, corpus: Path | None) -> None:
    """Whole processes: ours against the usual `datasets.map` and group script, same tokenizer kind and size."""
    with tempfile.TemporaryDirectory() as folder:
        for text in (corpus,) if corpus else (_repeated_sonnets(Path(folder), copies) for copies in (110, 550)):
            ratios, peak = [], 0.0
            for number in range(runs):
                out = Path(folder) / f"{text.stem}-{number}"
                words = ["preprocess", str(text), "--task", "lm", "--tokenizer", "bpe", "--vocab-size", "8000"]
                ours, memory = measured([sys.executable, "-m", "llmctl", *words, "--out", str(out)])
                peak = max(peak, memory)
                peer = Path(folder) / f"{text.stem}-peer-{number}"
                theirs, _ = measured([sys.executable, str(HERE / "peer_map.py"), str(text), str(peer)])
                ratios.append(theirs / ours)
            emit(f"preprocess {text.name}, {text.stat().st_size >> 20} MiB", ratios, "datasets.map", ">= 3")
            print(f"  peak memory of ours: {peak:.0f} MB")


def _repeated_sonnets(folder: Path, copies: int) -> Path:
    """Some 100 kB of text for each copy, which is marked, so that none is a duplicate."""
    from llmctl.data.sets.spec import SONNETS

    path = folder / f"sonnets-{copies}.jsonl"
    with SONNETS.path() as source, gzip.open(source, "rt", encoding="utf-8") as file:
        poems = [json.loads(line)["text"] for line in file]
    with path.open("w", encoding="utf-8") as out:
        for copy in range(copies):
            for number, poem in enumerate(poems):
                out.write(json.dumps({"text": f"Copy {copy}, sonnet {number}.\n{poem}"}) + "\n")
    return path


def near(runs: int) -> None:
    """CPU seconds of finding near-duplicates, each in a process of its own, on the same documents."""
    if importlib.util.find_spec("datasketch") is None:
        print("near-duplicates: not measured, pip install datasketch", flush=True)
        return
    program = str(HERE / "near.py")
    for language in ("en", "zh"):
        ratios = []
        for _ in range(runs):
            ours, theirs = (
                printed([sys.executable, program, who, "20000", language]) for who in ("llmctl", "datasketch")
            )
            ratios.append(theirs / ours)
        emit(f"near-duplicates, 20,000 documents, {language}", ratios, "datasketch", ">= 2")


def train(runs: int) -> None:
    """Tokens a second of a training step loop, each in a process of its own, on the same random tokens."""
    program = str(HERE / "train_speed.py")
    for shape in ("nano", "10m"):
        pairs = [
            ("gpt2", "default", "gpt2", "default", ">= 2.5" if shape == "nano" else ">= 2.4"),
            ("attention", "default", "gpt2", "default", ">= 2.5" if shape == "nano" else ">= 2.4"),
            ("gpt2", "equal", "gpt2", "default", ">= 1.0"),
        ]
        peers: list[float] = []
        ours: dict[tuple[str, str], list[float]] = {}
        for _ in range(runs):
            peers.append(printed([sys.executable, program, "trainer", "gpt2", shape, "default"]))
            for model, settings, *_rest in pairs:
                speed = printed([sys.executable, program, "llmctl", model, shape, settings])
                ours.setdefault((model, settings), []).append(speed)
        for model, settings, _, _, bound in pairs:
            ratios = [mine / other for mine, other in zip(ours[model, settings], peers, strict=True)]
            name = f"train {model}:{shape}, {'defaults' if settings == 'default' else 'equal settings (fp32, dropout 0.1)'}"
            emit(name, ratios, "Trainer", bound)


def generate(runs: int) -> None:
    """Tokens a second of greedy answers, each in a process of its own, on the same prompts and answer lengths."""
    for model in ("smollm2", "marian"):
        for batch, rows, bound in ((1, 1, 1.0), (8, 8, 1.0), (32, 128, 1.5)):
            words = [sys.executable, "-m", "tests.benchmarks.generate_speed"]
            settings = [model, "bf16", str(batch), str(rows)]
            ratios = [
                printed([*words, "llmctl", *settings]) / printed([*words, "transformers", *settings])
                for _ in range(runs)
            ]
            emit(f"generate {model}, bf16, {rows} answers, {batch} at once", ratios, "transformers", f">= {bound}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--only", action="append", choices=WHAT, help="one of them; repeatable; all when not given")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--corpus", type=Path, help="a .jsonl[.gz] of {text}; sonnets, repeated, when not given")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}, {chosen.runs} runs each")
    what = chosen.only or WHAT
    if "start" in what:
        start(max(chosen.runs, 10))
    if "preprocess" in what:
        preprocess(chosen.runs, chosen.corpus)
    if "near" in what:
        near(chosen.runs)
    if "train" in what:
        train(chosen.runs)
    if "generate" in what:
        generate(chosen.runs)
    if "memory" in what:
        share()
        measure()


if __name__ == "__main__":
    main()
