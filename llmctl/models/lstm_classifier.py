"""Text classification with an LSTM.

    y = LSTM→ and LSTM← over √E W_token[ids]
    z = max over t of y_t                  pooling `max`: the maximum of each feature
    z = [y→_T ; y←_1]                      pooling `last`: the last state of each direction
    log p(label) = log softmax(W z + b)    head `softmax`: one output for each label
    log p(label 1) = log σ(w · z + b)      head `sigmoid`: one output for two labels

For the head `sigmoid`, the logits are (0, w · z + b): their softmax is (1 - σ, σ), so their cross-entropy is the binary
cross-entropy of σ, and code that reads logits does not depend on the head.

Papers: Hochreiter and Schmidhuber 1997 for the LSTM; Conneau et al. 2017 (arXiv:1705.02364) for the maximum over time.

Letters: B rows of a batch, S tokens of a row, E width of token vectors, R width of the reader, C labels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from llmctl.errors import UsageError
from llmctl.models.lstm import init_lstm
from llmctl.models.reader import Reader
from llmctl.models.recurrent import config_fields
from llmctl.models.spec import Shape, Vocabulary


class LSTMClassifierConfig(PreTrainedConfig):  # type: ignore[misc]
    """The shape; the labels are in `id2label`."""

    model_type = "llmctl-lstm-classifier"

    vocab_size: int = 256
    embedding_size: int = 128
    hidden_size: int = 128
    num_hidden_layers: int = 1
    bidirectional: bool = True
    pooling: str = "max"
    head: str = "softmax"
    dropout: float = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class LSTMForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """Maps a text to logits for its label."""

    config_class = LSTMClassifierConfig
    config: LSTMClassifierConfig
    _input_embed_layer = "tokens"

    def __init__(self, config: LSTMClassifierConfig) -> None:
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.scale = math.sqrt(config.embedding_size)
        self.reader = Reader(
            config.embedding_size,
            config.hidden_size,
            config.num_hidden_layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout,
        )
        self.classifier = nn.Linear(self.reader.width, 1 if config.head == "sigmoid" else config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """(B, S), mask 1 on tokens and 0 on padding -> logits (B, C) and, with `labels`, the mean cross-entropy.

        `labels` (B,) are label indices; -100 excludes a row from the loss.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = F.dropout(self.scale * self.tokens(input_ids), self.config.dropout, self.training)  # (B, S, E)
        y, z = self.reader(x, mask)  # (B, S, R), (B, R)
        if self.config.pooling == "max":
            z = y.masked_fill(mask[:, :, None] == 0, torch.finfo(y.dtype).min).amax(1)  # (B, R)
        logits = self.classifier(F.dropout(z, self.config.dropout, self.training))  # (B, C), or (B, 1)
        if self.config.head == "sigmoid":
            logits = F.pad(logits, (1, 0))  # (B, 2)
        loss = F.cross_entropy(logits.float(), labels) if labels is not None else None
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            init_lstm(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)


def build(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> LSTMForSequenceClassification:
    """A model of this shape with random weights from torch's current seed."""
    if not labels:
        raise UsageError(
            "lstm-classifier needs labels, and the data has none", hint="use data of the task classification"
        )
    if shape.head == "sigmoid" and len(labels) != 2:
        raise UsageError(f"the head sigmoid requires two labels, not {len(labels)}", hint="--set model.head=softmax")
    config = LSTMClassifierConfig(
        bidirectional=shape.bidirectional,
        pooling=shape.pooling,
        head=shape.head,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **config_fields(shape, vocabulary),
    )
    return LSTMForSequenceClassification(config)
