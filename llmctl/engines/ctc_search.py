"""From the probabilities of a CTC model to a text: the best path, or a search over texts by their prefixes.

A path has one token or the blank ∅ for each frame; it collapses to a text by joining equal neighbours and removing
blanks. The most probable path need not collapse to the most probable text, because many paths share one text. Prefix
search adds them up: for each prefix it keeps the probability of the paths that end in a blank and of those that do not.

    p_∅(l, t) = p(∅ | t) · (p_∅(l, t-1) + p_¬(l, t-1))
    p_¬(l, t) = p(l_end | t) · p_¬(l, t-1)                           the last token continues
    p_¬(l k, t) = p(k | t) · (p_∅(l, t-1) + [k ≠ l_end] p_¬(l, t-1))  a new token; equal ones need a blank between

Papers: Graves, Fernández, Gomez and Schmidhuber 2006, section 3.2; Hannun et al. 2014 (arXiv:1408.2873).

Letters: S frames, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

NEVER: Final = -math.inf
LIKELY: Final = 1e-4
"""Tokens less probable than this at a frame do not extend a prefix."""

LogProbabilities = NDArray[np.float32]
"""(S, V)"""


class Found(NamedTuple):
    """Token ids, and the frame at which each begins."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...]


class Phrase(NamedTuple):
    """Tokens between two pauses, with the frames at which they begin and end."""

    tokens: tuple[int, ...]
    start: int
    end: int


def search(log_p: LogProbabilities, blank: int, beams: int = 1) -> Found:
    """The tokens of a recording. `beams` 1: the most probable path; more: prefix search with so many prefixes."""
    path = log_p.argmax(1)  # (S,)
    starts = np.flatnonzero((path != blank) & (path != np.concatenate([[-1], path[:-1]])))
    best = Found(tuple(path[starts].tolist()), tuple(starts.tolist()))
    if beams <= 1:
        return best
    tokens = _prefix_search(log_p, blank, beams)
    return best if tokens == best.tokens else Found(tokens, _aligned(log_p, tokens, blank))


def _prefix_search(log_p: LogProbabilities, blank: int, beams: int) -> tuple[int, ...]:
    """log p of the paths that end in a blank, and in a token, for each prefix."""
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}
    for row in log_p:
        likely = np.flatnonzero(row > math.log(LIKELY))
        new: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (by_blank, by_token) in kept.items():
            both = _add(by_blank, by_token)
            last = prefix[-1] if prefix else None
            stay_blank, stay_token = new.get(prefix, (NEVER, NEVER))
            stay_blank = _add(stay_blank, both + float(row[blank]))
            if last is not None:
                stay_token = _add(stay_token, by_token + float(row[last]))
            new[prefix] = stay_blank, stay_token
            for token in likely.tolist():
                if token == blank:
                    continue
                longer = (*prefix, token)
                before = by_blank if token == last else both
                old_blank, old_token = new.get(longer, (NEVER, NEVER))
                new[longer] = old_blank, _add(old_token, before + float(row[token]))
        ranked = sorted(new.items(), key=lambda item: (-_add(*item[1]), item[0]))
        kept = dict(ranked[:beams])
    return max(kept.items(), key=lambda item: _add(*item[1]))[0]


def _add(a: float, b: float) -> float:
    """log(exp a + exp b)"""
    high, low = max(a, b), min(a, b)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))


def _aligned(log_p: LogProbabilities, tokens: Sequence[int], blank: int) -> tuple[int, ...]:
    """The frame at which each token begins on the most probable path that collapses to them (Viterbi)."""
    states = [blank]
    for token in tokens:
        states += [token, blank]
    emitted = log_p[:, states]  # (S, 2U + 1)
    skips = np.array([n >= 2 and states[n] != blank and states[n] != states[n - 2] for n in range(len(states))])
    score = np.full(len(states), NEVER)
    score[:2] = emitted[0, :2]
    came = np.zeros((len(log_p), len(states)), np.int64)
    for frame in range(1, len(log_p)):
        one = np.concatenate([[NEVER], score[:-1]])
        two = np.where(skips, np.concatenate([[NEVER, NEVER], score[:-2]])[: len(states)], NEVER)
        choice = np.stack([score, one, two]).argmax(0)
        came[frame] = choice
        score = np.stack([score, one, two])[choice, np.arange(len(states))] + emitted[frame]
    state = len(states) - 1 if len(states) < 2 or score[-1] >= score[-2] else len(states) - 2
    starts = [0] * len(tokens)
    for frame in range(len(log_p) - 1, -1, -1):
        if state % 2:
            starts[state // 2] = frame
        state -= int(came[frame, state])
    return tuple(starts)


def phrases(found: Found, starts_word: Callable[[int], bool], pause: int) -> Iterator[Phrase]:
    """The tokens cut where a word begins at least `pause` frames after the token before it."""
    begin = 0
    for place in range(1, len(found.tokens) + 1):
        ends = place == len(found.tokens)
        if ends or (
            starts_word(found.tokens[place]) and found.frames[place] - found.frames[place - 1] >= max(1, pause)
        ):
            last = found.frames[place - 1] + 1
            yield Phrase(found.tokens[begin:place], found.frames[begin], last)
            begin = place
