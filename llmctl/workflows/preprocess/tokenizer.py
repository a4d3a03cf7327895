"""The tokenizer of prepared data: trained on its train split, or one that exists."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from llmctl.script import script_of
from llmctl.store import atomic
from llmctl.store.prepared import TokenizerFacts
from llmctl.types import Event, EventSink
from llmctl.workflows.preprocess.checks import PreprocessPlan

SCRIPT_TEXTS: Final = 200
SCRIPT_CHARACTERS: Final = 1000
"""Texts, and characters of each, that the script of a text is found by."""
ONE_BY_ONE: Final = ("chinese", "japanese")
"""Scripts of which the tokenizer `word` makes every character a word."""


def make_tokenizer(plan: PreprocessPlan, emit: EventSink, folder: Path, characters: int) -> TokenizerFacts:
    """Train a tokenizer on the train split, which has that many characters, or copy an existing one."""
    from llmctl.data.storing.text import read_text, shards
    from llmctl.data.tokenizing import tokenizers
    from llmctl.data.tokenizing.codes import open_codes

    config, out = plan.config, folder / "tokenizer"
    if plan.tokenizer is not None:
        tokenizers.import_tokenizer(plan.tokenizer, out)
        known = open_codes(out)
        kind = str(type(known.tokenizer.model).__name__).lower()
    else:
        kind = config.tokenizer
        limit = tokenizers.sample_size(kind, config.vocab_size)
        emit(Event("progress", {"stage": "tokenizer", "characters": min(characters, limit)}))
        if characters > limit > 0:
            message = (
                f"training the tokenizer on {limit:,} characters, sampled evenly from {characters:,} in the train split"
            )
            emit(Event("note", {"text": message}))

        def texts() -> Iterator[str]:
            for record in read_text(shards(folder / "text", "train")):
                yield from (segment.text for segment in plan.task.segments(record) if segment.audio is None)

        segmented = config.clean.segment != "none"
        if (
            kind == "word"
            and not segmented
            and script_of(text[:SCRIPT_CHARACTERS] for text in islice(texts(), SCRIPT_TEXTS)) in ONE_BY_ONE
        ):
            message = (
                "the text is Chinese or Japanese, which has no blanks between words: each character is a word; "
                "--segment jieba cuts Chinese into words"
            )
            emit(Event("note", {"text": message}))
        trained = tokenizers.train(kind, texts, characters, config.vocab_size, segmented=segmented)
        tokenizers.save(trained, out)
        known = open_codes(out)
    size = known.tokenizer.get_vocab_size(with_added_tokens=True)
    return TokenizerFacts(kind=kind, vocab_size=size, sha256=atomic.sha256(out / "tokenizer.json"))
