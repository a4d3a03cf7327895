"""llmctl: the language-model lifecycle from the command line and from Python. Importing it loads nothing heavy."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmctl.api import Evaluation, Model, Prepared, Run, evaluate, load, preprocess, train

__version__ = "0.1.0"
__all__ = ["Evaluation", "Model", "Prepared", "Run", "__version__", "evaluate", "load", "preprocess", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("llmctl.api"), name)
    raise AttributeError(f"module 'llmctl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
