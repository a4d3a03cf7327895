"""Tokens a second of training, printed last: `train_speed.py llmctl|trainer MODEL nano|10m default|equal`.

The same random tokens, batch and shape on both sides. `default`: each tool's own defaults (Trainer: fp32, dropout
0.1; llmctl: precision auto, no dropout). `equal`: llmctl in fp32 with dropout 0.1, as Trainer's defaults.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import numpy as np

SHAPES = {"nano": (3, 128, 4, 4096, 16, 128, 40), "10m": (6, 320, 5, 8192, 8, 256, 14)}
"""layers, hidden, heads, vocabulary, batch, length, steps"""
WARM = 4


def tokens(vocabulary: int, count: int) -> Any:
    return np.random.default_rng(0).integers(9, vocabulary, count)


def llmctl(model: str, shape: str, settings: str) -> float:
    from llmctl.training import machine

    machine.keep_memory()
    import torch

    from llmctl import registry
    from llmctl.data.examples.batches import Batches, Blocks
    from llmctl.data.storing.tokens import TokenStore
    from llmctl.models import autocast_kernels
    from llmctl.models.spec import Shape, Vocabulary
    from llmctl.training import devices, loop, objectives, optimizers, parallel, plan
    from llmctl.training.spec import Optimizer, Schedule

    layers, hidden, heads, vocabulary, batch, length, steps = SHAPES[shape]
    stream = tokens(vocabulary, batch * length * (steps + WARM) + 1).astype(np.uint16)
    examples = Blocks(
        TokenStore(stream, np.array([0, len(stream)]), np.array([0, 1]), np.array([0], np.uint8), None), length
    )
    spec = registry.load("models", model)
    own = {"layers": layers, "hidden": hidden, "heads": heads, "inner": 4 * hidden, "context": 2 * length}
    own["dropout"] = 0.1 if settings == "equal" else 0.0
    torch.manual_seed(0)
    built = spec.build(spec.shape("nano", Shape(**own)), Vocabulary(vocabulary, 0, 1, 2), ())
    built.train()
    if settings == "default":
        autocast_kernels.use(built)
    accelerator = devices.accelerator(devices.resolve_precision("fp32" if settings == "equal" else "auto"))
    batches = Batches(examples.lengths(), batch_size=batch, seed=0)
    planned = plan.plan(
        run_budget=plan.Budget(steps + WARM),
        batch_size=batch,
        micro_batch_size=None,
        world=1,
        steps_per_epoch=batches.per_epoch,
        learning_rate=5e-5,
        schedule=Schedule(),
        eval_every=None,
        save_every=None,
    )
    optimizer = optimizers.build(built, Optimizer(), lr=5e-5)
    began = 0.0
    for report in loop.fit(
        parallel.Strategy(objectives.LIKELIHOODS["decoder"](built), accelerator),
        examples,
        batches,
        optimizer,
        planned,
        clip_norm=1.0,
        seed=0,
        start=loop.Position(),
        stop=lambda: False,
    ):
        if report.position.step == WARM:
            began = time.perf_counter()
    return steps * batch * length / (time.perf_counter() - began)


def trainer(model: str, shape: str, settings: str) -> float:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    layers, hidden, heads, vocabulary, batch, length, steps = SHAPES[shape]
    stream = torch.from_numpy(tokens(vocabulary, batch * length * (steps + WARM)).astype(np.int64)).view(-1, length)
    rows = [{"input_ids": row, "labels": row} for row in stream]
    config = GPT2Config(
        n_layer=layers,
        n_embd=hidden,
        n_head=heads,
        vocab_size=vocabulary,
        n_positions=2 * length,
        bos_token_id=1,
        eos_token_id=2,
    )
    config.loss_type = "ForCausalLM"

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == WARM:
                Clock.began = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=steps + WARM,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        made = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=rows, callbacks=[Clock()])
        made.train()
    return steps * batch * length / (time.perf_counter() - Clock.began)


if __name__ == "__main__":
    who, *rest = sys.argv[1:]
    print({"llmctl": llmctl, "trainer": trainer}[who](*rest))
