"""Which candidates repeat another one: the same content, id or question, in memory and by ranges of the hash."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmctl.data.cleaning import candidates as module
from llmctl.data.cleaning.candidates import Candidates, CandidateWriter, Disposition
from llmctl.data.cleaning.judge import Admissible
from llmctl.data.cleaning.split import CONTRADICTORY, IN_SEVERAL_SPLITS, content_hash
from llmctl.types import Record


def candidate(text: str, *, question: str | None = None, name: str = "", split: str = "train") -> Admissible:
    digest = content_hash({"text": text}, ["text"])
    asked = digest if question is None else content_hash({"text": question}, ["text"])
    return Admissible(Record(name or "derived", {"text": text}, "f:1"), digest, asked, split, len(text), None, ())


def opened(folder: Path, *parts: list[Admissible]) -> Candidates:
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(parts):
        with CandidateWriter(folder / f"part-{number}") as writer:
            for each in part:
                writer.add(each, given_id=each.record.id != "derived")
    return Candidates([folder / f"part-{number}" for number in range(len(parts))], folder)


def names(found: Candidates) -> list[str]:
    return [Disposition(each).name.lower() for each in found.outcomes.tolist()]


def test_the_first_of_the_same_content_stays(tmp_path: Path) -> None:
    found = opened(tmp_path, [candidate("a"), candidate("b")], [], [candidate("b"), candidate("c"), candidate("a")])
    found.find_duplicates(drop=True, keep_held_out=False, leakage=False)
    assert names(found) == ["kept", "kept", "duplicate", "kept", "duplicate"]


def test_duplicates_stay_if_they_are_not_dropped(tmp_path: Path) -> None:
    found = opened(tmp_path, [candidate("a", name="x"), candidate("a", name="x"), candidate("a", name="y")])
    found.find_duplicates(drop=False, keep_held_out=False, leakage=False)
    found.find_same_ids()
    assert names(found) == ["kept", "repeated", "repeated"]


@pytest.mark.parametrize(("leakage", "name"), [(False, "duplicate"), (True, "leakage")])
def test_where_files_name_the_splits_the_one_held_out_stays(tmp_path: Path, leakage: bool, name: str) -> None:
    splits = ("train", "test", "validation", "train")
    found = opened(tmp_path, [candidate("a", split=split) for split in splits])
    found.find_duplicates(drop=True, keep_held_out=True, leakage=leakage)
    assert names(found) == [name, "kept", "duplicate", name]


def test_one_id_for_other_content(tmp_path: Path) -> None:
    rows = [("a", "x"), ("b", "x"), ("a", "x"), ("c", ""), ("d", ""), ("e", "y"), ("f", "x")]
    found = opened(tmp_path, [candidate(text, name=name) for text, name in rows])
    found.find_duplicates(drop=True, keep_held_out=False, leakage=False)
    found.find_same_ids()
    assert names(found) == ["kept", "same_id", "duplicate", "kept", "kept", "kept", "same_id"]


def test_questions_that_were_asked_before(tmp_path: Path) -> None:
    rows = [("q1 a", "q1", "train"), ("q1 b", "q1", "train"), ("q2 a", "q2", "train"), ("q1 c", "q1", "test")]
    found = opened(tmp_path, [candidate(text, question=asked, split=split) for text, asked, split in rows])
    assert found.count_questions(labelled=True) == (2, Counter({CONTRADICTORY: 2, IN_SEVERAL_SPLITS: 1}))
    whole = opened(tmp_path / "whole", [candidate("a"), candidate("b")])
    assert whole.count_questions(labelled=False) == (0, Counter())


def test_ranges_of_the_hash_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    rows = [
        candidate(
            f"text {rng.randrange(900)}",
            question=f"asked {rng.randrange(300)}",
            name=rng.choice(["", f"id {rng.randrange(2000)}"]),
            split=rng.choice(["train", "test"]),
        )
        for _ in range(3000)
    ]
    outcomes = []
    for number, (in_memory, at_once) in enumerate([(1 << 20, 1 << 16), (100, 70)]):
        monkeypatch.setattr(module, "IN_MEMORY", in_memory)
        monkeypatch.setattr(module, "AT_ONCE", at_once)
        found = opened(tmp_path / str(number), rows[:1000], rows[1000:])
        found.find_duplicates(drop=True, keep_held_out=True, leakage=False)
        found.find_same_ids()
        outcomes.append((np.array(found.outcomes), found.count_questions(labelled=False)))
        assert not list((tmp_path / str(number)).glob("range-*"))
    assert (outcomes[0][0] == outcomes[1][0]).all()
    assert outcomes[0][1] == outcomes[1][1]
    assert {Disposition.KEPT, Disposition.DUPLICATE, Disposition.SAME_ID} <= set(outcomes[0][0].tolist())


def test_no_candidates(tmp_path: Path) -> None:
    found = opened(tmp_path, [])
    found.find_duplicates(drop=True, keep_held_out=False, leakage=False)
    assert (len(found), found.count_questions(labelled=True)) == (0, (0, Counter()))


def test_memory_does_not_grow_with_the_number_of_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 1 << 13)
    monkeypatch.setattr(module, "AT_ONCE", 1 << 12)
    rng = np.random.default_rng(0)
    peaks = []
    for count in (100_000, 400_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = np.zeros(count, module.ROW)
        for name in ("digest", "question", "id"):
            rows[name] = rng.integers(0, 1 << 64, (count, 2), np.uint64)
            rows[name][count // 2 : count // 2 + 1000] = rows[name][:1000]
        rows.tofile(folder / "part")
        del rows
        found = Candidates([folder / "part"], folder)
        tracemalloc.start()
        found.find_duplicates(drop=True, keep_held_out=False, leakage=False)
        found.find_same_ids()
        distinct, _ = found.count_questions(labelled=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert distinct == count - 1000
    assert peaks[1] < 1.5 * peaks[0]
