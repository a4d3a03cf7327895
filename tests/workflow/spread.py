"""One objective trained by one process and by several: `python spread.py FILE` in each of them writes what rank 0 saw.

Batches of 7 of 15 records, micro-batches of 2, so that the last batch of an epoch has one record and one process has none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmctl import registry
from llmctl.data.examples.batches import Batches
from llmctl.models import adapters, pretrained
from llmctl.models.spec import Adapter, Shape, Vocabulary
from llmctl.training import devices, loop, objectives, optimizers, parallel, plan
from llmctl.training.parallel import Strategy
from llmctl.training.spec import Optimizer, Schedule
from llmctl.types import IGNORED

NAMES = (
    *("rnn", "lstm", "attention", "gpt2", "llama", "t5", "marian", "bart", "bert", "lstm-seq2seq", "lstm-classifier"),
    *("gpt2+lora", "llama+lora"),
)
BF16 = ("gpt2", "attention", "t5", "llama+lora")
"""Those that are compared in bfloat16 too."""
WAYS = ("ddp+checkpointing", "fsdp+checkpointing", "fsdp+offload", "fsdp+checkpointing+offload")
"""Settings that change how a step is computed, with each kind of spreading: `activation_checkpointing`, `cpu_offload`.
One small gpt2."""
GIVEN = ("gpt2", "llama", "gpt2+lora", "llama+lora")
"""Those that are read from the files of a model folder too: with fsdp by parts, onto the device `meta`."""
STEPS, VOCABULARY = 8, 41
ATTENTIVE = {"attention", "gpt2", "llama", "t5", "marian", "bart", "bert"}


class Flat(Strategy):
    """How several processes trained in version 0.1: one sum of all gradients after the last backward pass, in one tensor."""

    def norm(self) -> torch.Tensor:
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        flat = self.accelerator.reduce(torch.cat([each.flatten() for each in gradients]), "mean")
        for each, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
            each.copy_(part.view_as(each))
        return super().norm()


class Texts:
    """15 random texts of different lengths, as a family reads them."""

    def __init__(self, family: str, *, labelled: bool) -> None:
        random = np.random.default_rng(0)
        self._texts = [random.integers(4, VOCABULARY, size) for size in random.integers(4, 13, 15)]
        self._family, self._labelled = family, labelled

    def __len__(self) -> int:
        return len(self._texts)

    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(each) for each in self._texts], np.int64)

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> dict[str, NDArray[Any]]:
        width = max(len(self._texts[index]) for index in indices)
        tokens = np.zeros((len(indices), width), np.int64)
        mask, labels = np.zeros_like(tokens), np.full_like(tokens, IGNORED)
        for row, index in enumerate(indices):
            text = self._texts[index]
            tokens[row, : len(text)], mask[row, : len(text)] = text, 1
            labels[row, : len(text) : 2 if self._family == "encoder" else 1] = text[
                :: 2 if self._family == "encoder" else 1
            ]
        if self._family == "decoder":
            labels = np.roll(labels, -1, axis=1)
            labels[:, -1] = IGNORED
        if self._labelled:
            labels = np.array([index % 2 for index in indices], np.int64)
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def build(name: str) -> tuple[Any, str, bool]:
    """A tiny model, its family and whether it is a classifier. The same weights in every process."""
    architecture, _, adapter = name.partition("+")
    spec = registry.load("models", architecture)
    more = {"layers": 2, "heads": 2, "inner": 24, "context": 32} if architecture in ATTENTIVE else {}
    own = {key: value for key, value in more.items() if key in spec.settings()}
    labelled = architecture == "lstm-classifier"
    torch.manual_seed(0)
    model = spec.build(
        spec.shape("nano", Shape(hidden=16, **own)), Vocabulary(VOCABULARY, 0, 1, 2), ("a", "b") if labelled else ()
    )
    if adapter:
        attach(model, spec.family)
    return model, spec.family, labelled


def attach(model: Any, family: Any) -> None:
    adapters.attach(model, adapters.resolve(model, Adapter(rank=3), family))


def given(name: str, folder: Path, *, empty: bool) -> tuple[Any, dict[str, str]]:
    """The model of a folder, with its weights or `empty`, and the names in the files of those that are missing then."""
    torch.manual_seed(0)
    names: dict[str, str] = {}
    if empty:
        made = pretrained.load_empty(folder, "decoder", labels=None, masked=False)
        assert made is not None
        model, names = made
    else:
        model = pretrained.load(folder, "decoder")
    if name.endswith("+lora"):
        attach(model, "decoder")
    return model, adapters.names_with_adapter(model, names)


def train(name: str, kind: str, precision: Any = "fp32", folder: Path | None = None) -> dict[str, Any]:
    """Losses, norms and tokens of some steps, the validation loss, and which trained weights are in parts. `folder`: holds the
    weights to start from."""
    accelerator = devices.accelerator(precision)
    family, labelled, names = "decoder", False, dict[str, str]()
    if folder is None:
        model, family, labelled = build(name)
    else:
        model, names = given(name, folder, empty=kind == "fsdp")
    examples = Texts(family, labelled=labelled)
    objective = objectives.LIKELIHOODS[family](model.train())  # type: ignore[index]
    kind, *settings_of_step = kind.split("+")
    if "checkpointing" in settings_of_step:
        assert parallel.checkpoint_activations(objective)
    if kind == "fsdp":
        sharded = parallel.FullySharded(objective, accelerator, cpu_offload="offload" in settings_of_step)
        if folder is not None:
            sharded.read(model, folder, names)
        strategy: Strategy = sharded
    elif kind == "ddp":
        strategy = parallel.DataParallel(
            objective, accelerator, loop.to_tensors(examples.arrays([0]), accelerator.device)
        )
    else:
        strategy = (Flat if kind == "flat" else Strategy)(objective, accelerator)
    batches = Batches(examples.lengths(), batch_size=7, seed=0)
    # The key bias of attention has the gradient 0: a larger eps keeps Adam from amplifying what rounding leaves of it.
    optimizer = optimizers.build(model, Optimizer(eps=1e-6), lr=1e-3)
    steps = plan.plan(
        run_budget=plan.Budget(STEPS),
        batch_size=7,
        micro_batch_size=2,
        world=strategy.processes,
        steps_per_epoch=batches.per_epoch,
        learning_rate=1e-3,
        schedule=Schedule(),
        eval_every=None,
        save_every=None,
    )
    start = loop.Position()
    settings: dict[str, Any] = {"clip_norm": 0.5, "seed": 0, "start": start, "stop": lambda: False, "prefetch": 2}
    reports = list(loop.fit(strategy, examples, batches, optimizer, steps, **settings))
    return {
        "loss": [each.loss for each in reports],
        "norm": [each.grad_norm for each in reports],
        "tokens": [each.position.tokens for each in reports],
        "validation": loop.validation_loss(strategy, examples, batch_size=4)[0],
        "whole": [
            own for own, each in model.named_parameters() if each.requires_grad and not hasattr(each, "full_tensor")
        ],
    }


if __name__ == "__main__":
    made = {f"{kind} {name}": train(name, kind) for kind in ("ddp", "fsdp") for name in NAMES}
    for name in BF16:
        made |= {f"{kind} bf16 {name}": train(name, kind, "bf16") for kind in ("flat", "ddp", "fsdp")}
    for way in WAYS:
        made[way] = train("gpt2", way)
    for name in GIVEN:
        made[f"given {name}"] = train(name, "fsdp", folder=Path(sys.argv[2], name.partition("+")[0]))
    if torch.distributed.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(made), encoding="utf-8")
    torch.distributed.destroy_process_group()
