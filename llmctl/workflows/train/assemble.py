"""The parts of a training run, built and connected: model, tokenizer, layout, examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmctl.data.batches import Blocks, Records
from llmctl.data.encode_prepared import encode_prepared
from llmctl.data.examples import examples
from llmctl.data.layout import Layout, layout_for
from llmctl.data.noising import DenoisingBlocks
from llmctl.data.text import read_text
from llmctl.data.tokenizers import load_tokenizer
from llmctl.data.tokens import TokenStore
from llmctl.errors import DataError, UsageError
from llmctl.models import families, pretrained
from llmctl.models.spec import Vocabulary
from llmctl.store import atomic
from llmctl.types import Denoising, Event, EventSink, Examples
from llmctl.workflows import compatibility as instructions
from llmctl.workflows.train.checks import TrainPlan
from llmctl.workflows.train.spec import TrainConfig

VALIDATION_SEED: Final = 0
"""What is taken out of the validation split to be mended is the same in every run, and as much as published, so that their
losses compare."""


Once = Callable[[Callable[[], None]], None]
"""Runs something in the main process while the others wait."""


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    model: Any
    tokenizer: Any
    tokenizer_folder: Path
    layout: Layout
    train: Examples
    validation: Examples | None
    labels: tuple[str, ...]
    validation_bytes: int
    """UTF-8 bytes of what is learned of the validation split; counted only where a metric may ask for them."""


def assemble(checked: TrainPlan, config: TrainConfig, emit: EventSink, once: Once) -> Parts:
    """Build everything. Random weights come from torch's current seed."""
    tokenizer_folder, tokens = _tokens(checked, config, emit, once)
    tokenizer = load_tokenizer(tokenizer_folder)
    labels = checked.prepared.manifest.labels if checked.task.labelled else ()
    model = _build(checked, tokenizer, labels, emit)
    card = checked.pretrained_folder.card if checked.pretrained_folder else None
    trained_with = (
        card.instruction if card and card.task == checked.task.name and tuple(card.labels) == labels else None
    )
    layout = layout_for(
        tokenizer,
        checked.family,
        packed=checked.task.packed,
        context=_context(checked, config, model),
        instruction=instructions.resolve_instruction(checked.task, labels, config.instruction, trained_with),
    )

    def source(split: str, denoising: Denoising | None, seed: int) -> Examples:
        block = checked.prepared.manifest.block_size
        return examples(TokenStore.open(tokens, split), layout, block_size=block, denoising=denoising, seed=seed)

    train = source("train", checked.denoising, config.seed)
    if not len(train):
        raise DataError(
            "the train split holds less than two tokens", where=str(config.data), hint="preprocess more text"
        )
    if isinstance(train, Records):
        _warn_cut(train, emit)
    _warn_untrained_positions(checked, emit)
    validation, count = None, 0
    if checked.prepared.manifest.splits.get("validation"):
        published = families.denoising_of(checked.family, model.config.model_type) if checked.denoising else None
        validation = source("validation", published, VALIDATION_SEED)
        if checked.best_by is not None and checked.best_by.spec.output_type == "likelihood":
            count = _loss_bytes(checked, validation)
    return Parts(
        model,
        tokenizer,
        tokenizer_folder,
        layout,
        train,
        validation if validation and len(validation) else None,
        labels,
        count,
    )


def _tokens(checked: TrainPlan, config: TrainConfig, emit: EventSink, once: Once) -> tuple[Path, Path]:
    """Folders of the tokenizer and of the tokens: the prepared ones, or encoded anew for given weights' tokenizer."""
    prepared, pretrained_folder = checked.prepared, checked.pretrained_folder
    if (
        pretrained_folder is None
        or not pretrained_folder.has_tokenizer
        or _same_tokenizer(pretrained_folder.path, prepared.tokenizer)
    ):
        return prepared.tokenizer, prepared.tokens
    folder = config.out / "tokens"

    def encode() -> None:
        if folder.is_dir():
            return
        emit(Event("note", {"text": f"encoding the text again with the tokenizer of {pretrained_folder.path}"}))
        with atomic.atomic_folder(folder) as made:
            encode_prepared(prepared, checked.task, load_tokenizer(pretrained_folder.path), made)

    once(encode)
    return pretrained_folder.path, folder


def _same_tokenizer(one: Path, other: Path) -> bool:
    files = one / "tokenizer.json", other / "tokenizer.json"
    return all(each.is_file() for each in files) and atomic.sha256(files[0]) == atomic.sha256(files[1])


