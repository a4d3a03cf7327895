"""Training as its users see it: folders made, budgets, stopping, resuming bit for bit, many processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from llmctl.data.examples import batches

Inside = Callable[..., dict[str, Any]]

SMALL = {
    "rnn": ("model.hidden=24", "model.embedding=16"),
    "lstm": ("model.hidden=24", "model.embedding=16"),
    "attention": ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
    "gpt2": ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
    "llama": ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
    "lstm-seq2seq": ("model.hidden=24", "model.embedding=16"),
    "lstm-classifier": ("model.hidden=16", "model.embedding=16"),
    "t5": ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
    "marian": ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
    "bart": ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
    "bert": ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32"),
}
DATA = dict.fromkeys(("lstm-seq2seq", "t5", "marian", "bart"), "dates") | {
    "lstm-classifier": "reviews",
    "bert": "reviews",
}


def command(model: str, data: Path, out: Path, *more: str) -> list[str]:
    sets = [f"--set={each}" for each in (*SMALL[model], *more)]
    return ["train", "--data", str(data), "--model", model, "--out", str(out), "--precision", "fp32", *sets]


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    return (one / "model/model.safetensors").read_bytes() == (other / "model/model.safetensors").read_bytes()


def test_a_run_folder_holds_what_the_contract_says(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    document = inside(*command("lstm", sonnets, run, "max_steps=20", "log_every=5"))
    assert document["schema"] == "llmctl.train/1"
    assert document["status"] == "ok"
    assert document["steps"] == 20
    assert set(document["validation"]) == {"loss", "perplexity"}
    assert document["best"]["metric"] == "loss"
    assert document["resumed_from"] is None
    names = {"run.json", "config.yaml", "metrics.jsonl", "log.txt", "plots", "checkpoints", "model"}
    assert names <= {each.name for each in run.iterdir()}
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("finished", 0)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    learned = [row for row in rows if "loss" in row]
    assert [row["step"] for row in learned] == [5, 10, 15, 20]
    assert learned[0]["loss"] > learned[-1]["loss"]
    assert (run / "plots/loss.svg").read_text().startswith("<?xml")
    assert (run / "plots/loss.png").read_bytes().startswith(b"\x89PNG")
    model = {each.name for each in (run / "model").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "llmctl.json",
        "README.md",
    } <= model
    newest = sorted((run / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000020"
    assert (newest / "MANIFEST.json").is_file()


def test_config_yaml_repeats_the_run(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    inside(*command("gpt2", sonnets, tmp_path / "one", "max_steps=6"))
    inside("train", "--config", tmp_path / "one/config.yaml", "--out", tmp_path / "two")
    assert same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("model", list(SMALL))
def test_stopped_by_a_budget_and_resumed_ends_with_the_same_bytes(
    model: str, inside: Inside, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue(DATA.get(model, "sonnets"))
    schedule = ("schedule.name=constant", "save_every=4", "eval_every=4")
    inside(*command(model, data, tmp_path / "whole", "max_steps=10", *schedule))
    inside(*command(model, data, tmp_path / "parts", "max_steps=5", *schedule))
    document = inside("train", "--resume", tmp_path / "parts", "--max-steps", "10")
    assert document["resumed_from"].endswith("step-00000005")
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_resuming_a_finished_run_whose_last_step_is_its_best_says_so_and_changes_nothing(
    inside: Inside, llmctl: Any, sonnets: Path, tmp_path: Path
) -> None:
    """It measured the last step again, and the picture with two points at one step ended in a ValueError."""
    run = tmp_path / "run"
    before = inside(*command("lstm", sonnets, run, "max_steps=4", "eval_every=2"))
    assert before["best"]["step"] == 4
    kept = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "plots/loss.svg", "model/model.safetensors")}
    done = llmctl("train", "--resume", run, "--json")
    assert done.returncode == 0, done.stderr
    assert "the run already finished at step 4" in done.stderr
    after = json.loads(done.stdout)
    assert [after[name] for name in ("validation", "best", "steps")] == [
        before[name] for name in ("validation", "best", "steps")
    ]
    assert kept == {name: (run / name).read_bytes() for name in kept}


@pytest.mark.parametrize("model", list(SMALL))
def test_killed_at_any_moment_and_resumed_ends_with_the_same_bytes(
    model: str, inside: Inside, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue(DATA.get(model, "sonnets"))
    words = ["max_steps=40", "save_every=3", "model.dropout=0.1", "eval_every=10"]
    inside(*command(model, data, tmp_path / "whole", *words))
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "llmctl", *command(model, data, killed, *words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _wait(lambda: len(list(killed.glob("checkpoints/step-*"))) >= 1, process)
    time.sleep(0.05)
    process.kill()
    process.wait()
    inside("train", "--resume", killed)
    assert same(tmp_path / "whole", killed)
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


KEYED = """
import os, signal, sys
from llmctl.cli import main
from llmctl.data.examples import batches
from llmctl.training import checkpoints

