"""Write `RUN/model/` and the loss plot: the Hugging Face layout, with `llmctl.json`, which records the prompt format of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from llmctl.data.spec import FRAME_SAMPLES, SAMPLE_RATE
from llmctl.data.tokenizing.tokenizers import add_chat_template
from llmctl.models import adapters, autocast_kernels, pretrained
from llmctl.models.resolve import PARENT_PATH
from llmctl.store import atomic, runs
from llmctl.store.models import Card, write_card
from llmctl.store.tokenizers import copy_tokenizer
from llmctl.training import checkpoints, plots
from llmctl.training.checkpoints import TrainingState
from llmctl.types import Hearing
from llmctl.workflows.train import model_card
from llmctl.workflows.train.learner import Learner

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


def publish(learner: Learner, state: TrainingState, facts: Mapping[str, Any]) -> None:
    """Write `model/` from the best checkpoint (without validation, from the last state), and the loss plot."""
    best, out = state.best, learner.config.out
    step = state.position.step if best is None else best.step

    def write() -> None:
        model, weights, kept = learner.model, None, checkpoints.folder_of(out, step)
        if learner.strategy.sharded:
            weights = checkpoints.whole_weights(kept, model)
        elif step != state.position.step:
            checkpoints.load_weights(kept, model)
        autocast_kernels.restore(model)
        _write(out, learner, facts, weights)
        rows = runs.metrics(out)
        title = f"{learner.config.model.name} on {Path(learner.config.data).name}: {learner.parameters:,} parameters"
        score = learner.plan.best_score if learner.plan.best_by else None
        plots.loss_plot(rows, out / "plots", title=title, best_step=best.step if best else None, score=score)

    learner.once(write)


def _write(out: Path, learner: Learner, facts: Mapping[str, Any], weights: Mapping[str, Tensor] | None) -> None:
    """Write `out/model` atomically: weights (only the adapter's where one was trained), tokenizer, generation settings,
    `llmctl.json`, model card. `weights`: the whole ones where the model holds a part of each."""
    model, parts, plan, adapter = learner.model, learner.parts, learner.plan, learner.adapter
    with atomic.atomic_folder(out / "model", force=True) as folder:
        if adapter is None:
            pretrained.save(model, folder, weights=weights)
        else:
            assert plan.pretrained_folder is not None
            base = plan.pretrained_folder.path.resolve()
            adapters.save(model, adapter, folder, base=base, family=plan.family, weights=weights)
        copy_tokenizer(parts.tokenizer_folder, folder)
        if parts.hearing is not None and parts.hearing.padded:
            atomic.write_json(folder / PREPROCESSOR, preprocessor(parts.hearing))
        template = parts.layout.chat_template() if plan.answers.answer_role == "assistant" else None
        if template is not None:
            add_chat_template(folder, template)
        write_card(
            folder,
            Card(
                task=plan.answers.name,
                task_version=plan.answers.version,
                family=plan.family,
                style=parts.layout.prompt_format,
                instruction=parts.layout.instruction,
                labels=parts.labels,
                block_size=plan.prepared.manifest.block_size,
                noise_density=plan.denoising.noise_density if plan.denoising else None,
                preference=plan.config.dpo.model_dump() if plan.task.pairs else None,
                clean=plan.prepared.clean,
                parents={
                    name: value
                    for name, value in plan.parents.items()
                    if not name.endswith("_path") or ((adapter is not None or plan.task.pairs) and name == PARENT_PATH)
                },
            ),
        )
        atomic.write_text(folder / "README.md", model_card.text(model, parts, plan, facts, adapter))
