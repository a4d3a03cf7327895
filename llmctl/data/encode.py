"""Text to token ids: by the fastest way that gives exactly what the tokenizer gives, in several processes if it pays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llmctl.data.codes import Codes, open_codes
from llmctl.data.plain import plain_ids
from llmctl.data.pretokens import CHUNK_CHARACTERS, Ids, Lengths, Words, pieces
from llmctl.data.spec import IN_LOSS
from llmctl.data.text import read_group, row_groups
from llmctl.data.tokens import ROLES, Piece, write_store
from llmctl.errors import DataError, EnvironmentFault
from llmctl.types import Record, Role, Segment

BATCH_CHARACTERS: Final = 4 << 20
"""Text given to the tokenizer at once where its pre-tokens cannot be remembered."""
SMALL_BYTES: Final = 4 << 20
"""Below so much text starting processes costs more than it gains."""


class Segmenting(Protocol):
    """What a task must say of itself here."""

    packed: ClassVar[bool]
    labelled: ClassVar[bool]
    answer_role: ClassVar[Role]

    def segments(self, record: Record) -> list[Segment]: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What else encoding must know."""

    labels: Mapping[str, int]
    """Label -> its number, for labelled tasks."""
    max_length: int | None = None
    """Records with a longer segment are left out."""


class TokenEncoder:
    """Ids of texts, equal to `encode_batch_fast` without control tokens. Remembers pre-tokens: keep it for more text."""

    def __init__(
        self,
        codes: Codes,
        *,
        chunk_characters: int = CHUNK_CHARACTERS,
        batch_characters: int = BATCH_CHARACTERS,
        words: Words | None = None,
    ) -> None:
        """Text is given to the tokenizer `batch_characters` at a time, where pre-tokens are remembered (in `words`)
        `chunk_characters`."""
        self.codes = codes
        self._chunk_characters, self._batch_characters = chunk_characters, batch_characters
        self._tokenizer = tokenizer = codes.tokenizer
        self._control = np.array(sorted(codes.control), np.uint32)
        facts = json.loads(tokenizer.to_str())
        self._table = _one_id_a_character(tokenizer, facts)
        self._bytes = _one_id_a_byte(tokenizer, facts)
        self._words = (words or Words(tokenizer)) if _cuts_like_gpt2(facts) else None

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """(N,) ids of all texts together, (T,) how many each text has."""
        if self._bytes is not None:
            return _looked_up(self._bytes, [np.frombuffer(text.encode(), np.uint8) for text in texts])
        if self._table is not None:
            points = [np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in texts]
            return _looked_up(self._table, points)
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
        """Texts in bounded batches, each with its number; long ones in pieces where the cuts are known."""
        batch: list[tuple[int, str]] = []
        size = 0
        for number, text in enumerate(texts):
            for piece in pieces(text, self._chunk_characters) if self._words else (text,):
                batch.append((number, piece))
                # A character beyond ASCII is about as many tokens as three of ASCII.
                size += len(piece) if piece.isascii() else 3 * len(piece)
                if size >= (self._chunk_characters if self._words and self._words.pays else self._batch_characters):
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _some(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """Ids of a batch; a text in which a control token was found is encoded again, so that it stays text."""
        ids, lengths = self._words.encode(texts) if self._words and self._words.pays else self._at_once(texts)
        found = np.isin(ids, self._control) if len(self._control) else np.zeros(0, bool)
        if not found.any():
            return ids, lengths
        rows = np.split(ids, np.cumsum(lengths)[:-1])
        for number in np.unique(np.repeat(np.arange(len(texts)), lengths)[found]).tolist():
            rows[number] = np.array(plain_ids(self._tokenizer, texts[number], self.codes.control), np.uint32)
        return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)

    def _at_once(self, texts: list[str]) -> tuple[Ids, Lengths]:
        encoded = [each.ids for each in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        return np.fromiter(chain.from_iterable(encoded), np.uint32, int(lengths.sum())), lengths


def _plain(facts: Mapping[str, Any]) -> bool:
    """Nothing touches the text before the pre-tokenizer, and no token but control tokens is cut out of it."""
    return facts["normalizer"] is None and all(token["special"] for token in facts["added_tokens"])


def _byte_level(facts: Mapping[str, Any], *, use_regex: bool) -> bool:
    cut = facts["pre_tokenizer"] or {}
    found = cut.get("type") == "ByteLevel" and cut.get("use_regex") is use_regex and not cut.get("add_prefix_space")
    return bool(found and _plain(facts))


def _cuts_like_gpt2(facts: Mapping[str, Any]) -> bool:
    return _byte_level(facts, use_regex=True) and not facts["model"].get("dropout")


def _one_id_a_byte(tokenizer: Any, facts: Mapping[str, Any]) -> Ids | None:
    """(256,) the id of each byte, for a byte-level BPE without merges."""
    if not _byte_level(facts, use_regex=False) or facts["model"]["type"] != "BPE" or facts["model"]["merges"]:
        return None
    from llmctl.data.alphabet import BYTES

    ids = [tokenizer.token_to_id(character) for character in BYTES]
    return None if None in ids else np.array(ids, np.uint32)


def _one_id_a_character(tokenizer: Any, facts: Mapping[str, Any]) -> Ids | None:
    """(0x110000,) the id of each code point, for a vocabulary of characters."""
    from llmctl.data.alphabet import EVERY_CHARACTER

    cut = facts["pre_tokenizer"] or {}
    single = cut.get("type") == "Split" and cut.get("pattern") == {"Regex": EVERY_CHARACTER}
    if not (single and facts["model"]["type"] == "WordLevel" and _plain(facts)):
        return None
    table = np.full(0x110000, facts["model"]["vocab"][facts["model"]["unk_token"]], np.uint32)
    for token, number in facts["model"]["vocab"].items():
        if len(token) == 1:
            table[ord(token)] = number
    return table


def _looked_up(table: Ids, texts: Sequence[NDArray[Any]]) -> tuple[Ids, Lengths]:
    lengths = np.array([len(text) for text in texts], np.int64)
    return (table[np.concatenate(texts)] if len(texts) else np.zeros(0, np.uint32)), lengths


# ---------------------------------------------------------------------------------------------------------------
# Records


def encode_records(records: Sequence[Record], task: Segmenting, encoder: TokenEncoder, rules: Rules) -> Piece:
    """Records as arrays. Raises `DataError` for a label that is not in `labels`."""
    segments = [task.segments(record) for record in records]
    flat = list(chain.from_iterable(segments))
    ids, lengths = encoder.encode([segment.text for segment in flat])
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
    )


