"""LSTM encoder and LSTM decoder with attention over the source.

    h→, h← = LSTM→, LSTM← over √E W_token[source]
    m_s = W_m [h→_s ; h←_s]                          the encoder's memory of source position s
    h_t = LSTM(√E W_token[y_{t-1}], h_{t-1}),    h_0 = tanh(W_0 [h→_S ; h←_1])
    e_ts = (W_q h_t) · m_s / √H                      score `dot`: Luong's "general", scaled
    e_ts = v · tanh(W_q h_t + W_k m_s)               score `additive`: Bahdanau's
    a_t = softmax(e_t over s),    c_t = Σ_s a_ts m_s
    log p(y_t) = log softmax(W_token tanh(W_c [c_t ; h_t]) + b)

The decoder attends after its LSTM, as in Luong et al., not before it, as in Bahdanau et al. Then h_t does not depend on
attention, and in training the LSTM reads the full target at once and all T queries attend in parallel.

Papers: Sutskever, Vinyals and Le 2014 (arXiv:1409.3215); Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473); Luong, Pham
and Manning 2015 (arXiv:1508.04025); Press and Wolf 2017 (arXiv:1608.05859) for the token vectors shared by
source, target and head; Vaswani et al. 2017 (arXiv:1706.03762, section 3.4) for their factor √E.

Letters: B rows of a batch, S source tokens, T target tokens, E width of token vectors, H width of the states,
L layers of the encoder and of the decoder each, V vocabulary (one for both languages).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from llmctl.models import costs
from llmctl.models.lstm import init_lstm
from llmctl.models.reader import Reader
from llmctl.models.recurrent import RecurrentState, config_fields
from llmctl.models.spec import Shape, Vocabulary


class LSTMSeq2SeqConfig(PreTrainedConfig):  # type: ignore[misc]
    """The shape, under transformers' field names."""

    model_type = "llmctl-lstm-seq2seq"

    vocab_size: int = 256
    embedding_size: int = 128
    hidden_size: int = 192
    num_hidden_layers: int = 1
    score: str = "dot"
    dropout: float = 0.0
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None


@dataclass
class EncoderOutput(BaseModelOutput):  # type: ignore[misc]
    """The encoded source: `last_hidden_state` m (B, S, H), and `start`, h_0 of every decoder layer (B, L, H)."""

    start: Tensor | None = None


@dataclass
class Seq2SeqOutput(Seq2SeqLMOutput):  # type: ignore[misc]
    """`cross_attentions` is a 1-tuple with a_ts of the only attention head, (B, 1, T, S); `cache_params` is the
    decoder's state, under the name that `generate` passes from step to step."""

    cache_params: RecurrentState | None = None


class Encoder(nn.Module):
    """Maps source ids to the decoder's view of them."""

    main_input_name = "input_ids"

    def __init__(self, config: LSTMSeq2SeqConfig) -> None:
        super().__init__()
        self.layers, self.dropout = config.num_hidden_layers, config.dropout
        self.tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.reader = Reader(
            config.embedding_size, config.hidden_size, self.layers, bidirectional=True, dropout=config.dropout
        )
        self.memory = nn.Linear(self.reader.width, config.hidden_size)  # W_m
        self.start = nn.Linear(self.reader.width, self.layers * config.hidden_size)  # W_0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> EncoderOutput:
        """(B, S), mask 1 on tokens and 0 on padding -> m (B, S, H), h_0 (B, L, H)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = F.dropout(self.embed(input_ids), self.dropout, self.training)  # (B, S, E)
        y, ends = self.reader(x, mask)  # (B, S, 2H), (B, 2H)
        memory = self.memory(F.dropout(y, self.dropout, self.training))  # (B, S, H)
        start = torch.tanh(self.start(ends)).view(len(ends), self.layers, -1)  # (B, L, H)
        return EncoderOutput(last_hidden_state=memory, start=start)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, S) -> √E W_token[ids] (B, S, E)."""
        return math.sqrt(self.tokens.embedding_dim) * cast(Tensor, self.tokens(ids))


