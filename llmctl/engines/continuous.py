"""Continuous batching: rows that have ended leave the batch, and waiting requests take their places between two tokens.

After Yu et al. 2022 (Orca, OSDI '22: iteration-level scheduling). Prompts are read in passes of their own; all rows then
read one token at a time together. Memory is bounded: a row enters only if the longest that the rows can become fits.

Letters: B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import psutil
import torch
from torch import Tensor

from llmctl.engines.choosing import Chooser, Constraints
from llmctl.engines.decoding import Decoding
from llmctl.engines.loaded import LoadedModel
from llmctl.engines.rows import AnswerRow
from llmctl.engines.spec import EngineEvent, Job

PROMPT_TOKENS: Final = 4096
"""Tokens of prompts, with padding, that are read in one pass, unless one prompt is longer."""
TOGETHER: Final = 8
"""New rows wait until an eighth of the places is free, since a pass over one prompt costs almost as much as over some …"""
PATIENCE: Final = 8
"""… but not longer than so many tokens."""
MEMORY_SHARE: Final = 4
"""Rows may take a fourth of the memory that is free when a session begins."""


class ContinuousScheduler:
    """Decides which rows enter the batch and leave it."""

    def __init__(self, loaded: LoadedModel, decoding: Decoding, constraints: Constraints, rows: int) -> None:
        self._loaded, self._decoding, self._constraints, self._places = loaded, decoding, constraints, rows
        self._waiting: deque[tuple[Job, int]] = deque()
        """Jobs and numbers of samples."""
        self._active: list[tuple[AnswerRow, Chooser]] = []
        self._waited = 0
        """Tokens since a place became free for a waiting row."""
        self._tokens_at_most = _free_memory(loaded.device) // MEMORY_SHARE // loaded.bytes_per_token

    def advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        """As `EngineSession._advance`: one pass over the prompts of new rows, or one token of every row."""
        self._waiting.extend((job, sample) for job in submitted for sample in range(job.sampling.num_samples))
        if cancelled:
            self._waiting = deque(each for each in self._waiting if each[0].ticket not in cancelled)
            self._keep([row.job.ticket not in cancelled for row, _ in self._active])
        entering = self._next()
        if not entering and not self._active:
            return []
        with self._loaded.computing():
            if entering:
                logits = self._decoding.enter([row.job.request for row, _ in entering])
                self._active += entering
            else:
                entering = self._active
                logits = self._decoding.step([row.answer.ids[-1] for row, _ in entering])
            choose(self._constraints, logits, entering)
        events = [event for row, _ in entering for event in row.events()]
        self._keep([not row.ended for row, _ in self._active])
        return events

    def _next(self) -> list[tuple[AnswerRow, Chooser]]:
        """The waiting rows that enter now; none while it pays to wait for more places."""
        free = self._places - len(self._active)
        if not self._waiting or not free:
            return []
        self._waited += 1
        if free * TOGETHER < self._places and self._waited < PATIENCE:
            return []
        chosen: list[tuple[AnswerRow, Chooser]] = []
        longest, most = 0, max((self._most(row.job) for row, _ in self._active), default=0)
        while self._waiting and len(chosen) < free:
            job, sample = self._waiting[0]
            longest, most = max(longest, len(job.request.input_ids)), max(most, self._most(job))
            rows = len(self._active) + len(chosen) + 1
            if chosen and longest * (len(chosen) + 1) > PROMPT_TOKENS:
                break
            if rows > 1 and rows * most > self._tokens_at_most:
                break
            self._waiting.popleft()
            chosen.append(self._row(job, sample))
        if chosen:
            self._waited = 0
        return chosen

    def _most(self, job: Job) -> int:
        """The most tokens that a row can hold in memory."""
        return len(job.request.input_ids) + self._loaded.limit_of(job)

    def _row(self, job: Job, sample: int) -> tuple[AnswerRow, Chooser]:
        loaded = self._loaded
        before = job.request.input_ids[-1] if loaded.family == "decoder" else loaded.decoder_start
        limit = loaded.limit_of(job)
        row = AnswerRow(job, sample, loaded.tokenizer, before=before, limit=limit, ends=loaded.ends)
        prompt = job.request.input_ids if loaded.family == "decoder" else (before,)
        return row, Chooser(job, sample, prompt, limit, loaded.healing)

    def _keep(self, stays: Sequence[bool]) -> None:
        """Rows that do not stay leave; the last ones take their places."""
        if all(stays):
            return
        count = sum(stays)
        movers = iter([number for number in range(count, len(stays)) if stays[number]])
        order = [number if stays[number] else next(movers) for number in range(count)]
        with torch.inference_mode():
            self._decoding.keep(order)
        self._active = [self._active[number] for number in order]

    def close(self) -> None:
        """Drop all rows."""
        self._waiting.clear()
        self._keep([False] * len(self._active))


def choose(constraints: Constraints, logits: Tensor, rows: Sequence[tuple[AnswerRow, Chooser]]) -> None:
    """Choose the next token of each row from logits (B, V), and add it to its answer."""
    scores = logits.float()
    plain = scores.argmax(-1).tolist()
    for number, (row, chooser) in enumerate(rows):
        if constraints.apply or not chooser.plain:
            one = constraints(scores[number : number + 1], len(row.answer.ids), chooser.limit)
            token, found = chooser(one, row.answer.ids)
        else:
            token, found = plain[number], None
        row.add(token, found)


def _free_memory(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
