"""What is taken out of a plain text to be mended, by each of the three ways, as a function of (seed, epoch, example)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmctl.data.corruption import (
    DenoisingBlocks,
    Marks,
    corrupt_spans,
    denoise,
    infill,
    marks_of,
    mask_tokens,
    shuffle_sentences,
)
from llmctl.data.layout import Layout, prompt_format_for
from llmctl.data.tokenizers import load_tokenizer, save, train
from llmctl.data.tokens import TokenStore
from llmctl.errors import UsageError
from llmctl.types import IGNORED, Denoising, Family

SCHEMES: dict[str, tuple[Family, Denoising]] = {
    "masked": ("encoder", Denoising("masked", 0.15)),
    "spans": ("encoder-decoder", Denoising("spans", 0.15)),
    "infilling": ("encoder-decoder", Denoising("infilling", 0.3)),
}
MASK = 5
ORDINARY = np.arange(9, 400)


def marks(sentinels: tuple[int, ...] = (MASK,)) -> Marks:
    is_ordinary = np.ones(400, bool)
    is_ordinary[:9] = False
    nothing = np.zeros(400, bool)
    return Marks(MASK, np.array(sentinels), ORDINARY, is_ordinary, nothing, nothing, ~is_ordinary)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def text(length: int) -> Any:
    """Ordinary tokens that are all different, between a first and a last control token."""
    return np.concatenate([[1], 9 + rng(7).permutation(391)[: length - 2], [2]])


def test_of_a_text_fifteen_percent_are_hidden_and_control_tokens_never() -> None:
    ids = text(202)
    shown = {"mask": 0, "other": 0, "same": 0}
    for seed in range(200):
        seen, said = mask_tokens(ids, marks(), 0.15, rng(seed))
        places = np.flatnonzero(said != IGNORED)
        assert len(places) == 30  # 15 % of 200
        assert (said[places] == ids[places]).all()
        assert not {0, 201} & set(places.tolist())
        assert (np.delete(seen, places) == np.delete(ids, places)).all()
        masked, same = seen[places] == MASK, seen[places] == ids[places]
        assert (seen[places][~masked] >= 9).all()
        shown["mask"] += int(masked.sum())
        shown["same"] += int(same.sum())
        shown["other"] += int((~masked & ~same).sum())
    total = sum(shown.values())
    assert shown["mask"] / total == pytest.approx(0.8, abs=0.02)
    assert shown["other"] / total == pytest.approx(0.1, abs=0.02)
    assert shown["same"] / total == pytest.approx(0.1, abs=0.02)


def restore(seen: Any, spans: list[list[int]]) -> list[int]:
    """The text, each mask in it replaced by its span."""
    found: list[int] = []
    rest = iter(spans)
    for token in seen.tolist():
        found += next(rest) if token == MASK else [token]
    return found


def cut(ids: list[int], mark: int) -> list[list[int]]:
    """Stretches between marks."""
    found: list[list[int]] = [[]]
    for token in ids:
        if token == mark:
            found.append([])
        else:
            found[-1].append(token)
    return found


@pytest.mark.parametrize("length", [2, 3, 5, 40, 200])
def test_spans_put_back_in_their_order_give_the_text(length: int) -> None:
    ids = text(length)
    for seed in range(50):
        seen, said = corrupt_spans(ids, marks(), 0.15, rng(seed))
        before, *spans, after = cut(said.tolist(), MASK)
        assert before == after == []
        assert all(spans)
        assert restore(seen, spans) == ids.tolist()
        assert sum(map(len, spans)) == max(1, round(0.15 * length))
    if length == 200:
        assert len(spans) == 10  # of 3 tokens each on average


def test_numbered_sentinels_are_used_in_their_order() -> None:
    numbered = (399, 398, 397)
    seen, said = corrupt_spans(text(200)[:180], marks(numbered), 0.15, rng())
    assert [token for token in seen.tolist() if token in numbered][:4] == [399, 398, 397, 397]
    assert said[0] == 399
    assert said[-1] == 397


@pytest.mark.parametrize("has_mask", [True, False])
def test_a_tokenizer_with_sentinels_marks_spans_by_them_also_where_it_has_a_mask(has_mask: bool) -> None:
    tokenizer = trained("word", TEXT, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra_id_{number}>" for number in range(100)]})
    if not has_mask:
        tokenizer.mask_token = None
    ids, found = encoded(tokenizer, TEXT * 4), marks_of(tokenizer)
    numbered = [tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(100)]
    hiding = tokenizer.mask_token_id if has_mask else numbered[0]
    seen, said = corrupt_spans(ids, found, 0.15, rng())
    shown = [token for token in seen.tolist() if token in (*numbered, tokenizer.mask_token_id)]
    assert shown == numbered[: len(shown)]
    assert len(shown) > 3
    assert [token for token in said.tolist() if token in numbered] == numbered[: len(shown) + 1]
    for way in (mask_tokens, infill):
        marked = set(way(ids, found, 0.15, rng())[0].tolist()) & {*numbered, hiding}
        assert marked == {hiding}, "a token hidden and a span covered have the mask"
    assert not set(found.ordinary.tolist()) & {*numbered, hiding}


def test_infilling_covers_a_third_and_asks_for_the_whole_text() -> None:
    ids, lengths = text(202), []
    for seed in range(200):
        seen, said = infill(ids, marks(), 0.3, rng(seed))
        assert said.tolist() == ids.tolist()
        masks = int((seen == MASK).sum())
        assert len(ids) - (len(seen) - masks) == round(0.3 * 202)
        kept = [token for token in seen.tolist() if token != MASK]
        assert kept == [token for token in ids.tolist() if token in set(kept)]  # in their order
        lengths.append((len(ids) - len(kept)) / masks)
    assert np.mean(lengths) == pytest.approx(3, abs=0.2)  # Poisson(3)


@pytest.fixture(scope="module")
def by_words() -> Any:
    """A word tokenizer of a text in English and Chinese."""
    return trained("word", TEXT, 400)


TEXT = "It rained (a lot!). “Was it cold?” Yes... 下雨了。他说：“冷！” 是吗？\nNo 3.\n"
SENTENCES = ["It rained (a lot!).", " “Was it cold?”", " Yes...", " 下雨了。", "他说：“冷！”", " 是吗？\n", "No 3.\n"]


def trained(kind: str, words: str, size: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        save(train(kind, lambda: [words], len(words), size), Path(folder))
        return load_tokenizer(Path(folder))


def encoded(tokenizer: Any, words: str) -> Any:
    return np.array(tokenizer.backend_tokenizer.encode(words, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_sentences_stand_in_another_order_and_stay_whole(kind: str) -> None:
    tokenizer = trained(kind, TEXT * 20, 400)
    ids, found = encoded(tokenizer, TEXT), marks_of(tokenizer)
    orders = {tokenizer.decode(shuffle_sentences(ids, found, rng(seed)).tolist()) for seed in range(60)}
    assert len(orders) > 50
    for each in orders:
        rest = each
        for sentence in SENTENCES:
            assert rest.count(sentence) == 1, (sentence, each)
            rest = rest.replace(sentence, "|")
        assert rest == "|" * len(SENTENCES)


def test_sentences_stay_in_their_document_and_unknown_words_in_their_sentence(by_words: Any) -> None:
    found, (bos, eos) = marks_of(by_words), (by_words.bos_token_id, by_words.eos_token_id)
    one, two = encoded(by_words, "It rained. Yes"), encoded(by_words, "Was it unheard. Yes? a cold")
    ids = np.concatenate([one, [eos, bos], two])
    assert by_words.unk_token_id in two
    seen = set()
    for seed in range(40):
        mixed = shuffle_sentences(ids, found, rng(seed))
        assert mixed[len(one) : len(one) + 2].tolist() == [eos, bos]
        assert sorted(mixed[: len(one)]) == sorted(one)
        seen.add(by_words.decode(mixed[len(one) + 2 :].tolist()).strip())
        assert "Was it<|unk|>." in by_words.decode(mixed.tolist())
    assert len(seen) == 6


def test_of_a_text_in_another_order_the_first_one_is_asked_for(by_words: Any) -> None:
    ids = encoded(by_words, TEXT * 4)
    seen, said = denoise(ids, marks_of(by_words), 0.3, rng())
    assert said.tolist() == ids.tolist()
    kept = [token for token in seen.tolist() if token != by_words.mask_token_id]
    assert len(kept) == len(ids) - round(0.3 * len(ids))
    assert sorted(kept) != kept
    rest = iter(ids.tolist())
    assert not all(token in rest for token in kept), "in the order of the text nothing was shuffled"


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("way", [mask_tokens, corrupt_spans, infill, denoise])
def test_the_last_block_of_a_text_may_be_short(way: Any, length: int) -> None:
    seen, said = way(np.arange(9, 9 + length), marks(), 0.3, rng())
    assert len(seen) > 0
    assert (said != IGNORED).any()


# ---------------------------------------------------------------------------------------------------------------
# A split


@pytest.fixture(scope="module")
def tokenizer(sonnets: Path) -> Any:
    return load_tokenizer(sonnets / "tokenizer")


def split(
    sonnets: Path, tokenizer: Any, scheme: str, *, name: str = "validation", seed: int = 0, share: float | None = None
) -> DenoisingBlocks:
    family, denoising = SCHEMES[scheme]
    denoising = denoising._replace(noise_density=share or denoising.noise_density)
    layout = Layout(tokenizer, family, prompt_format_for(family, tokenizer, packed=True), context=32)
    store = TokenStore.open(sonnets / "tokens", name)
    return DenoisingBlocks(store, 32, layout, tokenizer.pad_token_id, marks_of(tokenizer), denoising, seed)


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_taken_out_depends_on_seed_epoch_and_example_alone(scheme: str, sonnets: Path, tokenizer: Any) -> None:
    source = split(sonnets, tokenizer, scheme)
    assert same(source.arrays([3, 5], 2), split(sonnets, tokenizer, scheme).arrays([3, 5], 2))
    row, pair = source.arrays([5], 2)["input_ids"][0], source.arrays([3, 5], 2)["input_ids"][1]
    assert pair.tolist()[: len(row)] == row.tolist()
    for other in (source.arrays([3, 5], 1), split(sonnets, tokenizer, scheme, seed=1).arrays([3, 5], 2)):
        assert not same({"input_ids": other["input_ids"]}, {"input_ids": source.arrays([3, 5], 2)["input_ids"]})


@pytest.mark.parametrize("share", [0.15, 0.5, 0.75, 0.9, 0.99])
@pytest.mark.parametrize("scheme", ["spans", "infilling"])
def test_what_is_said_ends_within_the_context_however_much_is_taken_away(
    scheme: str, share: float, sonnets: Path, tokenizer: Any
) -> None:
    source = split(sonnets, tokenizer, scheme, share=share)
    for index in range(0, len(source) - 1, 7):
        arrays = source.arrays([index])
        said = arrays["labels"][0][arrays["labels"][0] != IGNORED]
        assert said[-1] == tokenizer.eos_token_id
        assert len(said) <= 32
        shown = arrays["input_ids"][0][arrays["attention_mask"][0] == 1]
        assert len(shown) <= 33
        assert set(shown.tolist()) - {tokenizer.mask_token_id, tokenizer.eos_token_id}, (
            "something is left to tell it by"
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_split_is_seen_once_in_an_epoch_and_within_the_context(scheme: str, sonnets: Path, tokenizer: Any) -> None:
    source = split(sonnets, tokenizer, scheme)
    arrays = source.arrays(range(len(source)))
    assert arrays["input_ids"].shape[1] <= 32
    assert arrays["labels"].shape[1] <= 32
    assert arrays["attention_mask"].sum() == (arrays["input_ids"] != tokenizer.pad_token_id).sum()
    assert max(source.lengths()) == 32
    said = (arrays["labels"] != IGNORED).sum()
    if scheme == "infilling":
        assert said == len(source.store.values) + len(source)  # the whole text, and an end of each block
    elif scheme == "masked":
        assert said / arrays["attention_mask"].sum() == pytest.approx(4 / 32, abs=0.01)  # 15 % of 30
        first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
        assert set(arrays["input_ids"][:, 0].tolist()) == {first}
        assert set(arrays["input_ids"][:-1, 31].tolist()) == {last}


def test_a_tokenizer_without_a_mask_is_refused(sonnets: Path) -> None:
    plain = load_tokenizer(sonnets / "tokenizer")
    plain.mask_token = None
    with pytest.raises(UsageError, match="has no mask token"):
        marks_of(plain)
