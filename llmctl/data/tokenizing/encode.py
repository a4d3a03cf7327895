"""Encodes text to token ids, by the fastest method with exactly the tokenizer's result, in several processes if useful."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llmctl.data.spec import IN_LOSS
from llmctl.data.storing.lengths import NOTHING, added, lengths_in
from llmctl.data.storing.text import read_group, row_groups
from llmctl.data.storing.tokens import ROLES, Piece, Recordings, write_store
from llmctl.data.tokenizing.chat_template import ChatTemplate
from llmctl.data.tokenizing.codes import Codes, open_codes
from llmctl.data.tokenizing.plain import encoded_batch, plain_ids
from llmctl.data.tokenizing.pretokens import CHUNK_CHARACTERS, Ids, Lengths, Words, pieces
from llmctl.data.tokenizing.tool_rendering import placed, rendered, uses_tools
from llmctl.data.workers import Executor
from llmctl.errors import DataError
from llmctl.store.prepared import LengthStats
from llmctl.types import Modality, Record, Role, Segment

BATCH_CHARACTERS: Final = 4 << 20
"""Text passed to the tokenizer at once if its pre-tokens cannot be cached."""


class Segmenting(Protocol):
    """What encoding needs to know about a task."""

    packed: ClassVar[bool]
    labelled: ClassVar[bool]
    answer_role: ClassVar[Role]
    modality: ClassVar[Modality]

    def segments(self, record: Record) -> list[Segment]: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """Label ids and the length limit."""

    labels: Mapping[str, int]
    """Label -> label id, for labelled tasks."""
    max_length: int | None = None
    """Longest segment in tokens; records with a longer one are dropped. None: no limit."""


class TokenEncoder:
    """Encodes texts exactly as `encode_batch_fast` does without control tokens. Caches pre-tokens, so reuse it."""

    def __init__(
        self,
        codes: Codes,
        *,
        chunk_characters: int = CHUNK_CHARACTERS,
        batch_characters: int = BATCH_CHARACTERS,
        words: Words | None = None,
    ) -> None:
        """Text is processed in batches of `chunk_characters` if pre-tokens are cached (in `words`), else of
        `batch_characters`."""
        self.codes = codes
        self._chunk_characters, self._batch_characters = chunk_characters, batch_characters
        self._tokenizer = tokenizer = codes.tokenizer
        self._control = np.array(sorted(codes.control), np.uint32)
        facts = json.loads(tokenizer.to_str())
        self._table = _character_table(tokenizer, facts)
        self._bytes = _byte_table(tokenizer, facts)
        self._words = (words or Words(tokenizer)) if _splits_like_gpt2(facts) else None

    @functools.cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The tokenizer's chat template; opening it imports transformers."""
        return self.codes.chat_template() if self.codes.chat_template is not None else None

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """(N,) ids of all texts, concatenated, and (T,) the number of ids of each text."""
        if self._bytes is not None:
            return _look_up(self._bytes, [np.frombuffer(text.encode(), np.uint8) for text in texts])
        if self._table is not None:
            points = [np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in texts]
            return _look_up(self._table, points)
        ids: list[Ids] = []
        owners: list[int] = []
        lengths: list[Lengths] = []
        for batch in self._batches(texts):
            found, each = self._some([text for _, text in batch])
            ids.append(found)
            lengths.append(each)
            owners += [owner for owner, _ in batch]
        if not ids:
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        totals = np.bincount(np.array(owners), np.concatenate(lengths), len(texts)).astype(np.int64)
        return np.concatenate(ids), totals

    def _batches(self, texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
        """Group texts, each with its index, into bounded batches; long texts are split if safe split points are known."""
        batch: list[tuple[int, str]] = []
        size = 0
        for number, text in enumerate(texts):
            for piece in pieces(text, self._chunk_characters) if self._words else (text,):
                batch.append((number, piece))
                # A non-ASCII character makes about as many tokens as three ASCII characters.
                size += len(piece) if piece.isascii() else 3 * len(piece)
                if size >= (self._chunk_characters if self._words and self._words.pays else self._batch_characters):
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _some(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """Encode a batch; texts in which a control token was found are encoded again as plain text."""
        ids, lengths = self._words.encode(texts) if self._words and self._words.pays else self._at_once(texts)
        found = np.isin(ids, self._control) if len(self._control) else np.zeros(0, bool)
        if not found.any():
            return ids, lengths
        rows = np.split(ids, np.cumsum(lengths)[:-1])
        for number in np.unique(np.repeat(np.arange(len(texts)), lengths)[found]).tolist():
            rows[number] = np.array(plain_ids(self._tokenizer, texts[number], self.codes.control), np.uint32)
        return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)

    def _at_once(self, texts: list[str]) -> tuple[Ids, Lengths]:
        encoded = encoded_batch(self._tokenizer, texts)
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        return np.fromiter(chain.from_iterable(encoded), np.uint32, int(lengths.sum())), lengths


def _plain(facts: Mapping[str, Any]) -> bool:
    """Whether the tokenizer has no normaliser and no added tokens except control tokens."""
    return facts["normalizer"] is None and all(token["special"] for token in facts["added_tokens"])


def _byte_level(facts: Mapping[str, Any], *, use_regex: bool) -> bool:
    split = facts["pre_tokenizer"] or {}
    found = (
        split.get("type") == "ByteLevel" and split.get("use_regex") is use_regex and not split.get("add_prefix_space")
    )
    return bool(found and _plain(facts))


def _splits_like_gpt2(facts: Mapping[str, Any]) -> bool:
    return _byte_level(facts, use_regex=True) and not facts["model"].get("dropout")


def _byte_table(tokenizer: Any, facts: Mapping[str, Any]) -> Ids | None:
    """(256,) the id of each byte, for a byte-level BPE without merges; None for other tokenizers."""
    if not _byte_level(facts, use_regex=False) or facts["model"]["type"] != "BPE" or facts["model"]["merges"]:
        return None
    from llmctl.data.tokenizing.alphabet import BYTES

    ids = [tokenizer.token_to_id(character) for character in BYTES]
    return None if None in ids else np.array(ids, np.uint32)


def _character_table(tokenizer: Any, facts: Mapping[str, Any]) -> Ids | None:
    """(0x110000,) the id of each code point, for a vocabulary of characters; None for other tokenizers."""
    from llmctl.data.tokenizing.alphabet import EVERY_CHARACTER

    split = facts["pre_tokenizer"] or {}
    single = split.get("type") == "Split" and split.get("pattern") == {"Regex": EVERY_CHARACTER}
    if not (single and facts["model"]["type"] == "WordLevel" and _plain(facts)):
        return None
    table = np.full(0x110000, facts["model"]["vocab"][facts["model"]["unk_token"]], np.uint32)
    for token, number in facts["model"]["vocab"].items():
        if len(token) == 1:
            table[ord(token)] = number
    return table


def _look_up(table: Ids, texts: Sequence[NDArray[Any]]) -> tuple[Ids, Lengths]:
    lengths = np.array([len(text) for text in texts], np.int64)
    return (table[np.concatenate(texts)] if len(texts) else np.zeros(0, np.uint32)), lengths


# ---------------------------------------------------------------------------------------------------------------
# Records


def encode_records(records: Sequence[Record], task: Segmenting, encoder: TokenEncoder, rules: Rules) -> Piece:
    """Encode records as arrays. Raises `DataError` for a label that is not in `rules.labels`."""
    segments = [_rendered(task.segments(record), record, encoder) for record in records]
    flat = list(chain.from_iterable(segments))
    ids, lengths = _encoded(flat, encoder)
    if rules.max_length is not None and len(lengths) and lengths.max() > rules.max_length:
        firsts = np.cumsum([0, *(len(each) for each in segments[:-1])])
        kept = np.maximum.reduceat(lengths, firsts) <= rules.max_length
        fitting = [record for record, fits in zip(records, kept, strict=True) if fits]
        return replace(encode_records(fitting, task, encoder, rules), kept=kept)
    values: NDArray[Any] = ids.astype(encoder.codes.kind)
    if task.packed:
        values, lengths = _with_control_tokens(values, lengths, encoder.codes)
    roles = [ROLES.index(segment.role) | (IN_LOSS if segment.in_loss else 0) for segment in flat]
    return Piece(
        values,
        lengths,
        np.array(roles, np.uint8),
        np.array([len(each) for each in segments], np.int64),
        _labels(records, segments, task, rules.labels) if task.labelled else None,
        np.ones(len(records), bool),
        _recordings(flat) if task.modality == "audio" else None,
    )


def _rendered(segments: list[Segment], record: Record, encoder: TokenEncoder) -> list[Segment]:
    """A conversation with tools as the chat template renders it. Raises `DataError` where none does."""
    if not uses_tools(segment.role for segment in segments):
        return segments
    where = record.origin or record.id
    if encoder.chat_template is None:
        raise DataError("the conversation uses tools, and the tokenizer has no chat template", where=where)
    with placed(where):
        return rendered(encoder.chat_template, segments)


def _encoded(segments: Sequence[Segment], encoder: TokenEncoder) -> tuple[Ids, Lengths]:
    """(N,) the ids of all segments, concatenated, and (S,) the number of ids of each."""
    written = [number for number, each in enumerate(segments) if each.role == "template"]
    texts = ["" if each.audio or each.role == "template" else each.text for each in segments]
    ids, lengths = encoder.encode(texts)
    if not written or encoder.chat_template is None:
        return ids, lengths
    rows = np.split(ids, np.cumsum(lengths)[:-1])
    for number in written:
        rows[number] = np.array(encoder.chat_template.ids(segments[number].text), np.uint32)
    return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)


