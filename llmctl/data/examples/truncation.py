"""What is left out of a record that is longer than the context: exchanges of a conversation, the ends of prompt texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from llmctl.data.examples.prompt_format import is_chat
from llmctl.types import Segment, Tokens

P = TypeVar("P", Segment, Tokens)


def prompt_parts(parts: Sequence[Tokens]) -> list[Tokens]:
    """The parts that may lose their ends."""
    return [part for part in parts if _is_cuttable(part)]


def _is_cuttable(part: Tokens) -> bool:
    """Whether a part is neither an answer nor what a chat template writes around one."""
    return not part.in_loss and part.role != "template"


def beginnings(parts: Sequence[Tokens]) -> list[Sequence[Tokens]]:
    """The conversation up to its last answer, up to the second to last, …"""
    ends = [number + 1 for number, part in enumerate(parts) if part.in_loss and not _goes_on(parts, number)]
    return [parts[:end] for end in reversed(ends)]


def _goes_on(parts: Sequence[Tokens], number: int) -> bool:
    """Whether the next part belongs to the same answer, of which a chat template writes something."""
    both = parts[number : number + 2]
    return len(both) == 2 and both[1].in_loss and any(part.role == "template" for part in both)


def first_exchange(parts: Sequence[Tokens]) -> Sequence[Tokens]:
    """A conversation up to its first answer; any other record as it is."""
    shorter = beginnings(parts) if is_chat(part.role for part in parts) else []
    return shorter[-1] if shorter else parts


def recent(parts: Sequence[P]) -> list[Sequence[P]]:
    """The conversation in full, without its oldest exchange, without its oldest two, …; system messages and tools stay.

    Nothing for one that a chat template has rendered, which may have anything before its last question.
    """
    if any(part.role == "template" for part in parts):
        return []
    begin = next((number for number, part in enumerate(parts) if part.role not in ("system", "tools")), len(parts))
    starts = [number for number, part in enumerate(parts) if part.role == "user" and number >= begin]
    return [list(parts[:begin]) + list(parts[start:]) for start in starts]


def shortened(parts: Sequence[Tokens], room: int, *, keep_end: bool) -> list[Tokens]:
    """Truncate the prompt texts to `room` tokens in total, with one maximum length for all of them."""
    lengths = [len(part.ids) for part in prompt_parts(parts)]
    low, high = 0, max(lengths, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= room:
            low = middle
        else:
            high = middle - 1
    return [part._replace(ids=_cut(part.ids, low, keep_end)) if _is_cuttable(part) else part for part in parts]


def _cut(ids: Any, length: int, keep_end: bool) -> Any:
    return ids[max(0, len(ids) - length) :] if keep_end else ids[:length]
