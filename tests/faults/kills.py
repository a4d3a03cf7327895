"""Kill commands at random moments, go on, and compare the outcome with that of a command nobody disturbed.

By hand, with as many kills as wanted: `python -m tests.faults.kills 50 SEED`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ORPHAN_SECONDS: Final = 5.0
"""How long a process may outlive the one that started it."""
CACHE_OF_TORCH: Final = "torchinductor_"
"""A folder for temporary files that torch makes once for each user, and keeps."""
MARK: Final = "LLMCTL_KILL_TEST"
"""An environment variable by which all processes of a command are found, whoever their parent is by then."""
TIMES: Final = frozenset({"seconds", "tokens_per_second", "peak_memory_bytes", "wall_seconds", "started", "ended"})
ENDS: Final = {0, 75, 130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL}
"""Exit codes of a command that was killed, stopped, or done before that. By a signal: before Python had started."""
SMALL: Final = ("--set=model.hidden=16", "--set=model.layers=1", "--precision", "fp32")
STEPS: Final = (
    "--max-steps",
    "12",
    "--set=save_every=2",
    "--set=eval_every=5",
    "--set=log_every=3",
    "--batch-size",
    "8",
)


@dataclass(frozen=True)
class Command:
    """`words`: begins it. `again`: what goes on once `out` exists; default: again from the start, with --force. `trace`: what
    the outcome is, times left out."""

    words: Sequence[str]
    out: str
    trace: Callable[[Path], Any]
    again: Sequence[str] | None = None


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if name not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def document(path: Path) -> Any:
    return without_times(json.loads(path.read_text(encoding="utf-8")))


def rows(path: Path) -> Any:
    return [without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepared(out: Path) -> Any:
    facts = document(out / "manifest.json")
    facts.pop("config")  # names the folder
    return facts, {str(each.relative_to(out)): digest(each) for each in sorted((out / "tokens").rglob("*"))}


def trained(out: Path) -> Any:
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    return digest(out / "model" / "model.safetensors"), rows(out / "metrics.jsonl")


def compared(out: Path) -> Any:
    facts = document(out / "compare.json")
    models = {each["model"]: (each["status"], each["learning_rate"], each["scores"]) for each in facts["rows"]}
    return facts["finished"], models, [digest(each) for each in sorted(out.glob("**/run/model/model.safetensors"))]


def exported(out: Path) -> Any:
    return {each.name: digest(each) for each in sorted(out.iterdir()) if each.name != "export.json"}


def recipe(out: Path) -> Any:
    return prepared(out / "data"), trained(out / "run")


TRAIN: Final = ("train", "--data", "pd", "--model", "rnn", *SMALL, *STEPS, "--out", "run")
TRAIN_PAIRS: Final = ("train", "--data", "pairs", "--model", "./model", "--precision", "fp32", *STEPS)
COMMANDS: Final = {
    "preprocess": Command(
        ("preprocess", "dates-en-zh", "--vocab-size", "300", "--workers", "1", "--out", "new"), "new", prepared
    ),
    "preprocess, 2 processes": Command(
        ("preprocess", "dates-en-zh", "--vocab-size", "300", "--workers", "2", "--out", "new"), "new", prepared
    ),
    "train": Command(TRAIN, "run", trained, ("train", "--resume", "run")),
    "train, 2 processes": Command((*TRAIN, "--processes", "2"), "run", trained, ("train", "--resume", "run")),
    "train, 2 processes that share the weights": Command(
        (*TRAIN, "--processes", "2", "--parallel", "fsdp"), "run", trained, ("train", "--resume", "run")
    ),
    "train on preferences": Command(
        (*TRAIN_PAIRS, "--objective", "dpo", "--out", "run"), "run", trained, ("train", "--resume", "run")
    ),
    "generate": Command(
        ("generate", "--model", "model", "--input", "in.jsonl", "--output", "answers.jsonl", "--batch-size", "4"),
        "answers.jsonl",
        rows,
    ),
    "eval": Command(
        ("eval", "--model", "model", "--data", "pd", "--limit", "64", "--out", "scores"),
        "scores",
        lambda out: document(out / "scores.json")["scores"],
    ),
    "merge": Command(("merge", "adapter", "--out", "merged"), "merged", lambda out: digest(out / "model.safetensors")),
    "export": Command(("export", "model", "--to", "gguf", "--verify", "2", "--out", "exported"), "exported", exported),
    "compare": Command(
        (
            *("compare", "--models", "rnn,lstm", "--data", "pd", "--max-steps", "4", "--limit", "16", "--out", "cmp"),
            *("--set=train.model.hidden=16", "--set=train.model.layers=1"),
            "--set=search.rates=1",
        ),
        "cmp",
        compared,
        ("compare", "--resume", "cmp"),
    ),
    "run": Command(("run", "recipe.yaml"), ".", recipe, ("run", "recipe.yaml")),
}


def _hear_interrupts() -> None:
    """A process in the background is started with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Place:
    """A folder with what the commands read, where one of them is begun, killed and continued."""

    def __init__(self, folder: Path, source: Path) -> None:
        shutil.copytree(source, folder, symlinks=True)
        self.folder = folder
        self.temporary = folder.parent / f"{folder.name}-tmp"
        self.temporary.mkdir()
        self.mark = f"{folder}-{os.getpid()}"
        self.environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            MARK: self.mark,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "llmctl", *words]
        log = (self.folder.parent / f"{self.folder.name}.log").open("ab")
        with log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_hear_interrupts,
            )

    @property
    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text(encoding="utf-8", errors="replace")

    def alive(self) -> list[int]:
        """The processes of its commands."""
        return list(self._alive())

    def _alive(self) -> Iterator[int]:
        wanted = f"{MARK}={self.mark}".encode()
        for each in Path("/proc").iterdir():
            if not each.name.isdigit():
                continue
            try:
                if wanted in (each / "environ").read_bytes().split(b"\0"):
                    yield int(each.name)
            except OSError:
                continue

    def check_no_orphans(self) -> None:
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"processes outlive their parent: {left}"
        left_over = [each.name for each in self.temporary.iterdir() if not each.name.startswith(CACHE_OF_TORCH)]
        assert not left_over, f"left in the folder for temporary files: {left_over}"


