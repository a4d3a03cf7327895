"""The spec of each verb that reads a block of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmctl.config import Spec
from llmctl.workflows.chat.spec import ChatConfig
from llmctl.workflows.compare.spec import CompareConfig
from llmctl.workflows.evaluate.spec import EvalConfig
from llmctl.workflows.generate.spec import GenerateConfig
from llmctl.workflows.preprocess.spec import PreprocessConfig
from llmctl.workflows.quickstart.spec import QuickstartConfig
from llmctl.workflows.train.spec import TrainConfig

SPECS: Final[Mapping[str, type[Spec]]] = {
    "quickstart": QuickstartConfig,
    "preprocess": PreprocessConfig,
    "train": TrainConfig,
    "generate": GenerateConfig,
    "eval": EvalConfig,
    "chat": ChatConfig,
    "compare": CompareConfig,
}
