"""Learning from plain text by mending it: what is taken away, and what has to be said.

    masked      encoder           15 % of the tokens hidden, said in their places (Devlin et al. 2019, arXiv:1810.04805)
    spans       encoder-decoder   spans of 3 tokens, 15 % in all, cut out and said one after the other
                                  (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4)
    infilling   encoder-decoder   the sentences in another order, and in that spans of Poisson(3) tokens, 30 % in all, each
                                  covered by one mask; the whole text is said again as it was (Lewis et al. 2020,
                                  arXiv:1910.13461, section 2.2: "sentence permutation" with "text infilling")

The shares are as published; another can be asked for, and which is best depends on the model (Wettig et al. 2023,
arXiv:2202.08005).

Cut out spans are marked by numbered sentinels (`<extra_id_0>`, …) where a tokenizer has them. One trained here has one mask
and none of them: every span is marked by the same mask, and which is which follows from their order.

What is taken away is a pure function of (seed, epoch, example): nothing to save when a run is resumed, the same on
however many processes.

Letters: T tokens of a block, U of what is said, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmctl.data.batches import Arrays, collate
from llmctl.data.layout import Layout, Sample
from llmctl.data.spec import SPAN_TOKENS
from llmctl.data.tokens import TokenStore
from llmctl.errors import UsageError
from llmctl.types import IGNORED, Denoising, Tokens

Ids = NDArray[np.int64]

SHOWN_AS_MASK, SHOWN_AS_ANOTHER = 0.8, 0.1
"""Of the hidden tokens; the rest are shown as they are, so that what is seen may always be wrong."""
SENTENCE_ENDS: Final = (".", "!", "?", "。", "！", "？", "\n")
CLOSING: Final = "\"'”’»)]）」』】》"
_SENTINEL: Final = "<extra_id_{}>"
_SALT: Final = 0xC0DE


@dataclass(frozen=True, eq=False)
class Marks:
    """What a tokenizer offers to corrupt with."""

    mask: int
    """What stands for a token that is hidden, or for a span that is covered; the first sentinel where there is none."""
    sentinels: Ids
    """What stands for a span that is cut out, the first for the first; the last for all that follow. Numbered ones, or
    the mask."""
    ordinary: Ids
    """Every token that is no control token."""
    is_ordinary: NDArray[np.bool_]
    """The same by id."""
    ends: NDArray[np.bool_]
    """By id: text that ends a sentence, alone or with what closes it."""
    closes: NDArray[np.bool_]
    """By id: quotes and brackets that belong to the sentence that has just ended."""
    parts: NDArray[np.bool_]
    """By id: control tokens that stand between documents."""


def marks_of(tokenizer: Any) -> Marks:
    """The mask or the sentinels of a tokenizer. Raises `UsageError` where it has neither."""
    backend = tokenizer.backend_tokenizer
    numbered = [each for number in range(100) if (each := backend.token_to_id(_SENTINEL.format(number))) is not None]
    own: int | None = tokenizer.mask_token_id
    masks = [own] if own is not None else numbered[:1]
    if not masks:
        raise UsageError(
            "the tokenizer has no mask token: nothing can be taken out of a plain text to be mended",
            hint="preprocess with a tokenizer trained here, or one with a mask_token",
        )
    control = [each for each in (*tokenizer.all_special_ids, *numbered) if each < len(tokenizer)]
    is_ordinary = np.ones(len(tokenizer), bool)
    is_ordinary[control] = False
    # What a tokenizer does not know stands within a sentence as any other word.
    parts = ~is_ordinary
    parts[[each for each in (tokenizer.unk_token_id, *masks, *numbered) if each is not None]] = False
    texts = backend.decode_batch([[number] for number in range(len(tokenizer))], skip_special_tokens=True)
    bare = [text.rstrip(CLOSING) for text in texts]
    ends = np.array([each.endswith(SENTENCE_ENDS) for each in bare]) & is_ordinary
    closes = np.array([bool(text) and not left for text, left in zip(texts, bare, strict=True)]) & is_ordinary
    sentinels = np.array(numbered or masks, np.int64)
    return Marks(masks[0], sentinels, np.flatnonzero(is_ordinary), is_ordinary, ends, closes, parts)


def mask_tokens(ids: Ids, marks: Marks, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> what is seen (T,), and what has to be said in each place (T,), `IGNORED` where nothing.

    `noise_density` of the ordinary tokens is hidden, at least one token, never a control token: 80 % of them are shown as the
    mask, 10 % as any other token, 10 % as they are.
    """
    inputs, targets = ids.copy(), np.full(len(ids), IGNORED, np.int64)
    places = np.flatnonzero(marks.is_ordinary[ids])
    hidden = rng.permutation(places)[: max(1, round(noise_density * len(places)))]
    targets[hidden] = ids[hidden]
    draw = rng.random(len(hidden))
    inputs[hidden[draw < SHOWN_AS_MASK]] = marks.mask
    others = hidden[(draw >= SHOWN_AS_MASK) & (draw < SHOWN_AS_MASK + SHOWN_AS_ANOTHER)]
    inputs[others] = rng.choice(marks.ordinary, len(others))
    return inputs, targets