def _recordings(segments: Sequence[Segment]) -> Recordings:
    from llmctl.data.audio import sound

    held = [segment.audio for segment in segments if segment.audio is not None]
    files = [audio.data or b"" for audio in held]
    return Recordings(
        np.frombuffer(b"".join(files), np.uint8),
        np.array([len(each) for each in files], np.int64),
        np.array([round(sound.seconds_of(each) * 100) for each in held], np.int32),
    )


def _with_control_tokens(values: NDArray[Any], lengths: Lengths, codes: Codes) -> tuple[NDArray[Any], Lengths]:
    """Put <bos> before and <eos> after every document; only <eos> after it if one token separates documents."""
    before = codes.lead is None
    longer = lengths + 1 + before
    ends = np.cumsum(longer)
    text = np.ones(int(longer.sum()), bool)
    text[ends - 1] = False
    out = np.full(len(text), codes.eos, values.dtype)
    if before:
        text[ends - longer] = False
        out[ends - longer] = codes.bos
    out[text] = values
    return out, longer


def _labels(
    records: Sequence[Record], segments: Sequence[Sequence[Segment]], task: Segmenting, labels: Mapping[str, int]
) -> NDArray[np.int32]:
    found = np.empty(len(records), np.int32)
    for number, (record, parts) in enumerate(zip(records, segments, strict=True)):
        label = next(part.text for part in parts if part.role == task.answer_role)
        if label not in labels:
            raise DataError(
                f"no record of the train split has the label {label!r}",
                where=f"{record.origin}:label",
                hint="add records with that label, or reduce --set splits.validation and splits.test",
            )
        found[number] = labels[label]
    return found


