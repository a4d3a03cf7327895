"""`RUN/model/`: the Hugging Face layout, with the card that says how the model was taught to be asked."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.models import pretrained
from llmctl.store import whole
from llmctl.store.models import Card, write_card
from llmctl.workflows.parts import Parts
from llmctl.workflows.spec import TrainConfig
from llmctl.workflows.train_checks import Checked

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
    out: Path, model: Any, parts: Parts, checked: Checked, config: TrainConfig, facts: Mapping[str, Any]
) -> None:
    """Write `out/model` whole: weights, tokenizer, generation settings, `llmctl.json`, model card."""
    with whole.whole_folder(out / "model", force=True) as folder:
        pretrained.save(model, folder)
        for name in TOKENIZER_FILES:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(parts.tokenizer_folder / name, folder / name)
        write_card(
            folder,
            Card(
                task=checked.task.name,
                task_version=checked.task.version,
                family=checked.family,
                style=parts.layout.style,
                labels=parts.labels,
                block_size=checked.prepared.manifest.block_size,
                clean=checked.prepared.manifest.config.get("clean"),
                parents={name: value for name, value in checked.parents.items() if not name.endswith("_path")},
            ),
        )
        whole.write_text(folder / "README.md", _readme(model, checked, config, facts))


def _readme(model: Any, checked: Checked, config: TrainConfig, facts: Mapping[str, Any]) -> str:
    """The model card."""
    own = model.config.model_type.startswith("llmctl-")
    opener = AUTO_CLASSES[checked.family]
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
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    name = Path(config.out).name
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
llmctl generate --model {name} --prompt TEXT
```

```python
{steps}from transformers import {opener}, AutoTokenizer

model = {opener}.from_pretrained("{name}/model")
tokenizer = AutoTokenizer.from_pretrained("{name}/model")
```
"""
