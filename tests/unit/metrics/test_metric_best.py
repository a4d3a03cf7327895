"""The best of several systems is marked where a paired test says so against every other, after Holm's correction."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llmctl.metrics.best import BestSystem, System, best_of, holm
from llmctl.metrics.parse import parse_metric
from llmctl.metrics.scoring import score_answers
from llmctl.metrics.spec import IntervalSpec
from llmctl.types import Answer

QUESTIONS = 60


def system(name: str, right: int, metrics: tuple[str, ...] = ("accuracy",)) -> System:
    """One that answers the first so many of the questions rightly."""
    answers = [Answer(str(n), prediction="yes" if n < right else "no", references=("yes",)) for n in range(QUESTIONS)]
    return scored(name, answers, metrics)


def scored(name: str, answers: list[Answer], metrics: tuple[str, ...]) -> System:
    parsed = [parse_metric(each) for each in metrics]
    return System(name, answers, score_answers(parsed, answers, IntervalSpec(resamples=0), seed=0).scores)


def best(*systems: System, metric: str = "accuracy") -> BestSystem:
    (found,) = best_of([parse_metric(metric)], systems, seed=0)
    return found


def test_holm_correction_matches_its_definition() -> None:
    """By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 1 · 0.04, which must not fall below the one before."""
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    assert all(map(math.isnan, holm({"a": math.nan, "b": 0.001}).values()))


def test_a_clear_winner_is_marked_as_best() -> None:
    found = best(system("weak", 10), system("strong", 55), system("middle", 30))
    assert (found.model, found.leader, found.why) == ("strong", "strong", None)
    assert found.value == pytest.approx(55 / 60)
    assert set(found.p) == {"weak", "middle"}
    assert all(p < 0.05 for p in found.p.values())


def test_a_leader_without_significance_is_not_marked() -> None:
    found = best(system("weak", 10), system("strong", 55), system("near", 53))
    assert (found.model, found.leader) == (None, "strong")
    assert found.p["near"] >= 0.05 > found.p["weak"]
    assert found.why is not None
    assert "near" in found.why
    assert "weak" not in found.why


def test_holm_correction_decides_whether_the_leader_is_marked() -> None:
    """6 right answers more: p is about 0.03 against one other, and twice that against two that are as near."""
    alone = best(system("one", 46), system("other", 40))
    assert alone.model == "one"
    assert alone.p["other"] < 0.05
    third = best(system("one", 46), system("other", 40), system("third", 40))
    assert third.model is None
    assert third.p["other"] == pytest.approx(2 * alone.p["other"])


def test_ties_and_single_systems_are_not_marked() -> None:
    assert best(system("one", 30), system("same", 30)).p == {"same": 1.0}
    lone = best(system("one", 30))
    assert (lone.model, lone.leader, lone.p) == (None, "one", {})


def test_lower_perplexity_is_better() -> None:
    def likely(name: str, nats: float) -> System:
        answers = [Answer(str(n), logprob=-nats * (n % 7 + 5), tokens=n % 7 + 5, bytes=20) for n in range(QUESTIONS)]
        return scored(name, answers, ("perplexity",))

    found = best(likely("loose", 3.0), likely("tight", 2.0), metric="perplexity")
    assert found.model == "tight"
    assert found.value == pytest.approx(math.exp(2.0))


def test_scores_of_different_signatures_are_not_compared() -> None:
    one, other = system("one", 50), system("other", 10)
    other = replace(other, scores=[replace(other.scores[0], signature="another")])
    found = best(one, other)
    assert (found.model, found.leader) == (None, None)
    assert found.why is not None
    assert "another" in found.why
    # Two that agree are not compared either while a third differs.
    found = best(one, system("third", 30), other)
    assert (found.model, found.leader, found.value, dict(found.p)) == (None, None, None, {})


def test_each_score_of_a_metric_has_a_best_of_its_own() -> None:
    texts = ("the cat sat on the mat", "the cat sat")
    one, other = (
        scored(name, [Answer(str(n), prediction=text, references=(texts[0],)) for n in range(20)], ("rouge", "bleu"))
        for name, text in (("whole", texts[0]), ("part", texts[1]))
    )
    found = best_of([parse_metric("rouge"), parse_metric("bleu")], [one, other], seed=0)
    assert [each.metric for each in found] == ["rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"]
    assert {each.model for each in found} == {"whole"}
