"""Denoising objectives for plain text: how the input is corrupted, and what the model has to reconstruct.

    masked      encoder           masked language modelling: predict 15 % of the tokens, in place (Devlin et al. 2019,
                                  arXiv:1810.04805)
    spans       encoder-decoder   span corruption: spans of 3 tokens on average, 15 % in total, are cut out and form the
                                  target (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4)
    infilling   encoder-decoder   sentence permutation with text infilling: spans of Poisson(3) tokens, 30 % in total, are
                                  each replaced by one mask; the target is the original text (Lewis et al. 2020,
                                  arXiv:1910.13461, section 2.2)

The noise densities are the published defaults and can be set; the best value depends on the model (Wettig et al. 2023,
arXiv:2202.08005).

Span corruption marks spans with numbered sentinels (`<extra_id_0>`, …) if the tokenizer has them. Tokenizers trained here
have only a mask token: every span is replaced by that mask, and their order identifies them.

The corruption is a pure function of (seed, epoch, example): resuming a run needs no saved state, and the number of
processes does not matter.

Dimensions: T tokens of a block, U of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmctl.data.examples.batches import Arrays, block_lengths, collate
from llmctl.data.examples.layout import Layout, Sample
from llmctl.data.spec import SPAN_TOKENS
from llmctl.data.storing.tokens import TokenStore
from llmctl.errors import UsageError
from llmctl.store.border import border
from llmctl.types import IGNORED, Denoising, Tokens

Ids = NDArray[np.int64]

SHOWN_AS_MASK, SHOWN_AS_ANOTHER = 0.8, 0.1
"""Fractions of the selected tokens; the rest stay unchanged, so that the model cannot trust any visible token."""
SENTENCE_ENDS: Final = (".", "!", "?", "。", "！", "？", "\n")
CLOSING: Final = "\"'”’»)]）」』】》"
_SENTINEL: Final = "<extra_id_{}>"
_SALT: Final = 0xC0DE


@dataclass(frozen=True, eq=False)
class NoiseTokens:
    """The tokens of a vocabulary of V entries by their part in corrupting text."""

    mask: int
    """Replaces a masked token or an infilled span; the first sentinel if the tokenizer has no mask token."""
    sentinels: Ids
    """Replace spans in order, the last one also every further span: the numbered sentinels, else the mask alone."""
    ordinary: Ids
    """Ids of all tokens except control tokens."""
    is_ordinary: NDArray[np.bool_]
    """(V,) the same as a mask over ids."""
    sentence_end: NDArray[np.bool_]
    """(V,) tokens that end a sentence, with or without closing quotes and brackets."""
    closing: NDArray[np.bool_]
    """(V,) closing quotes and brackets, which belong to the sentence before them."""
    boundary: NDArray[np.bool_]
    """(V,) control tokens between documents."""


def noise_tokens(tokenizer: Any) -> NoiseTokens:
    """Classify the vocabulary of a tokenizer. Raises `UsageError` if it has neither a mask token nor sentinels."""
    backend = tokenizer.backend_tokenizer
    numbered = [each for number in range(100) if (each := backend.token_to_id(_SENTINEL.format(number))) is not None]
    own: int | None = tokenizer.mask_token_id
    masks = [own] if own is not None else numbered[:1]
    if not masks:
        raise UsageError(
            "the tokenizer has no mask token, which denoising plain text needs",
            hint="preprocess with a tokenizer trained here, or with one that has a mask_token",
        )
    control = [each for each in (*tokenizer.all_special_ids, *numbered) if each < len(tokenizer)]
    is_ordinary = np.ones(len(tokenizer), bool)
    is_ordinary[control] = False
    # An unknown token is part of a sentence like any other word.
    boundary = ~is_ordinary
    boundary[[each for each in (tokenizer.unk_token_id, *masks, *numbered) if each is not None]] = False
    with border("the tokenizer cannot decode its vocabulary", tokenizer.name_or_path, silent=True):
        texts = backend.decode_batch([[number] for number in range(len(tokenizer))], skip_special_tokens=True)
    bare = [text.rstrip(CLOSING) for text in texts]
    sentence_end = np.array([each.endswith(SENTENCE_ENDS) for each in bare]) & is_ordinary
    closing = np.array([bool(text) and not left for text, left in zip(texts, bare, strict=True)]) & is_ordinary
    sentinels = np.array(numbered or masks, np.int64)
    return NoiseTokens(masks[0], sentinels, np.flatnonzero(is_ordinary), is_ordinary, sentence_end, closing, boundary)


def masked_lm(ids: Ids, special: NoiseTokens, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> inputs (T,) and targets (T,), `IGNORED` at positions that are not predicted.

    Selects a fraction `noise_density` of the ordinary tokens, at least one and never a control token: 80 % of them are
    replaced by the mask, 10 % by a random token, 10 % stay unchanged.
    """
    inputs, targets = ids.copy(), np.full(len(ids), IGNORED, np.int64)
    positions = np.flatnonzero(special.is_ordinary[ids])
    selected = rng.permutation(positions)[: max(1, round(noise_density * len(positions)))]
    targets[selected] = ids[selected]
    draw = rng.random(len(selected))
    inputs[selected[draw < SHOWN_AS_MASK]] = special.mask
    randomized = selected[(draw >= SHOWN_AS_MASK) & (draw < SHOWN_AS_MASK + SHOWN_AS_ANOTHER)]
    inputs[randomized] = rng.choice(special.ordinary, len(randomized))
    return inputs, targets


