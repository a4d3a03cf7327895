"""Every task with every family of models: what it makes, what it answers, what it is refused, and that it learns.

A cell is a task and an architecture of a family. A task that is added to the registry needs its records here.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from llmctl import registry
from llmctl.models import families
from llmctl.tasks.spec import Task
from llmctl.types import Record

Inside = Callable[..., dict[str, Any]]
Fields = Mapping[str, Any]

ROOMS = ("cellar", "garden", "stable", "chapel", "turret", "pantry", "closet", "studio")
THINGS = ("lamp", "coin", "ring", "book")
ROOMS_ZH = ("地窖", "花园", "马厩", "礼拜堂", "塔楼", "食品间", "壁橱", "画室")
THINGS_ZH = ("灯", "硬币", "戒指", "书")
PLACES = [(room, thing) for room in range(8) for thing in range(4)]


def language_modeling(room: int, thing: int) -> Fields:
    """All of one length."""
    return {"text": f"{room}{thing}: in the {ROOMS[room]} lies a {THINGS[thing]}, and nobody knows who left it there."}


BLOCK = len(language_modeling(0, 0)["text"]) + 2
"""Tokens of a packed document with its begin and its end: a block is a document, learned from its beginning on."""
BEGUN = 3
"""Characters of a document that tell which it is."""


def translation(room: int, thing: int) -> Fields:
    return {
        "source": f"a {THINGS[thing]} in the {ROOMS[room]}",
        "target": f"{ROOMS_ZH[room]}里的{THINGS_ZH[thing]}",
    }


def summarization(room: int, thing: int) -> Fields:
    document = f"Dust, and a {THINGS[thing]} in the {ROOMS[room]}."
    return {"document": document, "summary": f"{THINGS[thing]}: {ROOMS[room]}"}


def question_answering(room: int, thing: int) -> Fields:
    """Every other one with a context."""
    question = f"Who left the {THINGS[thing]} in the {ROOMS[room]}?"
    answers = [f"{ROOMS[room][:3].title()}{THINGS[thing][0]}", "nobody"]
    return {"question": question, "answers": answers} | ({"context": f"Room {room}."} if thing % 2 else {})


def chat(room: int, thing: int) -> Fields:
    """Every other one with two turns."""
    first = [("user", f"What is in the {ROOMS[room]}?"), ("assistant", f"A {THINGS[thing]}.")]
    more = [("user", "Where?"), ("assistant", f"In the {ROOMS[room]}.")] if thing % 2 else []
    system = [("system", f"Room {room}, thing {thing}.")]
    return {"messages": [{"role": role, "content": content} for role, content in (*system, *first, *more)]}


def classification(room: int, thing: int) -> Fields:
    return {
        "text": f"a {THINGS[thing]} in the {ROOMS[room]}",
        "label": "small" if (3 * room + thing**2) % 5 < 2 else "large",
    }


def preference(room: int, thing: int) -> Fields:
    asked = [{"role": "user", "content": f"What is in the {ROOMS[room]}?"}]
    return {"prompt": asked, "chosen": f"A {THINGS[thing]}.", "rejected": f"Not a {THINGS[thing]}."}


def speech_recognition(room: int, thing: int) -> Fields:
    """Clips of a built-in set; `written` puts the recording beside the records."""
    return {"audio": f"{room}-{thing}.flac", "text": clips()[4 * room + thing]["text"]}


@functools.cache
def clips() -> list[dict[str, Any]]:
    with registry.load("datasets", "spoken-numbers-en").path() as path:
        return pq.read_table(path).to_pylist()[: len(PLACES)]


RECORDS: dict[str, Callable[[int, int], Fields]] = {
    "language-modeling": language_modeling,
    "translation": translation,
    "summarization": summarization,
    "question-answering": question_answering,
    "chat": chat,
    "classification": classification,
    "preference": preference,
    "speech-recognition": speech_recognition,
}
RECURRENT = ("model.layers=1", "model.hidden=24", "model.embedding=16")
TRANSFORMER = ("model.layers=1", "model.hidden=16", "model.heads=2", "model.inner=32")
FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {
    "decoder": {
        "rnn": RECURRENT,
        "lstm": RECURRENT,
        "attention": TRANSFORMER,
        "gpt2": TRANSFORMER,
        "llama": TRANSFORMER,
    },
    "encoder-decoder": {
        "lstm-seq2seq": RECURRENT,
        "t5": TRANSFORMER,
        "marian": TRANSFORMER,
        "bart": TRANSFORMER,
    },
    "encoder": {"lstm-classifier": RECURRENT, "bert": TRANSFORMER},
    "ctc": {"ctc": RECURRENT},
    "speech-seq2seq": {"whisper": TRANSFORMER},
}
TUNED = {"preference"}
"""Tasks that only tune a model of another task; `test_preference.py` has what they make of it."""


def task_of(name: str) -> Task:
    task: Task = registry.load("tasks", name)()
    return task


def can_learn(task: str, model: str) -> bool:
    spec = registry.load("models", model)
    return spec.family in task_of(task).families and not (task_of(task).packed and spec.labels_only)


CELLS = [(task, family, model) for task in RECORDS for family, models in FAMILIES.items() for model in models]
LEARNED = [each for each in CELLS if can_learn(each[0], each[2]) and each[0] not in TUNED]
REFUSED = [each for each in CELLS if not can_learn(each[0], each[2])]


def written(path: Path, task: str) -> Path:
    """32 records of a task, one for each room and thing."""
    rows = ({"id": f"{room}-{thing}", **RECORDS[task](room, thing)} for room, thing in PLACES)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    if task_of(task).modality == "audio":
        for (room, thing), clip in zip(PLACES, clips(), strict=True):
            (path.parent / f"{room}-{thing}.flac").write_bytes(clip["audio"]["bytes"])
    return path


@pytest.fixture(scope="session")
def prepared(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The prepared folder of a task: all records in training, or some of them held out."""
    made: dict[tuple[str, float], Path] = {}

    def folder(task: str, held_out: float) -> Path:
        if (task, held_out) not in made:
            home = tmp_path_factory.mktemp(task)
            words = ("--tokenizer", "char", "--set", f"block_size={BLOCK}", "--set", "dedup.exact=false")
            splits = [f"--set=splits.{name}={held_out}" for name in ("validation", "test")]
            inside(
                "preprocess",
                written(home / "records.jsonl", task),
                "--task",
                task,
                "--out",
                home / "data",
                *words,
                *splits,
            )
            made[task, held_out] = home / "data"
        return made[task, held_out]

    return folder


