"""`quickstart`: the full lifecycle in a minute on bundled data, through the same code as the other verbs."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from llmctl import config as configuration
from llmctl import registry
from llmctl.errors import Stopped
from llmctl.metrics.parse import request_metric
from llmctl.store import atomic, locks
from llmctl.store.prepared import is_prepared, open_prepared
from llmctl.types import Answer, Event, EventSink, Score
from llmctl.workflows.evaluate import run as evaluate
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.generate import checks as generate_checks
from llmctl.workflows.generate import run as generate
from llmctl.workflows.generate.spec import GenerateConfig
from llmctl.workflows.preprocess import run as preprocess
from llmctl.workflows.preprocess.spec import PreprocessConfig
from llmctl.workflows.quickstart.spec import QuickstartConfig
from llmctl.workflows.train import run as train
from llmctl.workflows.train.spec import TrainConfig

DATES: Final = "dates-en-zh"
SONNETS: Final = "sonnets"
PROMPTS: Final = ("Shall I compare thee", "O time,")
SHOWN: Final = 4
"""Number of translations shown."""
UNTRAINED: Final = 100
"""Records answered by the untrained model, which does not predict end of text, so every answer has full length."""
MARKER: Final = "quickstart.json"


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """The fields of `--json`."""

    fields: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        return dict(self.fields)


@dataclass(frozen=True, slots=True)
class QuickstartPlan:
    """The settings and the folder that takes the output."""

    config: QuickstartConfig
    out: Path

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` shows."""
        return {"out": str(self.out), "commands": commands_of(steps(self))}


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of quickstart, as configurations of the verbs."""

    prepare_dates: PreprocessConfig
    translator: TrainConfig
    prepare_sonnets: PreprocessConfig
    poet: TrainConfig


def preflight(config: QuickstartConfig, *, force: bool) -> QuickstartPlan:
    """Choose the output folder: the given one, or the first of `quickstart`, `quickstart-2`, … that does not exist."""
    if config.out is not None:
        out = config.out
        if locks.is_locked(out):
            with locks.locked(out):  # raises `BusyError`, which names the owner
                pass
        if force or not _interrupted(config, out):
            atomic.refuse_existing(out, force=force, marker=MARKER)
    else:
        names = ("quickstart", *(f"quickstart-{number}" for number in range(2, 10_000)))
        out = next(Path(name) for name in names if not Path(name).exists())
    atomic.check_writable(out, bytes_needed=200 * 2**20)
    return QuickstartPlan(config, out)


def _interrupted(config: QuickstartConfig, out: Path) -> bool:
    """Whether the folder holds a quickstart with these settings that was killed; the same command finishes it."""
    try:
        found = json.loads((out / MARKER).read_text(encoding="utf-8"))
        return bool(found["finished"] is False and found["seed"] == config.seed)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def steps(plan: QuickstartPlan) -> Steps:
    """The four steps before scoring."""
    seed, out = plan.config.seed, plan.out
    return Steps(
        PreprocessConfig(inputs=(DATES,), task="translation", out=out / "dates", vocab_size=800, seed=seed),
        _training(out / "dates", "lstm-seq2seq", out / "translator", epochs=10.0, batch_size=64, seed=seed),
        PreprocessConfig(
            inputs=(SONNETS,), task="language-modeling", out=out / "sonnets", vocab_size=800, block_size=64, seed=seed
        ),
        _training(out / "sonnets", "lstm", out / "poet", epochs=5.0, batch_size=16, seed=seed),
    )


def _training(data: Path, model: str, out: Path, **settings: Any) -> TrainConfig:
    return configuration.validate(TrainConfig, {"data": data, "model": model, "out": out, **settings})


def quickstart(plan: QuickstartPlan, emit: EventSink, *, force: bool = False) -> QuickstartResult:
    """Prepare data, train two models, score them with baselines and generate samples."""
    started = time.monotonic()
    config, out = plan.config, plan.out
    if force and (out / MARKER).is_file():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    with locks.locked(out):
        try:
            return _quickstart(plan, emit, started)
        except Stopped as error:
            again = f"llmctl quickstart --out {out}" + (f" --seed {config.seed}" if config.seed else "")
            raise Stopped(error.message, hint=f"continue: {again}") from error


def _quickstart(plan: QuickstartPlan, emit: EventSink, started: float) -> QuickstartResult:
    config, out = plan.config, plan.out
    if _interrupted(config, out):
        emit(Event("note", {"text": f"continuing the quickstart in {out}, which was interrupted"}))
    # Written first, so that an interrupted quickstart can be continued, and replaced by --force.
    atomic.write_json(out / MARKER, {"finished": False, "seed": config.seed})
    todo = steps(plan)
    commands = commands_of(todo)

    emit(Event("note", {"text": f"$ {commands[0]}"}))
    _prepare(todo.prepare_dates, emit)
    baselines = _translation_baselines(todo.translator)
    emit(Event("note", {"text": f"$ {commands[1]}"}))
    _train(todo.translator, emit)
    bleu = _score(todo.translator, "bleu", emit)

    emit(Event("note", {"text": f"$ {commands[2]}"}))
    _prepare(todo.prepare_sonnets, emit)
    emit(Event("note", {"text": f"$ {commands[3]}"}))
    _train(todo.poet, emit)
    perplexity = _score(todo.poet, "perplexity", emit)
    baselines.append(_unigram(todo.poet))

    fields = {
        "scores": [
            _score_row(bleu, f"lstm-seq2seq on {DATES}, test split"),
            _score_row(perplexity, f"lstm on {SONNETS}, test split"),
        ],
        "baselines": baselines,
        "samples": [*_translations(todo.translator, emit), *_poems(todo.poet, config.seed, emit)],
        "next": commands_after(todo),
        "commands": commands,
        "out": str(out),
        "seconds": round(time.monotonic() - started, 3),
    }
    atomic.write_json(out / MARKER, fields)
    return QuickstartResult(fields)


def _prepare(config: PreprocessConfig, emit: EventSink) -> None:
    if not is_prepared(config.out):
        preprocess.preprocess(config, preprocess.preflight(config, force=False, offline=True), emit)


def _train(config: TrainConfig, emit: EventSink) -> None:
    train.train(train.preflight(config, force=False, offline=True, resume=True), emit)


def _score(config: TrainConfig, metric: str, emit: EventSink) -> Score:
    evaluation = EvalConfig(
        model=str(config.out), data=config.data, metric=(request_metric(metric),), batch_size=128, seed=config.seed
    )
    return evaluate.evaluate(evaluate.preflight(evaluation, force=False, offline=True), emit).scores[0]


def _score_row(score: Score, what: str) -> dict[str, Any]:
    return {**evaluate.score_fields(score), "what": what}


def _translation_baselines(config: TrainConfig) -> list[dict[str, Any]]:
    """BLEU of the model before training, and of copying the source."""
    import torch

    from llmctl.data.storing.text import read_text
    from llmctl.engines.local import TorchEngine
    from llmctl.engines.spec import Sampling
    from llmctl.workflows.inference.requests import RequestBuilder
    from llmctl.workflows.inference.session import Predictor, predict
    from llmctl.workflows.train import assemble

    checked = train.preflight(config, force=False, offline=True, resume=True)
    records = list(read_text(checked.prepared.text("test")))
    torch.manual_seed(config.seed)
    built = assemble.assemble(checked, lambda event: None, lambda make: make())
    engine = TorchEngine(built.model.eval(), built.tokenizer, checked.family)
    predictor = Predictor(RequestBuilder(checked.task, built.layout), engine)
    untrained = predict(predictor, islice(records, UNTRAINED), Sampling(max_new_tokens=48, batch_size=UNTRAINED))
    copied = [Answer(record.id, record.fields["source"], checked.task.references(record)) for record in records]
    return [
        {
            "metric": "bleu",
            "value": _bleu(untrained),
            "what": f"the same model untrained, first {UNTRAINED} records",
        },
        {"metric": "bleu", "value": _bleu(copied), "what": "copying the source"},
    ]


def _bleu(answers: list[Answer]) -> float:
    from llmctl.metrics.scoring import score_answers
    from llmctl.metrics.spec import IntervalSpec

    spec = registry.load("metrics", "bleu")
    scored = score_answers([(spec, spec.options())], answers, IntervalSpec(resamples=0), 0)
    return scored.scores[0].value


def _unigram(config: TrainConfig) -> dict[str, Any]:
    """Perplexity of a unigram model with add-one smoothing on the same held-out tokens."""
    import numpy as np

    from llmctl.data.storing.tokens import TokenStore

    prepared = open_prepared(config.data)
    train_ids, held_out = (TokenStore.open(prepared.tokens, split).values[:] for split in ("train", "test"))
    size = prepared.manifest.tokenizer.vocab_size
    counts = np.bincount(train_ids, minlength=size).astype(np.float64) + 1.0
    opening = 1  # <bos> is part of the prompt, not predicted
    predicted = held_out[held_out != opening]
    loss = -float(np.log(counts[predicted] / (counts.sum() - counts[opening])).mean())
    return {"metric": "perplexity", "value": math.exp(loss), "what": "unigram model of the training split"}


def _translations(config: TrainConfig, emit: EventSink) -> list[dict[str, Any]]:
    from llmctl.data.storing.text import read_text

    prepared = open_prepared(config.data)
    records = list(islice(read_text(prepared.text("test")), SHOWN))
    prompts = tuple(record.fields["source"] for record in records)
    found = _generated(GenerateConfig(model=str(config.out), prompt=prompts, max_new_tokens=48), emit)
    return [
        {"prompt": prompt, "text": row["text"], "reference": record.fields["target"]}
        for prompt, row, record in zip(prompts, found, records, strict=True)
    ]


def _poems(config: TrainConfig, seed: int, emit: EventSink) -> list[dict[str, Any]]:
    generation = GenerateConfig(
        model=str(config.out), prompt=PROMPTS, max_new_tokens=60, temperature=0.7, top_p=0.9, seed=seed
    )
    return [
        {"prompt": prompt, "text": row["text"]}
        for prompt, row in zip(PROMPTS, _generated(generation, emit), strict=True)
    ]


def _generated(config: GenerateConfig, emit: EventSink) -> list[dict[str, Any]]:
    checked = generate_checks.preflight(config, force=False, offline=True)
    rows: list[dict[str, Any]] = generate.generate(config, checked, emit).document()["completions"]
    return rows


def commands_of(todo: Steps) -> list[str]:
    """The steps as command lines."""
    return [
        f"llmctl preprocess {DATES} --vocab-size {todo.prepare_dates.vocab_size} --out {todo.prepare_dates.out}",
        _train_command(todo.translator),
        f"llmctl preprocess {SONNETS} --vocab-size {todo.prepare_sonnets.vocab_size} "
        f"--set block_size={todo.prepare_sonnets.block_size} --out {todo.prepare_sonnets.out}",
        _train_command(todo.poet),
    ]


def _train_command(config: TrainConfig) -> str:
    return (
        f"llmctl train --data {config.data} --model {config.model.name} --epochs {config.epochs:g} "
        f"--batch-size {config.batch_size} --out {config.out}"
    )


def commands_after(todo: Steps) -> list[str]:
    """Suggested next commands."""
    return [
        f"llmctl generate --model {todo.translator.out} --prompt 'Friday, July 4, 2031'",
        f"llmctl generate --model {todo.poet.out} --prompt 'My love is' --temperature 0.8",
        f"llmctl eval --model {todo.translator.out} --data {todo.translator.data} --metric bleu --require 'bleu>=85'",
        f"llmctl runs show {todo.poet.out}",
        "llmctl list models",
    ]
