"""Preference tuning: the loss of a pair of answers, relative to a reference model.

    h = log π(y_c|x) / π_ref(y_c|x) - log π(y_r|x) / π_ref(y_r|x)      y_c preferred to y_r

    sigmoid   -(1 - ε) log σ(β h) - ε log σ(-β h)     Rafailov et al. 2023, DPO, arXiv:2305.18290; label smoothing ε:
                                                      Mitchell 2023, "A note on DPO with noisy preferences"
    hinge     max(0, 1 - β h)                         Zhao et al. 2023, SLiC-HF, arXiv:2305.10425
    ipo       (h̄ - 1 / 2β)²                           Azar et al. 2023, arXiv:2310.12036, eq. 17; h̄ as h, with the log
                                                      ratio of each answer divided by its tokens, as in the paper's code

The reward of an answer is β log π/π_ref. The reference is the model before training: its log-probabilities are computed
once, and kept in the run.

Letters: B pairs, R records of a split, T positions, U target positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from llmctl.training.loop import to_tensors
from llmctl.training.objectives import Arrays, LikelihoodObjective, Objective
from llmctl.training.spec import Dpo
from llmctl.types import IGNORED, Examples

REFERENCE: Final = "reference"
"""The array of a batch with the reference model's log-probabilities."""


class PreferenceObjective(Objective):
    """The loss of preferring the first answer of each pair to the second. A target is a pair."""

    reported = ("reward_margin", "reward_accuracy")

    def __init__(self, likelihood: LikelihoodObjective, settings: Dpo) -> None:
        super().__init__()
        self.settings = settings
        self.likelihood = likelihood

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self.likelihood.model

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """A batch of `LikelihoodObjective` with 2·B rows: the preferred answers, then the others in the same order;
        and `reference` (2·B,) -> scalar, summed over pairs. Rows without targets belong to no pair."""
        ratios = self.likelihood.logprobs(batch) - batch[REFERENCE]  # (2·B,)
        tokens = (batch["labels"] != IGNORED).sum(1)  # (2·B,)
        losses, margins = preference_losses(ratios, tokens, self.settings)
        real = tokens.chunk(2)[0] > 0  # (B,)
        margins = margins.detach()
        self.sums = torch.stack([(margins * real).sum(), ((margins > 0) & real).sum().float()])
        return (losses * real).sum()

    @staticmethod
    def target_count(arrays: Arrays) -> int:
        """Pairs with targets."""
        has_targets = (arrays["labels"] != IGNORED).any(1)
        return int(has_targets[: len(has_targets) // 2].sum())


def preference_losses(ratios: Tensor, tokens: Tensor, settings: Dpo) -> tuple[Tensor, Tensor]:
    """The loss and the reward margin of each pair, both (B,).

    `ratios` (2·B,): log π/π_ref of the preferred answers, then of the others; `tokens` (2·B,): their target tokens.
    """
    chosen, rejected = ratios.chunk(2)
    scaled = settings.beta * (chosen - rejected)  # (B,)
    if settings.loss == "hinge":
        losses = F.relu(1.0 - scaled)
    elif settings.loss == "ipo":
        mean_chosen, mean_rejected = (ratios / tokens.clamp(min=1)).chunk(2)
        losses = (mean_chosen - mean_rejected - 1.0 / (2.0 * settings.beta)) ** 2
    else:
        smoothing = settings.label_smoothing
        losses = -(1.0 - smoothing) * F.logsigmoid(scaled) - smoothing * F.logsigmoid(-scaled)
    return losses, scaled


@torch.no_grad()
def reference_logprobs(
    likelihood: LikelihoodObjective, pairs: Examples, accelerator: Accelerator, *, batch_size: int
) -> NDArray[np.float32]:
    """log p of both answers of each pair by the model as it is, (examples, 2): column 0 the preferred ones.

    Every process computes a share; all make the same number of forward passes, as sharded models require.
    """
    training = likelihood.training
    likelihood.eval()
    found = np.zeros((len(pairs), 2), np.float32)
    count = accelerator.num_processes
    order = np.argsort(-pairs.lengths(), kind="stable")
    for first in range(0, len(order), batch_size * count):
        block = order[first : first + batch_size * count]
        mine = block[accelerator.process_index :: count].tolist()
        batch = to_tensors(pairs.arrays(mine or block[:1].tolist()), accelerator.device)
        with accelerator.autocast():
            rows = likelihood.logprobs(batch)
        if mine:
            found[mine] = torch.stack(rows.float().chunk(2), 1).cpu().numpy()
    likelihood.train(training)
    if count == 1:
        return found
    total = accelerator.reduce(torch.from_numpy(found).to(accelerator.device), "sum")
    return np.asarray(total.cpu().numpy(), np.float32)