# ---------------------------------------------------------------------------------------------------------------
# Splits, in one process or several


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """The result of encoding a split."""

    lengths: LengthStats
    kept: NDArray[np.bool_]
    """(R,) False for a record that was dropped because of its length; empty without a limit"""

    @property
    def tokens(self) -> int:
        return self.lengths.tokens


def encode_split(
    task: Segmenting,
    text: Path | Sequence[Path],
    encoder: TokenEncoder,
    out: Path,
    split: str,
    *,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    executor: Executor | None = None,
    tokenizer: Path | None = None,
    done: Callable[[int], None] = lambda records: None,
) -> EncodedSplit:
    """Encode a split's Parquet files into `out`/`split`.*.npy.

    `executor` encodes row groups with the `tokenizer` of a folder, that of `encoder`, and their results are written in
    order; so the output is the same without it. Raises `DataError` for a label that is not in `labels`.
    """
    rules = Rules({label: number for number, label in enumerate(labels)}, max_length)
    kept: list[NDArray[np.bool_]] = [np.zeros(0, bool)]
    groups = (
        (path, group) for path in ([text] if isinstance(text, Path) else text) for group in range(row_groups(path))
    )

    lengths = NOTHING

    def counted(found: Iterator[Piece]) -> Iterator[Piece]:
        nonlocal lengths
        for piece in found:
            yield piece
            frames = None if piece.recordings is None else piece.recordings.frames
            lengths = added(lengths, lengths_in(piece.segment_lengths, piece.roles, piece.record_lengths, frames))
            if max_length is not None:
                kept.append(piece.kept)
            done(len(piece.kept))

    found: Iterator[Piece]
    if executor is None or tokenizer is None:
        found = (encode_records(read_group(path, group), task, encoder, rules) for path, group in groups)
    else:
        _ENCODERS.clear()
        _ENCODERS[tokenizer] = encoder
        found = executor.map(encode_group, (GroupJob(tokenizer, task, *each, rules) for each in groups))
    lead = encoder.codes.lead if task.packed else None
    tokens = write_store(
        out, split, counted(found), kind=encoder.codes.kind, lead=lead, labelled=task.labelled, modality=task.modality
    )
    return EncodedSplit(lengths.model_copy(update={"tokens": tokens}), np.concatenate(kept))


_ENCODERS: dict[Path, TokenEncoder] = {}
"""The encoder of this process, by tokenizer folder."""


@dataclass(frozen=True, slots=True)
class GroupJob:
    """A row group to encode with the tokenizer of a folder."""

    tokenizer: Path
    task: Segmenting
    text: Path
    group: int
    rules: Rules


def encode_group(job: GroupJob) -> Piece:
    """Encode one row group."""
    if job.tokenizer not in _ENCODERS:
        _ENCODERS.clear()
        _ENCODERS[job.tokenizer] = TokenEncoder(open_codes(job.tokenizer))
    return encode_records(read_group(job.text, job.group), job.task, _ENCODERS[job.tokenizer], job.rules)
