"""A decoder with stacked multi-head self-attention in the shape of GPT-2, written to be read.

    x   = W_token[ids] + W_position[0 … T-1]
    x   = x + Attention(LayerNorm(x))        in each layer, every token attends to itself and the tokens before it,
    x   = x + MLP(LayerNorm(x))              then transforms what it gathered
    log p(next token) = log softmax(W_token LayerNorm(x))

    Attention(q, k, v) = softmax(q kᵀ / √D + causal mask) v      for each head

Papers: Vaswani et al. 2017 (arXiv:1706.03762) for attention; Radford et al. 2019 (GPT-2) for the norm before each
sublayer, learned positions, and residual output weights initialised smaller by √(2·layers); Press and Wolf 2017
(arXiv:1608.05859) for tying the head to the token vectors; Hendrycks and Gimpel 2016 (arXiv:1606.08415) for GELU.

Letters: B rows of a batch, T tokens of a row, P cached tokens before them, N heads, D width of a head,
H = N·D hidden width, I width inside the MLP, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from llmctl.errors import DataError
from llmctl.models.spec import Shape, Vocabulary

FLOAT32_TOKENS: Final = 256
"""On a CPU under bfloat16 autocast, torch's attention kernel is faster in float32 up to about this many tokens: forward
and backward of 16×4×128×32 took 6 ms instead of 15, of 8×5×256×64 13 instead of 11, of 4×5×512×64 22 instead of 16."""


class AttentionConfig(PreTrainedConfig):  # type: ignore[misc]
    """The shape, under transformers' field names."""

    model_type = "llmctl-attention"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 256
    hidden_size: int = 128
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 512
    max_position_embeddings: int = 256
    dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class SelfAttention(nn.Module):
    """Multi-head causal self-attention: each query (q) is matched with keys (k) and gathers their values (v)."""

    def __init__(self, config: AttentionConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # all three projections in one product
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None, cache: DynamicCache | None) -> Tensor:
        """(B, T, H) -> (B, T, H). `mask` (B, 1, T, P+T), true where a query may attend; None: causal, empty cache."""
        rows, tokens, hidden = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, N, T, D)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, N, P+T, D)
        y = attend(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, N, T, D)
        y = self.out(y.transpose(1, 2).reshape(rows, tokens, hidden))  # (B, T, H)
        return F.dropout(y, self.dropout, self.training)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """softmax(q kᵀ / √D) v over the keys allowed by `mask`: (B, N, T, D), 2 × (B, N, S, D) -> (B, N, T, D)."""
    dtype = q.dtype
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu") and k.shape[2] <= FLOAT32_TOKENS:
        q, k, v = q.float(), k.float(), v.float()
        with torch.autocast("cpu", enabled=False):
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
        return y.to(dtype)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)


class Block(nn.Module):
    """One layer: attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: AttentionConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm_attention = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attention = SelfAttention(config, layer)
        self.norm_mlp = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None, cache: DynamicCache | None) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        x = x + self.attention(self.norm_attention(x), mask, cache)
        inner = F.gelu(self.up(self.norm_mlp(x)), approximate="tanh")  # (B, T, I)
        return x + F.dropout(self.down(inner), self.dropout, self.training)


class AttentionForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Maps token ids to logits for the next token."""

    config_class = AttentionConfig
    _input_embed_layer = "tokens"
    _no_split_modules = ("Block",)
    _tied_weights_keys = {"lm_head.weight": "tokens.weight"}
    _supports_sdpa = True

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """The input of the head: (B, T) -> (B, T, H).

        `attention_mask` (B, P+T) is 1 on tokens, 0 on padding. Raises `DataError` beyond the context.
        """
        past = cache.get_seq_length() if cache is not None else 0
        self._check_context(past + input_ids.shape[1])
        mask = visible(input_ids, attention_mask, past)  # (B, 1, T, P+T) or None
        if position_ids is None:
            position_ids = positions(input_ids, attention_mask, past)  # (B, T) or (1, T)
        x = self.tokens(input_ids) + self.positions(position_ids)  # (B, T, H)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, mask, cache)
        return self.norm(x)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) and, with `labels` (B, T), the mean cross-entropy where they are not -100.

        `labels` equal `input_ids` where a token is in the loss: token t is scored by the logits at t-1.
        `logits_to_keep`: compute logits only for this many last tokens; 0: for all.
        """
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        x = self.features(input_ids, attention_mask, position_ids=position_ids, cache=past_key_values)  # (B, T, H)
        logits = self.lm_head(x[:, -logits_to_keep:])  # (B, T or fewer, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _check_context(self, tokens: int) -> None:
        context = self.config.max_position_embeddings
        if tokens > context:
            raise DataError(
                f"{tokens} tokens exceed the model's context of {context}",
                hint=f"shorten the input or generate fewer tokens, so that both fit in {context} tokens",
            )

    def _init_weights(self, module: nn.Module) -> None:
        # Linear layers preserve the scale of their input. Token vectors, shared with the head, are much larger than
        # position vectors, so that identity dominates position; GPT-2's 0.02 for all trained slower at these widths.
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            is_position = module is self.positions
            init.normal_(module.weight, std=0.01 if is_position else module.embedding_dim**-0.5)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Block):  # initialised after its submodules
            for into_stream in (module.attention.out, module.down):
                depth = 2 * self.config.num_hidden_layers
                init.normal_(into_stream.weight, std=(depth * into_stream.in_features) ** -0.5)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def padded_before(mask: Tensor) -> bool:
    """Whether any row of a mask (B, T) has padding before a token. A number on the host: torch.compile cannot look into it."""
    return bool((mask[:, 1:] > mask[:, :-1]).any())


def visible(input_ids: Tensor, attention_mask: Tensor | None, past: int) -> Tensor | None:
    """Which keys each query may attend to, (B or 1, 1, T, P+T); None if the plain causal mask suffices."""
    tokens = input_ids.shape[1]
    # Causality already hides padding after the tokens. Only padding before a token must be masked.
    padded = attention_mask is not None and padded_before(attention_mask)
    if not padded and (past == 0 or tokens == 1):
        return None if past == 0 else torch.ones(1, 1, 1, past + 1, dtype=torch.bool, device=input_ids.device)
    causal = torch.ones(tokens, past + tokens, dtype=torch.bool, device=input_ids.device).tril(past)  # (T, P+T)
    if not padded or attention_mask is None:
        return causal[None, None]
    own = torch.ones_like(causal).triu(past) & causal  # padding attends to itself: an empty softmax is NaN
    return (causal & attention_mask.bool()[:, None, None, :]) | own


def positions(input_ids: Tensor, attention_mask: Tensor | None, past: int) -> Tensor:
    """The position of each token in its text, (B or 1, T), not counting padding before it."""
    tokens = input_ids.shape[1]
    if attention_mask is None:
        return torch.arange(past, past + tokens, device=input_ids.device)[None]
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens:]


def build(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> AttentionForCausalLM:
    """A model of this shape with random weights from torch's current seed."""
    config = AttentionConfig(
        vocab_size=vocabulary.size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=shape.context,
        dropout=shape.dropout,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        pad_token_id=vocabulary.pad,
    )
    return AttentionForCausalLM(config)
