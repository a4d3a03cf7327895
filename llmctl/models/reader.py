"""Reading a whole text with stacked LSTMs, in one direction or both: what `lstm_seq2seq.py` and `lstm_classifier.py`
begin with.

    h→_t = LSTM→(x_t, h→_{t-1}),    h←_t = LSTM←(x_t, h←_{t+1}),    y_t = [h→_t ; h←_t]

Padding does not reach the states: it stands behind the tokens, and the backward direction turns round the tokens of
each row alone. (torch's own bidirectional LSTM needs packed rows for that, which took four times as long on a CPU.)

Papers: Schuster and Paliwal 1997, Bidirectional Recurrent Neural Networks; Graves and Schmidhuber 2005 with LSTMs.

Letters: B rows of a batch, S tokens of a row, E width of what is read, H width of one direction, R = H or 2·H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmctl.models.lstm import take
from llmctl.models.recurrent import padding_matters


class Reader(nn.Module):
    """L layers, each reading what the one below it says, with dropout between them."""

    def __init__(self, inputs: int, hidden: int, layers: int, *, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.width = hidden * (2 if bidirectional else 1)
        widths = [inputs] + [self.width] * (layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths)
        self.backwards = nn.ModuleList(nn.LSTM(each, hidden, batch_first=True) for each in widths if bidirectional)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, E), mask (B, S) of tokens 1 and padding 0 -> y (B, S, R), and what each direction ends with (B, R).

        y at padding means nothing. Padding may stand on either side: rows are aligned for the reading and put back.
        """
        aligned = not padding_matters(mask, last_state=False)
        order = mask.argsort(dim=1, descending=True, stable=True)  # (B, S), tokens first
        lengths = mask.sum(1).clamp(min=1)  # (B,)
        turn = turned(lengths, x.shape[1])  # (B, S)
        x = x if aligned else take(x, order)
        for layer, forwards in enumerate(self.forwards):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            there, _ = forwards(x)  # (B, S, H)
            if self.backwards:
                back, _ = self.backwards[layer](take(x, turn))  # (B, S, H), last token first
                x = torch.cat([there, take(back, turn)], -1)  # (B, S, R)
                ends = torch.cat([_at(there, lengths - 1), _at(back, lengths - 1)], -1)  # (B, R)
            else:
                x, ends = there, _at(there, lengths - 1)
        return (x if aligned else take(x, order.argsort(1))), ends


def turned(lengths: Tensor, size: int) -> Tensor:
    """The order (B, S) that turns the first `lengths[b]` tokens of each row round and leaves the rest; its own inverse."""
    place = torch.arange(size, device=lengths.device)[None]  # (1, S)
    return torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)


def _at(x: Tensor, place: Tensor) -> Tensor:
    """x[b, place[b]]: (B, S, H), (B,) -> (B, H)."""
    return x[torch.arange(x.shape[0], device=x.device), place]
