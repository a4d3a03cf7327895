"""The engine that transcribes recordings with a model in this process.

A recording comes as a series of windows, which are transcribed in batches; the text of a long one is that of its
windows, joined. Memory does not depend on the length of a recording.

Letters: B windows of a batch, M mel bands, T frames of 10 ms, S output frames, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from llmctl.engines import ctc_search
from llmctl.engines.loaded import LoadedModel
from llmctl.engines.plain import Abandoned
from llmctl.engines.spec import (
    Answered,
    Engine,
    EngineEvent,
    EngineSession,
    Failed,
    Job,
    NewText,
    Sampling,
)
from llmctl.errors import LlmctlError, UsageError
from llmctl.types import AudioWindow, Completion, Family, Likelihood, Precision, Request, Spoken

FEW_FRAMES: Final = 64
"""Frames of 10 ms, to a multiple of which a batch is padded; eight times as many for long windows."""
MOST_WINDOWS: Final = 16
"""Windows of a batch: an encoder reads all of a window at once, about 1,500 positions of 30 s."""
UNSPACED: Final = ("\u2e80", "\u9fff")
"""First and last of the letters between which windows are joined without a space."""
KEPT: Final = ("suppress_tokens", "begin_suppress_tokens", "decoder_start_token_id")
"""Settings of Whisper's own generation config that decide what its transcripts may contain."""


class Heard(NamedTuple):
    """What was recognised in a window from `start` to `end` seconds: text, tokens, and with times if they were asked
    for. The window itself is not kept: its features are a megabyte."""

    start: float
    end: float
    text: str
    tokens: int
    complete: bool
    spoken: tuple[Spoken, ...] = ()


