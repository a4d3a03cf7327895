"""Files that were changed, damaged, lost or may not be read: each is named, and nothing is trained on or answered from it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import IntegrityError
from llmctl.store.prepared import Manifest, hash_of
from llmctl.store.safety import check_folder

Inside = Callable[..., dict[str, Any]]
TINY = ("--set", "model.hidden=16", "--set", "model.embedding=8", "--batch-size", "8", "--precision", "fp32")


@pytest.fixture(scope="session")
def trained(inside: Inside, sonnets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps with checkpoints of steps 3 and 6."""
    run = tmp_path_factory.mktemp("trained") / "run"
    words = ("--set", "save_every=3", "--set", "eval_every=3", "--set", "log_every=2", "--max-steps", "6")
    inside("train", "--data", sonnets, "--model", "lstm", "--out", run, *TINY, *words)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command in this process; returns its exit code and what it wrote to standard error."""

    def call(*words: str | Path) -> tuple[int, str]:
        from llmctl.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run(list(map(str, words)))
        return code, err.getvalue()

    return call


def flip(path: Path, at: int = -1) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# -- config.yaml ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "key"),
    [
        ("seed: 0", "seed: 1", "seed"),
        ("batch_size: 8", "batch_size: 9", "batch_size"),
        ("clip_norm: 1.0", "clip_norm: 3.0", "clip_norm"),
        ("precision: fp32", "precision: bf16", "precision"),
        ("name: adamw", "name: sgd", "optimizer.name"),
        ("name: cosine", "name: linear", "schedule.name"),
        ("hidden: 16", "hidden: 18", "model.hidden"),
        ("  lr: 0.", "  lr: 1.", "optimizer.lr"),
        ("  betas:", "  beta:", "optimizer.beta"),
        ("seed: 0", "seed: zero", "seed"),
        ("seed: 0", "", "seed"),
        ("train:", "train: [", "config.yaml"),
    ],
)
def test_config_yaml_edited_before_resuming(run: Path, inside: Inside, was: str, now: str, key: str) -> None:
    config = run / "config.yaml"
    text = config.read_text()
    assert was in text
    edited = text.replace(was, now, 1)
    config.write_text(edited)
    if now == "":  # the same setting by its default
        inside("train", "--resume", run, "--max-steps", "7")
        return
    error = inside("train", "--resume", run, "--max-steps", "7", code=5)["error"]
    assert key in error["message"]
    assert "config.yaml" in error["message"]
    assert config.read_text() == edited


def test_a_config_yaml_of_another_budget_may_be_resumed(run: Path, inside: Inside) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 6", "max_steps: 8"))
    assert inside("train", "--resume", run)["steps"] == 8


# -- run.json and checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", None])
def test_a_run_without_its_record_is_resumed(
    run: Path, said: Callable[..., tuple[int, str]], damage: bytes | None
) -> None:
    if damage is None:
        (run / "run.json").unlink()
    else:
        (run / "run.json").write_bytes(damage)
    code, text = said("runs", "show", run)
    assert code in (2, 5)
    assert f"llmctl train --resume {run}" in text
    code, text = said("train", "--resume", run, "--max-steps", "8")
    assert code == 0, text
    assert "run.json is" in text
    assert "resumed from step-00000006" in text
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_an_edited_config_is_found_without_the_record_too(run: Path, inside: Inside) -> None:
    (run / "run.json").unlink()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    assert "seed" in inside("train", "--resume", run, code=5)["error"]["message"]


def test_a_finished_run_without_checkpoints_keeps_its_model(run: Path, inside: Inside) -> None:
    shutil.rmtree(run / "checkpoints")
    before = (run / "model/model.safetensors").read_bytes()
    error = inside("train", "--resume", run, "--max-steps", "8", code=5)["error"]
    assert "checkpoints" in error["message"]
    assert (run / "model/model.safetensors").read_bytes() == before


def test_a_renamed_checkpoint_is_named_and_not_used(run: Path, said: Callable[..., tuple[int, str]]) -> None:
    (run / "checkpoints/step-00000006").rename(run / "checkpoints/step-00000009")
    code, text = said("train", "--resume", run, "--max-steps", "12")
    assert code == 0, text
    assert "step-00000009: it holds step 6" in text
    assert "resumed from step-00000003" in text


def test_swapped_checkpoints_are_refused_with_the_cure(run: Path, inside: Inside) -> None:
    three, six, aside = (run / "checkpoints" / name for name in ("step-00000003", "step-00000006", "aside"))
    three.rename(aside)
    six.rename(three)
    aside.rename(six)
    error = inside("train", "--resume", run, "--max-steps", "8", code=5)["error"]
    assert "it holds step 3: the folder was renamed from step-00000003" in error["message"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "bit", "zeros", "other", "deep"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_used(
    run: Path, said: Callable[..., tuple[int, str]], name: str, how: str
) -> None:
    path = run / "checkpoints/step-00000006" / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "bit":
        flip(path, len(data) // 2)
    elif how == "other":
        path.write_bytes((run / "checkpoints/step-00000003" / name).read_bytes())
    else:
        path.write_bytes({"empty": b"", "cut": data[:-9], "zeros": bytes(len(data)), "deep": b"[" * 100_000}[how])
    code, text = said("train", "--resume", run, "--max-steps", "8")
    assert code == 0, text
    assert "step-00000006: " in text
    assert "using an older checkpoint" in text


# -- metrics.jsonl ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "line", "byte", "word"])
def test_a_damaged_history_is_said(run: Path, said: Callable[..., tuple[int, str]], how: str) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = {
        "missing": b"",
        "empty": b"",
        "cut": b"".join(lines)[:-30],
        "line": b"".join(lines[1:]),
        "byte": b"".join(lines).replace(b'"loss"', b'"los\xff"', 1),
        "word": b'{"step": "two"}\n' + b"".join(lines[1:]),
    }[how]
    path.write_bytes(damaged)
    if how == "missing":
        path.unlink()
    assert said("runs", "show", run)[0] == 0
    code, text = said("train", "--resume", run, "--max-steps", "8")
    assert code == 0, text
    assert "metrics.jsonl was damaged or changed" in text


def _without_time(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: each for name, each in row.items() if "second" not in name} for row in rows]


@pytest.mark.parametrize(("save", "log", "died"), [(3, 2, 6), (3, 10, 9), (4, 3, 8), (5, 1, 5)])
def test_the_history_after_a_kill_is_that_of_an_uninterrupted_run(
    inside: Inside, sonnets: Path, tmp_path: Path, save: int, log: int, died: int
) -> None:
    """The first mean after a resume was over fewer steps."""
    words = [
        *TINY,
        "--max-steps",
        "14",
        "--set",
        f"save_every={save}",
        "--set",
        f"log_every={log}",
        "--set=eval_every=7",
    ]
    words = [*words, "--set", "keep_checkpoints=9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    inside("train", "--data", sonnets, "--model", "lstm", "--out", whole, *words)
    shutil.copytree(whole, killed)
    # What a kill between step `died` and the next save leaves: newer checkpoints and the model do not exist yet.
    shutil.rmtree(killed / "model")
    for each in (killed / "checkpoints").iterdir():
        if int(each.name.removeprefix("step-")) > died:
            shutil.rmtree(each)
    record = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps(record | {"status": "running", "result": {}}))
    inside("train", "--resume", killed)
    assert _without_time(killed / "metrics.jsonl") == _without_time(whole / "metrics.jsonl")


# -- learning rate ----------------------------------------------------------------------------------------------


def test_a_larger_budget_says_how_the_learning_rate_jumps(run: Path, said: Callable[..., tuple[int, str]]) -> None:
    rate = json.loads((run / "checkpoints/step-00000006/state.json").read_text())["lr"]
    code, text = said("train", "--resume", run, "--max-steps", "20")
    assert code == 0, text
    assert f"the learning rate jumps from {rate:.3g} at step 6 to " in text


def test_an_unchanged_budget_says_nothing_of_the_learning_rate(run: Path, said: Callable[..., tuple[int, str]]) -> None:
    shutil.rmtree(run / "checkpoints/step-00000006")
    code, text = said("train", "--resume", run)
    assert code == 0, text
    assert "learning rate" not in text


def test_a_warmup_longer_than_the_run_is_said(
    sonnets: Path, tmp_path: Path, said: Callable[..., tuple[int, str]]
) -> None:
    words = ("--max-steps", "3", "--set", "schedule.warmup_steps=1000")
    code, text = said("train", "--data", sonnets, "--model", "lstm", "--out", tmp_path / "run", *TINY, *words)
    assert code == 0, text
    assert "the warm-up of 1,000 steps is longer than the run of 3" in text


# -- disks and permissions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("File too large (os error 27)"),
        Exception("Error writing bytes to file. Detail: [errno 28] No space left on device"),
        Exception("Permission denied (os error 13)"),
    ],
)
def test_a_full_disk_is_no_bug_in_whatever_library_it_is_met(error: Exception) -> None:
    from llmctl.errors import untranslated

    assert untranslated(error).exit_code == 4


def _limited(size: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command that may write no file beyond so many bytes, as on a disk that is full."""
    return subprocess.run(
        [sys.executable, "-m", "llmctl", *map(str, words)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_save_that_does_not_fit_on_the_disk(run: Path, inside: Inside, trained: Path) -> None:
    done = _limited(9_000, "train", "--resume", run, "--max-steps", "8")
    assert done.returncode == 4, done.stderr
    assert "File too large" in done.stderr
    assert "bug" not in done.stderr
    assert inside("train", "--resume", run, "--max-steps", "8")["resumed_from"].endswith("step-00000006")


def test_data_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    done = _limited(9_000, "preprocess", "sonnets", "--vocab-size", "400", "--out", tmp_path / "data")
    assert done.returncode == 4, done.stderr
    assert not list(tmp_path.iterdir())


def test_answers_that_do_not_fit_on_the_disk(run: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Shall I compare thee\n" * 40)
    words = ("--input", prompts, "--output", tmp_path / "out.jsonl", "--max-new-tokens", "8")
    done = _limited(1_000, "generate", "--model", run, *words)
    assert done.returncode == 4, done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    names = {each.name for each in tmp_path.iterdir() if not fnmatch.fnmatch(each.name, "out.jsonl.*.partial")}
    assert names == {"prompts.txt", "run"}  # rows that are complete are kept for --resume


def _obey_permissions() -> None:
    """In a child process: root reads everything by two capabilities; it gives them up. Others have neither."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model/model.safetensors", ("generate", "--model", "{run}", "--prompt", "O")),
        ("model/config.json", ("generate", "--model", "{run}", "--prompt", "O")),
        ("model/tokenizer.json", ("generate", "--model", "{run}", "--prompt", "O")),
        ("model/llmctl.json", ("generate", "--model", "{run}", "--prompt", "O")),
        ("config.yaml", ("train", "--resume", "{run}")),
        ("checkpoints/step-00000006/state.json", ("train", "--resume", "{run}")),
        ("checkpoints/step-00000006/MANIFEST.json", ("train", "--resume", "{run}")),
    ],
)
def test_a_file_that_may_not_be_read_is_no_damage(run: Path, name: str, words: tuple[str, ...]) -> None:
    (run / name).chmod(0)
    done = subprocess.run(
        [sys.executable, "-m", "llmctl", *(word.format(run=run) for word in words)],
        preexec_fn=_obey_permissions,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (run / name).chmod(0o600)
    assert done.returncode == 4, done.stderr
    assert name.rpartition("/")[2] in done.stderr
    assert "permission" in done.stderr.lower()


# -- prepared data and weights -----------------------------------------------------------------------------------


@pytest.fixture
def data(sonnets: Path, tmp_path: Path) -> Path:
    """A copy of the prepared sonnets."""
    return Path(shutil.copytree(sonnets, tmp_path / "data"))


READ = (
    "tokens/train.values.npy",
    "tokens/train.segments.npy",
    "tokens/train.records.npy",
    "tokens/train.roles.npy",
    "tokens/validation.values.npy",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "text/train-00000.parquet",
)


@pytest.mark.parametrize("how", ["bit", "cut", "missing"])
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_of_prepared_data_is_not_trained_on(
    data: Path, inside: Inside, tmp_path: Path, name: str, how: str
) -> None:
    path = data / name
    if how == "bit":
        flip(path, path.stat().st_size // 2)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    words = ("--data", data, "--model", "lstm", "--out", tmp_path / "new", *TINY, "--max-steps", "1")
    error = inside("train", *words, code=5)["error"]
    assert name in error["message"]
    assert "preprocess --force" in error["hint"]
    assert not (tmp_path / "new").exists()


def test_every_file_of_prepared_data_has_a_hash(sonnets: Path) -> None:
    manifest = json.loads((sonnets / "manifest.json").read_text())
    files = {each.relative_to(sonnets).as_posix() for each in sonnets.rglob("*") if each.is_file()}
    assert files - {"manifest.json"} == manifest["files"].keys()


def test_a_file_added_to_prepared_data_is_refused(data: Path, inside: Inside, tmp_path: Path) -> None:
    (data / "tokenizer/added_tokens.json").write_text('{"<new>": 400}')
    words = ("--data", data, "--model", "lstm", "--out", tmp_path / "new", *TINY, "--max-steps", "1")
    assert "added_tokens.json" in inside("train", *words, code=5)["error"]["message"]


def test_data_damaged_before_resuming(data: Path, inside: Inside, tmp_path: Path) -> None:
    words = ("--data", data, "--model", "lstm", "--out", tmp_path / "new", *TINY)
    inside("train", *words, "--max-steps", "2")
    flip(data / "tokens/train.values.npy")
    error = inside("train", "--resume", tmp_path / "new", "--max-steps", "4", code=5)["error"]
    assert "tokens/train.values.npy" in error["message"]


def test_damaged_text_is_not_scored(data: Path, run: Path, inside: Inside) -> None:
    flip(data / "text/test-00000.parquet", 200)
    error = inside("eval", "--model", run, "--data", data, "--limit", "1", code=5)["error"]
    assert "text/test-00000.parquet" in error["message"]


def test_readers_may_write_in_the_data_card(data: Path, inside: Inside, tmp_path: Path) -> None:
    (data / "README.md").write_text("mine")
    words = ("--data", data, "--model", "lstm", "--out", tmp_path / "new", *TINY, "--max-steps", "1")
    assert inside("train", *words)["steps"] == 1


def test_a_checked_copy_is_not_hashed_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmctl.store import atomic, prepared

    hashed: list[str] = []
    original = atomic.sha256
    monkeypatch.setattr(atomic, "sha256", lambda path: hashed.append(path.name) or original(path))
    opened = prepared.open_prepared(data)
    opened.check_files()
    first = len(hashed)
    opened.check_files()
    assert first > 0
    assert len(hashed) == first
    opened.check_files(verify=True)
    assert len(hashed) > 2 * first - 1


def test_changed_weights_are_not_used(run: Path, inside: Inside) -> None:
    flip(run / "model/model.safetensors")
    for words in (("generate", "--prompt", "O"), ("eval", "--data", "sonnets.txt"), ("chat",)):
        error = inside(*words, "--model", run, code=2 if words[0] == "eval" else 5)["error"]
        assert "model.safetensors has changed since it was written" in error["message"] or words[0] == "eval"


def test_verify_finds_what_kept_its_time(run: Path, data: Path, inside: Inside, tmp_path: Path) -> None:
    """A clock that was set back, or a disk that lost a bit, leaves size and time as they were."""
    inside("generate", "--model", run, "--prompt", "O", "--max-new-tokens", "1")  # the copy is now known to be right
    weights, tokens = run / "model/model.safetensors", data / "tokens/train.values.npy"
    for path, record in ((weights, run / "model/llmctl.json"), (tokens, data / "manifest.json")):
        flip(path)
        later = record.stat().st_mtime_ns + 10**12
        os.utime(record, ns=(later, later))
    generate = ("generate", "--model", run, "--prompt", "O", "--max-new-tokens", "1")
    inside(*generate)
    assert "model.safetensors" in inside(*generate, "--verify", code=5)["error"]["message"]
    evaluate = ("eval", "--model", run, "--data", data, "--limit", "1", "--verify")
    assert "model.safetensors" in inside(*evaluate, code=5)["error"]["message"]
    train = ("train", "--data", data, "--model", "lstm", "--out", tmp_path / "new", *TINY, "--max-steps", "1")
    assert "tokens/train.values.npy" in inside(*train, "--verify", code=5)["error"]["message"]
    again = ("train", "--data", data, "--model", run, "--out", tmp_path / "new", "--max-steps", "1", "--verify")
    assert "model.safetensors" in inside(*again, code=5)["error"]["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("style", "evil"),
        ("family", "evil"),
        ("task", "evil"),
        ("block_size", -5),
        ("block_size", "5"),
        ("task_version", 99),
        ("task_version", 0),
        ("version", 2),
        ("version", None),
        ("labels", "evil"),
        ("noise_density", 2),
        ("clean", {"unicode": "evil"}),
        ("clean", {"evil": True}),
        ("clean", []),
        ("parents", {"data": 5}),
        ("files", {"model.safetensors": {"bytes": -1, "sha256": "0"}}),
        ("files", {"../run.json": {"bytes": 1, "sha256": "0" * 64}}),
        ("evil", 1),
    ],
)
def test_a_card_is_not_taken_on_trust(run: Path, inside: Inside, field: str, value: Any) -> None:
    path = run / "model/llmctl.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {field: value}))
    for words in (("generate", "--prompt", "O"), ("train", "--data", "nowhere", "--out", run.parent / "new")):
        error = inside(*words, "--model", run, code=5 if words[0] == "generate" else 2)["error"]
        assert words[0] == "train" or f"llmctl.json:{field}" in error["message"]


def test_data_of_a_newer_task_is_refused(data: Path, inside: Inside, tmp_path: Path) -> None:
    path = data / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_version": 99}))
    words = ("--data", data, "--model", "lstm", "--out", tmp_path / "new", *TINY, "--max-steps", "1")
    assert "manifest.json:task_version" in inside("train", *words, code=5)["error"]["message"]


@pytest.mark.parametrize("damage", [b"", b"{", "{}".encode("utf-16"), b"{}\0", b"[]", b"[" * 100_000])
def test_damaged_generation_settings_are_named(run: Path, inside: Inside, damage: bytes) -> None:
    (run / "model/generation_config.json").write_bytes(damage)
    error = inside("generate", "--model", run, "--prompt", "O", code=5)["error"]
    assert "generation_config.json" in error["message"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [("manifest.json", b"[]"), ("manifest.json", b"{"), ("tokens/train.values.npy", b"\x93NUMPY\x01\0")],
)
def test_a_message_has_no_empty_places(data: Path, inside: Inside, tmp_path: Path, name: str, damage: bytes) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"files": {}}))
    (data / name).write_bytes(damage)
    words = ("--data", data, "--model", "lstm", "--out", tmp_path / "new", *TINY, "--max-steps", "1")
    message = inside("train", *words, code=5)["error"]["message"]
    assert "::" not in message
    assert "unknown" not in message
    assert name in message


# -- quickstart and compare after a kill ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "seed", "code"),
    [
        ({"finished": False, "seed": 0}, 0, 0),
        ({"finished": False, "seed": 0}, 1, 2),
        ({"scores": []}, 0, 2),
        ({"finished": False}, 0, 2),
        ([], 0, 2),
    ],
)
def test_a_killed_quickstart_is_continued_by_the_same_command(
    tmp_path: Path, inside: Inside, marker: Any, seed: int, code: int
) -> None:
    out = tmp_path / "q"
    out.mkdir()
    (out / "quickstart.json").write_text(json.dumps(marker))
    document = inside("quickstart", "--out", out, "--seed", str(seed), "--dry-run", code=code)
    assert code == 0 or "exists" in document["error"]["message"]


def test_compare_again_names_resume_and_an_edited_comparison_is_refused(
    inside: Inside, sonnets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    words = ("--data", sonnets, "--models", "rnn", "--max-steps", "2", "--set", "search.rates=1", *TINY[4:])
    inside("compare", *words, "--out", out)
    error = inside("compare", *words, "--out", out, code=2)["error"]
    assert f"llmctl compare --resume {out}" in error["hint"]
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    error = inside("compare", "--resume", out, code=5)["error"]
    assert "seed is 1, the comparison was started with 0" in error["message"]
    assert "of compare" in inside("train", "--resume", out, code=2)["error"]["message"]


# -- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\\0b", "a" * 300, "x/" + "é" * 128])
def test_an_output_that_no_file_system_can_hold(inside: Inside, tmp_path: Path, name: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f'preprocess: {{inputs: [sonnets], out: "{name}"}}\n')
    error = inside("run", recipe, code=2)["error"]
    assert "preprocess.out" in error["message"]


def test_a_key_that_a_later_version_adds_makes_no_older_folder_an_edited_one(dates: Path) -> None:
    class Later(Manifest):
        licence: str | None = None

    found = Later.model_validate_json((dates / "manifest.json").read_text(encoding="utf-8"))
    assert found.sha256 == hash_of(found, was_read=True)


def test_large_files_beside_a_model_that_nothing_reads_are_no_fault(tmp_path: Path) -> None:
    for name in ("predictions.json", "train_log.txt", "tokenizer.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(200_000_000)
        if name != "tokenizer.json":
            check_folder(tmp_path)
    with pytest.raises(IntegrityError, match=r"200,000,000 bytes"):
        check_folder(tmp_path)