SIGNALS: Final = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
}


def sources(folder: Path) -> Path:
    """What the commands read, made once."""
    folder.mkdir(parents=True)

    def llmctl(*words: str) -> None:
        command = [sys.executable, "-m", "llmctl", *words]
        done = subprocess.run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    llmctl("preprocess", "dates-en-zh", "--vocab-size", "300", "--out", "pd")
    llmctl(
        "train",
        "--data",
        "pd",
        "--model",
        "gpt2:nano",
        *SMALL,
        "--set=model.heads=2",
        "--max-steps",
        "2",
        "--out",
        "model",
    )
    llmctl("train", "--data", "pd", "--model", "./model", "--adapter", "lora", "--max-steps", "2", "--out", "adapter")
    llmctl("preprocess", "preferences-en", "--tokenizer", "model", "--out", "pairs")
    texts = [json.dumps({"id": str(number), "source": f"the {number} of May"}) for number in range(40)]
    (folder / "in.jsonl").write_text("\n".join(texts) + "\n")
    (folder / "recipe.yaml").write_text(
        "preprocess: {inputs: [dates-en-zh], vocab_size: 300, out: data}\n"
        "train: {data: data, model: {name: rnn, hidden: 16, layers: 1}, precision: fp32, max_steps: 6, save_every: 2,\n"
        "  log_every: 2, batch_size: 8, out: run}\n"
    )
    return folder


def undisturbed(name: str, source: Path, folder: Path) -> tuple[Any, float]:
    """What the command makes, and the seconds it takes."""
    place, begin = Place(folder, source), time.monotonic()
    code = place.start(COMMANDS[name].words).wait(timeout=600)
    seconds = time.monotonic() - begin
    assert code == 0, place.log
    place.check_no_orphans()
    return COMMANDS[name].trace(folder / COMMANDS[name].out), seconds


def kill_and_go_on(
    name: str, kinds: Sequence[str], source: Path, folder: Path, wanted: Any, seconds: float, chance: random.Random
) -> list[str]:
    """Kill the command once for each of `kinds`, then let it end. Returns what happened, a line for each kill."""
    command, place, lines = COMMANDS[name], Place(folder, source), []
    out = folder / command.out

    def words() -> Sequence[str]:
        return command.again or (*command.words, "--force") if out.exists() else command.words

    for kind in kinds:
        moment = chance.uniform(0.05, seconds)
        process = place.start(words())
        time.sleep(moment)
        for number in SIGNALS[kind]:
            process.send_signal(number)
            time.sleep(chance.uniform(0, 0.8) if len(SIGNALS[kind]) > 1 else 0)
        code = process.wait(timeout=120)
        lines.append(f"{name}: {kind} after {moment:.1f} of {seconds:.1f} s, exit {code}")
        assert code in ENDS, f"{lines[-1]}\n{place.log}"
        place.check_no_orphans()
        if code == 0:
            break
    if process.returncode != 0:
        process = place.start(words())
        assert process.wait(timeout=600) == 0, "\n".join([*lines, place.log])
        place.check_no_orphans()
    assert "Traceback" not in place.log, place.log
    assert command.trace(out) == wanted, "\n".join([*lines, "another outcome"])
    left = [str(each) for each in folder.rglob(".llmctl-*")]
    assert not left, "\n".join([*lines, f"left behind: {left}"])
    return lines


def main(kills: int, seed: int) -> int:
    """Kill that often over all commands; returns the number of faults."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        source = sources(Path(root) / "source")
        known: dict[str, tuple[Any, float]] = {}
        done, faults = 0, 0
        while done < kills:
            for name in COMMANDS:
                kinds = chance.choices(list(SIGNALS), k=min(3, kills - done))
                if not kinds:
                    break
                if name not in known:
                    known[name] = undisturbed(name, source, Path(root) / f"whole-{len(known)}")
                done += len(kinds)
                folder = Path(root) / f"killed-{done}"
                try:
                    print("\n".join(kill_and_go_on(name, kinds, source, folder, *known[name], chance)), flush=True)
                except AssertionError as error:
                    faults += 1
                    print(f"FAULT {name} {kinds}: {str(error)[-3000:]}", flush=True)
        print(f"{done} kills, {faults} faults")
        return faults


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