class CrossAttention(nn.Module):
    """Attention of each target position to each source position."""

    energies_at_once: int = costs.ENERGIES_AT_ONCE
    """Numbers of (B, T, S, H) computed at a time."""

    def __init__(self, hidden: int, score: str) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden, bias=False)  # W_q
        self.key = nn.Linear(hidden, hidden, bias=False) if score == "additive" else None  # W_k
        self.v = nn.Linear(hidden, 1, bias=False) if score == "additive" else None

    def forward(self, h: Tensor, memory: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """h (B, T, H), m (B, S, H), mask (B, S) -> c (B, T, H), a (B, T, S). Padding of the source gets weight 0."""
        q = self.query(h)  # (B, T, H)
        if self.key is not None:
            e = self._additive(q, self.key(memory))
        else:
            e = q @ memory.transpose(1, 2) / math.sqrt(q.shape[-1])  # (B, T, S)
        if mask is not None:
            e = e.masked_fill(mask[:, None] == 0, torch.finfo(e.dtype).min)
        a = e.softmax(-1)  # (B, T, S)
        return a.to(memory.dtype) @ memory, a

    def _additive(self, q: Tensor, k: Tensor) -> Tensor:
        """q (B, T, H), k (B, S, H) -> e (B, T, S). Long targets are split into chunks; otherwise a single long record
        would take gigabytes."""
        assert self.v is not None
        size = max(1, self.energies_at_once // (q.shape[0] * k.shape[1] * k.shape[2]))
        if q.shape[1] <= size:
            return self._scores(q, k)
        energies: Tensor = _ChunkedEnergies.apply(q, k, self.v.weight[0].to(q.dtype), size)  # type: ignore[no-untyped-call]
        return energies

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """v · tanh(q_t + k_s): q (B, T, H), k (B, S, H) -> (B, T, S) through (B, T, S, H)."""
        assert self.v is not None
        scores: Tensor = self.v(torch.tanh(q[:, :, None] + k[:, None])).squeeze(-1)
        return scores


class _ChunkedEnergies(torch.autograd.Function):
    """v · tanh(q_t + k_s): q (B, T, H), k (B, S, H), v (H,) -> (B, T, S), for `size` target positions at a time. The
    backward pass recomputes the chunks.

    The result is allocated before the first chunk. Allocated chunk by chunk, it would fragment memory, and the peak
    would be as high as without chunks.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.size = size
        energies = q.new_empty(*q.shape[:2], k.shape[1])
        for chunk, out in zip(torch.split(q, size, 1), torch.split(energies, size, 1), strict=True):
            out.copy_((chunk[:, :, None] + k[:, None]).tanh_() @ v)
        return energies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros_like(each, dtype=torch.float32) for each in (k, v))
        chunks = zip(*(torch.split(each, ctx.size, 1) for each in (q, grad, grad_q)), strict=True)
        for chunk, grad_chunk, out in chunks:
            y = (chunk[:, :, None] + k[:, None]).tanh_()  # (B, t, S, H)
            grad_v += grad_chunk.reshape(-1) @ y.reshape(-1, len(v))
            inner = torch.ops.aten.tanh_backward(grad_chunk[..., None] * v, y)
            out.copy_(inner.sum(2))
            grad_k += inner.sum(1)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None


class LSTMForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Maps a source and the target so far to logits for the next target token."""

    config_class = LSTMSeq2SeqConfig
    config: LSTMSeq2SeqConfig
    _tied_weights_keys = {"lm_head.weight": "encoder.tokens.weight"}
    _is_stateful = True

    def __init__(self, config: LSTMSeq2SeqConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.num_hidden_layers,
            batch_first=True,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
        )
        self.attention = CrossAttention(config.hidden_size, config.score)
        self.combine = nn.Linear(2 * config.hidden_size, config.embedding_size)  # W_c
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def decode(
        self, decoder_input_ids: Tensor, encoded: EncoderOutput, mask: Tensor | None, state: RecurrentState | None
    ) -> tuple[Tensor, Tensor, RecurrentState]:
        """Target so far (B, T) -> input of the head (B, T, E), attention (B, T, S), the LSTM's last state."""
        memory, start = encoded.last_hidden_state, encoded.start
        assert memory is not None
        assert start is not None
        if state is None:
            h = start.transpose(0, 1).contiguous()  # (L, B, H)
            state = RecurrentState((h, torch.zeros_like(h)))
        x = self.encoder.embed(decoder_input_ids)  # (B, T, E)
        h, last = self.lstm(self._drop(x), state.tensors)  # (B, T, H)
        context, weights = self.attention(h, memory, mask)  # (B, T, H), (B, T, S)
        y = torch.tanh(self.combine(self._drop(torch.cat([context, h], -1))))  # (B, T, E)
        return self._drop(y), weights, RecurrentState(last)

    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, decoder_input_ids: Tensor) -> Tensor:
        """The input of the head: source (B, S), its mask, target so far (B, T) -> (B, T, E)."""
        return self.decode(decoder_input_ids, self.encoder(input_ids, attention_mask), attention_mask, None)[0]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: EncoderOutput | None = None,
        cache_params: RecurrentState | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqOutput:
        """Logits (B, T, V) and, with `labels` (B, T), the mean cross-entropy where they are not -100.

        `labels` are the target; without `decoder_input_ids` the decoder reads them shifted right by one, after
        `decoder_start_token_id`. Raises `ValueError` if there is nothing to encode or to decode.
        """
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("give input_ids or encoder_outputs")
            encoder_outputs = self.encoder(input_ids, attention_mask)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("give decoder_input_ids or labels")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        x, weights, state = self.decode(decoder_input_ids, encoder_outputs, attention_mask, cache_params)
        logits = self.lm_head(x)  # (B, T, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(  # labels are aligned with the logits: no shift
                logits=logits, labels=labels, shift_labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return Seq2SeqOutput(
            loss=loss,
            logits=logits,
            cache_params=state if use_cache else None,
            cross_attentions=(weights.unsqueeze(1),) if output_attentions else None,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Target (B, T) -> decoder input (B, T): the start token, then the target without its last token."""
        start = torch.full_like(labels[:, :1], cast(int, self.config.decoder_start_token_id))
        ids = torch.cat([start, labels[:, :-1]], 1)
        return ids.masked_fill(ids == -100, cast(int, self.config.pad_token_id))

    def get_input_embeddings(self) -> nn.Embedding:
        """The token vectors, shared by source, target and head."""
        return self.encoder.tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token vectors for all three."""
        self.encoder.tokens = value

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # otherwise `generate` creates a key/value cache

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            init_lstm(module)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)


def build(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> LSTMForConditionalGeneration:
    """A model of this shape with random weights from torch's current seed."""
    fields = config_fields(shape, vocabulary)
    config = LSTMSeq2SeqConfig(score=shape.score, decoder_start_token_id=vocabulary.bos, **fields)
    return LSTMForConditionalGeneration(config)