def corrupt_spans(ids: Ids, marks: Marks, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> the text with each span replaced by its mark, and the spans, each behind its mark, with one more mark at
    their end (U,). At least one token is cut out, and one is left."""
    cut = min(max(1, round(noise_density * len(ids))), max(1, len(ids) - 2))
    # What is said with its marks is no longer than the text.
    count = max(1, min(round(cut / SPAN_TOKENS), cut, len(ids) - cut - 1))
    lengths, gaps = _parts(cut, count, rng), _parts(max(len(ids) - cut, 1), count, rng)
    inputs: list[Ids] = []
    targets: list[Ids] = []
    place = 0
    for number, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        mark = _sentinel(marks, number)
        begin = min(place + gap, len(ids) - length)  # a text of one token has no gap before it
        inputs += [ids[place:begin], mark]
        targets += [mark, ids[begin : begin + length]]
        place = begin + length
    return np.concatenate([*inputs, ids[place:]]), np.concatenate([*targets, _sentinel(marks, count)])


def denoise(ids: Ids, marks: Marks, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> the text with its sentences in another order and spans covered, and the text itself."""
    return infill(shuffle_sentences(ids, marks, rng), marks, noise_density, rng)[0], ids


def shuffle_sentences(ids: Ids, marks: Marks, rng: np.random.Generator) -> Ids:
    """(T,) -> (T,) the same tokens, the sentences of each document in another order.

    A sentence goes on to the last of the tokens that end it and of what closes it: `?!`, `.”`, a newline. What a block
    has of a sentence that begins before it or ends behind it is a sentence too. Control tokens between documents stay.
    """
    ended = marks.ends[ids]
    for place in np.flatnonzero(marks.closes[ids] & ~ended):
        ended[place] = place > 0 and ended[place - 1]
    goes_on = marks.ends[ids] | marks.closes[ids]
    parts = marks.parts[ids]
    between = (ended[:-1] & ~goes_on[1:]) | parts[:-1] | parts[1:]  # (T-1) a cut behind each token
    found: list[Ids] = []
    document: list[Ids] = []
    for piece in np.split(ids, np.flatnonzero(between) + 1):
        if len(piece) and marks.parts[piece[0]]:
            found += [*_shuffled(document, rng), piece]
            document = []
        else:
            document.append(piece)
    return np.concatenate([*found, *_shuffled(document, rng)])


def _shuffled(pieces: Sequence[Ids], rng: np.random.Generator) -> list[Ids]:
    return [pieces[number] for number in rng.permutation(len(pieces))]


def infill(ids: Ids, marks: Marks, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> the text with spans covered by one mark each, and the text itself. A span may be empty: then a mark stands
    where nothing is missing, and how many tokens a mark hides has to be learned."""
    wanted = min(max(1, round(noise_density * len(ids))), max(1, len(ids) - 1))
    lengths: list[int] = []
    while (left := wanted - sum(lengths)) > 0:
        lengths.append(min(int(rng.poisson(SPAN_TOKENS)), left))
    kept = len(ids) - wanted
    # Before which of the kept tokens (or behind the last) each span stands; spans at one place follow each other.
    gaps = np.diff(np.sort(rng.integers(0, kept + 1, len(lengths))), prepend=0)
    inputs: list[Ids] = []
    place = 0
    for gap, length in zip(gaps.tolist(), lengths, strict=True):
        inputs += [ids[place : place + gap], np.array([marks.mask])]
        place += gap + length
    return np.concatenate([*inputs, ids[place:]]), ids


def _sentinel(marks: Marks, number: int) -> Ids:
    return marks.sentinels[[min(number, len(marks.sentinels) - 1)]]


def _parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """`total` cut at random into `count` parts of at least one."""
    cuts = np.sort(rng.permutation(total - 1)[: count - 1] + 1)
    found: list[int] = np.diff(np.concatenate([[0], cuts, [total]])).tolist()
    return found


@dataclass(frozen=True)
class DenoisingBlocks:
    """A split's stream of text in blocks, each between the control tokens that fine-tuning will put around a text, and
    corrupted anew in every epoch.

    Example i is made of the tokens [i·n, (i+1)·n), n being `size` less the control tokens around it.
    """

    store: TokenStore
    size: int
    layout: Layout
    pad: int
    marks: Marks
    denoising: Denoising
    seed: int

    @property
    def around(self) -> int:
        """Control tokens around a text: one before and one behind it, or the one that ends a source."""
        return 2 if self.denoising.scheme == "masked" else 1

    @property
    def tokens_each(self) -> int:
        return self.size - self.around

    def __len__(self) -> int:
        return -(-len(self.store.values) // self.tokens_each)

    def lengths(self) -> NDArray[np.int64]:
        found = np.full(len(self), self.size, np.int64)
        if len(self):
            found[-1] = len(self.store.values) - (len(self) - 1) * self.tokens_each + self.around
        return found

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> Arrays:
        """`input_ids` (B, T) and `attention_mask`; `labels` (B, T) in the places hidden, or (B, U) what is said."""
        # What is seen and what has to be said are collated as a text and its answer, for an encoder too.
        return collate(
            [self._sample(index, epoch) for index in indices], "encoder-decoder", self.pad, context=self.layout.context
        )

    def _sample(self, index: int, epoch: int) -> Sample:
        ids = self.store.values[index * self.tokens_each : (index + 1) * self.tokens_each].astype(np.int64)
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch, index, _SALT]))
        scheme, noise_density = self.denoising
        if scheme == "masked":
            uncorrupted = self.layout.sample([Tokens("text", ids, False)])
            inputs, targets = mask_tokens(uncorrupted.input_ids, self.marks, noise_density, rng)
            return uncorrupted._replace(input_ids=inputs, target_ids=targets)
        inputs, targets = (corrupt_spans if scheme == "spans" else denoise)(ids, self.marks, noise_density, rng)
        return self.layout.sample([Tokens("source", inputs, False), Tokens("target", targets, True)])
