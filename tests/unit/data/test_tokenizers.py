"""Trained tokenizers: round trip, ids of control tokens, determinism, opening with transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from llmctl.data.reading.read import read_records
from llmctl.data.spec import TOKENIZERS
from llmctl.data.tokenizing import tokenizers
from llmctl.data.tokenizing.codes import open_codes
from llmctl.errors import ConfigError, IntegrityError, UsageError
from llmctl.store import tokenizers as files

SONNETS = [record.fields["text"] for record in read_records(["sonnets"])]
POEMS = [record.fields["text"] for record in read_records(["tang-poems"])]
CORPUS = SONNETS + POEMS
HARD = [
    "",
    " ",
    "don't  stop\n\n\tnow ",
    "héllo 世界 🎉👨\u200d👩 \U00020000",
    "<|pad|><|eos|> is text",
    "\u3000\u00a0\u2028\x85 x٣²Ⅷ  \n  ",
    "##a ▁▁b ▁Ġ",
    "x" * 500 + " " * 300,
    "e\u0301\u0301\u0301",
]


def trained(kind: str, texts: list[str] = CORPUS, size: int = 6000) -> Any:
    return tokenizers.train(kind, lambda: texts, sum(map(len, texts)), size)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_training_text_decodes_to_itself(kind: str) -> None:
    tokenizer = trained(kind, size=10_000)
    for text in CORPUS[::20]:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "byte"])
def test_any_text_decodes_to_itself(kind: str) -> None:
    tokenizer = trained(kind)
    for text in HARD:
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert all(each >= len(tokenizers.CONTROL) for each in ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_same_text_gives_the_same_tokenizer(kind: str) -> None:
    assert trained(kind).to_str() == trained(kind).to_str()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_transformers_opens_it(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained(kind)
    tokenizers.save(tokenizer, tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert [opened.convert_tokens_to_ids(token) for token in tokenizers.CONTROL] == list(range(9))
    assert (opened.pad_token_id, opened.bos_token_id, opened.eos_token_id, opened.unk_token_id) == (0, 1, 2, 3)
    assert (opened.sep_token_id, opened.mask_token_id) == (4, 5)
    assert len(opened) == tokenizer.get_vocab_size(with_added_tokens=True)
    for text in (SONNETS[0], POEMS[0]):
        assert opened(text)["input_ids"] == tokenizer.encode(text).ids
    ours = tokenizers.load_tokenizer(tmp_path)
    assert ours("<|eos|> 'quoted' , .")["input_ids"] == tokenizer.encode("<|eos|> 'quoted' , .").ids
    if kind in ("bpe", "byte"):
        assert ours.decode(ours("<|eos|> 'quoted' , .")["input_ids"]) == "<|eos|> 'quoted' , ."


def test_chinese_words_are_characters() -> None:
    tokenizer = trained("word", size=20_000)
    assert tokenizer.encode(POEMS[0][-8:]).tokens == list(POEMS[0][-8:])
    assert tokenizer.encode("That thereby beauty's rose, die").tokens == [
        "That",
        " thereby",
        " beauty's",
        " rose",
        ",",
        " die",
    ]


def test_bytes_are_ids_in_order() -> None:
    assert trained("byte").encode("A\x00ÿ").ids == [9 + byte for byte in "A\x00ÿ".encode()]


@pytest.mark.parametrize(
    ("kind", "size", "numbers"), [("bpe", 100, ("100", "265")), ("unigram", 264, ("264", "265")), ("char", 50, ("50",))]
)
def test_a_vocabulary_smaller_than_the_alphabet(kind: str, size: int, numbers: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        trained(kind, size=size)
    assert caught.value.exit_code == 2
    assert all(number in str(caught.value) for number in ("vocab_size", *numbers))


def test_the_training_sample_is_bounded_even_and_deterministic() -> None:
    texts = [f"{number} " * 50 for number in range(1000)]
    total = sum(map(len, texts))
    chosen = list(tokenizers.sample(texts, total, total // 10))
    assert chosen == list(tokenizers.sample(texts, total, total // 10))
    assert sum(map(len, chosen)) == pytest.approx(total / 10, rel=0.02)
    assert texts.index(chosen[-1]) > 980
    assert list(tokenizers.sample(texts, total, total)) == texts
    assert list(tokenizers.sample(["x" * 1000], 1000, 10)) == ["x" * 10]


def made(folder: Path, **settings: Any) -> Path:
    """A given tokenizer's folder, its settings changed; None removes one."""
    tokenizers.save(trained("bpe", SONNETS[:20], 400), folder)
    path = folder / "tokenizer_config.json"
    value = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: each for name, each in value.items() if each is not None}))
    return folder


