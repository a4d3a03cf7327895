"""A unidirectional or bidirectional LSTM encoder, used by `lstm_seq2seq.py` and `lstm_classifier.py`.

    h→_t = LSTM→(x_t, h→_{t-1}),    h←_t = LSTM←(x_t, h←_{t+1}),    y_t = [h→_t ; h←_t]

Padding does not affect the states: it is moved behind the tokens, and the backward direction reverses only the tokens
of each row. (torch's bidirectional LSTM needs packed sequences for that, which took four times as long on a CPU.)

Papers: Schuster and Paliwal 1997, Bidirectional Recurrent Neural Networks; Graves and Schmidhuber 2005 with LSTMs.

Letters: B rows of a batch, S tokens of a row, E width of the input, H width of one direction, R = H or 2·H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmctl.models.lstm import take
from llmctl.models.recurrent import padding_matters


class Reader(nn.Module):
    """L stacked layers with dropout between them."""

    def __init__(self, inputs: int, hidden: int, layers: int, *, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.width = hidden * (2 if bidirectional else 1)
        widths = [inputs] + [self.width] * (layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths)
        self.backwards = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths if bidirectional)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, E), mask (B, S) 1 on tokens and 0 on padding -> y (B, S, R), last state of each direction (B, R).

        y is undefined at padding. Padding may be on either side: rows are aligned first and restored afterwards.
        """
        aligned = not padding_matters(mask, last_state=False)
        order = mask.argsort(dim=1, descending=True, stable=True)  # (B, S), tokens first
        lengths = mask.sum(1).clamp(min=1)  # (B,)
        reversal = reversed_order(lengths, x.shape[1])  # (B, S)
        x = x if aligned else take(x, order)
        for layer, forwards in enumerate(self.forwards):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            forth, _ = forwards(x)  # (B, S, H)
            if self.backwards:
                back, _ = self.backwards[layer](take(x, reversal))  # (B, S, H), last token first
                x = torch.cat([forth, take(back, reversal)], -1)  # (B, S, R)
                ends = torch.cat([_at(forth, lengths - 1), _at(back, lengths - 1)], -1)  # (B, R)
            else:
                x, ends = forth, _at(forth, lengths - 1)
        return (x if aligned else take(x, order.argsort(1))), ends


def reversed_order(lengths: Tensor, size: int) -> Tensor:
    """The order (B, S) that reverses the first `lengths[b]` tokens of each row and keeps the rest; its own inverse."""
    index = torch.arange(size, device=lengths.device)[None]  # (1, S)
    return torch.where(index < lengths[:, None], lengths[:, None] - 1 - index, index)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b]]: (B, S, H), (B,) -> (B, H)."""
    return x[torch.arange(x.shape[0], device=x.device), index]
