"""Every method of encoding gives exactly the ids of the tokenizer; the store returns what was written."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from llmctl.data.examples.batches import Blocks
from llmctl.data.reading.read import read_records
from llmctl.data.spec import TOKENIZERS
from llmctl.data.storing import tokens
from llmctl.data.storing.lengths import measure
from llmctl.data.storing.text import TextWriter, keep, read_text, row_groups
from llmctl.data.storing.tokens import TokenStore
from llmctl.data.tokenizing import pretokens, tokenizers
from llmctl.data.tokenizing.codes import Codes
from llmctl.data.tokenizing.encode import GroupJob, Rules, TokenEncoder, encode_group, encode_split
from llmctl.data.workers import Workers
from llmctl.errors import DataError, EnvironmentFault, IntegrityError
from llmctl.tasks.classification import Classification
from llmctl.tasks.language_modeling import LanguageModeling
from llmctl.tasks.spec import Task
from llmctl.tasks.translation import Translation
from llmctl.types import Record

SONNETS = [record.fields["text"] for record in read_records(["sonnets"])]
POEMS = [record.fields["text"] for record in read_records(["tang-poems"])]
PAIRS = list(read_records(["udhr-en-zh"]))
ODD = [
    "",
    " ",
    "\n\n x",
    "It's 'll 've\u2019s don't 'S''s",
    "<|pad|>\r\n\t x\x00\x1c\x1f",
    "\u3000\u00a0\u2028\x85 x٣²Ⅷ  \n  ",
    "\U00020000\U0001f468\u200d\U0001f469 \u0378 ǅ ª",
    " " * 300 + "x" * 500,
]


def trained(kind: str, size: int = 3000) -> Codes:
    texts = SONNETS + POEMS if kind != "char" else SONNETS
    return Codes(tokenizers.train(kind, lambda: texts, sum(map(len, texts)), size), 1, 2, size)


def plainly(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [each.ids for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def same(encoder: TokenEncoder, texts: list[str]) -> bool:
    ids, lengths = encoder.encode(texts)
    expected = plainly(encoder.codes.tokenizer, texts)
    return lengths.tolist() == [len(each) for each in expected] and ids.tolist() == list(chain.from_iterable(expected))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_method_equals_the_tokenizer(kind: str) -> None:
    encoder = TokenEncoder(trained(kind), chunk_characters=5_000, batch_characters=9_000)
    # Twice: the second time pre-tokens are remembered.
    for _ in range(2):
        assert same(encoder, SONNETS + POEMS + ODD)
    assert same(encoder, [])
    assert same(encoder, [""])


@pytest.mark.parametrize("limit", ["most_words", "most_characters"])
def test_the_pre_token_cache_is_bounded(limit: str) -> None:
    codes = trained("bpe")
    words = pretokens.Words(codes.tokenizer, **{limit: 50})
    encoder = TokenEncoder(codes, words=words)
    for start in range(0, len(POEMS), 40):
        assert same(encoder, POEMS[start : start + 40])
    assert 0 < words.known < 4_000


def test_text_with_few_repeats_bypasses_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TokenEncoder(trained("bpe"))
    letters = str.maketrans("0123456789", "abcdefghij")
    texts = [f"x{number}y ".translate(letters) * 3 for number in range(0, 10**6, 31)]
    assert same(encoder, texts)
    assert encoder._words is not None
    assert not encoder._words.pays
    assert same(encoder, texts + SONNETS)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_pieces_are_complete_and_split_between_pre_tokens(size: int) -> None:
    splitter = pretokens.Splitter(pre_tokenizers.ByteLevel(add_prefix_space=False))
    texts = [*SONNETS[:3], *POEMS[:3], *ODD, "a  b ! c 's d"]
    splitter.add(texts)
    for text in texts:
        parts = list(pretokens.pieces(text, size))
        assert "".join(parts) == text
        assert [word for part in parts for word in splitter.split(part)] == splitter.split(text)


def test_pre_tokens_equal_the_tokenizers() -> None:
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splitter = pretokens.Splitter(cut)
    every = [chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    texts = [*SONNETS, *POEMS, *ODD, *(f"a{each} {each}1{each}{each}! '{each}" for each in every)]
    splitter.add(texts)
    for text in texts:
        assert splitter.split(text) == [text[first:last] for _, (first, last) in cut.pre_tokenize_str(text)]


def test_other_tokenizers_encode_everything_themselves() -> None:
    vocabulary = {"[UNK]": 0, "the": 1, "and": 2, "thy": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    assert same(TokenEncoder(Codes(tokenizer, None, 0, 4)), SONNETS)
    lower = Tokenizer.from_str(trained("bpe").tokenizer.to_str())
    lower.normalizer = normalizers.Lowercase()
    assert same(TokenEncoder(Codes(lower, 1, 2, 3000)), SONNETS)


# ---------------------------------------------------------------------------------------------------------------


def written(folder: Path, task: Task, rows: list[dict[str, str]], split: str = "train", **limits: int) -> Path:
    with TextWriter(folder / "text", {column.name: column.kind for column in task.columns}, **limits) as text:
        for number, row in enumerate(rows):
            text.add(split, Record(str(number), row, f"f:{number}"), sum(map(len, row.values())))
    return folder / "text" / f"{split}-00000.parquet"


def test_documents_form_a_stream_with_bos_and_eos(tmp_path: Path) -> None:
    codes = trained("bpe")
    path = written(tmp_path, LanguageModeling(), [{"text": text} for text in POEMS[:5]])
    total = encode_split(LanguageModeling(), path, TokenEncoder(codes), tmp_path / "tokens", "train").tokens
    store = TokenStore.open(tmp_path / "tokens", "train")
    stream = [[1, *ids, 2] for ids in plainly(codes.tokenizer, POEMS[:5])]
    assert store.values.dtype == np.uint16
    assert store.values.tolist() == list(chain.from_iterable(stream))
    assert (len(store), store.total_tokens) == (5, total)
    [segment] = store.record(3)
    assert (segment.role, segment.ids.tolist(), segment.in_loss) == ("text", stream[3], True)
    assert store.label(0) == -1


@pytest.mark.parametrize("bos", [None, 2])
def test_eos_alone_separates_documents_without_a_different_bos(tmp_path: Path, bos: int | None) -> None:
    known = trained("bpe")
    codes = Codes(known.tokenizer, bos, 2, 70_000)
    path = written(tmp_path, LanguageModeling(), [{"text": text} for text in POEMS[:3]])
    encode_split(LanguageModeling(), path, TokenEncoder(codes), tmp_path / "tokens", "train")
    store = TokenStore.open(tmp_path / "tokens", "train")
    ids = plainly(known.tokenizer, POEMS[:3])
    assert store.values.dtype == np.uint32
    assert store.values.tolist() == [2, *chain.from_iterable([*each, 2] for each in ids)]
    assert store.record(1)[0].ids.tolist() == [*ids[1], 2]


def test_long_arrays_are_read_across_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, task = trained("bpe"), LanguageModeling()
    path = written(tmp_path, task, [{"text": text} for text in POEMS[:8]])
    encode_split(task, path, TokenEncoder(codes), tmp_path / "one", "train")
    monkeypatch.setattr(tokens, "SHARD_BYTES", 300)
    encode_split(task, path, TokenEncoder(codes), tmp_path / "several", "train")
    one, several = (TokenStore.open(tmp_path / name, "train") for name in ("one", "several"))
    files = sorted(each.name for each in (tmp_path / "several").glob("train.values*"))
    assert files[:2] == ["train.values-00001.npy", "train.values-00002.npy"]
    assert files[-1] == "train.values.npy"
    assert len(files) == -(-2 * one.total_tokens // 300)
    assert several.values[:].tolist() == one.values[:].tolist()
    for number in range(8):
        assert [each.ids.tolist() for each in several.record(number)] == [
            each.ids.tolist() for each in one.record(number)
        ]
    few, many = (Blocks(store, 64).arrays(range(len(Blocks(store, 64)))) for store in (one, several))
    assert all((few[name] == many[name]).all() for name in few)
    (tmp_path / "several" / files[1]).unlink()
    with pytest.raises(IntegrityError, match="inconsistent"):
        TokenStore.open(tmp_path / "several", "train")


def test_segments_of_a_pair_have_no_control_tokens(tmp_path: Path) -> None:
    codes = trained("bpe")
    rows = [dict(record.fields) for record in PAIRS]
    path = written(tmp_path, Translation(), [{"source": r["source"], "target": r["target"]} for r in rows])
    encode_split(Translation(), path, TokenEncoder(codes), tmp_path / "tokens", "train")
    store = TokenStore.open(tmp_path / "tokens", "train")
    assert len(store) == len(rows)
    for number in (0, 30, len(rows) - 1):
        source, target = store.record(number)
        assert (source.role, source.in_loss, target.role, target.in_loss) == ("source", False, "target", True)
        assert codes.tokenizer.decode(source.ids.tolist()) == rows[number]["source"]
        assert codes.tokenizer.decode(target.ids.tolist()) == rows[number]["target"]


def test_label_ids_come_from_the_train_split(tmp_path: Path) -> None:
    codes, task = trained("bpe"), Classification()
    path = written(tmp_path, task, [{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}])
    encode_split(task, path, TokenEncoder(codes), tmp_path / "tokens", "train", labels=("bad", "good"))
    store = TokenStore.open(tmp_path / "tokens", "train")
    assert [store.label(0), store.label(1)] == [1, 0]
    with pytest.raises(DataError, match=r"f:1:label.*'bad'"):
        encode_split(task, path, TokenEncoder(codes), tmp_path / "again", "train", labels=("good",))


def test_records_over_the_length_limit_leave_text_and_tokens(tmp_path: Path) -> None:
    codes, task = trained("byte"), Translation()
    rows = [{"source": "a" * n, "target": "b" * (9 - n)} for n in range(1, 9)]
    path = written(tmp_path, task, rows)
    found = encode_split(task, path, TokenEncoder(codes), tmp_path / "tokens", "train", max_length=5)
    assert found.kept.tolist() == [max(n, 9 - n) <= 5 for n in range(1, 9)]
    keep(path, found.kept)
    store = TokenStore.open(tmp_path / "tokens", "train")
    assert [record.fields["source"] for record in read_text(path)] == ["aaaa", "aaaaa"]
    assert [len(store.record(number)[0].ids) for number in range(len(store))] == [4, 5]


def test_an_empty_split_has_a_store(tmp_path: Path) -> None:
    encode_split(LanguageModeling(), [], TokenEncoder(trained("byte")), tmp_path / "tokens", "test")
    store = TokenStore.open(tmp_path / "tokens", "test")
    assert (len(store), store.total_tokens) == (0, 0)


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    codes, task = trained("bpe"), LanguageModeling()
    path = written(tmp_path, task, [{"text": text} for text in SONNETS + POEMS], group_characters=10_000)
    alone = encode_split(task, path, TokenEncoder(codes), tmp_path / "one", "train")
    tokenizers.save(codes.tokenizer, tmp_path / "tokenizer")
    with Workers(2) as workers:
        # Ctrl-C reaches every process of a terminal; the other one ended in a traceback while it was still starting.
        for other in multiprocessing.active_children():
            assert other.pid is not None
            os.kill(other.pid, signal.SIGINT)
        place = tmp_path / "tokenizer"
        several = encode_split(
            task, path, TokenEncoder(codes), tmp_path / "two", "train", executor=workers, tokenizer=place
        )
    assert alone.tokens == several.tokens
    names = sorted(each.name for each in (tmp_path / "one").iterdir())
    assert names == ["train.records.npy", "train.roles.npy", "train.segments.npy", "train.values.npy"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("noticed", ["before", "within"])
def test_a_killed_worker_process_is_reported(tmp_path: Path, noticed: str) -> None:
    codes, task = trained("bpe"), LanguageModeling()
    path = written(tmp_path, task, [{"text": text} for text in SONNETS], group_characters=1_000)
    tokenizers.save(codes.tokenizer, tmp_path / "tokenizer")
    with Workers(2) as workers:
        jobs = (GroupJob(tmp_path / "tokenizer", task, path, group, Rules({})) for group in range(row_groups(path)))
        pieces = workers.map(encode_group, jobs)
        if noticed == "within":
            next(pieces)
        [other] = multiprocessing.active_children()
        other.kill()
        other.join()
        with pytest.raises(EnvironmentFault, match="was killed"):
            list(pieces)


@pytest.mark.parametrize("part", ["segments", "records", "roles"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other", "kind"])
def test_lengths_of_a_damaged_store_are_refused(tmp_path: Path, part: str, damage: str) -> None:
    text = written(tmp_path, LanguageModeling(), [{"text": text} for text in POEMS[:3]])
    encode_split(LanguageModeling(), text, TokenEncoder(trained("byte")), tmp_path / "tokens", "train")
    assert measure(TokenStore.open(tmp_path / "tokens", "train")).records == 3
    path = tmp_path / "tokens" / f"train.{part}.npy"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:-8])
    elif damage == "kind":
        np.save(path, np.load(path).astype(np.float32))
    else:
        np.save(path, np.load(path)[:-1])
    with pytest.raises(IntegrityError, match=r"train"):
        measure(TokenStore.open(tmp_path / "tokens", "train"))


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_store_is_refused(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path, LanguageModeling(), [{"text": text} for text in POEMS[:3]])
    encode_split(LanguageModeling(), path, TokenEncoder(trained("byte")), tmp_path / "tokens", "train")
    values = tmp_path / "tokens" / "train.values.npy"
    if damage == "missing":
        values.unlink()
    elif damage == "cut":
        values.write_bytes(values.read_bytes()[:-3])
    else:
        np.save(values, np.load(values)[:-1])
    with pytest.raises(IntegrityError, match=r"train"):
        TokenStore.open(tmp_path / "tokens", "train")
