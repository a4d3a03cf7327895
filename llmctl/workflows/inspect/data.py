"""`show data`: one example token by token as a model sees it in training, with the tokens in the loss marked."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

from llmctl import registry
from llmctl.compatibility import answering_task, check_able, check_instruction, resolve_instruction
from llmctl.data.examples.batches import Blocks, Records
from llmctl.data.examples.layout import Sample, layout_for
from llmctl.data.examples.pairs import Pairs
from llmctl.data.examples.select import examples
from llmctl.data.examples.speech import SpeechRecords
from llmctl.data.spec import SPLITS
from llmctl.data.storing.text import read_text
from llmctl.data.storing.tokens import TokenStore
from llmctl.data.tokenizing.alphabet import BYTES
from llmctl.data.tokenizing.codes import codes_of
from llmctl.data.tokenizing.encode import TokenEncoder, encode_split
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.errors import DataError, UsageError
from llmctl.models import families
from llmctl.models.resolve import open_weights
from llmctl.models.spec import HUB, ModelSpec
from llmctl.store import atomic
from llmctl.store.prepared import Prepared, open_prepared
from llmctl.tasks.spec import Task
from llmctl.types import IGNORED, MODALITY, Examples, Family, Hearing

_VALUE_OF = {character: value for value, character in enumerate(BYTES)}
_BROKEN = "\ufffd"


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """The properties of a model that decide how it sees a record, from its config and tokenizer."""

    name: str | None
    family: Family
    kind: str
    """Architecture name, from config.json or the registry."""
    context: int | None
    tokenizer: Path
    prompt_format: str | None = None
    instruction: str | None = None
    noise_density: float | None = None
    trained: str | None = None
    """The task that it was trained on."""
    hearing: Hearing | None = None


def show_data(
    data: Path,
    *,
    index: int = 0,
    split: str = "train",
    model: str | None = None,
    instruction: str | None = None,
    picture: Path | None = None,
    offline: bool = False,
) -> dict[str, Any]:
    """Return the document of `show data`.

    `tokens` has one row per token: `id`, `text`, `learned` (whether it is in the loss); for encoder-decoders `part`
    (source or target), for preference pairs too (chosen or rejected); of a recording, also `seconds` and the shape of its `features`; for corrupted tokens `target`, the token to predict. `label` is the label for a classifier.
    Of a record that exceeds the context: `truncated_from` tokens, `turns_left_out`, or why training leaves it out,
    `left_out`.

    `model`: a run, a model folder, `hf:ID` or an architecture; without one, the preferred family of the task is used.
    `picture`: where to draw the features of a recording. `instruction`: replaces the instruction stored with the model, or else that of the task.
    Raises `UsageError` for a missing split, example or size, or a model that cannot do the task; `ConfigError` for an
    instruction that the model would not see; and what opening the data and the model raises.
    """
    prepared = open_prepared(data)
    task: Task = registry.load("tasks", prepared.manifest.task)()
    if split not in SPLITS:
        raise UsageError(f"no such split: {split}", hint=f"splits: {', '.join(SPLITS)}")
    if not task.packed and (records := prepared.manifest.splits.get(split)):
        _check_index(index, records, split)
    model_format = _format_of(prepared, task, model, offline=offline)
    answers = answering_task(task, model_format.trained)
    check_instruction(
        instruction, answers, model_format.family, model_format.tokenizer, prompt_format=model_format.prompt_format
    )
    if task.packed and model_format.family == "decoder" and model_format.tokenizer == prepared.tokenizer:
        with _store(prepared, task, split, None, model_format.tokenizer) as store:
            _check_index(index, len(Blocks(store, prepared.manifest.block_size or 1)), split)
    tokenizer = load_tokenizer(model_format.tokenizer)
    labels = prepared.manifest.labels if task.labelled else ()
    layout = layout_for(
        tokenizer,
        model_format.family,
        packed=task.packed,
        prompt_format=model_format.prompt_format,
        context=model_format.context,
        instruction=resolve_instruction(answers, labels, instruction, model_format.instruction),
    )
    denoising = (
        families.denoising_of(model_format.family, model_format.kind, model_format.noise_density)
        if task.packed
        else None
    )
    with _store(prepared, task, split, tokenizer, model_format.tokenizer) as store:
        source = examples(
            store,
            layout,
            block_size=prepared.manifest.block_size,
            denoising=denoising,
            pairs_for=answers.answer_role if task.pairs else None,
            hearing=_hearing(task, model_format),
        )
        found = len(source.store) if isinstance(source, Records | Pairs) else len(source)
        _check_index(index, found, split)
        fitting = _fitting(source, index)
        if "left_out" in fitting:
            layout.long_answers = "cut"  # shows the question
        rows = _rows(source, index, model_format.family, tokenizer)
        heard = _heard(source, index, picture)
        label = (
            prepared.manifest.labels[store.label(index)] if task.labelled and model_format.family == "encoder" else None
        )
    return {
        "data": str(data),
        "split": split,
        "index": index,
        "examples": found,
        **({} if task.packed else {"record": next(islice(read_text(prepared.text(split)), index, None)).id}),
        "task": task.name,
        "model": model_format.name,
        "family": model_format.family,
        "style": layout.prompt_format,
        **({} if label is None else {"label": label}),
        **heard,
        **fitting,
        "learned": sum(row["learned"] for row in rows),
        "tokens": rows,
    }


def _hearing(task: Task, model_format: ModelFormat) -> Hearing | None:
    if task.modality == "text":
        return None
    return model_format.hearing or families.hearing_for(model_format.family)


def _heard(source: Examples, index: int, picture: Path | None) -> dict[str, Any]:
    """The length of a recording in seconds and the shape of its features, which `picture` shows."""
    if not isinstance(source, SpeechRecords):
        if picture is not None:
            raise UsageError("--picture draws the features of a recording, and this record is a text")
        return {}
    assert source.store.frames is not None
    features = source.features(index)
    found: dict[str, Any] = {"seconds": int(source.store.frames[index]) / 100, "features": list(features.shape)}
    if picture is not None:
        from llmctl.training import plots

        atomic.check_writable(picture)
        plots.features_plot(features, picture, title=f"record {index}: {found['seconds']:.2f} s")
        found["picture"] = str(picture)
    return found


def _check_index(index: int, count: int, split: str) -> None:
    """Raise `UsageError` if `index` is out of range."""
    if not 0 <= index < count:
        what = f"{count:,} examples, 0 to {count - 1:,}" if count else "no examples"
        raise UsageError(f"no example {index} in the split {split}, which has {what}", hint="use --index 0")


# ---------------------------------------------------------------------------------------------------------------
# The model


def _format_of(prepared: Prepared, task: Task, model: str | None, *, offline: bool) -> ModelFormat:
    if model is None:
        return ModelFormat(None, task.families[0], "", None, prepared.tokenizer)
    if registry.looks_like_path(model) or model.startswith(HUB):
        model_format = _pretrained(prepared, task, model, offline=offline)
    else:
        name, _, size = model.partition(":")
        spec: ModelSpec = registry.load("models", name)
        if size and size not in spec.sizes:
            raise UsageError(f"{name} has no size {size!r}", hint=f"sizes: {', '.join(spec.sizes)}")
        context = spec.sizes[size or spec.default_size].context
        model_format = ModelFormat(model, spec.family, spec.name, context, prepared.tokenizer)
    check_able(model, task, model_format.family, model_format.kind)
    return model_format


def _pretrained(prepared: Prepared, task: Task, model: str, *, offline: bool) -> ModelFormat:
    folder = open_weights(model, offline=offline)
    trained = folder.card.task if folder.card else None
    card = folder.card if trained == answering_task(task, trained).name else None
    family = folder.card.family if folder.card else families.family_of(folder.config)
    if family not in get_args(Family):
        raise UsageError(f"no such family: {family!r}", hint=f"{folder.path}/llmctl.json was not written by llmctl")
    tokenizer = folder.path if folder.has_tokenizer else prepared.tokenizer
    return ModelFormat(
        model,
        cast(Family, family),
        str(folder.config.get("model_type", "")),
        families.context_of(folder.config),
        prepared.tokenizer if _same(tokenizer, prepared.tokenizer) else tokenizer,
        card.style if card else None,
        card.instruction if card else None,
        card.noise_density if card else None,
        trained,
        families.hearing_of(folder.config) if task.modality == "audio" else None,
    )


def _same(one: Path, other: Path) -> bool:
    files = [folder / "tokenizer.json" for folder in (one, other)]
    return all(each.is_file() for each in files) and atomic.sha256(files[0]) == atomic.sha256(files[1])


@contextlib.contextmanager
def _store(prepared: Prepared, task: Task, split: str, tokenizer: Any, folder: Path) -> Iterator[TokenStore]:
    """Open the tokens of a split: as prepared, or encoded again if the model has another tokenizer."""
    if not prepared.manifest.splits.get(split):
        raise DataError(f"the {split} split is empty", where=str(prepared.path), hint="choose another with --split")
    if folder == prepared.tokenizer:
        yield TokenStore.open(prepared.tokens, split)
        return
    with tempfile.TemporaryDirectory() as made:
        encoder, labels = TokenEncoder(codes_of(tokenizer)), prepared.manifest.labels
        encode_split(task, prepared.text(split), encoder, Path(made), split, labels=labels)
        yield TokenStore.open(Path(made), split)


# ---------------------------------------------------------------------------------------------------------------
# The tokens


def _rows(source: Examples, index: int, family: Family, tokenizer: Any) -> list[dict[str, Any]]:
    if isinstance(source, Pairs):
        both = zip(("chosen", "rejected"), source.sides(index), strict=True)
        samples = [(answer, _of_sample(source.layout.sample(side), family, tokenizer)) for answer, side in both]
        return [{**row, "part": _part(answer, row)} for answer, rows in samples for row in rows]
    if isinstance(source, Records):
        return _of_sample(source.layout.sample(source.store.record(index)), family, tokenizer)
    arrays = source.arrays([index])
    shown = int(arrays["attention_mask"][0].sum()) if "attention_mask" in arrays else None  # the rest is padding
    inputs, targets = arrays["input_ids"][0, :shown].tolist(), arrays["labels"][0].tolist()
    if family == "decoder":
        # Labels are already shifted: every token after the first is in the loss.
        block = [*inputs[:1], *(label for label in targets if label != IGNORED)]
        return _pieces(block, [False] + [True] * (len(block) - 1), tokenizer)
    if family == "encoder-decoder":
        return _pair(inputs, [label for label in targets if label != IGNORED], tokenizer)
    targets = targets[:shown]
    rows = _pieces(inputs, [label != IGNORED for label in targets], tokenizer)
    for row, label in zip(rows, targets, strict=True):
        if label != IGNORED:
            row["target"] = text_of(tokenizer, label)
    return rows


def _part(answer: str, row: dict[str, Any]) -> str:
    """The sequence of a pair that a token belongs to, and its part of it."""
    return f"{answer}, {row['part']}" if "part" in row else answer


def _fitting(source: Examples, index: int) -> dict[str, Any]:
    """What training does with a record that does not fit the context: nothing to say of others."""
    if isinstance(source, Pairs) and not source.fits(index):
        return {"left_out": f"training leaves this pair out: it exceeds {source.layout.context:,} tokens"}
    if isinstance(source, SpeechRecords):
        return (
            {"left_out": f"training leaves this record out: {source.why_left_out}"} if index in source.left_out else {}
        )
    if not isinstance(source, Records) or source.layout.context is None:
        return {}
    parts, context = source.store.record(index), source.layout.context
    if not source.layout.usable(parts):
        text = f"training leaves this record out: its answer does not fit {context:,} tokens beside the question"
        return {"left_out": f"{text}; train --set long_answers=cut keeps its beginning"}
    turns = source.layout.turns_left_out(parts)
    found = {"turns_left_out": turns} if turns else {}
    return found if source.layout.fits(parts) else {**found, "truncated_from": source.layout.length(parts)}


def _of_sample(sample: Sample, family: Family, tokenizer: Any) -> list[dict[str, Any]]:
    if MODALITY[family] == "audio":
        return _pieces(sample.target_ids.tolist(), [True] * len(sample.target_ids), tokenizer)
    if family == "encoder-decoder":
        return _pair(sample.input_ids.tolist(), sample.target_ids.tolist(), tokenizer)
    return _pieces(sample.input_ids.tolist(), sample.loss_mask.tolist(), tokenizer)


def _pair(source: Sequence[int], target: Sequence[int], tokenizer: Any) -> list[dict[str, Any]]:
    source_row = _pieces(source, [False] * len(source), tokenizer)
    targets = _pieces(target, [True] * len(target), tokenizer)
    return [{**row, "part": part} for part, rows in (("source", source_row), ("target", targets)) for row in rows]


def _pieces(ids: Sequence[int], in_loss: Iterable[bool], tokenizer: Any) -> list[dict[str, Any]]:
    return [
        {"id": number, "text": text_of(tokenizer, number), "learned": bool(mark)}
        for number, mark in zip(ids, in_loss, strict=True)
    ]


def text_of(tokenizer: Any, number: int) -> str:
    """The text of a token; incomplete UTF-8 sequences are shown as escapes."""
    text: str = tokenizer.decode([number], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if text and _BROKEN not in text:
        return text
    piece: str = tokenizer.convert_ids_to_tokens(number)
    if not all(character in _VALUE_OF for character in piece):
        return piece
    return "".join(f"\\x{_VALUE_OF[character]:02x}" for character in piece)
