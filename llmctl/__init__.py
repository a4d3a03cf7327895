"""llmctl: the language-model lifecycle from the command line and from Python. Importing it loads nothing heavy."""

TYPE_CHECKING = False  # as type checkers read it; `typing` is not imported for it
if TYPE_CHECKING:
    from llmctl import errors
    from llmctl.api.commands import evaluate, preprocess, train
    from llmctl.api.model import Model, load
    from llmctl.api.results import Evaluation, PreparedData, Run, ScoredRecord
    from llmctl.types import Completion, Event, Score

__version__ = "0.1.0"
__all__ = [
    "Completion",
    "Evaluation",
    "Event",
    "Model",
    "PreparedData",
    "Run",
    "Score",
    "ScoredRecord",
    "__version__",
    "errors",
    "evaluate",
    "load",
    "preprocess",
    "train",
]

if not TYPE_CHECKING:  # else a misspelled name would pass a type checker
    _MODULES = {
        "llmctl.api.commands": ("evaluate", "preprocess", "train"),
        "llmctl.api.model": ("Model", "load"),
        "llmctl.api.results": ("Evaluation", "PreparedData", "Run", "ScoredRecord"),
        "llmctl.types": ("Completion", "Event", "Score"),
    }

    def __getattr__(name: str) -> object:
        import importlib

        if name == "errors":
            return importlib.import_module("llmctl.errors")
        for module, names in _MODULES.items():
            if name in names:
                globals()[name] = getattr(importlib.import_module(module), name)
                return globals()[name]
        raise AttributeError(f"module 'llmctl' has no attribute {name!r}", name=name)

    def __dir__() -> list[str]:
        return sorted(__all__)
