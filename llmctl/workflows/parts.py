"""The parts of a training run, built and connected: model, tokenizer, layout, examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from llmctl.data.batches import Blocks, Records, Source
from llmctl.data.layout import Layout, style_for
from llmctl.data.text import read_text
from llmctl.data.tokenizers import load_tokenizer
from llmctl.data.tokens import TokenStore
from llmctl.errors import DataError, UsageError
from llmctl.models import pretrained
from llmctl.models.spec import Vocabulary
from llmctl.store import whole
from llmctl.types import Event, Tell
from llmctl.workflows.preprocess import encode_prepared
from llmctl.workflows.spec import TrainConfig
from llmctl.workflows.train_checks import Checked

Once = Callable[[Callable[[], None]], None]
"""Runs something in the main process while the others wait."""


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    model: Any
    tokenizer: Any
    tokenizer_folder: Path
    layout: Layout
    train: Source
    validation: Source | None
    labels: tuple[str, ...]


def assemble(checked: Checked, config: TrainConfig, tell: Tell, once: Once) -> Parts:
    """Build everything. Random weights come from torch's current seed."""
    tokenizer_folder, tokens = _tokens(checked, config, tell, once)
    tokenizer = load_tokenizer(tokenizer_folder)
    labels = checked.prepared.manifest.labels if checked.task.labelled else ()
    model = _build(checked, tokenizer, labels)
    style = style_for(checked.family, tokenizer, packed=checked.task.packed)
    layout = Layout(tokenizer, checked.family, style, context=_context(checked, config, model))
    train = _source(checked, layout, TokenStore.open(tokens, "train"), tokenizer)
    if not len(train):
        raise DataError(
            "the train split holds less than two tokens", where=str(config.data), hint="preprocess more text"
        )
    if isinstance(train, Records):
        _tell_cut(train, tell)
    _tell_unlearned(checked, tell)
    validation = None
    if checked.prepared.manifest.splits.get("validation"):
        validation = _source(checked, layout, TokenStore.open(tokens, "validation"), tokenizer)
    return Parts(
        model,
        tokenizer,
        tokenizer_folder,
        layout,
        train,
        validation if validation and len(validation) else None,
        labels,
    )


def _tokens(checked: Checked, config: TrainConfig, tell: Tell, once: Once) -> tuple[Path, Path]:
    """Folders of the tokenizer and of the tokens: the prepared ones, or encoded anew for given weights' tokenizer."""
    prepared, given = checked.prepared, checked.given
    if given is None or not given.has_tokenizer or _same_tokenizer(given.path, prepared.tokenizer):
        return prepared.tokenizer, prepared.tokens
    folder = config.out / "tokens"

    def encode() -> None:
        if folder.is_dir():
            return
        tell(Event("note", {"text": f"encoding the text again with the tokenizer of {given.path}"}))
        with whole.whole_folder(folder) as made:
            encode_prepared(prepared, checked.task, load_tokenizer(given.path), made)

    once(encode)
    return given.path, folder


def _same_tokenizer(one: Path, other: Path) -> bool:
    files = one / "tokenizer.json", other / "tokenizer.json"
    return all(each.is_file() for each in files) and whole.sha256(files[0]) == whole.sha256(files[1])


def _build(checked: Checked, tokenizer: Any, labels: tuple[str, ...]) -> Any:
    """The model: random weights in the shape asked for, or a folder's weights in fp32."""
    if checked.architecture is not None and checked.shape is not None:
        vocabulary = Vocabulary(len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        return checked.architecture.build(checked.shape, vocabulary, labels)
    assert checked.given is not None
    size = checked.given.config.get("vocab_size")
    if isinstance(size, int) and len(tokenizer) > size:
        raise UsageError(
            f"the tokenizer has {len(tokenizer):,} entries, the model {size:,}",
            hint="preprocess with the model's own tokenizer: --tokenizer " + str(checked.given.path),
        )
    return pretrained.load(checked.given.path, checked.family, labels=labels or None)


def _context(checked: Checked, config: TrainConfig, model: Any) -> int | None:
    """Longest sequence that is learned: the model's, or less if asked for."""
    own = checked.shape.context if checked.shape else getattr(model.config, "max_position_embeddings", None)
    limits = [each for each in (own, config.max_length) if each]
    return min(limits) if limits else None


def _source(checked: Checked, layout: Layout, store: TokenStore, tokenizer: Any) -> Source:
    if checked.task.packed:
        size = checked.prepared.manifest.block_size
        assert size is not None
        return Blocks(store, size)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else layout.eos
    return Records(store, layout, pad)


def _tell_unlearned(checked: Checked, tell: Tell) -> None:
    """Positions that no block reaches stay as random as they began."""
    context, block = checked.shape.context if checked.shape else None, checked.prepared.manifest.block_size
    if context and block and context > block:
        text = f"blocks have {block} tokens: of the context of {context} the positions beyond are not learned"
        tell(Event("warning", {"text": f"{text}; preprocess with --set block_size={context}"}))


def _tell_cut(source: Records, tell: Tell) -> None:
    context = source.layout.context
    if context is None:
        return
    near = np.flatnonzero(source.lengths() + 4 > context)
    cut = sum(not source.layout.fits(source.store.record(int(index))) for index in near)
    if cut:
        tell(Event("warning", {"text": f"{cut:,} of {len(source):,} training records are cut to {context} tokens"}))


def record_ids(source: Source, checked: Checked, indices: Sequence[int]) -> list[str]:
    """Ids of the records that these training examples are, or are cut from."""
    rows = set(indices) if not isinstance(source, Blocks) else set[int]()
    if isinstance(source, Blocks):
        starts = source.store.segments[source.store.records[:-1]]
        for index in indices:
            first = int(np.searchsorted(starts, index * source.size, side="right")) - 1
            last = int(np.searchsorted(starts, (index + 1) * source.size, side="left"))
            rows |= set(range(max(0, first), last))
    names = (record.id for record in read_text(checked.prepared.text("train")))
    return [name for number, name in enumerate(names) if number in rows]


def generated_score(parts: Parts, checked: Checked, config: TrainConfig) -> float:
    """The chosen score of answers generated to the first records of the validation split."""
    from llmctl.config import Spec
    from llmctl.engines.local import TorchEngine
    from llmctl.engines.spec import Sampling
    from llmctl.metrics.scoring import score_answers
    from llmctl.metrics.spec import IntervalSpec
    from llmctl.workflows.answering import Asker, answered
    from llmctl.workflows.questions import Questions

    assert checked.best_by is not None
    options: Spec = checked.best_by.options()
    engine = TorchEngine(parts.model, parts.tokenizer, checked.family, labels=parts.labels)
    records = islice(read_text(checked.prepared.text("validation")), config.best_by_limit)
    asker = Asker(Questions(checked.task, parts.layout), engine)
    was_training = parts.model.training
    parts.model.eval()
    answers = answered(asker, records, Sampling(max_new_tokens=256, batch_size=config.batch_size))
    parts.model.train(was_training)
    scored = score_answers([(checked.best_by, options)], answers, IntervalSpec(resamples=0), 0)
    return next(score.value for score in scored.scores if score.metric == checked.best_score)
