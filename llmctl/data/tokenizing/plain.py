"""Encodes user text as plain text: it can contain the name of a control token and never becomes one.

A tokenizer's `encode_special_tokens` setting encodes the names of special tokens as text, but is not always enough: a
Unigram or word vocabulary may have `</s>` as an ordinary piece, a normaliser may produce one from full-width characters,
and a chat template may use added tokens that are not marked as special.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmctl.store.border import border

TOGETHER: Final = 1000
"""Words that are encoded as one text."""


def settle(backend: Any) -> None:
    """Make a `tokenizers.Tokenizer` give the same ids for the same text, all of it, as plain text.

    Some published tokenizers keep the truncation, padding or BPE dropout of their training.
    """
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None


def encoded(backend: Any, text: str) -> Any:
    """The `tokenizers.Encoding` of a text without added tokens. Raises `IntegrityError` if the tokenizer fails."""
    with border("the tokenizer fails on this text", "tokenizer.json", silent=True):
        return backend.encode(text, add_special_tokens=False)


def encoded_batch(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text without added tokens. Raises `IntegrityError` if the tokenizer fails."""
    with border("the tokenizer fails on a text", "tokenizer.json", silent=True):
        return [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=False)]


def encoded_words(backend: Any, words: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """(N,) ids of all words, and (W,) their number in each. The words are pre-tokens that stay so when they are joined.

    Raises `IntegrityError` if the tokenizer fails.
    """
    groups = [words[start : start + TOGETHER] for start in range(0, len(words), TOGETHER)]
    with border("the tokenizer fails on a text", "tokenizer.json", silent=True):
        found = backend.encode_batch(["".join(group) for group in groups], add_special_tokens=False)
    ids, counts = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for group, each in zip(groups, found, strict=True):
        owners = np.array(each.word_ids, np.int64)
        if len(owners) and int(owners[-1]) == len(group) - 1:
            ids.append(np.array(each.ids, np.uint32))
            counts.append(np.bincount(owners))
        else:
            apart = encoded_batch(backend, group)
            ids.append(np.fromiter(itertools.chain.from_iterable(apart), np.uint32))
            counts.append(np.array([len(each) for each in apart], np.int64))
    return np.concatenate(ids), np.concatenate(counts)


def control_tokens(backend: Any, template: str = "") -> dict[int, str]:
    """Id -> name of the tokens that text must not be encoded to.

    These are the special tokens and the added tokens that the chat template mentions, without the unknown token, which
    unknown text is rightly encoded to.
    """
    known = backend.get_added_tokens_decoder()
    unknown = unknown_id(backend)
    return {
        number: token.content
        for number, token in known.items()
        if number != unknown and (token.special or token.content in template)
    }


def unknown_id(backend: Any) -> int | None:
    """The id of the unknown token of a `tokenizers.Tokenizer`; None if it has none."""
    from tokenizers import models

    if isinstance(backend.model, models.Unigram):
        # Unigram stores it as an id that is not exposed as an attribute.
        number: int | None = json.loads(backend.to_str())["model"].get("unk_id")
        return number
    token = getattr(backend.model, "unk_token", None)
    found: int | None = backend.token_to_id(token) if token else None
    return found


def largest_id(backend: Any) -> int:
    """The largest id of a `tokenizers.Tokenizer`; -1 if it has none."""
    last: int = backend.get_vocab_size() - 1
    if backend.id_to_token(last) is not None:
        return last  # ids without gaps, as almost always
    return max(backend.get_vocab().values(), default=-1)


def plain_ids(backend: Any, text: str, control: frozenset[int]) -> list[int]:
    """Encode a text to ids outside of `control`: where the tokenizer finds a control token, split the text inside it.

    Control tokens of a single character cannot be split and are left out.
    """
    encoding = encoded(backend, text)
    ids: list[int] = encoding.ids
    if control.isdisjoint(ids):
        return ids
    hits = [span for number, span in zip(ids, encoding.offsets, strict=True) if number in control]
    cuts = [start + 1 for start, end in hits if end - start > 1]
    if not cuts:
        return [number for number in ids if number not in control]
    edges = [0, *cuts, len(text)]
    return [
        number for start, end in itertools.pairwise(edges) for number in plain_ids(backend, text[start:end], control)
    ]
