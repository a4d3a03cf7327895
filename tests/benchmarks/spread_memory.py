"""Peak memory of one of two processes that train gpt2 with 50 million weights, printed last, in MiB: anonymous memory above
that of the libraries. `spread_memory.py flat|ddp|fsdp|fsdp+checkpointing TOKENS` for a step of so many tokens;
`spread_memory.py full|meta FOLDER` for opening a model folder with fsdp, of whose losses the first is printed, too.

`flat` is how version 0.1 trained. Pages of files that are mapped do not count: the system can drop them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHAPE = {"layers": 12, "hidden": 512, "heads": 8, "inner": 2048, "context": 256, "dropout": 0.0}
VOCABULARY, LENGTH, STEPS = 24_000, 128, 4


def anonymous() -> float:
    """MiB of this process that are not pages of a file."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


@contextmanager
def watched(peak: list[float]) -> Iterator[None]:
    """Fill `peak` with the largest anonymous memory seen in the block above that before it."""
    before, done = anonymous(), threading.Event()
    peak.append(0.0)

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main(way: str, what: str) -> None:
    from llmctl.training import machine

    machine.keep_memory() if way in ("flat", "ddp") else machine.return_memory()
    import numpy as np
    import torch

    from llmctl import registry
    from llmctl.data.examples.batches import Batches, Blocks
    from llmctl.data.storing.tokens import TokenStore
    from llmctl.models import pretrained
    from llmctl.models.spec import Shape, Vocabulary
    from llmctl.training import devices, loop, objectives, optimizers, parallel, plan
    from llmctl.training.spec import Optimizer, Schedule
    from tests.workflow.spread import Flat

    accelerator = devices.accelerator("fp32")
    opens = way in ("full", "meta")
    batch = 2 if opens else max(2, int(what) // LENGTH)
    length = LENGTH if opens else min(LENGTH, int(what) // batch)
    torch.nn.functional.gelu(
        torch.ones(8, 8, requires_grad=True) @ torch.ones(8, 8)
    ).sum().backward()  # loads libraries
    peak: list[float] = []
    with watched(peak):
        torch.manual_seed(0)
        names: dict[str, str] = {}
        if way == "meta":
            made = pretrained.load_empty(Path(what), "decoder", labels=None, masked=False)
            assert made is not None
            model, names = made
        elif way == "full":
            model = pretrained.load(Path(what), "decoder")
        else:
            spec = registry.load("models", "gpt2")
            model = spec.build(spec.shape("nano", Shape(**SHAPE)), Vocabulary(VOCABULARY, 0, 1, 2), ())
        vocabulary = model.config.vocab_size
        stream = np.random.default_rng(0).integers(9, vocabulary, batch * length * STEPS + 1).astype(np.uint16)
        store = TokenStore(stream, np.array([0, len(stream)]), np.array([0, 1]), np.array([0], np.uint8), None)
        examples = Blocks(store, length)
        objective: Any = objectives.LIKELIHOODS["decoder"](model.train())
        if way.endswith("+checkpointing"):
            parallel.checkpoint_activations(objective)
        if way == "flat":
            strategy: parallel.Strategy = Flat(objective, accelerator)
        elif way == "ddp":
            strategy = parallel.DataParallel(
                objective, accelerator, loop.to_tensors(examples.arrays([0]), accelerator.device)
            )
        else:
            strategy = parallel.FullySharded(objective, accelerator)
        if way == "meta":
            strategy.read(model, Path(what), names)
        if not opens:
            batches = Batches(examples.lengths(), batch_size=batch, seed=0)
            planned = plan.plan(
                run_budget=plan.Budget(STEPS),
                batch_size=batch,
                micro_batch_size=None,
                world=strategy.processes,
                steps_per_epoch=batches.per_epoch,
                learning_rate=1e-4,
                schedule=Schedule(),
                eval_every=None,
                save_every=None,
            )
            reports = list(
                loop.fit(
                    strategy,
                    examples,
                    batches,
                    optimizers.build(model, Optimizer(), lr=1e-4),
                    planned,
                    clip_norm=1.0,
                    seed=0,
                    start=loop.Position(),
                    stop=lambda: False,
                )
            )
            loss = reports[-1].loss
    if opens:
        loss = loop.validation_loss(strategy, examples, batch_size=1)[0]
    if accelerator.is_main_process:
        print(f"loss {loss:.6f} {sum(each.numel() for each in model.parameters()) / 1e6:.1f}M", peak[0])
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