def test_an_imported_tokenizer_is_copied_and_opens(tmp_path: Path) -> None:
    folder = made(tmp_path / "prepared" / "tokenizer")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "weights.bin").write_text("not a tokenizer's")
    found = files.find_tokenizer(tmp_path / "prepared")
    tokenizers.import_tokenizer(found, tmp_path / "copy")
    names = sorted(each.name for each in (tmp_path / "copy").iterdir())
    assert names == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert open_codes(tmp_path / "copy").eos == 2
    assert tokenizers.load_tokenizer(tmp_path / "copy").chat_template == "{{ messages }}"


def test_a_missing_pad_token_is_replaced_by_eos_and_reported(tmp_path: Path) -> None:
    folder = made(tmp_path / "t", pad_token=None)
    assert files.settings_of(folder)[1] == [
        "the tokenizer has no pad_token: eos_token <|eos|> is used as padding, always masked"
    ]
    tokenizers.import_tokenizer(folder, tmp_path / "copy")
    assert tokenizers.load_tokenizer(tmp_path / "copy").pad_token_id == 2


def test_an_encoder_tokenizer_ends_texts_with_its_separator(tmp_path: Path) -> None:
    folder = made(tmp_path / "t", eos_token=None, bos_token=None, cls_token="<|bos|>")
    tokenizers.import_tokenizer(folder, tmp_path / "copy")
    known = open_codes(tmp_path / "copy")
    assert (known.bos, known.eos) == (1, 4)


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no end-of-text token"):
        files.settings_of(made(tmp_path / "t", eos_token=None, sep_token=None))


def test_a_tokenizer_that_would_run_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="auto_map"):
        files.find_tokenizer(made(tmp_path / "a", auto_map={"AutoTokenizer": "x.Y"}))
    (made(tmp_path / "b") / "tokenization_x.py").write_text("")
    with pytest.raises(IntegrityError, match="never run"):
        files.find_tokenizer(tmp_path / "b")
    (tmp_path / "secret").write_text("{}")
    (made(tmp_path / "c") / "added_tokens.json").symlink_to(tmp_path / "secret")
    with pytest.raises(IntegrityError, match="leaves the folder"):
        files.find_tokenizer(tmp_path / "c")


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        files.find_tokenizer(tmp_path / "no")
    with pytest.raises(UsageError, match="no tokenizer in"):
        files.find_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    with pytest.raises(IntegrityError, match="cannot be opened"):
        open_codes(tmp_path)


def test_long_words_are_cut_for_training_and_ordinary_text_is_not() -> None:
    for text in (*SONNETS[:5], "".join(SONNETS), "".join(POEMS), "word " * 5_000, "一二三，" * 5_000, ""):
        assert list(tokenizers.cut_words(text)) == [text]
    for word in ("a" * 50_000, "一" * 50_000, "a" + "\u0301\u0316" * 25_000, "1" * 50_000):
        pieces = list(tokenizers.cut_words(word))
        assert "".join(pieces) == word
        assert max(map(len, pieces)) <= 2 * tokenizers.LONGEST_WORD
        few = "".join(tokenizers.cut_words(word, iter(range(3))))
        assert len(few) <= 6 * tokenizers.LONGEST_WORD
    text = "before " * 1000 + "a" * 20_000 + " after" * 1000
    assert "".join(tokenizers.cut_words(text, iter(()))).replace("a" * 2000, "") == text.replace("a" * 20_000, "")


def test_a_unigram_tokenizer_of_one_endless_word_is_trained_on_a_part_of_it() -> None:
    word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=150_000))
    tokenizer = tokenizers.train("unigram", lambda: [word], len(word), 400)
    assert tokenizer.decode(tokenizer.encode(word).ids, skip_special_tokens=False) == word


def test_chinese_without_punctuation_is_no_endless_word() -> None:
    text = "".join(random.Random(0).choices([*map(chr, range(0x4E00, 0x5000))], k=50_000))
    assert "".join(tokenizers.cut_words(text, iter(range(3)))) == text
