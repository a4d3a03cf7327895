"""What a user writes stays text: it can spell a control token and never become one.

`encode_special_tokens` of a tokenizer keeps names of special tokens whole text, which is not enough everywhere: a
Unigram or word vocabulary may hold `</s>` as a piece that text matches, a normaliser may make one of full-width
characters, and a chat template may use added tokens that are not marked as special.
"""

from __future__ import annotations

import itertools
import json
from typing import Any


def control_tokens(backend: Any, template: str = "") -> dict[int, str]:
    """Id -> name of the tokens that text must not become.

    The special ones and those that the chat template speaks of; not the model's own token for what it does not know,
    which is what unknown text rightly becomes.
    """
    known = backend.get_added_tokens_decoder()
    unknown = unknown_id(backend)
    return {
        number: token.content
        for number, token in known.items()
        if number != unknown and (token.special or token.content in template)
    }


def unknown_id(backend: Any) -> int | None:
    """The id that a `tokenizers.Tokenizer` gives to text outside of its vocabulary; None where there is no such text."""
    from tokenizers import models

    if isinstance(backend.model, models.Unigram):
        # It has it as a number, which is not among its attributes.
        number: int | None = json.loads(backend.to_str())["model"].get("unk_id")
        return number
    token = getattr(backend.model, "unk_token", None)
    found: int | None = backend.token_to_id(token) if token else None
    return found


def plain_ids(backend: Any, text: str, control: frozenset[int]) -> list[int]:
    """Ids of a text, none of them in `control`: where the tokenizer finds one, the text is cut inside of it.

    A control token of a single character, which cannot be cut, is left out.
    """
    encoding = backend.encode(text, add_special_tokens=False)
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
