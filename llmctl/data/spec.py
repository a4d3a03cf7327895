"""What `preprocess` can be asked to do with text: light descriptions, nothing heavy."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import StrictBool, StrictFloat, StrictInt

from llmctl.config import Spec, key

TOKENIZERS: Final = ("bpe", "unigram", "wordpiece", "char", "word", "byte")
"""Kinds of tokenizer that are trained here; anything else that names a tokenizer is a folder or a model."""

SPLITS: Final = ("train", "validation", "test")

INSTRUCTION_FORMATS: Final = ("template", "plain")
"""Styles of `layout.py` in which a model is told in words what to do with a record."""

CHAT_ROLES: Final = ("system", "user", "assistant")
"""Of the turns of a conversation."""

PADDED_TO: Final = 8
"""Widths that batches of records are padded to a multiple of: oneDNN compiles its kernels anew for every width and keeps
them. Seen on review sentences: a small BERT takes 644 MiB in the place of 843."""
SPAN_TOKENS: Final = 3
"""Tokens of a span that is taken out of a plain text to be said again, on average."""
IN_LOSS: Final = 0x80
"""The bit of a segment's role in the token store that says that it is learned."""


class Clean(Spec):
    """How text is cleaned before anything else sees it."""

    unicode: Literal["nfc", "nfkc", "none"] = key("nfc", "Unicode normal form")
    control: StrictBool = key(True, "remove control characters other than tab and newline")
    whitespace: StrictBool = key(True, "one newline convention, runs of blanks folded, no blanks at line ends")
    lowercase: StrictBool = key(False, "fold to lower case")
    min_chars: StrictInt = key(1, "drop records whose text is shorter", ge=1)


class Dedup(Spec):
    """Which duplicates are dropped."""

    exact: StrictBool = key(True, "drop records whose cleaned content was seen before")


class Splits(Spec):
    """Fractions held out, by the hash of a record's content."""

    validation: StrictFloat = key(0.1, "fraction held out to choose by", ge=0, lt=1)
    test: StrictFloat = key(0.1, "fraction held out to score by", ge=0, lt=1)
