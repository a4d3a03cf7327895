"""What a split is learned as: records one by one, blocks of a text, or blocks that have to be mended."""

from __future__ import annotations

from llmctl.data.batches import Blocks, Records
from llmctl.data.corruption import DenoisingBlocks, marks_of
from llmctl.data.layout import Layout
from llmctl.data.tokens import TokenStore
from llmctl.types import Denoising, Examples


def examples(
    store: TokenStore, layout: Layout, *, block_size: int | None, denoising: Denoising | None = None, seed: int = 0
) -> Examples:
    """A split as numbered examples.

    `block_size`: tokens of a block, of packed tasks; None for records. `denoising`: how a model that is no decoder learns
    from blocks, what is taken out of them being drawn by `seed`.
    """
    own = layout.tokenizer.pad_token_id
    pad = own if own is not None else layout.eos
    if block_size is None:
        return Records(store, layout, pad)
    if denoising is None:
        return Blocks(store, block_size)
    size = min(block_size, layout.context or block_size)
    return DenoisingBlocks(store, size, layout, pad, marks_of(layout.tokenizer), denoising, seed)
