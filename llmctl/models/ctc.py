"""A speech recogniser: convolutions, a bidirectional LSTM, and connectionist temporal classification (CTC).

    x = GELU(conv(GELU(conv(log-mel))))           local patterns of the spectrum; every second frame is kept
    y_t = [LSTM→(x)_t ; LSTM←(x)_t]               each frame sees the whole recording
    p(k | t) = softmax(W y_t + b)_k               k: a token, or the blank ∅, "nothing new here"
    p(text) = Σ over the paths π that collapse to the text of Π_t p(π_t | t)

A path has one k for every frame. It collapses to a text by joining equal neighbours and then removing blanks:
∅ h h ∅ e l ∅ l o -> h e l l o. So the text needs no alignment in training; the sum over paths, by dynamic
programming, is torch's `ctc_loss`. Frames are independent given the recording, so the model has no language model.

Papers: Graves, Fernández, Gomez and Schmidhuber 2006 for CTC; Amodei et al. 2016 (arXiv:1512.02595) for convolutions
and bidirectional recurrence below it.

Letters: B rows of a batch, M mel bands, T frames of 10 ms, S = ⌈T / 2⌉ frames of 20 ms, E width of the convolutions,
R width of the reader, V vocabulary, U tokens of a text.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput

from llmctl.models.families import CTC_STRIDE
from llmctl.models.lstm import init_lstm
from llmctl.models.reader import Reader
from llmctl.models.spec import Shape, Vocabulary

STRIDE: Final = CTC_STRIDE
KERNEL: Final = 5
"""Frames that a convolution sees."""


class CTCConfig(PreTrainedConfig):  # type: ignore[misc]
    """The shape. The blank is the padding token, as in the wav2vec2 models of transformers."""

    model_type = "llmctl-ctc"

    vocab_size: int = 256
    num_mel_bins: int = 80
    embedding_size: int = 128
    hidden_size: int = 128
    num_hidden_layers: int = 2
    dropout: float = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class SpeechForCTC(PreTrainedModel):  # type: ignore[misc]
    """Maps log-mel features to logits of tokens and blank for every 20 ms."""

    config_class = CTCConfig
    config: CTCConfig
    main_input_name = "input_features"

    def __init__(self, config: CTCConfig) -> None:
        super().__init__(config)
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.embedding_size, KERNEL, padding=KERNEL // 2)
        self.conv2 = nn.Conv1d(config.embedding_size, config.embedding_size, KERNEL, STRIDE, padding=KERNEL // 2)
        self.norm = nn.LayerNorm(config.embedding_size)
        self.reader = Reader(
            config.embedding_size,
            config.hidden_size,
            config.num_hidden_layers,
            bidirectional=True,
            dropout=config.dropout,
        )
        self.lm_head = nn.Linear(self.reader.width, config.vocab_size)
        self.post_init()

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> CausalLMOutput:
        """(B, M, T), mask (B, T) 1 on frames and 0 on padding -> logits (B, S, V) and, with `labels` (B, U), the mean
        over the rows of -log p(text). `labels` are -100 after a text."""
        mask = attention_mask
        if mask is None:
            mask = input_features.new_ones(input_features.shape[0], input_features.shape[2], dtype=torch.long)
        x = F.gelu(self.conv1(input_features * mask[:, None]))  # (B, E, T)
        # Frames of padding are zeroed before each convolution, so that a row does not depend on its batch.
        x = F.gelu(self.conv2(x * mask[:, None]))  # (B, E, S)
        mask = mask[:, ::STRIDE]  # (B, S)
        x = F.dropout(self.norm(x.transpose(1, 2)), self.config.dropout, self.training)  # (B, S, E)
        y, _ = self.reader(x, mask)  # (B, S, R)
        logits = self.lm_head(F.dropout(y, self.config.dropout, self.training))  # (B, S, V)
        loss = None
        if labels is not None:
            loss = ctc_losses(logits, mask.sum(1), labels, self.config.pad_token_id or 0).mean()
        return CausalLMOutput(loss=loss, logits=logits)

    def output_lengths(self, frames: Tensor) -> Tensor:
        """The number of output frames of recordings with so many frames of 10 ms."""
        return (frames + STRIDE - 1) // STRIDE

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            init_lstm(module)
        elif isinstance(module, nn.Conv1d | nn.Linear):
            init.kaiming_uniform_(module.weight, a=1.0)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


def ctc_losses(logits: Tensor, lengths: Tensor, labels: Tensor, blank: int) -> Tensor:
    """-log p(text) in nats of each row (B,), from logits (B, S, V), their lengths (B,) and labels (B, U).

    A text that has no path, because its recording is too short for it, counts 0.
    """
    log_p = logits.float().log_softmax(-1).transpose(0, 1)  # (S, B, V)
    sizes = (labels >= 0).sum(1)  # (B,)
    return F.ctc_loss(log_p, labels.clamp(min=0), lengths, sizes, blank=blank, reduction="none", zero_infinity=True)


def build(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> SpeechForCTC:
    """A model of this shape with random weights from torch's current seed."""
    return SpeechForCTC(
        CTCConfig(
            vocab_size=vocabulary.size,
            embedding_size=shape.embedding,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            dropout=shape.dropout,
            bos_token_id=vocabulary.bos,
            eos_token_id=vocabulary.eos,
            pad_token_id=vocabulary.pad,
        )
    )
