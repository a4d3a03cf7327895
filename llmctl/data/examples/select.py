"""Training examples of a split: single records, blocks of text, or blocks to denoise."""

from __future__ import annotations

from llmctl.data.examples.batches import Blocks, Records
from llmctl.data.examples.layout import Layout
from llmctl.data.examples.noising import DenoisingBlocks, noise_tokens
from llmctl.data.examples.pairs import Pairs
from llmctl.data.examples.speech import SpeechRecords
from llmctl.data.storing.tokens import TokenStore
from llmctl.types import Denoising, Examples, Hearing, Role


def examples(
    store: TokenStore,
    layout: Layout,
    *,
    block_size: int | None,
    denoising: Denoising | None = None,
    pairs_for: Role | None = None,
    seed: int = 0,
    hearing: Hearing | None = None,
) -> Examples:
    """A split as numbered examples.

    `block_size`: tokens of a block for packed tasks; None for single records. `denoising`: the objective of encoders and
    encoder-decoders on blocks; `seed` determines their corruption. `pairs_for`: records are preference pairs, for a model
    that answers in this role. `hearing`: what a speech model reads.
    """
    own = layout.tokenizer.pad_token_id
    pad = own if own is not None else layout.eos
    if hearing is not None:
        return SpeechRecords(store, layout, pad, hearing)
    if pairs_for is not None:
        return Pairs(store, layout, pad, pairs_for)
    if block_size is None:
        return Records(store, layout, pad)
    if denoising is None:
        return Blocks(store, block_size)
    size = min(block_size, layout.context or block_size)
    return DenoisingBlocks(store, size, layout, pad, noise_tokens(layout.tokenizer), denoising, seed)
