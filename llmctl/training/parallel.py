"""How an objective is spread over the processes of a run: whole in each of them (DDP), or in shards (FSDP2).

The objective is wrapped, not the model, because the loss is computed inside its `forward`: gradients are reduced while the
backward pass still runs, and weights that a loss reads directly, such as the output embedding, are gathered for it.

Every process runs the same number of micro-batches, since each of them may wait for the others. Loss sums go backward
undivided. Both wrappers average gradients over processes, so a step multiplies them once by processes / targets.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmctl.errors import IntegrityError
from llmctl.training import devices, shards
from llmctl.training.objectives import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

Parallelism = Literal["auto", "ddp", "fsdp"]

NORM_SPARE: Final = 1e-6
"""What torch's `clip_grad_norm_` adds to a norm before it divides by it."""


class Strategy:
    """One process: the objective as it is. The other strategies are subclasses."""

    sharded = False
    """Whether each process holds a part of every weight."""

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        self.objective, self.accelerator = objective, accelerator
        self.module: Any = objective
        """What a training step calls."""

    @property
    def processes(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def alone(self) -> bool:
        return self.processes == 1

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [weight for weight in self.objective.parameters() if weight.requires_grad]

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """The context of a micro-batch; `last`: gradients are needed after it."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the block every process can call the model by itself, without waiting for the others."""
        yield

    def release(self) -> None:
        """Let go of weights that a forward pass gathered for a backward pass that does not follow."""

    def sums(self, *mine: float) -> list[float]:
        """Each number summed over all processes."""
        if self.alone:
            return [float(each) for each in mine]
        values = torch.tensor(mine, dtype=devices.exact_float(self.device), device=self.device)
        total: list[float] = self.accelerator.reduce(values, "sum").tolist()
        return total

    def gather_objects(self, mine: Any) -> list[Any]:
        """What every process has, by rank."""
        if self.alone:
            return [mine]
        everyone: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(everyone, mine)
        return everyone

    def clip(self, clip_norm: float) -> Tensor:
        """Clip the norm of the gradients of this process; returns the norm before."""
        gradients = [weight for weight in self.weights if weight.grad is not None]
        norm: Tensor = nn.utils.clip_grad_norm_(gradients, clip_norm if clip_norm > 0 else float("inf"))
        return norm

    def norm(self) -> Tensor:
        """The norm of the reduced gradients, before `scale`."""
        return shards.whole(nn.utils.get_total_norm([each.grad for each in self.weights if each.grad is not None]))

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply all gradients."""
        if gradients := [weight.grad for weight in self.weights if weight.grad is not None]:
            torch._foreach_mul_(gradients, factor)


class DataParallel(Strategy):
    """Every process holds all weights. Gradients are reduced in buckets while the backward pass still runs."""

    def __init__(self, objective: Objective, accelerator: Accelerator, example: Mapping[str, Tensor]) -> None:
        """`example`: a micro-batch, by which weights are found that the loss does not depend on."""
        super().__init__(objective, accelerator)
        from torch.nn.parallel import DistributedDataParallel

        unused = _has_unused_weights(objective, accelerator, example)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # torch 2.12 and older know no other
            self.module = DistributedDataParallel(
                objective,
                device_ids=None if self.device.type == "cpu" else [self.device.index],
                broadcast_buffers=False,
                gradient_as_bucket_view=True,  # no second copy of the gradients
                find_unused_parameters=unused,
            )

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        skipped: contextlib.AbstractContextManager[Any] = self.module.no_sync()
        return contextlib.nullcontext() if last else skipped


def _has_unused_weights(objective: Objective, accelerator: Accelerator, example: Mapping[str, Tensor]) -> bool:
    """Whether some trainable weight gets no gradient; torch's reducer would wait for it."""
    with accelerator.autocast():
        objective(example).backward()
    weights = [weight for weight in objective.parameters() if weight.requires_grad]
    found = any(weight.grad is None for weight in weights)
    for weight in weights:
        weight.grad = None
    return found


class FullySharded(Strategy):
    """Each process holds a part of every weight, gradient and optimizer state. The weights of a layer are gathered for its
    forward and backward pass (Rajbhandari et al. 2020, ZeRO stage 3, arXiv:1910.02054)."""

    sharded = True

    def __init__(self, objective: Objective, accelerator: Accelerator, *, cpu_offload: bool = False) -> None:
        """`cpu_offload`: keep weights, gradients and optimizer state in the memory of the CPU between their uses."""
        super().__init__(objective, accelerator)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        # T5's blocks return the position bias as a view; nothing is changed in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        on_cpu = self.device.type == "cpu"
        policy = CPUOffloadPolicy(pin_memory=not on_cpu) if cpu_offload else OffloadPolicy()
        mesh = init_device_mesh(self.device.type, (self.processes,))
        shared = _shared_weights(objective)
        for layer in layers_of(objective):
            if not shared & {id(weight) for weight in layer.parameters()}:
                fully_shard(layer, mesh=mesh, offload_policy=policy)
        fully_shard(objective, mesh=mesh, offload_policy=policy)
        self._home = torch.device("cpu") if cpu_offload else self.device

    def release(self) -> None:
        root: Any = self.objective
        root.reshard()

    def read(self, model: Any, folder: Path, names: Mapping[str, str]) -> None:
        """Give the weights of `model` that are on the device `meta` those in the files of `folder`; `names`: the name there of
        each weight and buffer. Each process reads its parts alone. Raises `IntegrityError` for weights that are not finite."""
        buffers = dict(model.named_buffers())
        adapter = {name: weight.detach() for name, weight in model.named_parameters() if not weight.is_meta}
        self.objective.to_empty(device=self._home)
        with torch.no_grad():
            for name, weight in adapter.items():
                model.get_parameter(name).copy_(weight)
        for name, each in buffers.items():
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, each.to(self.device))
        model.tie_weights()
        state = model.state_dict()
        shards.read(folder, {name: state[own] for own, name in names.items()}, together=True)
        parts = {own: each.to_local() if hasattr(each, "to_local") else each for own, each in state.items()}
        mine = [own for own, each in parts.items() if not bool(torch.isfinite(each).all())]
        if broken := sorted({own for found in self.gather_objects(mine) for own in found}):
            raise IntegrityError(f"{len(broken)} weights are not finite: {', '.join(broken[:5])}", where=str(folder))

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        from torch.distributed.fsdp import FSDPModule

        groups: list[Any] = [each for each in self.objective.modules() if isinstance(each, FSDPModule)]
        for each in groups:
            each.set_reshard_after_forward(False, recurse=False)
            each.unshard()
        try:
            yield
        finally:
            for each in groups:
                # The root gathers its weights for the backward pass at once: they stay after the forward pass.
                each.set_reshard_after_forward(each is not self.objective, recurse=False)
                each.reshard()


def _shared_weights(module: nn.Module) -> set[int]:
    """The ids of weights that are used under several names, such as tied embeddings; torch shards them in one group."""
    names = Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
    return {each for each, count in names.items() if count > 1}


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of all stacks in `module`: the entries of its outermost `ModuleList`s, but torch's recurrent layers, whose
    outputs are views, which FSDP2 warns of."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else layers_of(child)
    return [each for each in found if not isinstance(each, nn.RNNBase)]


def checkpoint_activations(module: nn.Module) -> int:
    """Keep only the inputs of each layer for the backward pass, which computes the rest again: less memory for about a third
    more time, the same result (Chen et al. 2016, arXiv:1604.06174). Returns the number of layers."""
    layers = layers_of(module)
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)
    return len(layers)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
