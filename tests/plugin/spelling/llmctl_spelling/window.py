"""A decoder that sees four tokens (Bengio et al. 2003). B rows, T tokens, E width of token vectors, V vocabulary."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from llmctl.models.spec import Shape, Vocabulary

SEEN = 4


class WindowConfig(PreTrainedConfig):
    model_type = "llmctl-spelling-window"
    vocab_size: int = 256
    embedding_size: int = 16
    hidden_size: int = 48
    use_cache: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


class WindowForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = WindowConfig

    def __init__(self, config: WindowConfig) -> None:
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.hidden = nn.Linear(SEEN * config.embedding_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> CausalLMOutput:
        x = self.tokens(input_ids)  # (B, T, E)
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        x = F.pad(x, (0, 0, SEEN - 1, 0)).unfold(1, SEEN, 1).flatten(2)  # (B, T, SEEN·E)
        logits = self.lm_head(torch.tanh(self.hidden(x)))  # (B, T, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutput(loss=loss, logits=logits)


def build(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> WindowForCausalLM:
    """A model of that shape with random weights."""
    config = WindowConfig(
        vocab_size=vocabulary.size,
        embedding_size=shape.embedding,
        hidden_size=shape.hidden,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        pad_token_id=vocabulary.pad,
    )
    return WindowForCausalLM(config)


AutoConfig.register(WindowConfig.model_type, WindowConfig, exist_ok=True)
AutoModelForCausalLM.register(WindowConfig, WindowForCausalLM, exist_ok=True)