def _build(checked: TrainPlan, tokenizer: Any, labels: tuple[str, ...], emit: EventSink) -> Any:
    """The model: random weights in the shape asked for, or a folder's weights in fp32. What of those is new is told."""
    if checked.architecture is not None and checked.shape is not None:
        vocabulary = Vocabulary(len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        return checked.architecture.build(checked.shape, vocabulary, labels)
    assert checked.pretrained_folder is not None
    size = checked.pretrained_folder.config.get("vocab_size")
    if isinstance(size, int) and len(tokenizer) > size:
        raise UsageError(
            f"the tokenizer has {len(tokenizer):,} entries, the model {size:,}",
            hint="preprocess with the model's own tokenizer: --tokenizer " + str(checked.pretrained_folder.path),
        )
    wanted: dict[str, Any] = {"labels": labels or None, "masked": checked.task.packed}
    if fresh := pretrained.fresh_head(checked.pretrained_folder.config, checked.family, **wanted):
        emit(
            Event(
                "note",
                {"text": f"{fresh} is new, its weights are random; all others are {checked.pretrained_folder.path}'s"},
            )
        )
    return pretrained.load(checked.pretrained_folder.path, checked.family, **wanted)


def _context(checked: TrainPlan, config: TrainConfig, model: Any) -> int | None:
    """Longest sequence that is learned: the model's, or less if asked for."""
    own = checked.shape.context if checked.shape else getattr(model.config, "max_position_embeddings", None)
    limits = [each for each in (own, config.max_length) if each]
    return min(limits) if limits else None


def _warn_untrained_positions(checked: TrainPlan, emit: EventSink) -> None:
    """Positions that no block reaches stay as random as they began."""
    context, block = checked.shape.context if checked.shape else None, checked.prepared.manifest.block_size
    if context and block and context > block:
        text = f"blocks have {block} tokens: of the context of {context} the positions beyond are not learned"
        emit(Event("warning", {"text": f"{text}; preprocess with --set block_size={context}"}))


def _warn_cut(source: Records, emit: EventSink) -> None:
    context = source.layout.context
    if context is None:
        return
    first = source.store.record(0)
    around = source.layout.length(first) - sum(len(part.ids) for part in first)
    # What stands around a text is at most what stands around the whole first record.
    near = np.flatnonzero(source.lengths() + max(4, around) * np.diff(source.store.records) > context)
    lost = Counter(source.layout.loss(source.store.record(int(index))) for index in near)
    if cut := lost["text"] + lost["answer"]:
        answers = f", {lost['answer']:,} of them within what is learned" if lost["answer"] else ""
        message = f"{cut:,} of {len(source):,} training records are cut to {context} tokens{answers}"
        emit(Event("warning", {"text": message}))


def _loss_bytes(checked: TrainPlan, validation: Examples) -> int:
    """UTF-8 bytes of what is learned of the validation split.

    Raises `UsageError` where answers are cut, so that not all of their bytes are foretold; perplexity counts tokens.
    """
    assert checked.best_by is not None
    if isinstance(validation, Records) and checked.best_by.spec.counts_bytes:
        parts = map(validation.store.record, range(len(validation)))
        if cut := sum(validation.layout.loss(each) == "answer" for each in parts):
            raise UsageError(
                f"--best-by {checked.best_score}: {cut:,} of {len(validation):,} validation records are cut within what is "
                "learned, so not all of their bytes are foretold",
                hint="--best-by loss or perplexity",
            )
    records = read_text(checked.prepared.text("validation"))
    segments = (segment for record in records for segment in checked.task.segments(record))
    return sum(len(segment.text.encode()) for segment in segments if segment.in_loss)


def record_ids(source: Examples, checked: TrainPlan, indices: Sequence[int]) -> list[str]:
    """Ids of the records that these training examples are, or are cut from."""
    rows = set(indices) if isinstance(source, Records) else set[int]()
    if isinstance(source, Blocks | DenoisingBlocks):
        starts = source.store.segments[source.store.records[:-1]]
        for index in indices:
            first = int(np.searchsorted(starts, index * source.tokens_each, side="right")) - 1
            last = int(np.searchsorted(starts, (index + 1) * source.tokens_each, side="left"))
            rows |= set(range(max(0, first), last))
    names = (record.id for record in read_text(checked.prepared.text("train")))
    return [name for number, name in enumerate(names) if number in rows]
