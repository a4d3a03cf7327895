"""What a run will cost is told before it starts, and is near what it takes."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llmctl import registry
from llmctl.data.examples.layout import Layout, prompt_format_for
from llmctl.data.examples.select import examples
from llmctl.data.storing.lengths import lengths_of
from llmctl.data.storing.tokens import TokenStore
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.models.families import denoising_of
from llmctl.store.prepared import open_prepared
from llmctl.training import machine
from llmctl.training.objectives import LIKELIHOODS
from llmctl.types import Family

MIB = 2**20


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory_bytes", lambda: 700 * MIB)


def test_lengths_are_those_of_the_token_store(dates: Path, sonnets: Path) -> None:
    for folder in (dates, sonnets):
        store = TokenStore.open(folder / "tokens", "train")
        found = lengths_of(open_prepared(folder), "train")
        sizes = np.diff(store.segments[store.records]) + np.diff(store.records)
        assert (found.records, found.tokens, found.longest) == (len(store), store.total_tokens, sizes.max())
    learned = sum(len(part.ids) for index in range(len(store)) for part in store.record(index) if part.in_loss)
    assert found.loss_tokens == learned


def test_a_folder_of_version_0_1_which_keeps_no_lengths_is_forecast_and_trained_the_same(
    inside: Any, dates: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(dates, older)
    manifest = json.loads((older / "manifest.json").read_text())
    assert manifest.pop("lengths").keys() == {"train", "validation", "test"}
    (older / "manifest.json").write_text(json.dumps(manifest))
    assert open_prepared(older).content == open_prepared(dates).content
    words = ("--model", "gpt2:nano", "--max-steps", 1, "--out", tmp_path / "run")
    plans = [inside("train", "--data", each, *words, "--dry-run")["plan"]["forecast"] for each in (older, dates)]
    del plans[0]["free_bytes"], plans[1]["free_bytes"]
    assert plans[0] == plans[1]
    inside("train", "--data", older, *words)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("model", ["t5", "bart"])
def test_what_is_seen_and_said_of_a_block_is_forecast(inside: Any, sonnets: Path, model: str, share: float) -> None:
    words = ("--data", sonnets, "--model", model, "--set", f"noise_density={share}", "--batch-size", 1)
    plan = inside("train", *words, "--out", "not-made", "--dry-run")["plan"]
    forecast = plan["forecast"]["largest_batch"]
    given, family = load_tokenizer(sonnets / "tokenizer"), "encoder-decoder"
    layout = Layout(given, family, prompt_format_for(family, given, packed=True), context=512)
    denoising = denoising_of(family, model, share)
    source = examples(TokenStore.open(sonnets / "tokens", "train"), layout, block_size=32, denoising=denoising)
    arrays = [source.arrays([index]) for index in range(40)]
    assert forecast["source"] == pytest.approx(np.mean([each["input_ids"].shape[1] for each in arrays]), abs=1)
    assert forecast["target"] == pytest.approx(np.mean([each["labels"].shape[1] for each in arrays]), abs=1)


def _asked(question: str, *answers: str) -> dict[str, Any]:
    turns = [("user", question)] + [(role, each) for each in answers for role in ("assistant", "user")]
    return {"messages": [{"role": role, "content": content} for role, content in turns[:-1]]}


LONGER = {
    "translation": lambda more: {"source": "a" * (3 + more), "target": "b" * (9 - more)},
    "classification": lambda more: {"text": "a" * (12 + more), "label": "good" if more % 2 else "bad"},
    "question-answering": lambda more: {"question": "a", "context": "b" * (10 + more), "answers": ["c" * more, "d"]},
    "chat": lambda more: _asked("a" * (5 + more), "b", "cc", "d" * more),
}
"""A record of each task, by how many characters more."""


@pytest.mark.parametrize("limit", [None, 12])
@pytest.mark.parametrize("task", LONGER)
def test_the_widths_and_the_tokens_of_a_forecast_are_those_of_the_batches(
    task: str, limit: int | None, inside: Any, tmp_path: Path
) -> None:
    families: dict[str, Family] = {"gpt2": "decoder", "marian": "encoder-decoder", "bert": "encoder"}
    able = registry.load("tasks", task)().families
    for more in range(2 if task == "classification" else 1, 9):
        folder, rows = tmp_path / f"{more}", tmp_path / f"{more}.jsonl"
        records = [LONGER[task](number) for number in range(1, more + 1)]
        rows.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
        whole = ("--set", "splits.validation=0", "--set", "splits.test=0", "--set", "dedup.exact=false")
        inside("preprocess", rows, "--task", task, "--tokenizer", "char", "--out", folder, *whole)
        given = load_tokenizer(folder / "tokenizer")
        for model, family in families.items():
            if family not in able:
                continue
            settings = () if limit is None else ("--set", f"max_length={limit}", "--set", "long_answers=cut")
            words = ("--data", folder, "--model", model, "--out", "not-made", "--dry-run", *settings)
            forecast = inside("train", *words)["plan"]["forecast"]
            layout = Layout(
                given, family, prompt_format_for(family, given, packed=False), context=limit or 512, long_answers="cut"
            )
            source = examples(TokenStore.open(folder / "tokens", "train"), layout, block_size=None, denoising=None)
            arrays = source.arrays(range(len(source)))
            widths = {"source": arrays["input_ids"].shape[1]}
            if family == "encoder-decoder":
                widths["target"] = arrays["labels"].shape[1]
            assert forecast["largest_batch"] == {"examples": more, **widths}, (more, model)
            if limit is None:
                assert forecast["tokens_per_epoch"] == LIKELIHOODS[family].token_count(arrays), (more, model)


def memory_of(llmctl: Any, words: tuple[Any, ...]) -> tuple[int, int]:
    """Bytes that a training is forecast to take, and those that it takes."""
    plan = json.loads(llmctl(*words, "--dry-run").stdout)["plan"]
    return plan["forecast"]["memory"]["total_bytes"], json.loads(llmctl(*words).stdout)["peak_memory_bytes"]


@pytest.fixture(scope="module")
def long_texts(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 records of 700 characters and their answers of 200, a token each."""
    home, drawn = tmp_path_factory.mktemp("long"), random.Random(0)
    texts = ["".join(drawn.choices(["stone ", "river ", "of ", "the "], k=300)) for _ in range(24)]
    rows = (json.dumps({"source": each[:700].strip(), "target": each[-200:].strip()}) + "\n" for each in texts)
    (home / "records.jsonl").write_text("".join(rows), encoding="utf-8")
    whole = ("--set", "splits.validation=0", "--set", "splits.test=0")
    words = ("--task", "translation", "--tokenizer", "char", "--out", home / "prepared", *whole)
    inside("preprocess", home / "records.jsonl", *words)
    return home / "prepared"


