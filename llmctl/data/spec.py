"""Text settings of `preprocess`, and constants shared by the data modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import StrictBool, StrictFloat, StrictInt, ValidationError, create_model, model_validator

from llmctl.config import Spec, UsageValueError, flag, key
from llmctl.errors import IntegrityError

TOKENIZERS: Final = ("bpe", "unigram", "wordpiece", "char", "word", "byte")
"""Kinds of tokenizer that `preprocess` can train; any other tokenizer name is a folder or a model."""

SPLITS: Final = ("train", "validation", "test")

PromptFormat = Literal["document", "control", "template", "plain", "pair", "single", "transcript"]
"""How a model is prompted; see `layout.py`."""

INSTRUCTION_FORMATS: Final = ("template", "plain")
"""Prompt formats (see `layout.py`) that contain an instruction."""

CHAT_ROLES: Final = ("system", "user", "assistant")
"""Roles of the turns of a conversation."""

PADDED_TO: Final = 8
"""Batches of records are padded to a multiple of this width, because oneDNN compiles and keeps kernels for every width.
Measured on review sentences: a small BERT needs 644 MiB instead of 843."""
SAMPLE_RATE: Final = 16_000
"""Samples per second of every recording, once decoded."""
FRAME_SAMPLES: Final = 160
"""Samples from one frame of features to the next: 10 ms."""
SPAN_TOKENS: Final = 3
"""Mean length in tokens of the spans that denoising removes from a text."""
IN_LOSS: Final = 0x80
"""Bit of a segment's role in the token store that marks the segment as in the loss."""


STOPWORDS: Final = ("en", "zh")
"""Lists of stop words that come with llmctl, in `stopwords/`."""


class Clean(Spec):
    """How text is cleaned before any other step."""

    unicode: Literal["nfc", "nfkc", "none"] = key("nfc", "Unicode normalisation form")
    control: StrictBool = key(True, "remove control characters except tab and newline")
    whitespace: StrictBool = key(True, "unify newlines, fold runs of blanks, strip blanks at line ends")
    indentation: StrictBool = key(True, "keep blanks at the start of lines, as code, YAML and lists need them")
    lowercase: StrictBool = key(False, "convert to lower case")
    segment: Literal["none", "jieba"] = flag("none", "jieba: cut Chinese into words, joined by blanks", panel="Text")
    dictionary: Path | None = key(
        None, "user dictionary of jieba: a word on each line, with frequency and tag if you like"
    )
    stopwords: tuple[str, ...] = flag(
        (), "remove stop words: en, zh, or a file with one on each line; repeatable", panel="Text"
    )
    min_chars: StrictInt = key(1, "drop records with a text of fewer characters", ge=1)

    @model_validator(mode="after")
    def _dictionary_of_a_segmenter(self) -> Self:
        if self.dictionary is not None and self.segment == "none":
            raise UsageValueError("dictionary is for segment: jieba", "add --segment jieba")
        return self


class CleanRules(Clean):
    """The rules with the content of the files that they name, as prepared data and models record them."""

    stopword_list: tuple[str, ...] = key((), "all stop words, in lower case")
    dictionary_entries: tuple[str, ...] = key((), "lines of the user dictionary")

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Self:
        """The rules recorded in a manifest or with a model: version 0.1 had no `indentation` and folded it.

        Raises `IntegrityError` for what are none.
        """
        try:
            return cls.model_validate({"indentation": False, **values})
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"]))
            raise IntegrityError(
                f"the recorded rules of cleaning are not valid: clean.{field}", hint="preprocess again, with --force"
            ) from error


class Dedup(Spec):
    """Which duplicates are dropped."""

    exact: StrictBool = key(True, "drop records with the same cleaned content as an earlier one")
    near: StrictFloat | None = key(
        None,
        "drop records whose shingles have at least this Jaccard index with those of another one: 0.8",
        ge=0.3,
        le=1,
    )
    shingle: StrictInt = key(3, "words in a shingle; characters in scripts without spaces between words", ge=1, le=100)


SplitRule = Literal["auto", "files", "content"]

if TYPE_CHECKING:
    _From = Spec
else:  # `from` is a keyword of Python, so that it cannot be written as a field of a class
    _From = create_model(
        "_From",
        __base__=Spec,
        **{
            "from": (
                SplitRule,
                key(
                    "auto",
                    "what assigns a record to a split: files named train, validation (valid, dev, val) and test; the hash "
                    "of the content; auto: the files if they name train and a held-out split",
                ),
            )
        },
    )


class Splits(_From):
    """What assigns records to splits, and the fractions of records held out by a hash."""

    validation: StrictFloat = key(0.1, "fraction held out for validation during training", ge=0, lt=1)
    test: StrictFloat = key(0.1, "fraction held out for final evaluation", ge=0, lt=1)
    hash: Literal["input", "record"] = key(
        "input", "what is hashed: what is asked, so that one input is in one split; record: the answer too, as in 0.1"
    )
    seed: StrictInt = key(
        0,
        "another number assigns records differently; needed to split a train split of llmctl again",
        ge=0,
        le=2**32 - 1,
    )

    @property
    def rule(self) -> SplitRule:
        """The value of `splits.from`."""
        rule: SplitRule = getattr(self, "from")
        return rule