class SpeechEngine(Engine):
    """Runs `model`; see `engines.spec.Engine`. An answer does not depend on the batch it was generated in."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None = None,
        labels: tuple[str, ...] = (),
        device: str | None = None,
        precision: Precision = "fp32",
        **settings: Any,
    ) -> None:
        """`settings`: those of other engines."""
        loaded = LoadedModel(
            model, tokenizer, family, layout_context=layout_context, device=device, precision=precision
        )
        self._take(loaded, layout_context)

    def _take(self, loaded: LoadedModel, context: int | None) -> None:
        self.loaded, self.model, self.tokenizer, self.family = loaded, loaded.model, loaded.tokenizer, loaded.family
        self.device, self.context = loaded.device, context
        self.recognise: Callable[[Sequence[AudioWindow], Sampling, tuple[int, ...], Abandoned], list[Heard]] = {
            "ctc": self._ctc,
            "speech-seq2seq": self._seq2seq,
        }[loaded.family]

    def check(self, request: Request, sampling: Sampling, *, logprobs: int | None = None) -> None:
        super().check(request, sampling, logprobs=logprobs)
        if sampling.samples or sampling.num_samples > 1:
            raise UsageError("a transcript is not sampled", hint="leave out temperature, top_k, top_p and num_samples")
        if sampling.stop or sampling.repetition_penalty != 1 or sampling.length_penalty != 1:
            raise UsageError("a transcript has no stop texts and no penalties", hint="leave them out")
        if logprobs is not None:
            raise UsageError("transcripts have no log-probabilities of tokens", hint="leave logprobs out")

    def session(self, *, rows: int = 16) -> SpeechSession:
        return SpeechSession(self, rows)

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        raise UsageError("likelihoods of transcripts are not computed", hint="use wer or cer")

    # -- models -----------------------------------------------------------------------------------------------

    def _ctc(
        self, windows: Sequence[AudioWindow], sampling: Sampling, start: tuple[int, ...], abandoned: Abandoned
    ) -> list[Heard]:
        found: dict[int, Heard] = {}
        for numbers in self._together(windows):
            part = self._ctc_batch([windows[number] for number in numbers], sampling)
            found.update(zip(numbers, part, strict=True))
        return [found[number] for number in range(len(windows))]

    def _together(self, windows: Sequence[AudioWindow]) -> list[list[int]]:
        """The numbers of the windows of each batch. Samples are not padded: wav2vec 2.0 normalises over time, padding
        included."""
        if windows[0].features.ndim > 1:
            return [list(range(len(windows)))]
        found: dict[int, list[int]] = {}
        for number, each in enumerate(windows):
            found.setdefault(len(each.features), []).append(number)
        return list(found.values())

    def _ctc_batch(self, windows: Sequence[AudioWindow], sampling: Sampling) -> list[Heard]:
        inputs = self._inputs(windows)
        with self.loaded.computing():
            logits = self.model(**inputs).logits  # (B, S, V)
        log_p = logits.float().log_softmax(-1).cpu().numpy()
        blank, heard = int(self.model.config.pad_token_id), []
        read = inputs["attention_mask"].sum(1)
        lengths = getattr(self.model, "output_lengths", None) or self.model._get_feat_extract_output_lengths
        for window, row, frames in zip(windows, log_p, lengths(read).tolist(), strict=True):
            real = row[: max(1, frames)]  # (S, V)
            found = ctc_search.search(real, blank, sampling.num_beams)
            text = self._decoded(found.tokens)
            per_frame = (window.end - window.start) / len(real)
            spoken = tuple(
                Spoken(
                    round(window.start + part.start * per_frame, 3), round(window.start + part.end * per_frame, 3), said
                )
                for part in ctc_search.phrases(found, self._starts_word, round(0.6 / max(per_frame, 1e-6)))
                if (said := self._decoded(part.tokens).strip())
            )
            heard.append(Heard(window.start, window.end, text, len(found.tokens), True, spoken))
        return heard

    def _seq2seq(
        self, windows: Sequence[AudioWindow], sampling: Sampling, start: tuple[int, ...], abandoned: Abandoned
    ) -> list[Heard]:
        config = self.model.config
        before = (int(config.decoder_start_token_id), *start)
        room = min(sampling.max_new_tokens, (self.context or config.max_target_positions) - len(before))
        heard, first = [], self._first_time(start)
        found = self._tokens(windows, before, sampling, room, abandoned, times=first is not None)
        for window, new in zip(windows, found, strict=True):
            text = self._decoded([token for token in new if first is None or token < first])
            spoken = () if first is None else tuple(timed(new, first, window, self._decoded))
            heard.append(Heard(window.start, window.end, text, len(new), len(new) < room, spoken))
        return heard

    def _tokens(
        self,
        windows: Sequence[AudioWindow],
        before: tuple[int, ...],
        sampling: Sampling,
        room: int,
        abandoned: Abandoned,
        *,
        times: bool,
    ) -> list[list[int]]:
        """The tokens of each window after those in `before`, at most `room`, without the end token."""
        ids = torch.tensor([before] * len(windows), device=self.device)
        with self.loaded.computing():
            encoded = self.model.get_encoder()(self._inputs(windows)["input_features"].to(self.model.dtype))
            rows = self._searched(encoded, ids, sampling, room, abandoned, times=times)[:, len(before) :].tolist()
        end = self.model.config.eos_token_id
        return [row[: row.index(end)] if end in row else row for row in rows]

    def _first_time(self, start: tuple[int, ...]) -> int | None:
        """The token <|0.00|> of a Whisper model that is to write times; None if it is not, or knows none."""
        plain: int | None = self.tokenizer.backend_tokenizer.token_to_id("<|notimestamps|>")
        return None if plain is None or plain in start else plain + 1

    def _searched(
        self, encoded: Any, ids: Tensor, sampling: Sampling, room: int, abandoned: Abandoned, *, times: bool
    ) -> Tensor:
        """transformers' plain greedy or beam search: Whisper's own `generate` is for its published tokenizers only."""
        own, config = self.model.generation_config, self.model.config
        settings = GenerationConfig(
            max_new_tokens=room,
            do_sample=False,
            num_beams=sampling.num_beams,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
            **{name: value for name in KEPT if (value := getattr(own, name, None)) is not None},
        )
        rules = LogitsProcessorList()
        if times:
            # Its rules: times in pairs, never backwards, within the window (Radford et al. 2022, section 4.5).
            settings.no_timestamps_token_id = self.tokenizer.backend_tokenizer.token_to_id("<|notimestamps|>")
            settings.max_initial_timestamp_index = getattr(own, "max_initial_timestamp_index", None)
            rules.append(WhisperTimeStampLogitsProcessor(settings, begin_index=ids.shape[1]))
        rows: Tensor = GenerationMixin.generate(
            self.loaded.without_own_settings(),
            encoder_outputs=encoded,
            attention_mask=torch.ones_like(ids),  # of the recording: unused, but transformers warns without one
            decoder_input_ids=ids,
            decoder_attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=rules,
            stopping_criteria=StoppingCriteriaList([abandoned]),
        )
        return rows

    # -- shared -----------------------------------------------------------------------------------------------

    def _inputs(self, windows: Sequence[AudioWindow]) -> dict[str, Tensor]:
        """Features (B, M, T) or samples (B, N), padded at the end, and which of them are real."""
        features = [window.features for window in windows]
        width = max(each.shape[-1] for each in features)
        width = width if self.family == "speech-seq2seq" else -(-width // self._unit(width)) * self._unit(width)
        name = "input_features" if features[0].ndim == 2 else "input_values"
        out = np.zeros((len(features), *features[0].shape[:-1], width), np.float32)
        mask = np.zeros((len(features), width), np.int64)
        for number, each in enumerate(features):
            out[number, ..., : each.shape[-1]] = each
            mask[number, : each.shape[-1]] = 1
        return {
            name: torch.from_numpy(out).to(self.device),
            "attention_mask": torch.from_numpy(mask).to(self.device),
        }

    def _unit(self, width: int) -> int:
        """Of what a batch of this width is padded to a multiple: few widths, because oneDNN keeps kernels for each. Not
        of samples; see `_together`."""
        if getattr(self.model.config, "num_mel_bins", None) is None:
            return 1
        return FEW_FRAMES if width < 8 * FEW_FRAMES else 8 * FEW_FRAMES

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def _starts_word(self, token: int) -> bool:
        text: str = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text[:1].isspace() or UNSPACED[0] <= text[:1] <= UNSPACED[1]


def timed(
    tokens: Sequence[int], first: int, window: AudioWindow, decoded: Callable[[Sequence[int]], str]
) -> Iterator[Spoken]:
    """The text between the times that Whisper writes; `first` is the token of 0 s, each next one is 0.02 s later."""
    begin, held = 0.0, list[int]()
    for token in (*tokens, first + round(50 * (window.end - window.start))):
        if token < first:
            held.append(token)
            continue
        end = min((token - first) / 50, window.end - window.start)
        if text := decoded(held):
            yield Spoken(round(window.start + begin, 2), round(window.start + end, 2), text)
        begin, held = end, []


class Listening:
    """A job with the windows that are still to be read, and what was recognised in those before."""

    def __init__(self, job: Job) -> None:
        if job.request.windows is None:
            raise ValueError(f"request {job.request.id!r} has no recording")
        self.job, self.heard = job, list[Heard]()
        self.key = job.request.input_ids, job.sampling.num_beams, job.sampling.max_new_tokens
        self._windows = job.request.windows()
        self._next = next(self._windows, None)

    def take(self) -> AudioWindow:
        """The next window; reads ahead by one, so that the last is known to be the last."""
        assert self._next is not None
        found, self._next = self._next, next(self._windows, None)
        return found

    @property
    def over(self) -> bool:
        return self._next is None


class SpeechSession(EngineSession):
    """Transcribes a batch of windows at a step."""

    engine: SpeechEngine

    def __init__(self, engine: SpeechEngine, rows: int) -> None:
        super().__init__(engine)
        self._rows = min(rows, MOST_WINDOWS)
        self._waiting: deque[Job] = deque()
        self._listening: deque[Listening] = deque()

    def _advance(self, submitted: Sequence[Job], cancelled: set[int]) -> list[EngineEvent]:
        self._waiting.extend(submitted)
        if cancelled:
            self._waiting = deque(each for each in self._waiting if each.ticket not in cancelled)
            self._listening = deque(each for each in self._listening if each.job.ticket not in cancelled)
        events: list[EngineEvent] = []
        while self._waiting and len(self._listening) < self._rows:
            if (opened := self._opened(events)) is not None:
                self._listening.append(opened)
        batch = self._batch(events)
        if not batch:
            return events
        first = batch[0][0].job
        tickets = {listening.job.ticket for listening, _ in batch}
        abandoned = Abandoned(lambda: tickets.isdisjoint(self._open))
        windows = [window for _, window in batch]
        heard = self.engine.recognise(windows, first.sampling, first.request.input_ids, abandoned)
        for (listening, _), found in zip(batch, heard, strict=True):
            text = separated(listening.heard, found.text)
            listening.heard.append(found._replace(text=text))
            if listening.job.stream and text:
                events.append(NewText(listening.job.ticket, 0, text))
        for listening in dict.fromkeys(each for each, _ in batch):  # the next turn is that of others
            self._listening.remove(listening)
            if listening.over:
                events.append(Answered(listening.job.ticket, _joined(listening.job.request, listening.heard)))
            else:
                self._listening.append(listening)
        return events

    def _batch(self, events: list[EngineEvent]) -> list[tuple[Listening, AudioWindow]]:
        """The next windows of recordings with the settings of the first one: one of each in turn, so that a short one
        does not wait for the end of a long one, and of each at most `batch_size`."""
        batch: list[tuple[Listening, AudioWindow]] = []
        turns = deque(each for each in self._listening if each.key == self._listening[0].key)
        while turns and len(batch) < self._rows:
            listening = turns.popleft()
            try:
                batch.append((listening, listening.take()))
            except LlmctlError as error:
                batch = [each for each in batch if each[0] is not listening]
                self._listening.remove(listening)
                events.append(Failed(listening.job.ticket, error))
                continue
            taken = sum(each is listening for each, _ in batch)
            if not listening.over and taken < listening.job.sampling.batch_size:
                turns.append(listening)
        return batch

    def _opened(self, events: list[EngineEvent]) -> Listening | None:
        job = self._waiting.popleft()
        try:
            return Listening(job)
        except LlmctlError as error:
            events.append(Failed(job.ticket, error))
            return None

    def close(self) -> None:
        super().close()
        self._waiting.clear()
        self._listening.clear()


def separated(before: Sequence[Heard], text: str) -> str:
    """The text of a window with the space that separates it from the text before."""
    last = next((each.text for each in reversed(before) if each.text), "")
    return f" {text}" if last and text and not UNSPACED[0] <= last[-1] <= UNSPACED[1] else text


def _joined(request: Request, heard: Sequence[Heard]) -> Completion:
    spoken = tuple(
        part
        for each in heard
        for part in (
            each.spoken or ((Spoken(round(each.start, 3), round(each.end, 3), each.text.strip()),) if each.text else ())
        )
    )
    return Completion(
        id=request.id,
        text="".join(each.text for each in heard),
        finish_reason="stop" if all(each.complete for each in heard) else "length",
        tokens=sum(each.tokens for each in heard),
        spoken=spoken,
    )
