"""`RUN/model/`: the Hugging Face layout, with the card that says how the model was taught to be asked."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.data.tokenizers import add_chat_template
from llmctl.models import adapters, pretrained
from llmctl.store import whole
from llmctl.store.adapters import LoraFile
from llmctl.store.models import Card, write_card
from llmctl.workflows.parts import Parts
from llmctl.workflows.spec import TrainConfig
from llmctl.workflows.train_checks import Checked
from llmctl.workflows.weights import PARENT, PARENT_PATH

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "added_tokens.json",
)
AUTO_CLASSES: Final = {
    "decoder": "AutoModelForCausalLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModelForSequenceClassification",
}


def publish(
    out: Path,
    model: Any,
    parts: Parts,
    checked: Checked,
    config: TrainConfig,
    facts: Mapping[str, Any],
    *,
    adapter: LoraFile | None = None,
) -> None:
    """Write `out/model` whole: weights (those of the adapter, where one was trained), tokenizer, generation settings,
    `llmctl.json`, model card."""
    with whole.whole_folder(out / "model", force=True) as folder:
        if adapter is None:
            pretrained.save(model, folder)
        else:
            assert checked.given is not None
            adapters.save(model, adapter, folder, base=checked.given.path.resolve(), family=checked.family)
        copy_tokenizer(parts.tokenizer_folder, folder)
        template = parts.layout.chat_template() if checked.task.answer_role == "assistant" else None
        if template is not None:
            add_chat_template(folder, template)
        write_card(
            folder,
            Card(
                task=checked.task.name,
                task_version=checked.task.version,
                family=checked.family,
                style=parts.layout.style,
                instruction=parts.layout.instruction,
                labels=parts.labels,
                block_size=checked.prepared.manifest.block_size,
                clean=checked.prepared.manifest.config.get("clean"),
                parents={
                    name: value
                    for name, value in checked.parents.items()
                    if not name.endswith("_path") or (adapter is not None and name == PARENT_PATH)
                },
            ),
        )
        whole.write_text(folder / "README.md", _readme(model, checked, config, facts, adapter))


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The files of a tokenizer, those that there are."""
    for name in TOKENIZER_FILES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(source / name, folder / name)


def _readme(
    model: Any, checked: Checked, config: TrainConfig, facts: Mapping[str, Any], adapter: LoraFile | None
) -> str:
    """The model card."""
    own = model.config.model_type.startswith("llmctl-")
    masked = checked.family == "encoder" and checked.task.packed
    opener = "AutoModelForMaskedLM" if masked else AUTO_CLASSES[checked.family]
    steps = "import llmctl.models.auto  # registers the architecture with the Auto classes\n" if own else ""
    validation = ", ".join(f"{name} {value:.4g}" for name, value in facts["validation"].items() if value is not None)
    best = facts["best"]
    rows = {
        "task": f"{checked.task.name} (version {checked.task.version})",
        "architecture": f"{model.config.model_type}, {checked.family}",
        "parameters": f"{facts['parameters']:,}",
        "trained": f"{facts['steps']:,} steps, {facts['tokens']:,} tokens, precision {facts['precision']}",
        "validation at the end": validation or "none",
        "these weights": f"step {best['step']}, best {best['metric']} {best['value']:.4g}" if best else "the last step",
        "how it is asked": "`llmctl.json`",
        "data": f"sha256 {checked.parents['data']}",
    }
    if checked.architecture is not None:
        rows["reference"] = checked.architecture.reference
    if adapter is not None:
        rows["adapter"] = (
            f"LoRA, rank {adapter.rank}, alpha {adapter.alpha:g}, on {', '.join(adapter.targets)}: "
            f"{facts['learned_parameters']:,} parameters"
        )
        rows["base"] = f"{checked.parents[PARENT_PATH]}, content hash {checked.parents[PARENT]}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    name = Path(config.out).name
    asked = checked.family in checked.task.askable
    command = f"llmctl generate --model {name} --prompt TEXT" if asked else f"llmctl train --model {name} --data DIR"
    tags = "\n".join(f"- {tag}" for tag in ("llmctl", checked.task.name))
    return f"""---
library_name: transformers
tags:
{tags}
---
# {config.model.name} on {Path(config.data).name}

| | |
|---|---|
{table}

## Use

```
{command}
```

```python
{steps}from transformers import {opener}, AutoTokenizer

model = {opener}.from_pretrained("{name}/model")
tokenizer = AutoTokenizer.from_pretrained("{name}/model")
```
"""
