"""Derived settings of a run: budgets, learning rates, evaluation intervals."""

from __future__ import annotations

import pytest

from llmctl.training.plan import Budget, StepPlan, budget, plan
from llmctl.training.spec import Schedule


def planned(schedule: Schedule, run_budget: Budget) -> StepPlan:
    return plan(
        run_budget=run_budget,
        batch_size=8,
        micro_batch_size=None,
        world=2,
        steps_per_epoch=10,
        learning_rate=1.0,
        schedule=schedule,
        eval_every=None,
        save_every=None,
    )


def test_a_run_ends_with_the_first_limit_it_reaches() -> None:
    run = Budget(max_steps=100, max_tokens=1000, max_seconds=60.0)
    assert run.progress(50, 100, 6.0) == 0.5
    assert run.progress(50, 900, 6.0) == 0.9
    assert run.progress(50, 900, 61.0) == 1.0


def test_epochs_are_a_limit_of_steps() -> None:
    assert budget(steps_per_epoch=7, epochs=3.0, max_steps=20, max_tokens=None, max_seconds=None).max_steps == 20
    assert budget(steps_per_epoch=7, epochs=0.5, max_steps=None, max_tokens=None, max_seconds=None).max_steps == 4
    assert budget(steps_per_epoch=7, epochs=None, max_steps=None, max_tokens=5, max_seconds=None).max_steps is None


@pytest.mark.parametrize(
    ("name", "middle", "end"), [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)]
)
def test_schedules_warm_up_and_end_at_min_lr(name: str, middle: float, end: float) -> None:
    run = planned(Schedule(name=name, warmup_steps=4, min_lr=0.1), Budget(100))  # type: ignore[arg-type]
    assert run.lr(0, 0.0) == pytest.approx(0.25)
    assert run.lr(3, 0.0) == pytest.approx(1.0)
    assert run.lr(50, 0.5) == pytest.approx(middle)
    assert run.lr(100, 1.0) == pytest.approx(end)


def test_evaluation_is_due_at_every_tenth_of_the_budget_by_default() -> None:
    run = planned(Schedule(), Budget(25))
    due = [step for step in range(1, 26) if run.is_due(None, step, (step - 1) / 25, step / 25)]
    assert len(due) == 10
    assert due[-1] == 25
    assert [step for step in range(1, 26) if run.is_due(10, step, 0, 0)] == [10, 20]


def test_the_micro_batch_is_at_most_the_batch_of_one_process() -> None:
    assert planned(Schedule(), Budget(1)).micro_batch_size == 4


def test_a_time_budget_warms_up_over_five_percent_of_it() -> None:
    run = planned(Schedule(name="constant"), Budget(None, max_seconds=100.0))
    assert run.lr(0, 0.0) == pytest.approx(0.05)
    assert run.lr(7, 0.025) == pytest.approx(0.5)
    assert run.lr(30, 0.05) == run.lr(300, 0.9) == 1.0
