"""Build the parts of a training run: model, tokenizer, layout, examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmctl import compatibility
from llmctl.data.examples.batches import Blocks, Records
from llmctl.data.examples.layout import Layout, layout_for
from llmctl.data.examples.noising import DenoisingBlocks
from llmctl.data.examples.pairs import Pairs
from llmctl.data.examples.select import examples
from llmctl.data.storing.text import read_text
from llmctl.data.storing.tokens import TokenStore
from llmctl.data.tokenizing.encode_prepared import encode_prepared
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.errors import DataError, IntegrityError, UsageError
from llmctl.models import families, pretrained
from llmctl.models.spec import Vocabulary
from llmctl.store import atomic, integrity
from llmctl.store.safety import read_json
from llmctl.types import Denoising, Event, EventSink, Examples, Hearing
from llmctl.workflows.train.checks import TrainPlan

HASHES: Final = "hashes.json"
VALIDATION_SEED: Final = 0
"""Every run corrupts the validation split alike, at the published noise density, so that validation losses compare."""


Once = Callable[[Callable[[], None]], None]
"""Runs a function in the main process while the others wait."""


@dataclass(frozen=True)
class Parts:
    """The parts of a run."""

    model: Any
    tokenizer: Any
    tokenizer_folder: Path
    layout: Layout
    train: Examples
    validation: Examples | None
    labels: tuple[str, ...]
    hearing: Hearing | None
    validation_bytes: int
    """UTF-8 bytes of the validation text in the loss; 0 unless a metric needs them."""
    unread: Mapping[str, str] | None = None
    """The names in the files of pretrained weights that are still to be read; None if the model has its weights."""


def assemble(plan: TrainPlan, emit: EventSink, once: Once, *, empty: bool = False) -> Parts:
    """Build all parts. Random weights come from torch's current seed. `empty`: pretrained weights are read later, by the
    processes that hold a part of each, where their names allow it."""
    config = plan.config
    tokenizer_folder, tokens = _tokens(plan, emit, once)
    tokenizer = load_tokenizer(tokenizer_folder)
    labels = plan.prepared.manifest.labels if plan.task.labelled else ()
    model, unread = _build(plan, tokenizer, labels, emit, empty=empty)
    card = plan.pretrained_folder.card if plan.pretrained_folder else None
    answers = plan.answers
    trained_with = card.instruction if card and card.task == answers.name and tuple(card.labels) == labels else None
    layout = layout_for(
        tokenizer,
        plan.family,
        packed=answers.packed,
        context=_context(plan, model),
        instruction=compatibility.resolve_instruction(answers, labels, config.instruction, trained_with),
        long_answers=config.long_answers,
    )

    hearing = families.hearing_of(model.config.to_dict()) if plan.task.modality == "audio" else None

    def source(split: str, denoising: Denoising | None, seed: int) -> Examples:
        block = plan.prepared.manifest.block_size
        role = answers.answer_role if plan.task.pairs else None
        store = TokenStore.open(tokens, split)
        return examples(
            store, layout, block_size=block, denoising=denoising, pairs_for=role, seed=seed, hearing=hearing
        )

    train = source("train", plan.denoising, config.seed)
    if isinstance(train, Records) and train.left_out and not len(train):
        raise DataError(
            f"no answer of the train split fits the context of {layout.context} tokens",
            where=str(config.data),
            hint="--set long_answers=cut keeps their beginnings; or use a model with a longer context",
        )
    if isinstance(train, Pairs):
        _check_pairs(train, config.data, emit)
    if not len(train):
        raise DataError(
            "the train split has fewer than two tokens", where=str(config.data), hint="preprocess more text"
        )
    if isinstance(train, Records):
        _warn_truncated(train, emit)
    _warn_untrained_positions(plan, emit)
    validation, count = None, 0
    if plan.prepared.manifest.splits.get("validation"):
        published = families.denoising_of(plan.family, model.config.model_type) if plan.denoising else None
        validation = source("validation", published, VALIDATION_SEED)
        if plan.best_by is not None and plan.best_by.spec.output_type == "likelihood":
            count = _loss_bytes(plan, validation)
    return Parts(
        model,
        tokenizer,
        tokenizer_folder,
        layout,
        train,
        validation if validation and len(validation) else None,
        labels,
        hearing,
        count,
        unread,
    )


def _tokens(plan: TrainPlan, emit: EventSink, once: Once) -> tuple[Path, Path]:
    """Folders of tokenizer and tokens: the prepared ones, or tokens encoded again with the pretrained model's tokenizer."""
    config = plan.config
    prepared, pretrained_folder = plan.prepared, plan.pretrained_folder
    if (
        pretrained_folder is None
        or not pretrained_folder.has_tokenizer
        or _same_tokenizer(pretrained_folder.path, prepared.tokenizer)
    ):
        return prepared.tokenizer, prepared.tokens
    folder = config.out / "tokens"

    def encode() -> None:
        if folder.is_dir():
            _check_encoded(folder)
            return
        emit(Event("note", {"text": f"encoding the text again with the tokenizer of {pretrained_folder.path}"}))
        with atomic.atomic_folder(folder) as made:
            encode_prepared(prepared, plan.task, load_tokenizer(pretrained_folder.path), made)
            files = integrity.hashes(made, made.iterdir())
            atomic.write_json(made / HASHES, {name: each.model_dump() for name, each in files.items()})

    once(encode)
    return pretrained_folder.path, folder


