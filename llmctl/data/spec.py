"""Text settings of `preprocess`, and constants shared by the data modules."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import StrictBool, StrictFloat, StrictInt

from llmctl.config import Spec, key

TOKENIZERS: Final = ("bpe", "unigram", "wordpiece", "char", "word", "byte")
"""Kinds of tokenizer that `preprocess` can train; any other tokenizer name is a folder or a model."""

SPLITS: Final = ("train", "validation", "test")

PromptFormat = Literal["document", "control", "template", "plain", "pair", "single"]
"""How a model is prompted; see `layout.py`."""

INSTRUCTION_FORMATS: Final = ("template", "plain")
"""Prompt formats (see `layout.py`) that contain an instruction."""

CHAT_ROLES: Final = ("system", "user", "assistant")
"""Roles of the turns of a conversation."""

PADDED_TO: Final = 8
"""Batches of records are padded to a multiple of this width, because oneDNN compiles and keeps kernels for every width.
Measured on review sentences: a small BERT needs 644 MiB instead of 843."""
SPAN_TOKENS: Final = 3
"""Mean length in tokens of the spans that denoising removes from a text."""
IN_LOSS: Final = 0x80
"""Bit of a segment's role in the token store that marks the segment as in the loss."""


class Clean(Spec):
    """How text is cleaned before any other step."""

    unicode: Literal["nfc", "nfkc", "none"] = key("nfc", "Unicode normalisation form")
    control: StrictBool = key(True, "remove control characters except tab and newline")
    whitespace: StrictBool = key(True, "unify newlines, fold runs of blanks, strip blanks at line ends")
    lowercase: StrictBool = key(False, "convert to lower case")
    min_chars: StrictInt = key(1, "drop records with a text of fewer characters", ge=1)


class Dedup(Spec):
    """Which duplicates are dropped."""

    exact: StrictBool = key(True, "drop records with the same cleaned content as an earlier one")


class Splits(Spec):
    """Fractions of records held out; a hash of its content assigns each record to a split."""

    validation: StrictFloat = key(0.1, "fraction held out for validation during training", ge=0, lt=1)
    test: StrictFloat = key(0.1, "fraction held out for final evaluation", ge=0, lt=1)
