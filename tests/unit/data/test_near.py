"""Near-duplicates: recall and precision on copies of known Jaccard index, and independence of order and parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmctl.data.cleaning.near import Bands, NearReader, NearWriter, Signer, clusters, jaccard
from llmctl.data.cleaning.shingles import Shingler

SIZE = 3
WORDS = {
    "en": [f"{first}{second}" for first, second in itertools.product(("ba", "ko", "ri", "tu", "ste"), repeat=2)]
    + [f"word{number}" for number in range(2000)],
    "zh": [chr(code) for code in range(0x4E00, 0x4E00 + 2000)],
}


def joined(words: Sequence[str], language: str) -> str:
    return ("" if language == "zh" else " ").join(words)


def exact(one: Sequence[str], other: Sequence[str]) -> float:
    """The Jaccard index of the sets of `SIZE` consecutive words, by definition."""
    sets = [{tuple(words[at : at + SIZE]) for at in range(len(words) - SIZE + 1)} for words in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def copies(language: str, count: int, low: float, high: float) -> tuple[list[list[str]], list[list[str]]]:
    """Originals of 60 to 240 words, and one copy of each with some words replaced, whose index is between the bounds."""
    rng = np.random.default_rng(1)
    words = WORDS[language]
    originals, changed = [], []
    while len(originals) < count:
        original = [words[each] for each in rng.integers(0, len(words), rng.integers(60, 240))]
        copy = list(original)
        for at in rng.integers(0, len(copy), 1 + int(rng.integers(0, len(copy) // 12))):
            copy[at] = words[int(rng.integers(len(words)))]
        if low <= exact(original, copy) <= high:
            originals.append(original)
            changed.append(copy)
    return originals, changed


def found(folder: Path, parts: Sequence[Sequence[str]], ranks: Any, threshold: float = 0.8) -> Any:
    """The cluster of each text, by the smallest rank in it."""
    folder.mkdir()
    signer = Signer(threshold, SIZE)
    places = [folder / f"part-{number}" for number in range(len(parts))]
    for place, texts in zip(places, parts, strict=True):
        with NearWriter(place, signer) as writer:
            for text in texts:
                writer.add(text)
    return clusters(NearReader(places, signer.bands), np.asarray(ranks), threshold, signer.bands)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_near_copies_are_found_and_others_are_not(tmp_path: Path, language: str) -> None:
    near = copies(language, 150, 0.85, 0.95)
    far = copies(language, 150, 0.3, 0.7)
    texts = [joined(words, language) for words in (*near[0], *near[1], *far[0], *far[1])]
    clusters_found = found(tmp_path / "near", [texts], np.arange(len(texts)))
    paired = [bool(clusters_found[150 + number] == number) for number in range(150)]
    assert sum(paired) >= 0.95 * 150
    alone = clusters_found[300:] == np.arange(300, 600)
    assert alone.sum() >= 0.95 * 300


def test_agrees_with_the_exact_index_on_both_sides_of_the_threshold(tmp_path: Path) -> None:
    originals, changed = copies("en", 400, 0.6, 0.98)
    texts = [joined(words, "en") for pair in zip(originals, changed, strict=True) for words in pair]
    clusters_found = found(tmp_path / "near", [texts], np.arange(len(texts)))
    agree = [
        (clusters_found[2 * number + 1] == 2 * number) == (exact(one, other) >= 0.8)
        for number, (one, other) in enumerate(zip(originals, changed, strict=True))
    ]
    assert np.mean(agree) >= 0.98
    reader = NearReader([tmp_path / "near" / "part-0"], Bands.of(0.8))
    ours = jaccard(reader, np.arange(0, 800, 2), np.arange(1, 800, 2))
    assert ours == pytest.approx([exact(one, other) for one, other in zip(originals, changed, strict=True)], abs=1e-9)


def test_the_order_and_the_parts_change_nothing(tmp_path: Path) -> None:
    originals, changed = copies("zh", 60, 0.75, 0.95)
    texts = [joined(words, "zh") for words in (*originals, *changed)]
    ranks = np.random.default_rng(2).permutation(len(texts))
    one = found(tmp_path / "one", [texts], ranks)
    order = np.random.default_rng(3).permutation(len(texts))
    shuffled = [texts[each] for each in order]
    several = found(tmp_path / "several", [shuffled[:7], [], shuffled[7:]], ranks[order])
    assert (several == one[order]).all()


def test_of_a_chain_the_smallest_rank_stands_for_all(tmp_path: Path) -> None:
    words = WORDS["en"][:100]
    chain = [list(words)]
    for at in range(5, 95, 18):
        chain.append([*chain[-1][:at], f"new{at}", *chain[-1][at + 1 :]])
    assert exact(chain[0], chain[-1]) < 0.8
    ranks = [4, 2, 5, 0, 1, 3]
    assert found(tmp_path / "near", [[joined(each, "en") for each in chain]], ranks).tolist() == [0] * 6


def test_records_without_words_and_those_left_out_are_alone(tmp_path: Path) -> None:
    text = joined(WORDS["en"][:50], "en")
    assert found(tmp_path / "near", [["…", "!!", text, text, text]], [0, 1, 2, -1, 3]).tolist() == [0, 1, 2, -1, 2]


def test_shingles_are_words_or_characters_by_script() -> None:
    shingler = Shingler(2)
    hashes, counts = shingler.shingles(
        ["The cat, the cat!", "the CAT the cat", "床前明月", "GPT模型2", "", "one", "สวัส"]
    )
    assert counts.tolist() == [3, 3, 3, 3, 0, 1, 3]
    assert hashes[:3].tolist() == hashes[3:6].tolist()
    assert hashes[0] == hashes[2]
    assert Shingler(2).shingles(["明月"])[0].tolist() == [int(hashes[8])]


def test_bands_miss_few_pairs_at_the_threshold() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95):
        bands = Bands.of(threshold)
        assert (1 - threshold**bands.rows) ** bands.bands <= 0.005
        assert bands.bands * bands.rows <= 128
