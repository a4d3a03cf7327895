"""Corruption of plain text by each denoising scheme, as a function of (seed, epoch, example)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmctl.data.examples.layout import Layout, prompt_format_for
from llmctl.data.examples.noising import (
    DenoisingBlocks,
    NoiseTokens,
    bart_noise,
    masked_lm,
    noise_tokens,
    sentence_permutation,
    span_corruption,
    text_infilling,
)
from llmctl.data.storing.tokens import TokenStore
from llmctl.data.tokenizing.tokenizers import load_tokenizer, save, train
from llmctl.errors import UsageError
from llmctl.types import IGNORED, Denoising, Family

SCHEMES: dict[str, tuple[Family, Denoising]] = {
    "masked": ("encoder", Denoising("masked", 0.15)),
    "spans": ("encoder-decoder", Denoising("spans", 0.15)),
    "infilling": ("encoder-decoder", Denoising("infilling", 0.3)),
}
MASK = 5
ORDINARY = np.arange(9, 400)


def marks(sentinels: tuple[int, ...] = (MASK,)) -> NoiseTokens:
    is_ordinary = np.ones(400, bool)
    is_ordinary[:9] = False
    nothing = np.zeros(400, bool)
    return NoiseTokens(MASK, np.array(sentinels), ORDINARY, is_ordinary, nothing, nothing, ~is_ordinary)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def text(length: int) -> Any:
    """Ordinary tokens that are all different, between a first and a last control token."""
    return np.concatenate([[1], 9 + rng(7).permutation(391)[: length - 2], [2]])


def test_fifteen_percent_of_a_text_are_masked_and_no_control_token() -> None:
    ids = text(202)
    shown = {"mask": 0, "other": 0, "same": 0}
    for seed in range(200):
        inputs, targets = masked_lm(ids, marks(), 0.15, rng(seed))
        places = np.flatnonzero(targets != IGNORED)
        assert len(places) == 30  # 15 % of 200
        assert (targets[places] == ids[places]).all()
        assert not {0, 201} & set(places.tolist())
        assert (np.delete(inputs, places) == np.delete(ids, places)).all()
        masked, same = inputs[places] == MASK, inputs[places] == ids[places]
        assert (inputs[places][~masked] >= 9).all()
        shown["mask"] += int(masked.sum())
        shown["same"] += int(same.sum())
        shown["other"] += int((~masked & ~same).sum())
    total = sum(shown.values())
    assert shown["mask"] / total == pytest.approx(0.8, abs=0.02)
    assert shown["other"] / total == pytest.approx(0.1, abs=0.02)
    assert shown["same"] / total == pytest.approx(0.1, abs=0.02)


def restore(inputs: Any, spans: list[list[int]]) -> list[int]:
    """The text, each mask in it replaced by its span."""
    found: list[int] = []
    rest = iter(spans)
    for token in inputs.tolist():
        found += next(rest) if token == MASK else [token]
    return found


def cut(ids: list[int], mark: int) -> list[list[int]]:
    """Token runs between sentinels."""
    found: list[list[int]] = [[]]
    for token in ids:
        if token == mark:
            found.append([])
        else:
            found[-1].append(token)
    return found


@pytest.mark.parametrize("length", [2, 3, 5, 40, 200])
def test_spans_put_back_in_order_restore_the_text(length: int) -> None:
    ids = text(length)
    for seed in range(50):
        inputs, targets = span_corruption(ids, marks(), 0.15, rng(seed))
        before, *spans, after = cut(targets.tolist(), MASK)
        assert before == after == []
        assert all(spans)
        assert restore(inputs, spans) == ids.tolist()
        assert sum(map(len, spans)) == max(1, round(0.15 * length))
    if length == 200:
        assert len(spans) == 10  # of 3 tokens each on average


def test_numbered_sentinels_are_used_in_their_order() -> None:
    numbered = (399, 398, 397)
    inputs, targets = span_corruption(text(200)[:180], marks(numbered), 0.15, rng())
    assert [token for token in inputs.tolist() if token in numbered][:4] == [399, 398, 397, 397]
    assert targets[0] == 399
    assert targets[-1] == 397


@pytest.mark.parametrize("has_mask", [True, False])
def test_spans_are_marked_with_sentinels_even_if_the_tokenizer_has_a_mask(has_mask: bool) -> None:
    tokenizer = trained("word", TEXT, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra_id_{number}>" for number in range(100)]})
    if not has_mask:
        tokenizer.mask_token = None
    ids, found = encoded(tokenizer, TEXT * 4), noise_tokens(tokenizer)
    numbered = [tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(100)]
    hiding = tokenizer.mask_token_id if has_mask else numbered[0]
    inputs, targets = span_corruption(ids, found, 0.15, rng())
    shown = [token for token in inputs.tolist() if token in (*numbered, tokenizer.mask_token_id)]
    assert shown == numbered[: len(shown)]
    assert len(shown) > 3
    assert [token for token in targets.tolist() if token in numbered] == numbered[: len(shown) + 1]
    for way in (masked_lm, text_infilling):
        marked = set(way(ids, found, 0.15, rng())[0].tolist()) & {*numbered, hiding}
        assert marked == {hiding}, "masked tokens and infilled spans show the mask"
    assert not set(found.ordinary.tolist()) & {*numbered, hiding}


def test_infilling_masks_thirty_percent_and_the_target_is_the_full_text() -> None:
    ids, lengths = text(202), []
    for seed in range(200):
        inputs, targets = text_infilling(ids, marks(), 0.3, rng(seed))
        assert targets.tolist() == ids.tolist()
        masks = int((inputs == MASK).sum())
        assert len(ids) - (len(inputs) - masks) == round(0.3 * 202)
        kept = [token for token in inputs.tolist() if token != MASK]
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
def test_sentences_are_permuted_and_stay_intact(kind: str) -> None:
    tokenizer = trained(kind, TEXT * 20, 400)
    ids, found = encoded(tokenizer, TEXT), noise_tokens(tokenizer)
    orders = {tokenizer.decode(sentence_permutation(ids, found, rng(seed)).tolist()) for seed in range(60)}
    assert len(orders) > 50
    for each in orders:
        rest = each
        for sentence in SENTENCES:
            assert rest.count(sentence) == 1, (sentence, each)
            rest = rest.replace(sentence, "|")
        assert rest == "|" * len(SENTENCES)


def test_sentences_stay_in_their_document_and_unknown_words_in_their_sentence(by_words: Any) -> None:
    found, (bos, eos) = noise_tokens(by_words), (by_words.bos_token_id, by_words.eos_token_id)
    one, two = encoded(by_words, "It rained. Yes"), encoded(by_words, "Was it unheard. Yes? a cold")
    ids = np.concatenate([one, [eos, bos], two])
    assert by_words.unk_token_id in two
    orders = set()
    for seed in range(40):
        mixed = sentence_permutation(ids, found, rng(seed))
        assert mixed[len(one) : len(one) + 2].tolist() == [eos, bos]
        assert sorted(mixed[: len(one)]) == sorted(one)
        orders.add(by_words.decode(mixed[len(one) + 2 :].tolist()).strip())
        assert "Was it<|unk|>." in by_words.decode(mixed.tolist())
    assert len(orders) == 6


def test_the_target_of_permuted_sentences_is_the_original_text(by_words: Any) -> None:
    ids = encoded(by_words, TEXT * 4)
    inputs, targets = bart_noise(ids, noise_tokens(by_words), 0.3, rng())
    assert targets.tolist() == ids.tolist()
    kept = [token for token in inputs.tolist() if token != by_words.mask_token_id]
    assert len(kept) == len(ids) - round(0.3 * len(ids))
    assert sorted(kept) != kept
    rest = iter(ids.tolist())
    assert not all(token in rest for token in kept), "the sentences were not permuted"


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("way", [masked_lm, span_corruption, text_infilling, bart_noise])
def test_the_last_block_of_a_text_may_be_short(way: Any, length: int) -> None:
    inputs, targets = way(np.arange(9, 9 + length), marks(), 0.3, rng())
    assert len(inputs) > 0
    assert (targets != IGNORED).any()


# ---------------------------------------------------------------------------------------------------------------
# A split


@pytest.fixture(scope="module")
def tokenizer(sonnets: Path) -> Any:
    return load_tokenizer(sonnets / "tokenizer")


def split(
    sonnets: Path,
    tokenizer: Any,
    scheme: str,
    *,
    name: str = "validation",
    seed: int = 0,
    noise_density: float | None = None,
) -> DenoisingBlocks:
    family, denoising = SCHEMES[scheme]
    denoising = denoising._replace(noise_density=noise_density or denoising.noise_density)
    layout = Layout(tokenizer, family, prompt_format_for(family, tokenizer, packed=True), context=32)
    store = TokenStore.open(sonnets / "tokens", name)
    return DenoisingBlocks(store, 32, layout, tokenizer.pad_token_id, noise_tokens(tokenizer), denoising, seed)


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_corruption_depends_on_seed_epoch_and_example_alone(scheme: str, sonnets: Path, tokenizer: Any) -> None:
    source = split(sonnets, tokenizer, scheme)
    assert same(source.arrays([3, 5], 2), split(sonnets, tokenizer, scheme).arrays([3, 5], 2))
    row, pair = source.arrays([5], 2)["input_ids"][0], source.arrays([3, 5], 2)["input_ids"][1]
    assert pair.tolist()[: len(row)] == row.tolist()
    for other in (source.arrays([3, 5], 1), split(sonnets, tokenizer, scheme, seed=1).arrays([3, 5], 2)):
        assert not same({"input_ids": other["input_ids"]}, {"input_ids": source.arrays([3, 5], 2)["input_ids"]})


@pytest.mark.parametrize("noise_density", [0.15, 0.5, 0.75, 0.9, 0.99])
@pytest.mark.parametrize("scheme", ["spans", "infilling"])
def test_targets_end_within_the_context_at_any_noise_density(
    scheme: str, noise_density: float, sonnets: Path, tokenizer: Any
) -> None:
    source = split(sonnets, tokenizer, scheme, noise_density=noise_density)
    for index in range(0, len(source) - 1, 7):
        arrays = source.arrays([index])
        targets = arrays["labels"][0][arrays["labels"][0] != IGNORED]
        assert targets[-1] == tokenizer.eos_token_id
        assert len(targets) <= 32
        shown = arrays["input_ids"][0][arrays["attention_mask"][0] == 1]
        assert len(shown) <= 33
        assert set(shown.tolist()) - {tokenizer.mask_token_id, tokenizer.eos_token_id}, "some text is left"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_split_is_seen_once_in_an_epoch_and_within_the_context(scheme: str, sonnets: Path, tokenizer: Any) -> None:
    source = split(sonnets, tokenizer, scheme)
    arrays = source.arrays(range(len(source)))
    assert arrays["input_ids"].shape[1] <= 32
    assert arrays["labels"].shape[1] <= 32
    assert arrays["attention_mask"].sum() == (arrays["input_ids"] != tokenizer.pad_token_id).sum()
    assert max(source.lengths()) == 32
    in_loss = (arrays["labels"] != IGNORED).sum()
    if scheme == "infilling":
        assert in_loss == len(source.store.values) + len(source)  # the full text, and an eos for each block
    elif scheme == "masked":
        assert in_loss / arrays["attention_mask"].sum() == pytest.approx(4 / 32, abs=0.01)  # 15 % of 30
        first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
        assert set(arrays["input_ids"][:, 0].tolist()) == {first}
        assert set(arrays["input_ids"][:-1, 31].tolist()) == {last}


def test_a_tokenizer_without_a_mask_is_refused(sonnets: Path) -> None:
    plain = load_tokenizer(sonnets / "tokenizer")
    plain.mask_token = None
    with pytest.raises(UsageError, match="has no mask token"):
        noise_tokens(plain)
