"""torch.compile of a training objective."""

from __future__ import annotations

import warnings
from typing import Any, Final

import torch._dynamo
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.runtime.cache_dir_utils import cache_dir

from llmctl.errors import EnvironmentFault

RECOMPILE_LIMIT: Final = 64
"""Graphs of one function. torch's default of 8 is reached by a model whose layers are compiled one by one, and beyond it
torch continues uncompiled with no more than a log line."""


def compile_forward(objective: nn.Module) -> None:
    """Compile an objective's `forward` in place: its parameters keep their names, whoever calls the module runs compiled
    code, and the first call of each kind (training, evaluation) takes seconds to minutes.

    Sizes are symbols in the graphs, so batches of any number and width of examples run the same code.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 8 * RECOMPILE_LIMIT
    )
    for text in ("The .grad attribute of a Tensor that is not a leaf", "`torch.jit"):  # torch, about its own code
        warnings.filterwarnings("ignore", message=text)
    objective.compile(dynamic=True)
    compiled: Any = objective._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except BackendCompilerFailed as error:
            raise _fault(error) from error

    objective._compiled_call_impl = call


def _fault(error: BackendCompilerFailed) -> EnvironmentFault:
    """What a user can do if a graph cannot be compiled: the compiler, its headers or its cache are broken."""
    return EnvironmentFault(
        f"torch.compile: {next(iter(str(error).splitlines()), type(error).__name__)}",
        hint=f"remove {cache_dir()} (a killed run leaves broken files there), reinstall g++, or --set compile=false",
    )