batches.LARGE = 8
save = checkpoints.save

def killed(*arguments, **named):
    found = save(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints.save = killed
main.run(sys.argv[1:])
"""


@pytest.mark.parametrize("model", ["lstm", "lstm-seq2seq"])
def test_killed_and_resumed_in_keyed_order_ends_with_the_same_bytes(
    model: str, inside: Inside, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = request.getfixturevalue(DATA.get(model, "sonnets"))
    words = ["max_steps=12", "save_every=5", "model.dropout=0.1"]
    inside(*command(model, data, tmp_path / "array", *words))
    monkeypatch.setattr(batches, "LARGE", 8)
    inside(*command(model, data, tmp_path / "whole", *words))
    assert not same(tmp_path / "array", tmp_path / "whole")
    killed = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KEYED, *command(model, data, killed, *words)], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "/step-0000000" in inside("train", "--resume", killed)["resumed_from"]
    assert same(tmp_path / "whole", killed)


def _wait(ready: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_says_how_to_go_on_and_ends_with_75(
    number: signal.Signals, inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "llmctl",
            *command("lstm", sonnets, run, "max_steps=100000", "save_every=50", "eval_every=1000"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait(lambda: len(list(run.glob("checkpoints/step-*"))) >= 1, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert f"llmctl train --resume {run}" in err
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    step = int(sorted(each.name for each in (run / "checkpoints").iterdir())[-1].removeprefix("step-"))
    document = inside("train", "--resume", run, "--max-steps", str(step + 3))
    assert document["steps"] == step + 3


@pytest.mark.timeout(120)
def test_two_processes_with_a_budget_of_time_evaluate_together(llmctl: Any, sonnets: Path, tmp_path: Path) -> None:
    """Each read its own clock to see what is due: one evaluated while the other made a step, and both waited for ever."""
    words = command("lstm", sonnets, tmp_path / "run", "max_time=3s", "batch_size=2")
    done = llmctl(*words, "--processes", "2", "--json")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert sum("validation_loss" in line for line in lines) >= 5, "due at every tenth of the budget"


def test_two_processes_see_the_same_batches_as_one(inside: Inside, llmctl: Any, dates: Path, tmp_path: Path) -> None:
    """Batches of 15, so that the processes have different shares."""
    words = ("batch_size=15", "max_steps=12", "eval_every=6", "log_every=1")
    inside(*command("lstm-seq2seq", dates, tmp_path / "one", *words))
    usual = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words_of_two = (*command("lstm-seq2seq", dates, tmp_path / "two", *words), "--processes", "2", "--json")
    done = llmctl(*words_of_two, env=usual)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower(), "what libraries say to each other is not for the user"
    document = json.loads(done.stdout)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for one, two in zip(*rows, strict=True):
        assert one["step"] == two["step"]
        assert one["tokens"] == two["tokens"]
        for name in {"loss", "validation_loss"} & set(one):
            assert one[name] == pytest.approx(two[name], abs=1e-4)
    assert document["steps"] == 12


def test_a_flipped_bit_in_the_newest_checkpoint_is_found_and_the_one_before_used(
    inside: Inside, llmctl: Any, sonnets: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    inside(*command("lstm", sonnets, run, "max_steps=8", "save_every=4", "eval_every=4"))
    broken = run / "checkpoints/step-00000008/model.safetensors"
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    done = llmctl("train", "--resume", run, "--max-steps", "10", "--json")
    assert done.returncode == 0, done.stderr
    assert "step-00000008" in done.stderr
    assert json.loads(done.stdout)["resumed_from"].endswith("step-00000004")


def test_no_whole_checkpoint_left_is_refused(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    inside(*command("lstm", sonnets, run, "max_steps=2"))
    for each in (run / "checkpoints").iterdir():
        (each / "optimizer.safetensors").unlink()
    document = inside("train", "--resume", run, "--max-steps", "4", code=5)
    assert "optimizer.safetensors is missing" in document["error"]["message"]


def test_an_existing_run_is_not_overwritten_and_a_foreign_folder_never(
    inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    inside(*command("lstm", sonnets, run, "max_steps=2"))
    before = (run / "run.json").read_bytes()
    error = inside(*command("lstm", sonnets, run, "max_steps=2"), code=2)["error"]
    assert "exists" in error["message"]
    assert error["hint"].startswith(f"resume it: llmctl train --resume {run}; or name another")
    for_data = inside(*command("lstm", run, tmp_path / "next", "max_steps=2"), code=2)["error"]
    assert for_data["hint"] == f"it is a run: llmctl runs show {run} names its data"
    assert (run / "run.json").read_bytes() == before
    inside(*command("lstm", sonnets, run, "max_steps=3"), "--force")
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("keep me")
    inside(*command("lstm", sonnets, home, "max_steps=2"), "--force", code=2)
    assert (home / "letter.txt").read_text() == "keep me"


def test_a_resumed_run_cannot_become_another(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    inside(*command("lstm", sonnets, run, "max_steps=2"))
    document = inside("train", "--resume", run, "--seed", "5", "--batch-size", "7", code=2)
    assert "seed" in document["error"]["message"]
    assert "batch_size" in document["error"]["message"]


def test_a_folder_in_use_is_busy(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    from llmctl.store import locks

    run = tmp_path / "run"
    inside(*command("lstm", sonnets, run, "max_steps=2"))
    with locks.locked(run):
        document = inside("train", "--resume", run, "--max-steps", "4", code=7)
    assert str(os.getpid()) in document["error"]["message"]


def test_a_loss_that_is_not_finite_ends_with_6_and_names_the_last_good_checkpoint(
    inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    words = ("optimizer.name=sgd", "lr=1e30", "clip_norm=0", "max_steps=50", "save_every=1", "schedule.warmup_steps=0")
    document = inside(*command("gpt2", sonnets, tmp_path / "run", *words), code=6)
    assert "checkpoint" in document["error"]["message"]
    kept = json.loads((tmp_path / "run/diverged.json").read_text())
    assert kept["records"]
    assert all(isinstance(name, str) for name in kept["records"])
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_patience_ends_a_run_and_the_model_is_the_best_one(inside: Inside, reviews: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("max_steps=400", "eval_every=10", "patience=3", "lr=0.02", "keep_checkpoints=1", "best_by=accuracy")
    document = inside(*command("lstm-classifier", reviews, run, *words))
    assert document["steps"] < 400
    assert document["best"]["metric"] == "accuracy"
    assert document["best"]["step"] == document["steps"] - 30
    best = run / f"checkpoints/step-{document['best']['step']:08d}/model.safetensors"
    assert {name: value.tolist() for name, value in load_file(best).items()} == {
        name: value.tolist() for name, value in weights(run).items()
    }
    again = inside("train", "--resume", run)
    assert (again["steps"], again["best"]) == (document["steps"], document["best"]), "patience has run out"


def test_a_file_sorted_by_label_is_validated_on_every_label(inside: Inside, tmp_path: Path) -> None:
    """The first records of a sorted file have one label: a checkpoint would be chosen by its liking for that label."""
    rows = [{"text": f"{label} {n}", "label": label} for label in ("good", "bad") for n in range(200)]
    (tmp_path / "sorted.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = tmp_path / "data"
    inside("preprocess", tmp_path / "sorted.jsonl", "--task", "classification", "--tokenizer", "word", "--out", data)
    words = ("max_steps=1", "lr=0.000001", "best_by=accuracy", "best_by_limit=10")
    document = inside(*command("lstm-classifier", data, tmp_path / "run", *words))
    assert 0.2 < document["validation"]["accuracy"] < 0.8


def test_max_time_is_a_budget_that_is_finished(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    document = inside(*command("lstm", sonnets, tmp_path / "run"), "--max-time", "2s")
    assert 1.9 <= document["seconds"] < 4
    again = inside("train", "--resume", tmp_path / "run", "--max-time", "3s")
    assert again["steps"] > document["steps"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--set=model.layrs=3",), 2, "did you mean 'layers'"),
        (("--set=schedule.nmae=cosine", "--batch-size=0"), 2, "batch_size"),
        (("--model=gtp2",), 2, "did you mean 'gpt2'"),
        (("--model=gpt2:nanno",), 2, "sizes: nano"),
        (("--model=lstm", "--set=model.heads=2"), 2, "lstm has no such setting"),
        (("--model=lstm-classifier",), 2, "models that can: rnn"),
        (("--best-by=bleu",), 2, "bleu compares answers, language-modeling has none"),
        (("--set=model.context=8",), 2, "block"),
        (("--set=noise_density=0.4",), 2, "has no effect on a decoder, which predicts the next token"),
        (("--set=noise_density=1", "--model=bert"), 2, "less than 1"),
        (("--precision=fp16",), 2, "bf16"),
        (("--best-by=bleuu",), 2, "bleu"),
        (("--data=nowhere",), 2, "no such prepared folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    words: tuple[str, ...], code: int, said: str, inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    base = ["train", "--data", str(sonnets), "--model", "gpt2", "--out", str(tmp_path / "run")]
    document = inside(*base, *words, code=code)
    error = document["error"]
    assert said in f"{error['message']} {error['hint']}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"block_size": 33}, {"clean": {"a": 1}}, {"labels": ["a"]}, {"split_by": "x"}])
def test_a_manifest_that_no_longer_says_how_the_data_was_made_is_refused(
    inside: Inside, sonnets: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sonnets, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    document = inside(*command("lstm", copy, tmp_path / "run"), code=5)
    assert "manifest.json: edited since" in document["error"]["message"]


def test_a_manifest_edited_by_hand_is_refused(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sonnets, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["records"]["kept"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    document = inside(*command("lstm", copy, tmp_path / "run"), code=5)
    assert "records" in document["error"]["message"]


def test_two_machines_train_together_and_the_first_one_keeps_the_run(
    inside: Inside, dates: Path, tmp_path: Path
) -> None:
    words = ("batch_size=15", "max_steps=6", "eval_every=3", "log_every=1")
    inside(*command("lstm-seq2seq", dates, tmp_path / "one", *words))
    port = _free_port()
    both = [
        subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "llmctl",
                    *command("lstm-seq2seq", dates, tmp_path / f"machine-{rank}", *words),
                ),
                *("--machines", "2", "--machine-rank", str(rank), "--main-address", f"127.0.0.1:{port}", "--json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [each.communicate(timeout=200) for each in both]
    assert [each.returncode for each in both] == [0, 0], outputs
    document = json.loads(outputs[0][0])
    alone = json.loads((tmp_path / "one/run.json").read_text())["result"]
    assert document["validation"]["loss"] == pytest.approx(alone["validation"]["loss"], abs=1e-4)
    assert not (tmp_path / "machine-1").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_machine_that_waits_for_another_says_so_and_can_be_asked_to_stop(
    number: signal.Signals, code: int, dates: Path, tmp_path: Path
) -> None:
    words = (*command("lstm-seq2seq", dates, tmp_path / "run"), "--machines", "2", "--main-address")
    process = subprocess.Popen(
        [sys.executable, "-m", "llmctl", *words, f"127.0.0.1:{_free_port()}"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting at 127.0.0.1" in line:
            break
    time.sleep(2)  # torch waits now
    process.send_signal(number)
    assert process.wait(30) == code
    process.stderr.close()


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _on_two_machines(data: tuple[Path, Path], runs: tuple[Path, Path], *more: tuple[str, ...]) -> list[tuple[int, str]]:
    """Train with a process on each of two machines; returns exit code and standard error of both."""
    port = _free_port()
    both = []
    for rank in (0, 1):
        words = command("lstm-seq2seq", data[rank], runs[rank], "batch_size=15", "max_steps=6", "save_every=2")
        if more:
            words += more[rank]
        machine = ("--machines", "2", "--machine-rank", str(rank), "--main-address", f"127.0.0.1:{port}")
        process = subprocess.Popen(
            [sys.executable, "-m", "llmctl", *words, *machine],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        both.append(process)
    errors = [each.communicate(timeout=250)[1] for each in both]
    return [(each.returncode, error) for each, error in zip(both, errors, strict=True)]


@pytest.mark.parametrize("what", ["step", "settings", "data", "weights"])
def test_machines_that_differ_stop_before_the_first_step(
    what: str, inside: Inside, dates: Path, tmp_path: Path
) -> None:
    """The first machine resumed at its step, the second, which shares no folder with it, began anew: they went on together."""
    runs, data, more = (tmp_path / "machine-0", tmp_path / "machine-1"), (dates, dates), ((), ())
    said = "other prepared data" if what == "data" else f"other {what}"
    if what in ("step", "weights"):
        inside(*command("lstm-seq2seq", dates, runs[0], "batch_size=15", "max_steps=4", "save_every=2"))
        said = "machine 1 starts at step 0, machine 0 at step 4" if what == "step" else said
        more = (("--resume",), ("--resume",))
    if what == "weights":
        shutil.copytree(runs[0], runs[1])
        from safetensors.torch import load_file, save_file

        folder = runs[1] / "checkpoints/step-00000004"
        kept = load_file(folder / "model.safetensors")
        name = sorted(kept)[0]
        save_file({**kept, name: kept[name] + 1e-3}, folder / "model.safetensors")
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        from llmctl.store.atomic import sha256

        manifest["sha256"]["model.safetensors"] = sha256(folder / "model.safetensors")
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    if what == "settings":
        more = ((), ("--seed", "1"))
    if what == "data":
        data = (dates, tmp_path / "other")
        inside("preprocess", "dates-en-zh", "--vocab-size", "500", "--set", "clean.min_chars=4", "--out", data[1])
    found = _on_two_machines(data, runs, *more)
    assert [code for code, _ in found] == [4, 4], found
    for _, error in found:
        assert said in error
        assert "nothing was trained" in error


def test_a_run_copied_to_both_machines_is_resumed_on_both(inside: Inside, dates: Path, tmp_path: Path) -> None:
    runs = (tmp_path / "machine-0", tmp_path / "machine-1")
    inside(*command("lstm-seq2seq", dates, runs[0], "batch_size=15", "max_steps=4", "save_every=2"))
    shutil.copytree(runs[0], runs[1])
    found = _on_two_machines((dates, dates), runs, ("--resume",), ("--resume",))
    assert [code for code, _ in found] == [0, 0], found
    assert json.loads((runs[0] / "run.json").read_text())["result"]["steps"] == 6