@pytest.mark.parametrize(
    ("model", "precision", "within"),
    [
        ("lstm-seq2seq", "bf16", 0.15),
        ("lstm-seq2seq", "fp32", 0.15),
        ("t5", "bf16", 0.3),  # the same run was seen to take a tenth more or less
    ],
)
def test_the_memory_forecast_of_long_texts_is_near_what_a_run_takes(
    model: str, precision: str, within: float, llmctl: Any, long_texts: Path, tmp_path: Path
) -> None:
    settings = ("--batch-size", "8", "--max-steps", "3", "--precision", precision)
    words = ("train", "--data", long_texts, "--model", model, "--out", tmp_path / "run", "--json", *settings)
    forecast, measured = memory_of(llmctl, words)
    assert forecast == pytest.approx(measured, rel=within)


def test_the_memory_forecast_of_recordings_is_near_what_a_run_takes(llmctl: Any, inside: Any, tmp_path: Path) -> None:
    """The model and batch of the recipe `speech-ctc`."""
    inside("preprocess", "spoken-numbers-en-voices", "--tokenizer", "char", "--out", tmp_path / "data")
    settings = ("--batch-size", "16", "--max-steps", "3", "--json")
    words = ("train", "--data", tmp_path / "data", "--model", "ctc", "--out", tmp_path / "run", *settings)
    forecast, measured = memory_of(llmctl, words)
    assert forecast == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("lstm", ("--batch-size", "256")),
        ("gpt2", ("--batch-size", "256")),
        ("gpt2", ("--batch-size", "256", "--precision", "fp32")),
        ("llama:tiny", ("--batch-size", "256", "--set", "micro_batch_size=64")),
        ("lstm-seq2seq", ("--batch-size", "256")),
        ("marian:tiny", ("--batch-size", "256")),
        ("bert", ("--batch-size", "256")),
        ("bert", ("--batch-size", "256", "--precision", "fp32")),
    ],
)
def test_the_memory_forecast_is_within_15_percent_of_what_a_run_takes(
    model: str, more: tuple[str, ...], llmctl: Any, sonnets: Path, dates: Path, reviews: Path, tmp_path: Path
) -> None:
    data = {"lstm-seq2seq": dates, "marian:tiny": dates, "bert": reviews}.get(model, sonnets)
    words = ("train", "--data", data, "--model", model, "--epochs", "1", "--out", tmp_path / "run", "--json", *more)
    forecast, measured = memory_of(llmctl, words)
    assert forecast == pytest.approx(measured, rel=0.15)


