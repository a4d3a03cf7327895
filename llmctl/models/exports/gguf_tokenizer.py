"""A tokenizer as the metadata of a GGUF file, and the tokenizer that llama.cpp makes of it.

A GGUF file cannot hold a pre-tokenizer: it names one of a list that llama.cpp knows (`llama-vocab.cpp`). The name is
found by trial: the tokenizer is rebuilt as llama.cpp would, and must give the same ids for texts in many scripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from gguf import GGUFReader, GGUFWriter, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from llmctl.errors import UsageError
from llmctl.models.exports.gguf_sentencepiece import SentencePieces, sentence_pieces
from llmctl.models.exports.probes import TEXTS

Encode = Callable[[str], Sequence[int]]

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASELESS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_LINES: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class PreTokenizer(NamedTuple):
    """`expressions` cut a text one after the other. `whole_words`: a word of the vocabulary needs no merges."""

    expressions: tuple[str, ...]
    whole_words: bool = False


PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    "gpt-2": PreTokenizer((_GPT2,)),
    "smollm": PreTokenizer((r"\p{N}", _GPT2)),
    "qwen2": PreTokenizer((_CASELESS + r"\p{N}" + _LINES,)),
    "llama-bpe": PreTokenizer((_CASELESS + r"\p{N}{1,3}" + _LINES,), whole_words=True),
    "dbrx": PreTokenizer((_CASELESS + r"\p{N}{1,3}" + _LINES,)),
}
"""By llama.cpp's name."""


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """`merges` are pairs joined by a space; `pre` is a key of `PRE_TOKENIZERS`."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    pre: str

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that llama.cpp makes of it, for texts in which the names of control tokens are plain text."""
        known = PRE_TOKENIZERS[self.pre]
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in self.merges)]
        vocabulary = {token: number for number, token in enumerate(self.tokens)}
        rebuilt = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=known.whole_words))
        cuts = [pre_tokenizers.Split(Regex(each), "isolated") for each in known.expressions]
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        rebuilt.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_only])
        added = [
            AddedToken(token, normalized=False)
            for token, kind in zip(self.tokens, self.types, strict=True)
            if kind == TokenType.USER_DEFINED
        ]
        rebuilt.add_tokens(added)
        return rebuilt


Vocabulary = GgufVocabulary | SentencePieces


def vocabulary_of(tokenizer: Any, size: int, encode: Encode) -> Vocabulary:
    """The vocabulary of a fast transformers tokenizer for a model with `size` entries.

    `encode` gives the ids that a text must have. Raises `UsageError`, in one line, for a tokenizer that llama.cpp has no
    name for.
    """
    backend = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix"):
        raise UsageError(
            f"a tokenizer of the kind {model['type']} cannot be exported to gguf, which holds byte-level BPE and that of "
            "Llama 2: preprocess with --tokenizer bpe"
        )
    names = {number: token for token, number in backend.get_vocab(with_added_tokens=True).items()}
    added = backend.get_added_tokens_decoder()
    types = [
        TokenType.UNUSED
        if number not in names
        else TokenType.NORMAL
        if number not in added
        else TokenType.CONTROL
        if added[number].special
        else TokenType.USER_DEFINED
        for number in range(size)
    ]
    tokens = tuple(names.get(number, f"[PAD{number}]") for number in range(size))
    kinds = tuple(int(each) for each in types)
    possible: list[Vocabulary] = []
    if model.get("byte_fallback"):
        possible += sentence_pieces(model, tokens, kinds)
    else:
        merges = tuple(each if isinstance(each, str) else " ".join(each) for each in model["merges"])
        possible += [GgufVocabulary(tokens, kinds, merges, pre) for pre in PRE_TOKENIZERS]
    texts = [*TEXTS, *(token.content for token in added.values())]
    closest = list(texts)
    for each in possible:
        wrong = differing(each.tokenizer(), encode, texts)
        if not wrong:
            return each
        closest = min(closest, wrong, key=len)
    raise UsageError(
        f"llama.cpp would read this tokenizer otherwise: with {_tried(possible)} it gives other ids, for example for "
        f"{closest[0][:40]!r}"
    )


def _tried(possible: Sequence[Vocabulary]) -> str:
    names = [each.pre for each in possible if isinstance(each, GgufVocabulary)]
    return f"each pre-tokenizer that it knows ({', '.join(names)})" if names else "or without a blank before each text"


def differing(rebuilt: Tokenizer, encode: Encode, texts: Sequence[str]) -> list[str]:
    """The texts to which the two tokenizers give different ids."""
    return [text for text in texts if rebuilt.encode(text, add_special_tokens=False).ids != list(encode(text))]


def read(file: Path) -> Vocabulary:
    """The vocabulary that a GGUF file holds."""
    fields = GGUFReader(file).fields

    def value(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"].contents()

    tokens, types = tuple(value("tokens")), tuple(value("token_type"))
    if value("model") == "llama":
        return SentencePieces(tokens, types, tuple(value("scores")), bool(value("add_space_prefix")))
    return GgufVocabulary(tokens, types, tuple(value("merges")), str(value("pre")))
