"""The engine that runs a folder exported for CTranslate2: decoders, encoder-decoders, and encoders with a head.

Greedy answers and beam search are CTranslate2's own. For sampling, log-probabilities and token constraints, its logits of
the next token are read and a token is chosen as in the other engines; CTranslate2 has no interface to its key/value
memory, so that this reads each text again at every token.

Letters: B rows of a batch, T tokens of a row, V vocabulary, H width of the hidden state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmctl.engines import scoring, text
from llmctl.engines.choosing import Constraints
from llmctl.engines.continuous import ContinuousScheduler
from llmctl.engines.exported import load_exported
from llmctl.engines.labels import LabelSession
from llmctl.engines.loaded import LoadedModel
from llmctl.engines.plain import PlainBatch, PlainScheduler
from llmctl.engines.rows import AnswerRow
from llmctl.engines.spec import Answered, Engine, EngineEvent, EngineSession, Job, Sampling
from llmctl.errors import UsageError
from llmctl.store.border import border, running
from llmctl.store.exports import CT2_HEAD
from llmctl.store.models import ModelFolder
from llmctl.types import AnswerToken, Family, Likelihood, Request

_KINDS = {"decoder": ctranslate2.Generator, "encoder-decoder": ctranslate2.Translator, "encoder": ctranslate2.Encoder}
_VOCABULARIES = ("vocabulary.json", "shared_vocabulary.json", "target_vocabulary.json")


class CTranslate2Engine(Engine):
    """Runs the export in `model`. An answer does not depend on the batch it was generated in."""

    def __init__(
        self,
        model: ModelFolder,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None = None,
        labels: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        """`settings`: device and precision, which the export decides."""
        self.tokenizer, self.family, self.labels = tokenizer, family, labels
        with border("CTranslate2 cannot open the model", model.path):
            self.runner: Any = _KINDS[family](str(model.path))
            self.names = _names(model.path)
            head = load_file(model.path / CT2_HEAD) if family == "encoder" else {}
        self.loaded = load_exported(
            model, tokenizer, family, layout_context, lambda ids, mask: self._classify(head, ids, mask)
        )
        self.context = self.loaded.context

    def _classify(self, head: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask (B, T) each -> logits (B, labels), from the pooled state (B, H)."""
        rows = [row[:length] for row, length in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
        pooled = torch.from_numpy(np.array(self.runner.forward_batch(rows).pooler_output))  # (B, H)
        return pooled.float() @ head["weight"].T + head["bias"]

    def check(self, request: Request, sampling: Sampling, *, logprobs: int | None = None) -> None:
        super().check(request, sampling, logprobs=logprobs)
        if self.family == "encoder" and not self.labels:
            raise UsageError("the model has no labels", hint="use a model trained for classification")
        scoring.check_fits(self.loaded, request)

    def session(self, *, rows: int = 16) -> EngineSession:
        if self.family == "encoder":
            return LabelSession(self, self.loaded, self.labels, rows)
        return CTranslate2Session(self, rows)

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        return scoring.score(self.loaded, requests, batch_size, likelihoods=self._likelihoods)

    def _likelihoods(self, loaded: LoadedModel, batch: Sequence[Request]) -> list[Likelihood]:
        with running(loaded.model):
            if self.family == "decoder":
                rows = [self.named((*each.input_ids, *each.answer_ids)) for each in batch]
                found = self.runner.score_batch(rows, max_input_length=0)
                # One value for each token but the first; those of the answer come last.
                values = [
                    each.log_probs[len(request.input_ids) - 1 :] for each, request in zip(found, batch, strict=True)
                ]
            else:
                sources = [self.named(each.input_ids) for each in batch]
                targets = [self.named(self._without_end(each.answer_ids)) for each in batch]
                found = self.runner.score_batch(sources, targets, max_input_length=0)  # adds the end token
                values = [each.log_probs[: len(request.answer_ids)] for each, request in zip(found, batch, strict=True)]
        return [
            Likelihood(request.id, float(np.sum(each, dtype=np.float64)), len(request.answer_ids))
            for request, each in zip(batch, values, strict=True)
        ]

    def token_logprobs(self, request: Request, top: int) -> Sequence[AnswerToken]:
        if self.family != "decoder":
            return super().token_logprobs(request, top)
        return scoring.token_logprobs(self.loaded, request, top, logits=self._logits)

    def _logits(self, request: Request) -> Tensor:
        """(answer, V), of the tokens of an answer."""
        with running(self.loaded.model):
            found = self.runner.forward_batch([self.named((*request.input_ids, *request.answer_ids)[:-1])])
        return _tensor(found)[0, len(request.input_ids) - 1 :]

    def _without_end(self, ids: Sequence[int]) -> Sequence[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def named(self, ids: Sequence[int]) -> list[str]:
        """CTranslate2 takes tokens by name."""
        return [self.names[each] for each in ids]


def _names(folder: Path) -> list[str]:
    """The names of the ids, as the converter wrote them."""
    for name in _VOCABULARIES:
        if (folder / name).is_file():
            found: list[str] = json.loads((folder / name).read_text(encoding="utf-8"))
            return found
    raise FileNotFoundError(f"no vocabulary in {folder}")


class CTranslate2Session(EngineSession):
    """Greedy answers and beams in batches, other settings token by token."""

    def __init__(self, engine: CTranslate2Engine, rows: int) -> None:
        super().__init__(engine)
        loaded = engine.loaded
        constraints = Constraints(loaded.model.generation_config)
        self._constrained, self._healing = constraints.apply, loaded.healing
        self._batches = PlainScheduler(loaded, rows, start=lambda _, chosen: CTranslate2Batch(engine, chosen))
        self._tokens = ContinuousScheduler(loaded, Prefixes(engine), constraints, rows)

    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        submitted = self._healing.jobs(submitted)
        own = [job for job in submitted if self._is_plain(job)]
        others = [job for job in submitted if not self._is_plain(job)]
        return [*self._batches.advance(own, cancelled), *self._tokens.advance(others, cancelled)]

    def _is_plain(self, job: Job) -> bool:
        """Whether CTranslate2's own search gives the answer. It counts a repetition from the answer alone."""
        sampling = job.sampling
        if sampling.num_beams > 1:
            return True
        changed = self._constrained or sampling.samples or sampling.repetition_penalty != 1.0
        return not (changed or job.logprobs is not None or job.request.opening)

    def close(self) -> None:
        super().close()
        self._batches.close()
        self._tokens.close()


class CTranslate2Batch(PlainBatch):
    """One call of CTranslate2's `generate_batch` or `translate_batch`."""

    def __init__(self, engine: CTranslate2Engine, chosen: Sequence[tuple[Job, int]]) -> None:
        self._engine = engine
        super().__init__(engine.loaded, chosen)

    def choose(self) -> None:
        """Greedy choice; each token is reported as it comes, and ends its row where the answer ends."""
        loaded = self.loaded
        rows: list[AnswerRow] = []
        for job, sample in self.chosen:
            before = job.request.input_ids[-1] if loaded.family == "decoder" else loaded.decoder_start
            limit = loaded.limit_of(job)
            rows.append(AnswerRow(job, sample, loaded.tokenizer, before=before, limit=limit, ends=loaded.ends))

        def took(step: Any) -> bool:
            row = rows[step.batch_id]
            if row.job.ticket in self.cancelled:
                return True
            if not row.ended:
                row.add(step.token_id)
                if events := row.events():
                    self.events.put(events)
            return bool(row.ended)

        self._run(beam_size=1, callback=took)
        for row in rows:
            if not row.ended and row.job.ticket not in self.cancelled:
                row.add(None)
                self.events.put(row.events())

    def search(self) -> None:
        """Beam search."""
        loaded, sampling = self.loaded, self.chosen[0][0].sampling
        found = self._run(
            beam_size=sampling.num_beams,
            num_hypotheses=sampling.num_samples,
            length_penalty=sampling.length_penalty,
            repetition_penalty=sampling.repetition_penalty,
        )
        events: list[EngineEvent] = []
        numbers = {name: number for number, name in enumerate(self._engine.names)}
        for (job, _), result in zip(self.chosen, found, strict=True):
            decoder = loaded.family == "decoder"
            before = job.request.input_ids[-1] if decoder else loaded.decoder_start
            for sample, names in enumerate(result.sequences if decoder else result.hypotheses):
                ids = [numbers[name] for name in names]
                # The end token is not among them, unless the answer was cut off.
                ids += [min(loaded.ends)] * (len(ids) < loaded.limit_of(job))
                answer = text.read(loaded.tokenizer, before, ids, ends=loaded.ends, stops=sampling.stop)
                events.append(Answered(job.ticket, answer.completion(job.request.id, sample)))
        self.events.put(events)

    def _run(self, **options: Any) -> Any:
        engine, loaded = self._engine, self.loaded
        prompts = [engine.named(job.request.input_ids) for job, _ in self.chosen]
        limit = loaded.limit_of(self.chosen[0][0])
        ends = sorted(loaded.ends)
        with running(loaded.model):
            if loaded.family == "decoder":
                options |= {"max_length": limit, "include_prompt_in_result": False}
                return engine.runner.generate_batch(prompts, end_token=ends, **options)
            options |= {"max_decoding_length": limit, "min_decoding_length": 0, "max_input_length": 0}
            return engine.runner.translate_batch(prompts, end_token=ends, **options)


class Prefixes:
    """The next token of each row from its whole text: a `Decoding` without memory."""

    def __init__(self, engine: CTranslate2Engine) -> None:
        self._engine = engine
        self._sources: list[list[str]] = []
        self._texts: list[list[str]] = []

    def enter(self, requests: Sequence[Request]) -> Tensor:
        start = len(self._texts)
        decoder = self._engine.family == "decoder"
        for request in requests:
            names = self._engine.named(request.input_ids)
            self._sources.append([] if decoder else names)
            self._texts.append(names if decoder else [])
        return self._logits(start)

    def step(self, tokens: Sequence[int]) -> Tensor:
        for names, name in zip(self._texts, self._engine.named(tokens), strict=True):
            names.append(name)
        return self._logits(0)

    def keep(self, order: Sequence[int]) -> None:
        self._sources, self._texts = ([each[number] for number in order] for each in (self._sources, self._texts))

    def _logits(self, start: int) -> Tensor:
        """(B, V) of the rows from `start` on."""
        texts, runner = self._texts[start:], self._engine.runner
        options: dict[str, Any] = {"return_logits_vocab": True, "beam_size": 1}
        if self._engine.family == "decoder":
            found = runner.generate_batch(texts, max_length=1, include_prompt_in_result=False, **options)
            return torch.stack([_tensor(each.logits[0][-1]) for each in found])
        longest = max(map(len, texts))
        found = runner.translate_batch(
            self._sources[start:],
            target_prefix=texts,
            max_decoding_length=longest + 1,
            min_decoding_length=0,
            max_input_length=0,
            **options,
        )
        return torch.stack([_tensor(each.logits[0][len(names)]) for each, names in zip(found, texts, strict=True)])


def _tensor(view: Any) -> Tensor:
    return torch.from_numpy(np.array(view)).float()
