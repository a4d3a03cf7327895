"""The engine that transcribes recordings with a model in this process.

A recording comes as a series of windows, which are transcribed in batches; the text of a long one is that of its
windows, joined. Memory does not depend on the length of a recording.

Letters: B windows of a batch, M mel bands, T frames of 10 ms, S output frames, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from llmctl.engines import ctc_search
from llmctl.engines.spec import Sampling
from llmctl.errors import UsageError
from llmctl.store.border import running
from llmctl.types import AudioWindow, Completion, Family, Likelihood, Precision, Request, Spoken

MOST_WINDOWS: Final = 16
"""Windows of a batch: an encoder reads all of a window at once, about 1,500 positions of 30 s."""
UNSPACED: Final = ("\u2e80", "\u9fff")
"""First and last of the letters between which windows are joined without a space."""
KEPT: Final = ("suppress_tokens", "begin_suppress_tokens", "decoder_start_token_id")
"""Settings of Whisper's own generation config that decide what its transcripts may contain."""


class Heard(NamedTuple):
    """What was recognised in a window: text, tokens, and with times if they were asked for."""

    window: AudioWindow
    text: str
    tokens: int
    complete: bool
    spoken: tuple[Spoken, ...] = ()


class SpeechEngine:
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
    ) -> None:
        self.model, self.tokenizer, self.family = model.to(device or model.device), tokenizer, family
        self.device = str(self.model.device)
        self.bf16 = precision == "bf16"
        self.context = layout_context
        self._recognise: Callable[[Sequence[AudioWindow], Sampling, tuple[int, ...]], list[Heard]] = {
            "ctc": self._ctc,
            "speech-seq2seq": self._seq2seq,
        }[family]

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, stream: Callable[[str], None] | None = None
    ) -> Iterator[Completion]:
        """Transcripts in the order of the requests. Raises `UsageError` for sampling, and what opening a recording does."""
        sampling.check()
        if sampling.samples or sampling.num_samples > 1:
            raise UsageError("a transcript is not sampled", hint="leave out temperature, top_k, top_p and num_samples")
        windows = ((number, window) for number, each in enumerate(requests) for window in _windows(each))
        size = min(sampling.batch_size, MOST_WINDOWS)
        pending: list[list[Heard]] = []
        first = 0
        while batch := list(itertools.islice(windows, size)):
            heard = self._recognise([window for _, window in batch], sampling, requests[batch[0][0]].input_ids)
            for (number, _), found in zip(batch, heard, strict=True):
                while first + len(pending) <= number:
                    pending.append([])
                pending[number - first].append(found)
                if stream is not None:
                    stream(found.text)
            # All before the last request of the batch are whole.
            while first < batch[-1][0]:
                yield _joined(requests[first], pending.pop(0))
                first += 1
        for number in range(first, len(requests)):
            yield _joined(requests[number], pending.pop(0))

    def score(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[Likelihood]:
        raise UsageError("likelihoods of transcripts are not computed", hint="use wer or cer")

    # -- models -----------------------------------------------------------------------------------------------

    def _ctc(self, windows: Sequence[AudioWindow], sampling: Sampling, start: tuple[int, ...]) -> list[Heard]:
        inputs = self._inputs(windows)
        with torch.inference_mode(), running(self.model), self._autocast():
            logits = self._evaluated()(**inputs).logits  # (B, S, V)
        log_p = logits.float().log_softmax(-1).cpu().numpy()
        blank, heard = int(self.model.config.pad_token_id), []
        mask = inputs["attention_mask"]
        for window, row, frames in zip(windows, log_p, mask.sum(1).tolist(), strict=True):
            real = row[: max(1, round(len(row) * frames / mask.shape[1]))]  # (S, V)
            found = ctc_search.search(real, blank, sampling.num_beams)
            text = self._decoded(found.tokens)
            per_frame = (window.end - window.start) / len(real)
            spoken = tuple(
                Spoken(window.start + part.start * per_frame, window.start + part.end * per_frame, said)
                for part in ctc_search.phrases(found, self._starts_word, round(0.6 / max(per_frame, 1e-6)))
                if (said := self._decoded(part.tokens).strip())
            )
            heard.append(Heard(window, text, len(found.tokens), True, spoken))
        return heard

    def _seq2seq(self, windows: Sequence[AudioWindow], sampling: Sampling, start: tuple[int, ...]) -> list[Heard]:
        inputs = self._inputs(windows)
        config = self.model.config
        before = (int(config.decoder_start_token_id), *start)
        room = min(sampling.max_new_tokens, (self.context or config.max_target_positions) - len(before))
        ids = torch.tensor([before] * len(windows), device=self.device)
        with torch.inference_mode(), running(self.model), self._autocast():
            encoded = self._evaluated().get_encoder()(inputs["input_features"].to(self.model.dtype))
            rows = self._searched(encoded, ids, sampling, room)
        heard = []
        end = config.eos_token_id
        for window, row in zip(windows, rows.tolist(), strict=True):
            new = row[len(before) :]
            length = new.index(end) if end in new else len(new)
            heard.append(Heard(window, self._decoded(new[:length]), length, length < len(new) or length < room))
        return heard

    def _searched(self, encoded: Any, ids: Tensor, sampling: Sampling, room: int) -> Tensor:
        """transformers' plain greedy or beam search: Whisper's own `generate` is for its published tokenizers only."""
        from transformers import GenerationMixin

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
        self.model.generation_config = GenerationConfig()
        try:
            rows: Tensor = GenerationMixin.generate(
                self.model, encoder_outputs=encoded, decoder_input_ids=ids, generation_config=settings
            )
        finally:
            self.model.generation_config = own
        return rows

    # -- shared -----------------------------------------------------------------------------------------------

    def _evaluated(self) -> Any:
        return self.model.eval()

    def _autocast(self) -> Any:
        enabled = self.bf16 and self.model.dtype == torch.float32
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=enabled)

    def _inputs(self, windows: Sequence[AudioWindow]) -> dict[str, Tensor]:
        """Features (B, M, T) or samples (B, N), padded at the end, and which of them are real."""
        features = [window.features for window in windows]
        width = max(each.shape[-1] for each in features)
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

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def _starts_word(self, token: int) -> bool:
        text: str = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text[:1].isspace() or UNSPACED[0] <= text[:1] <= UNSPACED[1]


def _windows(request: Request) -> Iterator[AudioWindow]:
    if request.windows is None:
        raise ValueError(f"request {request.id!r} has no recording")
    return request.windows()


def _joined(request: Request, heard: Sequence[Heard]) -> Completion:
    text = ""
    for each in heard:
        between = " " if text and each.text and not (UNSPACED[0] <= text[-1] <= UNSPACED[1]) else ""
        text += between + each.text
    spoken = tuple(
        part
        for each in heard
        for part in (each.spoken or ((Spoken(each.window.start, each.window.end, each.text),) if each.text else ()))
    )
    return Completion(
        id=request.id,
        text=text,
        finish_reason="stop" if all(each.complete for each in heard) else "length",
        tokens=sum(each.tokens for each in heard),
        spoken=spoken,
    )
