"""Decoding generated ids: multi-token characters, spaces, stop texts, and which text is safe to show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from llmctl.engines.text import AnswerText, StopText, continuation, read, settled


def stream(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = (), before: int = 1) -> list[str]:
    answer = AnswerText(tokenizer, before, ends={2}, limit=1000, stops=stops, stream=True)
    pieces: list[str] = []
    for token in ids:
        if answer.finish_reason is None:
            answer.add(token)
            pieces.append(answer.fresh())
    if answer.finish_reason is None:
        answer.finish()
        pieces.append(answer.fresh())
    assert answer.text == read(tokenizer, before, ids, ends={2}, stops=stops).text
    return [piece for piece in pieces if piece]


def test_half_a_character_is_never_shown(tokenizer: Any) -> None:
    text = "思鬱𠀀é😀 fox"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = stream(tokenizer, ids)
    assert len(ids) > len(text), "every character here takes several tokens"
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 5


def test_a_long_answer_is_decoded_in_windows(tokenizer: Any) -> None:
    text = "The quick 思鬱𠀀 brown é😀 fox jumps. " * 20
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > 10 * AnswerText.WINDOW
    assert "".join(stream(tokenizer, ids)) == text
    stop = text[60:160]  # across a window
    assert "".join(stream(tokenizer, ids, (stop,))) == text[: text.index(stop)]


def test_bytes_that_never_become_a_character_are_shown_in_the_end(tokenizer: Any) -> None:
    ids = tokenizer("思", add_special_tokens=False).input_ids[:-1]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)
    assert tokenizer.decode(ids)


def test_a_stop_text_across_tokens_is_never_shown(tokenizer: Any) -> None:
    ids = tokenizer("The quick END brown", add_special_tokens=False).input_ids
    pieces = stream(tokenizer, ids, (" END", "zzz"))
    assert "".join(pieces) == "The quick"
    assert not any("E" in piece for piece in pieces)


def test_text_that_only_looked_like_a_stop_text_is_shown_later(tokenizer: Any) -> None:
    ids = tokenizer("The quick EN brown", add_special_tokens=False).input_ids
    assert "".join(stream(tokenizer, ids, (" END",))) == "The quick EN brown"


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("abc", (), "abc"),
        ("abc\ufffd\ufffd", (), "abc"),
        ("a\ufffdc", (), "a\ufffdc"),
        ("ab<", ("<end>",), "ab"),
        ("ab<en", ("<end>", "b<enough"), "a"),
        ("ab<e ", ("<end>",), "ab<e "),
    ],
)
def test_settled(text: str, stops: tuple[str, ...], shown: str) -> None:
    assert settled(text, stops) == shown


def test_the_end_token_and_everything_after_it_are_not_text(tokenizer: Any) -> None:
    [*ids] = tokenizer("fox", add_special_tokens=False).input_ids
    found = read(tokenizer, 1, [*ids, 2, 0, 0, *ids], ends={2}, stops=())
    assert found == ("fox", "stop", len(ids))
    assert "".join(stream(tokenizer, [*ids, 2, *ids])) == "fox"


def test_tokens_are_counted_up_to_the_one_that_completes_the_stop_text(tokenizer: Any) -> None:
    ids = [each for char in "ab-cd-ef" for each in tokenizer(char, add_special_tokens=False).input_ids]
    assert read(tokenizer, 1, [*ids, 0, 0], ends={2}, stops=("d-",)) == ("ab-c", "stop", 6)


def test_the_space_before_the_first_word_belongs_to_the_answer() -> None:
    """A SentencePiece-like decoder drops the blank of the first token it sees."""
    backend = Tokenizer(WordLevel({"<pad>": 0, "▁the": 1, "▁cat": 2, "s": 3}, unk_token="<pad>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    assert words.decode([2]) == "cat"
    assert continuation(words, 1, [2, 3]) == " cats"
    assert continuation(words, 0, [2, 3]) == "cats"


def test_the_stopping_criterion_sees_only_what_was_generated(tokenizer: Any) -> None:
    fox = tokenizer("fox", add_special_tokens=False).input_ids
    dog = tokenizer("dog", add_special_tokens=False).input_ids
    prompt = [1, *fox]
    criterion = StopText(tokenizer, ("fox",), width=len(prompt))
    length = max(len(fox), len(dog))
    rows = [prompt + each + [0] * (length - len(each)) for each in (fox, dog)]
    assert criterion(torch.tensor(rows), None).tolist() == [True, False]