def span_corruption(ids: Ids, special: NoiseTokens, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> the text with each span replaced by its sentinel, and the target (U,): each span after its sentinel, then
    a final sentinel. Cuts at least one token out and, from a text of more than one, leaves at least one."""
    cut = min(max(1, round(noise_density * len(ids))), max(1, len(ids) - 2))
    # Keeps the target, with its sentinels, no longer than the text.
    count = max(1, min(round(cut / SPAN_TOKENS), cut, len(ids) - cut - 1))
    lengths, gaps = _random_partition(cut, count, rng), _random_partition(max(len(ids) - cut, 1), count, rng)
    inputs: list[Ids] = []
    targets: list[Ids] = []
    place = 0
    for number, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        sentinel = _sentinel(special, number)
        begin = min(place + gap, len(ids) - length)  # a text of one token has no gap before it
        inputs += [ids[place:begin], sentinel]
        targets += [sentinel, ids[begin : begin + length]]
        place = begin + length
    return np.concatenate([*inputs, ids[place:]]), np.concatenate([*targets, _sentinel(special, count)])


def bart_noise(ids: Ids, special: NoiseTokens, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> the text after sentence permutation and text infilling, and the original text (T,)."""
    return text_infilling(sentence_permutation(ids, special, rng), special, noise_density, rng)[0], ids


def sentence_permutation(ids: Ids, special: NoiseTokens, rng: np.random.Generator) -> Ids:
    """(T,) -> (T,) the same tokens, with the sentences of each document in random order.

    A sentence includes all tokens that end or close it: `?!`, `.”`, a newline. A fragment at the start or end of a block
    counts as a sentence. Control tokens between documents keep their positions.
    """
    ended = special.sentence_end[ids]
    for place in np.flatnonzero(special.closing[ids] & ~ended):
        ended[place] = place > 0 and ended[place - 1]
    continues = special.sentence_end[ids] | special.closing[ids]
    boundary = special.boundary[ids]
    between = (ended[:-1] & ~continues[1:]) | boundary[:-1] | boundary[1:]  # (T-1,) whether to cut after each token
    found: list[Ids] = []
    document: list[Ids] = []
    for piece in np.split(ids, np.flatnonzero(between) + 1):
        if len(piece) and special.boundary[piece[0]]:
            found += [*_shuffled(document, rng), piece]
            document = []
        else:
            document.append(piece)
    return np.concatenate([*found, *_shuffled(document, rng)])


def _shuffled(pieces: Sequence[Ids], rng: np.random.Generator) -> list[Ids]:
    return [pieces[number] for number in rng.permutation(len(pieces))]


def text_infilling(ids: Ids, special: NoiseTokens, noise_density: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """(T,) -> the text with each span replaced by one mask, and the original text (T,). A span may be empty, which
    inserts a mask: the model has to learn how many tokens a mask stands for."""
    wanted = min(max(1, round(noise_density * len(ids))), max(1, len(ids) - 1))
    lengths: list[int] = []
    while (left := wanted - sum(lengths)) > 0:
        lengths.append(min(int(rng.poisson(SPAN_TOKENS)), left))
    kept = len(ids) - wanted
    # Each span precedes one of the kept tokens or follows the last; spans at the same position are adjacent.
    gaps = np.diff(np.sort(rng.integers(0, kept + 1, len(lengths))), prepend=0)
    inputs: list[Ids] = []
    place = 0
    for gap, length in zip(gaps.tolist(), lengths, strict=True):
        inputs += [ids[place : place + gap], np.array([special.mask])]
        place += gap + length
    return np.concatenate([*inputs, ids[place:]]), ids


def _sentinel(special: NoiseTokens, number: int) -> Ids:
    return special.sentinels[[min(number, len(special.sentinels) - 1)]]


def _random_partition(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """Partition `total` at random into `count` positive integers."""
    cuts = np.sort(rng.permutation(total - 1)[: count - 1] + 1)
    found: list[int] = np.diff(np.concatenate([[0], cuts, [total]])).tolist()
    return found


@dataclass(frozen=True)
class DenoisingBlocks:
    """A split's token stream cut into blocks, each corrupted differently in every epoch.

    A block is wrapped in the control tokens that fine-tuning will put around a text: example i is made of the tokens
    [i·n, (i+1)·n), where n is `size` minus those control tokens.
    """

    store: TokenStore
    size: int
    layout: Layout
    pad: int
    special: NoiseTokens
    denoising: Denoising
    seed: int

    @property
    def around(self) -> int:
        """Control tokens of a block: one on each side for an encoder, one at the end of an encoder-decoder's source."""
        return 2 if self.denoising.scheme == "masked" else 1

    @property
    def tokens_each(self) -> int:
        return self.size - self.around

    def __len__(self) -> int:
        return -(-len(self.store.values) // self.tokens_each)

    def lengths(self) -> NDArray[np.int64]:
        last = len(self.store.values) - (len(self) - 1) * self.tokens_each + self.around
        return block_lengths(len(self), self.size, last)

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> Arrays:
        """`input_ids` and `attention_mask` (B, T); `labels` (B, T) at the masked positions, or (B, U) target tokens."""
        # Inputs and targets are collated like source and target, for an encoder too.
        return collate(
            [self._sample(index, epoch) for index in indices], "encoder-decoder", self.pad, context=self.layout.context
        )

    def _sample(self, index: int, epoch: int) -> Sample:
        ids = self.store.values[index * self.tokens_each : (index + 1) * self.tokens_each].astype(np.int64)
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch, index, _SALT]))
        scheme, noise_density = self.denoising
        if scheme == "masked":
            uncorrupted = self.layout.sample([Tokens("text", ids, False)])
            inputs, targets = masked_lm(uncorrupted.input_ids, self.special, noise_density, rng)
            return uncorrupted._replace(input_ids=inputs, target_ids=targets)
        inputs, targets = (span_corruption if scheme == "spans" else bart_noise)(ids, self.special, noise_density, rng)
        return self.layout.sample([Tokens("source", inputs, False), Tokens("target", targets, True)])