def test_a_run_that_cannot_fit_is_refused_by_a_dry_run_with_what_would_make_it_fit(
    little_memory: None, sonnets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmctl.cli.main import run

    words = ["train", "--data", str(sonnets), "--model", "gpt2", "--out", str(tmp_path / "run")]
    words += ["--batch-size", "256", "--dry-run"]
    assert run(words) == 4
    said = capsys.readouterr()
    assert "of memory; 700 MiB are free, of which 5% is reserved" in said.err
    assert "it would fit with --set micro_batch_size=" in said.err
    assert yaml.safe_load(said.out)["plan"]["forecast"]["memory free"] == "700 MiB, 5% of it reserved: does not fit"
    assert not (tmp_path / "run").exists()
    change = said.err.split("fit with --set ")[1].split(" ")[0]
    assert run([*words, "--set", change]) == 0


def test_several_changes_together_where_one_is_not_enough(
    monkeypatch: pytest.MonkeyPatch, inside: Any, tmp_path: Path
) -> None:
    texts = ["a long tale, " * 300, *(f"tale {number}" for number in range(700))]
    rows = [{"source": text, "target": text.upper()} for text in texts]
    (tmp_path / "tales.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--task", "translation", "--tokenizer", "byte", "--set", "splits.test=0", "--set", "splits.validation=0")
    inside("preprocess", tmp_path / "tales.jsonl", *words, "--out", tmp_path / "data")
    monkeypatch.setattr(machine, "free_memory_bytes", lambda: 560 * MIB)
    train = ("train", "--data", tmp_path / "data", "--model", "lstm-seq2seq", "--batch-size", "512", "--dry-run")
    train = (*train, "--precision", "fp32", "--out", tmp_path / "run")
    [change] = inside(*train, code=4)["plan"]["forecast"]["changes"]
    assert change["needed_bytes"] <= 560 * MIB
    together = change["set"].split(" and ")
    assert len(together) >= 2
    for alone in together:
        assert inside(*train, *alone.split(), code=4)["plan"]["forecast"]["fits"] is False
    assert inside(*train, *change["set"].replace(" and ", " ").split())["plan"]["forecast"]["fits"] is True


def test_a_run_that_may_not_fit_is_warned_of_before_it_starts(
    little_memory: None, inside: Any, sonnets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmctl.cli.main import run

    words = ["train", "--data", str(sonnets), "--model", "rnn", "--set", "model.hidden=1024", "--set", "model.layers=8"]
    assert run([*words, "--max-steps", "1", "--batch-size", "1", "--out", str(tmp_path / "run")]) == 0
    assert "this run needs about" in capsys.readouterr().err


def test_measured_steps_tell_the_time_and_leave_nothing(inside: Any, dates: Path, tmp_path: Path) -> None:
    words = ("train", "--data", str(dates), "--model", "lstm-seq2seq", "--epochs", "2", "--out", str(tmp_path / "run"))
    forecast = inside(*words, "--dry-run", "--measure")["plan"]["forecast"]
    measured = forecast["measured"]
    assert measured["steps"] == 8
    assert measured["seconds"] == pytest.approx(2 * measured["seconds_per_epoch"], rel=0.05)
    assert measured["seconds_per_epoch"] == pytest.approx(
        forecast["tokens_per_epoch"] / measured["tokens_per_second"], rel=0.05
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--measure",), "--measure goes with --dry-run"),
        (("--measure", "--dry-run", "--processes", "2"), "--measure runs its steps in one process"),
    ],
)
def test_steps_that_would_tell_nothing_are_not_made(more: tuple[str, ...], message: str, inside: Any) -> None:
    document = inside("train", "--data", "./nowhere", "--model", "gpt2", "--out", "run", *more, code=2)
    assert document["error"]["message"] == message


def test_memory_is_forecast_alike_once_a_model_has_weights(inside: Any, dates: Path, tmp_path: Path) -> None:
    words = ("train", "--data", dates, "--batch-size", "256")
    for model in ("lstm-seq2seq", "marian"):
        run = tmp_path / model
        inside(*words, "--model", model, "--max-steps", "1", "--out", run)
        new, given = (
            inside(*words, "--model", each, "--out", tmp_path / "not-made", "--dry-run")["plan"]["forecast"]
            for each in (model, run)
        )
        assert given["memory"]["total_bytes"] == pytest.approx(new["memory"]["total_bytes"], rel=0.02)
        shown = inside("show", "models", run, "--data", dates, "--set", "batch_size=256")
        assert shown["forecast"]["memory"] == given["memory"], "a run is a model"
        assert (shown["task"], shown["weights"]) == ("translation", given["parameters"])


def test_show_models_tells_the_cost_of_learning_some_data(inside: Any, sonnets: Path) -> None:
    document = inside("show", "models", "gpt2:tiny", "--data", str(sonnets), "--set", "batch_size=4")
    forecast = document["forecast"]
    assert forecast["largest_batch"] == {"examples": 4, "source": 32}
    assert forecast["parameters"] < next(each["parameters"] for each in document["sizes"])  # 400 entries, not 4,096
    memory = forecast["memory"]
    assert memory["total_bytes"] == sum(size for name, size in memory.items() if name != "total_bytes")
    assert forecast["flops_per_token"] == pytest.approx(6 * forecast["parameters"], rel=0.25)


def test_suggest_ranks_what_fits_first_each_with_its_reason(inside: Any, dates: Path, sonnets: Path) -> None:
    found = inside("suggest", "--data", str(dates), "--memory", "1GiB")["suggestions"]
    assert [each["rank"] for each in found] == list(range(1, len(found) + 1))
    assert {each["family"] for each in found} == {"decoder", "encoder-decoder"}
    fits = [each["fits"] for each in found]
    assert fits == sorted(fits, reverse=True)
    assert any(fits)
    assert not all(fits)
    assert found[0]["family"] == "encoder-decoder"
    assert all(each["memory_bytes"] <= 2**30 for each in found if each["fits"])
    assert all(each["reasons"] for each in found)
    names = [each["model"] for each in inside("suggest", "--data", str(sonnets))["suggestions"]]
    assert names.index("lstm:nano") < names.index("rnn:nano")
    assert "lstm-classifier:nano" not in names


def test_suggest_needs_a_task_or_data(llmctl: Any) -> None:
    done = llmctl("suggest")
    assert done.returncode == 2
    assert "--task or --data" in done.stderr
    assert llmctl("suggest", "--task", "translation", "--memory", "2GiB").stdout.startswith("translation in 2.0 GiB")
