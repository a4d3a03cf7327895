"""When and how a run saves its state, and where it resumes from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llmctl.store import runs
from llmctl.training import checkpoints, meeting
from llmctl.training import plan as planning
from llmctl.training.checkpoints import TrainingState
from llmctl.training.history import History
from llmctl.types import Event, EventSink
from llmctl.workflows.train.learner import Learner
from llmctl.workflows.train.spec import TrainConfig

SAVE_SECONDS: Final = 600.0
"""Without `save_every`, also write a checkpoint after this much training time since the last one."""


class Saver:
    """The checkpoints of a run. Every process has one; `history` is None in all but the main process."""

    def __init__(self, learner: Learner, history: History | None, emit: EventSink) -> None:
        self._learner, self._history, self._emit = learner, history, emit
        self._plan, self._out = learner.plan, learner.config.out
        self._saved: TrainingState | None = None
        self._saved_seconds = 0.0
        self.resumed_from: str | None = None

    def is_due(self, state: TrainingState, progress_before: float, progress: float) -> bool:
        """Whether a checkpoint is due after a step."""
        steps, position = self._learner.steps, state.position
        if steps.is_due(steps.save_every, position.step, progress_before, progress):
            return True
        return self._learner.config.save_every is None and position.seconds - self._saved_seconds > SAVE_SECONDS

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint; again for the same step only if its state has changed."""
        if self._saved is not None and replace(self._saved, train_loss=0.0) == replace(state, train_loss=0.0):
            return
        self._saved, self._saved_seconds = state, state.position.seconds

        learner = self._learner
        checkpoints.save(
            learner.strategy,
            self._out,
            state,
            learner.model,
            learner.optimizer,
            origin=self._plan.origin,
            history=self._history.mark() if self._history is not None else None,
            shared=learner.shares_folder,
        )
        keep = learner.config.keep_checkpoints
        learner.once(lambda: checkpoints.prune(self._out, keep=keep, best=state.best))

    def resume(self) -> TrainingState | None:
        """Load the newest intact checkpoint and return its state; None if there is none, or the run begins.

        Raises `EnvironmentFault` in every process if they do not start from the same state.
        """
        learner = self._learner
        path = self._newest() if self._plan.resume else None
        learner.agree_on_step(checkpoints.step_of(path) if path is not None else 0)
        if path is None:
            learner.agree_on_weights(None)
            self._restore_history({}, 0)
            return None
        together = learner.strategy.sharded
        checkpoints.load_weights(path, learner.model, together=together)
        checkpoints.load_optimizer(path, learner.model, learner.optimizer, together=together)
        learner.agree_on_weights(path)
        state = checkpoints.read_state(path)
        best = state.best
        if best is not None and self._fault(checkpoints.folder_of(self._out, best.step)):
            text = f"the best checkpoint, from step {best.step}, is damaged: ignoring it"
            self._emit(Event("warning", {"text": text}))
            state = replace(state, best=None, waited=0, evaluated_step=-1)
        self._saved, self._saved_seconds = state, state.position.seconds
        self.resumed_from = str(path)
        self._emit(Event("note", {"text": f"resumed from {path.name}"}))
        self._restore_history(checkpoints.read_history(path), state.position.step)
        self._warn_of_jump(checkpoints.read_origin(path), state)
        return state

    def _newest(self) -> Path | None:
        """The newest intact checkpoint; its files are hashed once where the processes share the folder."""
        find = functools.partial(checkpoints.newest_intact, self._out)
        path, refused = meeting.from_main(find) if self._learner.shares_folder else find()
        for each in refused:
            self._emit(Event("warning", {"text": f"{each}; using an older checkpoint"}))
        if path is None:
            self._emit(Event("note", {"text": "the run has no checkpoint yet: starting from the beginning"}))
            return None
        return self._out / runs.CHECKPOINTS / path.name

    def _fault(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, as the main process sees it."""
        found: str | None = meeting.from_main(lambda: checkpoints.fault(path))
        return found

    def _restore_history(self, mark: Mapping[str, Any], step: int) -> None:
        """Continue `metrics.jsonl` where the checkpoint of `step` left it; warn where it is incomplete."""
        if self._history is None:
            return
        if problem := self._history.restore(runs.metrics(self._out), mark, step):
            self._emit(Event("warning", {"text": problem}))

    def _warn_of_jump(self, origin: runs.Origin, state: TrainingState) -> None:
        """Warn where a changed budget moves the learning rate: its schedule spans the whole budget."""
        if not origin.settings or state.lr is None:
            return
        before, position = self._learner.steps_of(TrainConfig.model_validate(origin.settings)), state.position
        used = (position.step, position.tokens, position.seconds)
        if text := planning.jump(before, self._learner.steps, used, state.lr):
            self._emit(Event("warning", {"text": text}))
