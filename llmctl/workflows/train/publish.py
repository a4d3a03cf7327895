"""Write `RUN/model/`: the Hugging Face layout, with `llmctl.json`, which records the prompt format of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.data.spec import FRAME_SAMPLES, SAMPLE_RATE
from llmctl.data.tokenizers import add_chat_template
from llmctl.models import adapters, pretrained
from llmctl.models.resolve import PARENT_PATH
from llmctl.store import atomic
from llmctl.store.adapters import LoraFile
from llmctl.store.models import Card, write_card
from llmctl.store.tokenizers import copy_tokenizer
from llmctl.types import Hearing
from llmctl.workflows.train import model_card
from llmctl.workflows.train.assemble import Parts
from llmctl.workflows.train.checks import TrainPlan

PREPROCESSOR: Final = "preprocessor_config.json"
"""Where transformers finds what a speech model reads."""


def preprocessor(hearing: Hearing) -> dict[str, Any]:
    """The settings of transformers' feature extractor for a Whisper model."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": hearing.bands,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": FRAME_SAMPLES,
        "chunk_length": round(hearing.max_seconds or 0),
        "n_fft": 400,
    }


def publish(
    out: Path,
    model: Any,
    parts: Parts,
    plan: TrainPlan,
    facts: Mapping[str, Any],
    *,
    adapter: LoraFile | None = None,
) -> None:
    """Write `out/model` atomically: weights (only the adapter's where one was trained), tokenizer, generation settings,
    `llmctl.json`, model card."""
    with atomic.atomic_folder(out / "model", force=True) as folder:
        if adapter is None:
            pretrained.save(model, folder)
        else:
            assert plan.pretrained_folder is not None
            adapters.save(model, adapter, folder, base=plan.pretrained_folder.path.resolve(), family=plan.family)
        copy_tokenizer(parts.tokenizer_folder, folder)
        if parts.hearing is not None and parts.hearing.padded:
            atomic.write_json(folder / PREPROCESSOR, preprocessor(parts.hearing))
        template = parts.layout.chat_template() if plan.task.answer_role == "assistant" else None
        if template is not None:
            add_chat_template(folder, template)
        write_card(
            folder,
            Card(
                task=plan.task.name,
                task_version=plan.task.version,
                family=plan.family,
                style=parts.layout.prompt_format,
                instruction=parts.layout.instruction,
                labels=parts.labels,
                block_size=plan.prepared.manifest.block_size,
                noise_density=plan.denoising.noise_density if plan.denoising else None,
                clean=plan.prepared.manifest.config.get("clean"),
                parents={
                    name: value
                    for name, value in plan.parents.items()
                    if not name.endswith("_path") or (adapter is not None and name == PARENT_PATH)
                },
            ),
        )
        atomic.write_text(folder / "README.md", model_card.text(model, parts, plan, facts, adapter))