def _with_control_tokens(values: NDArray[Any], lengths: Lengths, codes: Codes) -> tuple[NDArray[Any], Lengths]:
    """Every document with <bos> before and <eos> after it; with <eos> after it alone where documents share theirs."""
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
                hint="give more records of that label, or smaller --set splits.validation and splits.test",
            )
        found[number] = labels[label]
    return found


# ---------------------------------------------------------------------------------------------------------------
# Splits, in one process or several


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """What became of a split."""

    tokens: int
    kept: NDArray[np.bool_]
    """(R,) False for a record of the text that was left out for its length"""


def encode_split(
    task: Segmenting,
    text: Path,
    encoder: TokenEncoder,
    out: Path,
    split: str,
    *,
    labels: Sequence[str] = (),
    max_length: int | None = None,
    workers: Workers | None = None,
    done: Callable[[int], None] = lambda records: None,
) -> EncodedSplit:
    """Encode a split's Parquet file into `out`/`split`.*.npy.

    The same bytes whatever the number of workers: pieces are the file's row groups, written in their order.
    Raises `DataError` for a label that is not in `labels`.
    """
    rules = Rules({label: number for number, label in enumerate(labels)}, max_length)
    kept: list[NDArray[np.bool_]] = [np.zeros(0, bool)]

    def counted(found: Iterator[Piece]) -> Iterator[Piece]:
        for piece in found:
            yield piece
            kept.append(piece.kept)
            done(len(piece.kept))

    found = (workers or Workers(1)).pieces(task, text, encoder, rules)
    lead = encoder.codes.lead if task.packed else None
    tokens = write_store(out, split, counted(found), kind=encoder.codes.kind, lead=lead, labelled=task.labelled)
    return EncodedSplit(tokens, np.concatenate(kept))


class Workers:
    """Processes that encode row groups: this one, and others beside it. A `with` block ends the others."""

    def __init__(self, count: int) -> None:
        """Start the others at once: they import what they need while the text is read and the tokenizer learned."""
        self._count = count
        self._tokenizer = Path()
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            import multiprocessing

            # Never `fork`: pyarrow and tokenizers hold threads.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count - 1, mp_context=context, initializer=_start)
            # The terminal sends Ctrl-C to every process of the group; the parent ends its workers itself. They inherit
            # the block, so that it holds before they have begun to import.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                for _ in range(count - 1):
                    self._pool.submit(_ready)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def use(self, tokenizer: Path) -> None:
        """The folder of the tokenizer that the other processes encode with."""
        self._tokenizer = tokenizer

    def pieces(self, task: Segmenting, text: Path, encoder: TokenEncoder, rules: Rules) -> Iterator[Piece]:
        """The pieces of a file in order: every `count`-th is made here, the others a few ahead."""
        groups = row_groups(text)
        elsewhere = iter([group for group in range(groups) if self._pool and group % self._count])
        waiting: deque[Future[Piece]] = deque()
        for group in range(groups):
            if self._pool is not None:
                with _alive():
                    for ahead in islice(elsewhere, 2 * self._count - len(waiting)):
                        waiting.append(self._pool.submit(_work, self._tokenizer, task, text, rules, ahead))
                    made = waiting.popleft().result() if group % self._count else None
                if made is not None:
                    yield made
                    continue
            yield encode_records(read_group(text, group), task, encoder, rules)


@contextlib.contextmanager
def _alive() -> Iterator[None]:
    """Raise `EnvironmentFault` where another process has died: it is noticed in what it is given or in what it gives."""
    try:
        yield
    except BrokenProcessPool:
        raise EnvironmentFault(
            "a process that encodes was killed", hint="is there memory enough? --workers 1 uses one process"
        ) from None


def worker_count(requested: int, input_bytes: int) -> int:
    """Processes to encode so much text in: as asked, or one a core where it pays. 1 means this process alone."""
    if requested:
        return requested
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if input_bytes > SMALL_BYTES else 1


_ENCODERS: dict[Path, TokenEncoder] = {}
"""What a worker process holds, by the folder of the tokenizer."""


def _start() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _ready() -> None:
    """Import what is needed beside this module."""
    import tokenizers  # noqa: F401


def _work(tokenizer: Path, task: Segmenting, text: Path, rules: Rules, group: int) -> Piece:
    if tokenizer not in _ENCODERS:
        _ENCODERS[tokenizer] = TokenEncoder(open_codes(tokenizer))
    return encode_records(read_group(text, group), task, _ENCODERS[tokenizer], rules)
