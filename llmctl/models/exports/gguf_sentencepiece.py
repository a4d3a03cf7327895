"""The vocabulary of a tokenizer of Llama 2's kind in a GGUF file: BPE over characters, where a blank is ▁ and a character that
has no piece becomes its bytes.

llama.cpp (`llm_tokenizer_spm` in `llama-vocab.cpp`) reads no merges: of all neighbours that together are a piece it joins those
whose piece has the highest score. A score here is the rank of the merge that makes the piece.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Tokenizer, models, normalizers

BLANK: Final = "▁"
_BYTE: Final = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class SentencePieces:
    """`prefixed`: a blank is put before each text."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    prefixed: bool

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_scores(self.scores)
        writer.add_add_space_prefix(self.prefixed)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that llama.cpp makes of it, for texts in which the names of control tokens are plain text."""
        vocabulary = {token: number for number, token in enumerate(self.tokens)}
        merges = sorted(
            (-self.scores[number], token[:cut], token[cut:])
            for token, number in vocabulary.items()
            for cut in range(1, len(token))
            if token[:cut] in vocabulary and token[cut:] in vocabulary
        )
        unknown = next((t for t, kind in zip(self.tokens, self.types, strict=True) if kind == TokenType.UNKNOWN), None)
        rebuilt = Tokenizer(
            models.BPE(
                vocab=vocabulary,
                merges=[(left, right) for _, left, right in merges],
                unk_token=unknown,
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        prefix = [normalizers.Prepend(BLANK)] if self.prefixed else []
        rebuilt.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", BLANK)])
        added = [t for t, kind in zip(self.tokens, self.types, strict=True) if kind == TokenType.USER_DEFINED]
        rebuilt.add_tokens([AddedToken(token, normalized=False) for token in added])
        return rebuilt


def sentence_pieces(model: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> list[SentencePieces]:
    """The vocabularies that llama.cpp may read as the BPE `model` of a tokenizer.json, with these tokens."""
    pairs = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    scores = tuple(-float(ranks.get(token, len(pairs))) for token in tokens)
    kinds = tuple(
        TokenType.UNKNOWN
        if token == model.get("unk_token")
        else TokenType.BYTE
        if _BYTE.fullmatch(token) and kind == TokenType.NORMAL
        else kind
        for token, kind in zip(tokens, types, strict=True)
    )
    return [SentencePieces(tuple(tokens), tuple(map(int, kinds)), scores, prefixed) for prefixed in (True, False)]