def _check_encoded(folder: Path) -> None:
    """Raise `IntegrityError` where tokens that were encoded again have changed since. Version 0.1 kept no hashes."""
    record = folder / HASHES
    if record.is_file():
        try:
            files = {name: integrity.FileHash.model_validate(each) for name, each in read_json(record).items()}
        except ValueError as error:
            raise IntegrityError("damaged, or edited since", where=str(record)) from error
        integrity.check(folder, files, record, verify=False, hint=f"remove {folder}: it is made again")


def _same_tokenizer(one: Path, other: Path) -> bool:
    files = one / "tokenizer.json", other / "tokenizer.json"
    return all(each.is_file() for each in files) and atomic.sha256(files[0]) == atomic.sha256(files[1])


def _build(
    plan: TrainPlan, tokenizer: Any, labels: tuple[str, ...], emit: EventSink, *, empty: bool
) -> tuple[Any, Mapping[str, str] | None]:
    """The model, with random weights in the requested shape or pretrained weights in fp32, and `Parts.unread`. Reports a new
    head."""
    if plan.architecture is not None and plan.shape is not None:
        vocabulary = Vocabulary(len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        return plan.architecture.build(plan.shape, vocabulary, labels), None
    assert plan.pretrained_folder is not None
    size = plan.pretrained_folder.config.get("vocab_size")
    if isinstance(size, int) and len(tokenizer) > size:
        raise UsageError(
            f"the tokenizer has {len(tokenizer):,} entries, the model {size:,}",
            hint="preprocess with the model's own tokenizer: --tokenizer " + str(plan.pretrained_folder.path),
        )
    wanted: dict[str, Any] = {"labels": labels or None, "masked": plan.task.packed}
    if fresh := pretrained.fresh_head(plan.pretrained_folder.config, plan.family, **wanted):
        emit(
            Event(
                "note",
                {"text": f"{fresh} is new and has random weights; all others come from {plan.pretrained_folder.path}"},
            )
        )
    folder = plan.pretrained_folder.path
    if empty and (made := pretrained.load_empty(folder, plan.family, **wanted)) is not None:
        return made
    return pretrained.load(folder, plan.family, **wanted), None


def _context(plan: TrainPlan, model: Any) -> int | None:
    """Longest training sequence in tokens: the model's context, or max_length if that is shorter."""
    config = plan.config
    names = ("max_position_embeddings", "max_target_positions")
    found = (getattr(model.config, name, None) for name in names)
    own = plan.shape.context if plan.shape else next(filter(None, found), None)
    limits = [each for each in (own, config.max_length) if each]
    return min(limits) if limits else None


def _warn_untrained_positions(plan: TrainPlan, emit: EventSink) -> None:
    """Warn where positions beyond the blocks keep their random embeddings."""
    context, block = plan.shape.context if plan.shape else None, plan.prepared.manifest.block_size
    if context and block and context > block:
        text = f"blocks have {block} tokens: positions beyond them, in a context of {context}, are not trained"
        emit(Event("warning", {"text": f"{text}; preprocess with --set block_size={context}"}))


def _warn_truncated(source: Records, emit: EventSink) -> None:
    layout, context = source.layout, source.layout.context
    lost: Counter[str] = Counter()
    turns = 0
    for index in map(int, source.near_limit):
        if index not in source.left_out:
            parts = source.store.record(index)
            lost[layout.loss(parts)] += 1
            turns += layout.turns_left_out(parts)
    if count := len(source.left_out):
        text = f"{count:,} of {len(source.store):,} training records are left out: {source.why_left_out}"
        emit(Event("warning", {"text": text}))
    if cut := lost["text"] + lost["answer"]:
        answers = f", {lost['answer']:,} of them inside the loss" if lost["answer"] else ""
        without = f"; {turns:,} turns at the end of conversations are left out" if turns else ""
        message = f"{cut:,} of {len(source):,} training records are truncated to {context} tokens{answers}{without}"
        emit(Event("warning", {"text": message}))


def _check_pairs(train: Pairs, data: Path, emit: EventSink) -> None:
    """Warn of pairs that are left out; raise `DataError` if none is left."""
    if not train.left_out:
        return
    what = f"prompt and answer exceed the context of {train.layout.context:,} tokens"
    if not len(train):
        raise DataError(
            f"no pair of the train split fits: {what}", where=str(data), hint="use a model with a longer context"
        )
    text = f"{train.left_out:,} of {len(train.store):,} training pairs are left out: {what}"
    emit(Event("warning", {"text": text}))


def _loss_bytes(plan: TrainPlan, validation: Examples) -> int:
    """UTF-8 bytes of the validation text in the loss.

    Raises `UsageError` where a metric per byte meets truncated answers: the loss does not cover all of their bytes.
    """
    assert plan.best_by is not None
    if isinstance(validation, Records) and plan.best_by.spec.counts_bytes:
        used = (index for index in range(len(validation.store)) if index not in validation.left_out)
        if cut := sum(validation.layout.loss(validation.store.record(index)) == "answer" for index in used):
            raise UsageError(
                f"--best-by {plan.best_score}: {cut:,} of {len(validation):,} validation records are truncated "
                "inside the loss, so it does not cover all of their bytes",
                hint="--best-by loss or perplexity",
            )
    records = read_text(plan.prepared.text("validation"))
    left_out = validation.left_out if isinstance(validation, Records) else ()
    counted = (record for number, record in enumerate(records) if number not in left_out)
    segments = (segment for record in counted for segment in plan.task.segments(record))
    return sum(len(segment.text.encode()) for segment in segments if segment.in_loss)


def record_ids(source: Examples, plan: TrainPlan, indices: Sequence[int]) -> list[str]:
    """Ids of the records behind these training examples: the records themselves, or those that a block overlaps."""
    rows = set(source.places(indices)) if isinstance(source, Records | Pairs) else set[int]()
    if isinstance(source, Blocks | DenoisingBlocks):
        starts = source.store.segments[source.store.records[:-1]]
        for index in indices:
            first = int(np.searchsorted(starts, index * source.tokens_each, side="right")) - 1
            last = int(np.searchsorted(starts, (index + 1) * source.tokens_each, side="left"))
            rows |= set(range(max(0, first), last))
    names = (record.id for record in read_text(plan.prepared.text("train")))
    return [name for number, name in enumerate(names) if number in rows]
