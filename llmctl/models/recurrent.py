"""Shared parts of `rnn.py` and `lstm.py`: a decoder that keeps the past in a state of fixed size.

    x = √E W_token[ids]
    s_t = step(x_t, s_{t-1})
    log p(next token) = log softmax(W_token (W_narrow s_t + b) + b')

Input and head share the token vectors. Their norm suits the head (about 1), so the recurrence reads them times √E
(Press and Wolf 2017, arXiv:1608.05859; Vaswani et al. 2017, arXiv:1706.03762, section 3.4).

The step, in which the two architectures differ, is in their own files. This file has the embedding, the head, and what
transformers' `generate` requires of a model with a state instead of a key/value cache.

Letters: B rows of a batch, T tokens of a row, E width of token vectors, H width of the state, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput

from llmctl.models.spec import Shape, Vocabulary


class RecurrentConfig(PreTrainedConfig):  # type: ignore[misc]
    """The shape of a recurrent decoder."""

    vocab_size: int = 256
    embedding_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 1
    dropout: float = 0.0
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


@dataclass
class RecurrentState:
    """The state after the tokens read so far: tensors (L, B, H), the LSTM's h and c or the RNN's h."""

    tensors: tuple[Tensor, ...]

    is_compileable = False

    def reorder_cache(self, rows: Tensor) -> None:
        """Row i continues from the state of row `rows[i]`, as selected by beam search."""
        self.tensors = tuple(each.index_select(1, rows) for each in self.tensors)


@dataclass
class RecurrentOutput(CausalLMOutput):  # type: ignore[misc]
    """`loss`, `logits`, and the state under the name that `generate` passes from step to step."""

    cache_params: RecurrentState | None = None


class RecurrentForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Maps token ids to logits for the next token. Subclasses implement `read`."""

    _input_embed_layer = "tokens"
    _tied_weights_keys = {"lm_head.weight": "tokens.weight"}
    _is_stateful = True

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.scale = math.sqrt(config.embedding_size)
        self.narrow = nn.Linear(config.hidden_size, config.embedding_size)
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size)

    def read(self, x: Tensor, mask: Tensor | None, state: RecurrentState | None) -> tuple[Tensor, RecurrentState]:
        """(B, T, E) -> the states of the top layer (B, T, H), and the state after the last token of each row.

        `mask` (B, T) is 1 on tokens, 0 on padding before or after them; None: no padding that matters.
        """
        raise NotImplementedError

    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The input of the head: (B, T) -> (B, T, E)."""
        return self._read(input_ids, attention_mask, None, keep_state=False)[0]

    def _read(
        self, input_ids: Tensor, mask: Tensor | None, state: RecurrentState | None, *, keep_state: bool
    ) -> tuple[Tensor, RecurrentState]:
        # Padding after the tokens affects only the last state.
        if mask is not None and not padding_matters(mask, last_state=keep_state):
            mask = None
        x = F.dropout(self.scale * self.tokens(input_ids), self.config.dropout, self.training)  # (B, T, E)
        h, state = self.read(x, mask, state)  # (B, T, H)
        return self.narrow(F.dropout(h, self.config.dropout, self.training)), state  # (B, T, E)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache_params: RecurrentState | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> RecurrentOutput:
        """Logits (B, T, V) and, with `labels` (B, T), the mean cross-entropy where they are not -100.

        `labels` equal `input_ids` where a token is in the loss: token t is scored by the logits at t-1.
        `logits_to_keep`: compute logits only for this many last tokens; 0: for all.
        """
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        x, state = self._read(input_ids, attention_mask, cache_params, keep_state=use_cache)  # (B, T, E)
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T or fewer, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return RecurrentOutput(loss=loss, logits=logits, cache_params=state if use_cache else None)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> Mapping[str, Any]:
        """The arguments of `forward` at one step of `generate`; with a state, only the newest token is read."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if use_cache and not is_first_iteration:
            inputs["attention_mask"] = None  # it covers tokens that the state already includes
        return inputs

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # otherwise `generate` creates a key/value cache

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def padding_matters(mask: Tensor, *, last_state: bool) -> bool:
    """Whether a recurrence must respect the mask (B, T): always for padding before a token, and for padding after the
    tokens if the last state is needed."""
    return bool((mask == 0).any()) if last_state else bool((mask[:, 1:] > mask[:, :-1]).any())


def config_fields(shape: Shape, vocabulary: Vocabulary) -> dict[str, Any]:
    """The fields of `RecurrentConfig` from a shape and a vocabulary."""
    return {
        "vocab_size": vocabulary.size,
        "embedding_size": shape.embedding,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "dropout": shape.dropout,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "pad_token_id": vocabulary.pad,
    }
