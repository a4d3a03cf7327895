"""A decoder with stacked long short-term memory (LSTM) layers.

    i, f, g, o = W x_t + U h_{t-1} + b            input, forget and output gates, and the candidate g
    c_t = σ(f) c_{t-1} + σ(i) tanh(g)             the cell state: updated by addition, so that gradients pass through it
    h_t = σ(o) tanh(c_t)                          the output to the next layer and the next step

The token vectors before the recurrence and the softmax after it are in `recurrent.py`.

Papers: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 for the forget gate; Jozefowicz, Zaremba
and Sutskever 2015 for its bias of 1 at the start; Zaremba et al. 2014 (arXiv:1409.2329) for dropout between layers only.

Letters: B rows of a batch, T tokens of a row, E width of token vectors, H width of the state, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init

from llmctl.models.recurrent import RecurrentConfig, RecurrentForCausalLM, RecurrentState, config_fields
from llmctl.models.spec import Shape, Vocabulary


class LSTMConfig(RecurrentConfig):
    """The shape of a recurrent decoder."""

    model_type = "llmctl-lstm"


class LSTMForCausalLM(RecurrentForCausalLM):
    """Token vectors, L stacked LSTM layers, softmax over the vocabulary."""

    config_class = LSTMConfig
    config: LSTMConfig

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.num_hidden_layers,
            batch_first=True,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
        )
        self.post_init()

    def read(self, x: Tensor, mask: Tensor | None, state: RecurrentState | None) -> tuple[Tensor, RecurrentState]:
        """(B, T, E) -> the top layer's states (B, T, H), and the last h and c of every layer, 2 × (L, B, H)."""
        start = state.tensors if state is not None else None
        if mask is None:
            h, last = self.lstm(x, start)  # (B, T, H)
            return h, RecurrentState(last)
        # Move padding to the end of each row, so that torch's packed sequences skip it.
        order = mask.argsort(dim=1, descending=True, stable=True)  # (B, T)
        lengths = mask.sum(1).clamp(min=1).cpu()  # a row with only padding needs a length, too
        packed = pack_padded_sequence(take(x, order), lengths, batch_first=True, enforce_sorted=False)
        packed, last = self.lstm(packed, start)
        h, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])  # (B, T, H)
        return take(h, order.argsort(1)), RecurrentState(last)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            init_lstm(module)


def init_lstm(lstm: nn.LSTM) -> None:
    """Uniform weights with torch's default bounds; biases 0, but 1 for the forget gate, the second quarter of 4·H."""
    for name, weight in lstm.named_parameters():
        if name.startswith("weight"):
            init.uniform_(weight, -(lstm.hidden_size**-0.5), lstm.hidden_size**-0.5)
        elif name.startswith("bias_ih"):
            gates = torch.zeros(4, lstm.hidden_size)
            gates[1] = 1.0
            init.copy_(weight, gates.flatten())
        else:
            init.zeros_(weight)


def take(x: Tensor, order: Tensor) -> Tensor:
    """Reorder the tokens of each row, x[b, order[b, t]]: (B, T, any), (B, T) -> (B, T, any)."""
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))


def build(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> LSTMForCausalLM:
    """A model of this shape with random weights from torch's current seed."""
    return LSTMForCausalLM(LSTMConfig(**config_fields(shape, vocabulary)))