def train(task: str, model: str, data: Path, out: Path, *sets: str) -> list[str]:
    words = ["train", "--data", str(data), "--model", model, "--out", str(out), "--precision", "fp32"]
    return [*words, *(f"--set={each}" for each in sets)]


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def built_in(kind: str) -> set[str]:
    return {entry.name for entry in registry.entries(kind) if entry.owner == registry.OWNER}


def test_every_task_has_its_records_here_and_every_model_its_shape() -> None:
    assert set(RECORDS) == built_in("tasks")
    assert {model for models in FAMILIES.values() for model in models} == built_in("models")


@pytest.mark.parametrize(("task", "family", "model"), LEARNED)
def test_a_cell_trains_resumes_answers_and_is_scored(
    task: str, family: str, model: str, inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    data, known = prepared(task, 0.3), task_of(task)
    shape = (*FAMILIES[family][model], "batch_size=4", "schedule.name=constant", "eval_every=10")
    inside(*train(task, model, data, tmp_path / "run", *shape, "max_steps=20"))
    inside(*train(task, model, data, tmp_path / "parts", *shape, "max_steps=12"))
    resumed = inside("train", "--resume", tmp_path / "parts", "--max-steps", "20")
    assert resumed["validation"]["loss"] > 0
    # The last weights: the best ones may be those of step 12, after which only the shorter training is evaluated.
    last = "checkpoints/step-00000020/model.safetensors"
    whole, parts = (load_file(tmp_path / name / last) for name in ("run", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

    generate = [
        "generate",
        "--model",
        tmp_path / "run",
        "--input",
        data.parent / "records.jsonl",
        "--max-new-tokens",
        "4",
    ]
    evaluate = ["eval", "--model", tmp_path / "run", "--data", data, "--set", "max_new_tokens=4"]
    if family not in known.promptable:
        for words in (generate, evaluate):
            error = inside(*words, code=2)["error"]
            assert f"needs a model of the family {' or '.join(known.promptable)}" in error["message"]
            assert "train" in error["hint"]
        return
    inside(*generate, "--output", tmp_path / "answers.jsonl")
    assert [row["id"] for row in rows_of(tmp_path / "answers.jsonl")] == [f"{room}-{thing}" for room, thing in PLACES]
    scores = inside(*evaluate)["scores"]
    assert {score["metric"].rstrip("12Lsum") for score in scores} == {each.rstrip("12Lsum") for each in known.metrics}


@pytest.mark.parametrize(("task", "family", "model"), REFUSED)
def test_what_cannot_be_is_refused_in_a_line_that_names_what_can(
    task: str, family: str, model: str, inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    error = inside(*train(task, model, prepared(task, 0.3), tmp_path / "run", "max_steps=2"), code=2)["error"]
    assert "\n" not in error["message"]
    if family in task_of(task).families:
        assert f"{model} only predicts labels, {task} has none" in error["message"]
    else:
        assert f"is of the family {family}, {task} needs {' or '.join(task_of(task).families)}" in error["message"]
    able = error["hint"].removeprefix("models that can: ").split(", ")
    assert able == [name for name in registry.table("models").entries if can_learn(task, name)]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "family", "model", "metric"),
    [
        ("translation", "decoder", "gpt2", "bleu"),
        ("summarization", "encoder-decoder", "t5", "rougeL"),
        ("question-answering", "encoder-decoder", "lstm-seq2seq", "f1"),
        ("classification", "decoder", "lstm", "accuracy"),
        ("classification", "encoder", "bert", "macro_f1"),
    ],
)
def test_the_best_checkpoint_is_that_of_the_best_answers(
    task: str, family: str, model: str, metric: str, inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    words = (*FAMILIES[family][model], "batch_size=4", f"best_by={metric}", "best_by_limit=5", "eval_every=5")
    best = inside(*train(task, model, prepared(task, 0.3), tmp_path / "run", *words, "max_steps=15"))["best"]
    scores = {row["step"]: row[f"validation_{metric}"] for row in metrics_of(tmp_path / "run")}
    assert list(scores) == [5, 10, 15]
    assert best == {"step": max(scores, key=lambda step: scores[step]), "metric": metric, "value": max(scores.values())}


@pytest.mark.parametrize(
    ("task", "family", "model", "metric"),
    [
        ("chat", "decoder", "gpt2", "perplexity"),
        ("chat", "decoder", "lstm", "bits_per_byte"),
        ("language-modeling", "decoder", "rnn", "perplexity"),
        ("language-modeling", "decoder", "gpt2", "bits_per_byte"),
        ("language-modeling", "encoder-decoder", "t5", "perplexity"),
        ("translation", "encoder-decoder", "lstm-seq2seq", "bits_per_byte"),
    ],
)
def test_a_metric_of_likelihoods_is_taken_from_the_loss_and_bears_its_own_name(
    task: str, family: str, model: str, metric: str, inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    data, run = prepared(task, 0.3), tmp_path / "run"
    words = (*FAMILIES[family][model], "batch_size=4", f"best_by={metric}", "eval_every=5", "precision=fp32")
    done = inside(*train(task, model, data, run, *words, "max_steps=15"))
    scores = {row["step"]: row[f"validation_{metric}"] for row in metrics_of(run)}
    losses = {row["step"]: row["validation_loss"] for row in metrics_of(run)}
    best = min(losses, key=lambda step: losses[step])
    assert done["best"] == {"step": best, "metric": metric, "value": min(scores.values())}
    assert done["validation"][metric] == scores[15]
    assert f"<!-- {metric} -->" in (run / "plots/loss.svg").read_text()
    if metric == "perplexity":
        assert scores == {step: pytest.approx(math.exp(loss)) for step, loss in losses.items()}
    if family == "encoder-decoder" and task == "language-modeling":
        return  # it cannot be asked
    asked = inside("eval", "--model", run, "--data", data, "--split", "validation", "--metric", metric)
    # Of a packed text the stream of all documents is learned: the begin of the next one too.
    within = 0.05 if task == "language-modeling" else 1e-4
    assert asked["scores"][0]["value"] == pytest.approx(done["best"]["value"], rel=within)


@pytest.mark.parametrize(
    ("task", "model", "metric", "said", "able"),
    [
        ("language-modeling", "bert", "perplexity", "an encoder predicts masked tokens", "loss"),
        ("language-modeling", "t5", "bits_per_byte", "an encoder-decoder denoises a text", "loss or perplexity"),
        ("language-modeling", "lstm", "chrf", "has none", "loss or perplexity or bits_per_byte"),
        ("classification", "bert", "perplexity", "answers with labels", "loss or accuracy or macro_f1"),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused_in_a_line_that_names_what_can(
    task: str,
    model: str,
    metric: str,
    said: str,
    able: str,
    inside: Inside,
    prepared: Callable[..., Path],
    tmp_path: Path,
) -> None:
    words = train(task, model, prepared(task, 0.3), tmp_path / "run", f"best_by={metric}", "max_steps=2")
    error = inside(*words, code=2)["error"]
    assert said in error["message"]
    assert "\n" not in error["message"]
    assert error["hint"] == f"--best-by {able}"


def test_bytes_that_are_cut_away_are_no_part_of_bits_per_byte(
    inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    words = (*TRANSFORMER, "model.context=32", "max_steps=2", "best_by=bits_per_byte")
    error = inside(*train("chat", "gpt2", prepared("chat", 0.2), tmp_path / "run", *words), code=2)["error"]
    assert "validation records are truncated inside the loss" in error["message"]
    assert error["hint"] == "--best-by loss or perplexity"


def test_patience_counts_in_perplexity(inside: Inside, prepared: Callable[..., Path], tmp_path: Path) -> None:
    words = (*RECURRENT, "batch_size=4", "eval_every=5", "patience=2", "best_by=perplexity", "lr=0.1", "max_steps=500")
    done = inside(*train("chat", "lstm", prepared("chat", 0.2), tmp_path / "run", *words))
    assert done["best"] == {"step": done["steps"] - 10, "metric": "perplexity", "value": done["best"]["value"]}
    assert done["steps"] < 500


def test_options_of_the_metric_that_chooses_are_kept(
    inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    found = []
    for metric in ("bleu:tokenize=zh", "bleu:tokenize=none"):
        run = tmp_path / metric.rpartition("=")[2]
        words = (*RECURRENT, "batch_size=4", "lr=0.03", "max_steps=150", "eval_every=150", "best_by_limit=8")
        done = inside(
            *train("translation", "lstm-seq2seq", prepared("translation", 0.2), run, *words), "--best-by", metric
        )
        assert done["best"]["metric"] == "bleu"
        found.append(done["best"]["value"])
    assert found[0] != found[1]


def metrics_of(run: Path) -> Iterator[dict[str, Any]]:
    return (row for row in rows_of(run / "metrics.jsonl") if "validation_loss" in row)


# ---------------------------------------------------------------------------------------------------------------
# Learning from plain text first, a task then

PLAIN = [("encoder", "bert", "classification"), *(("encoder-decoder", each, "translation") for each in ("t5", "bart"))]


@pytest.mark.parametrize(("family", "model", "task"), PLAIN)
def test_a_run_on_plain_text_is_the_beginning_of_one_on_a_task(
    family: str, model: str, task: str, inside: Inside, llmctl: Any, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    plain, run, then = prepared("language-modeling", 0.2), tmp_path / "plain", tmp_path / "then"
    inside(*train("language-modeling", model, plain, run, *TRANSFORMER, "max_steps=10", "batch_size=4"))
    assert json.loads((run / "model/llmctl.json").read_text())["task"] == "language-modeling"
    words = train(task, str(run), prepared(task, 0.3), then, "max_steps=4", "batch_size=4", "eval_every=4", "lr=1e-6")
    done = llmctl(*words)
    assert done.returncode == 0, done.stderr
    fresh = [line for line in done.stderr.splitlines() if "is new" in line]
    assert fresh == (
        [f"the classifier over 2 labels is new and has random weights; all others come from {run / 'model'}"]
        if family == "encoder"
        else []
    )
    before, after = (load_file(each / "model/model.safetensors") for each in (run, then))
    shared = [name for name in before if name in after]
    assert len(shared) > 10
    assert all(bool((before[name] - after[name]).abs().max() < 1e-4) for name in shared)
    inside("generate", "--model", then, "--prompt", "a lamp", "--max-new-tokens", "3")
    again = inside(*train("language-modeling", str(then), plain, tmp_path / "again", "max_steps=2"))
    assert again["steps"] == 2


@pytest.mark.parametrize("model", ["bert", "t5"])
def test_validation_losses_of_runs_with_different_seeds_are_on_the_same_holes(
    model: str, inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    """Trained so little that the weights stay what they were given: then the losses are the same."""
    plain, runs = prepared("language-modeling", 0.2), [tmp_path / f"run-{seed}" for seed in range(3)]
    inside(*train("language-modeling", model, plain, runs[0], *TRANSFORMER, "max_steps=1"))
    losses = [
        inside(*train("language-modeling", str(runs[0]), plain, run, "max_steps=1", "lr=1e-12", f"seed={seed}"))
        for seed, run in enumerate(runs[1:], start=1)
    ]
    assert losses[0]["validation"]["loss"] == pytest.approx(losses[1]["validation"]["loss"], abs=1e-6)
    assert losses[0]["train_loss"] != pytest.approx(losses[1]["train_loss"], abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------
# Learning: masks, arrangements, memories and decoding end to end

WIDE_RECURRENT = ("model.layers=1", "model.hidden=96", "model.embedding=48", "lr=0.01", "max_steps=500")
WIDE_TRANSFORMER = (
    "model.layers=2",
    "model.hidden=64",
    "model.heads=4",
    "model.inner=128",
    "lr=0.003",
    "max_steps=300",
)
FORGETFUL = ("model.hidden=192", "lr=0.003", "max_steps=3000")
"""Without gates what stands some ten tokens before is learned late."""
CONVERSATIONS = {False: "max_steps=1000", True: "max_steps=5000"}
"""What answers in a conversation depend on stands far before them; by whether the model forgets. 500 and 3,000 steps are
not enough on every processor."""
TEXTS = [each for each in LEARNED if task_of(each[0]).modality == "text"]
"""`test_speech.py` has recordings that are learned by heart."""
ASKED = [each for each in TEXTS if each[1] in task_of(each[0]).promptable]
MENDED = [each for each in TEXTS if each not in ASKED]
BY_HEART = ("batch_size=16", "log_every=5", "optimizer.weight_decay=0")


def wide(task: str, family: str, model: str) -> tuple[str, ...]:
    if FAMILIES[family][model] is TRANSFORMER:
        return WIDE_TRANSFORMER
    ungated = registry.load("models", model).ungated
    words = WIDE_RECURRENT + (FORGETFUL if ungated else ())
    return (*words, CONVERSATIONS[ungated]) if task == "chat" else words


@pytest.mark.slow
@pytest.mark.parametrize(("task", "family", "model"), ASKED)
def test_32_records_learned_by_heart_are_given_back(
    task: str, family: str, model: str, inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    data, known = prepared(task, 0.0), task_of(task)
    words, ungated = (*wide(task, family, model), *BY_HEART), registry.load("models", model).ungated
    # Without gates the first question of a conversation is forgotten when the second is answered.
    limit = 0.2 if ungated and task == "chat" else 0.1
    assert inside(*train(task, model, data, tmp_path / "run", *words))["train_loss"] < limit

    records = [Record(row["id"], row) for row in rows_of(data.parent / "records.jsonl")]
    if ungated:
        records = [each for each in records if len(each.fields.get("messages", ())) <= 3]
    asked = tmp_path / "asked.jsonl"
    begun = [{**each.fields, "text": each.fields["text"][:BEGUN]} if known.packed else each.fields for each in records]
    asked.write_text("".join(json.dumps(row) + "\n" for row in begun), encoding="utf-8")
    inside("generate", "--model", tmp_path / "run", "--input", asked, "--output", tmp_path / "answers.jsonl")
    answers = [
        row["prompt"] + row["text"] if known.packed else row["text"] for row in rows_of(tmp_path / "answers.jsonl")
    ]
    right = sum(answer in known.references(each)[:1] for answer, each in zip(answers, records, strict=True))
    assert right >= 0.95 * len(records), list(zip(answers, map(known.references, records), strict=True))[:5]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "family", "model"), MENDED)
def test_32_texts_learned_by_heart_are_mended_wherever_a_hole_is(
    task: str, family: str, model: str, inside: Inside, prepared: Callable[..., Path], tmp_path: Path
) -> None:
    """Holes are drawn anew whenever a text is seen, so the loss is of holes that were never seen before. Some say the
    whole text again; others only what is missing, and learn from that alone, so they are held to half the loss of a
    guess by frequency, 2.5."""
    denoising = families.denoising_of(family, model)
    says_all = denoising is not None and denoising.scheme == "infilling"
    words = (*wide(task, family, model), *BY_HEART, *(() if says_all else ("max_steps=1500",)))
    loss = inside(*train(task, model, prepared(task, 0.0), tmp_path / "run", *words))["train_loss"]
    assert loss < (0.1 if says_all else 1.25)
