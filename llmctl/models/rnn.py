"""A decoder with stacked Elman recurrences.

    h_t = σ(W x_t + U h_{t-1} + b),    h_0 = 0,    σ = tanh or the logistic sigmoid

All the network knows about the tokens before t is in the H numbers of h_{t-1}. The token vectors before the recurrence
and the softmax after it are in `recurrent.py`.

Papers: Elman 1990, Finding Structure in Time, Cognitive Science 14; Le, Jaitly and Hinton 2015 (arXiv:1504.00941) for
initialising U as a matrix that preserves norms: the gradient through t steps contains U t times.

Letters: B rows of a batch, T tokens of a row, E width of token vectors, H width of the state, L layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from llmctl.models.recurrent import RecurrentConfig, RecurrentForCausalLM, RecurrentState, config_fields
from llmctl.models.spec import Shape, Vocabulary


class RNNConfig(RecurrentConfig):
    """The shape of a recurrent decoder, and σ."""

    model_type = "llmctl-rnn"

    activation: str = "tanh"


class Recurrence(nn.Module):
    """One layer: h_t = σ(W x_t + U h_{t-1} + b)."""

    def __init__(self, inputs: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.W = nn.Linear(inputs, hidden)  # holds b too
        self.U = nn.Linear(hidden, hidden, bias=False)
        self.activation = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}[activation]

    def forward(self, x: Tensor, mask: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, E), h_0 (B, H) -> all h_t (B, T, H), and the last one (B, H). Skips padding, 0 in `mask` (B, T)."""
        # The loop over t is explicit: torch's nn.RNN, which has no sigmoid, was not faster (both 21 ms for 16×128
        # tokens, H = 256, forward and backward). float32 was faster than bfloat16 autocast (33 ms).
        wx = self.W(x).to(h.dtype)  # (B, T, H): the part that does not depend on h, for all t in one product
        u = self.U.weight.t()
        states = []
        with torch.autocast(x.device.type, enabled=False):
            for t, wx_t in enumerate(wx.unbind(1)):
                new = self.activation(torch.addmm(wx_t, h, u))  # (B, H)
                h = new if mask is None else torch.where(mask[:, t, None] > 0, new, h)
                states.append(h)
        return torch.stack(states, 1), h


class RNNForCausalLM(RecurrentForCausalLM):
    """Token vectors, L stacked recurrences, softmax over the vocabulary."""

    config_class = RNNConfig
    config: RNNConfig

    def __init__(self, config: RNNConfig) -> None:
        super().__init__(config)
        inputs = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(Recurrence(each, config.hidden_size, config.activation) for each in inputs)
        self.post_init()

    def read(self, x: Tensor, mask: Tensor | None, state: RecurrentState | None) -> tuple[Tensor, RecurrentState]:
        """(B, T, E) -> the top layer's states (B, T, H), and the last state of every layer."""
        if state is None:
            state = RecurrentState(
                (self.narrow.weight.new_zeros(len(self.layers), x.shape[0], self.config.hidden_size),)
            )
        last = []
        for layer, (recurrence, h) in enumerate(zip(self.layers, state.tensors[0], strict=True)):
            if layer > 0:
                x = F.dropout(x, self.config.dropout, self.training)
            x, h = recurrence(x, mask, h)  # (B, T, H), (B, H)
            last.append(h)
        return x, RecurrentState((torch.stack(last),))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Recurrence):
            init.orthogonal_(module.U.weight)


def build(shape: Shape, vocabulary: Vocabulary, labels: tuple[str, ...] = ()) -> RNNForCausalLM:
    """A model of this shape with random weights from torch's current seed."""
    return RNNForCausalLM(RNNConfig(activation=shape.activation, **config_fields(shape, vocabulary)))
