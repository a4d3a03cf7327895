"""`RUN/model/README.md`: where a model comes from, and how to prompt it with transformers as in training.

The card's Python code needs only transformers (and `llmctl.models.auto` for llmctl's own architectures). The saved
tokenizer adds no control tokens: the layout adds them, the same way in training, `generate` and the card.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmctl.data.cleaning.words import HAN, JOINT
from llmctl.data.examples.layout import Layout
from llmctl.data.spec import CleanRules
from llmctl.models.resolve import PARENT, PARENT_PATH
from llmctl.store.adapters import LoraFile
from llmctl.tasks.spec import Task
from llmctl.types import Record, Segment, Tokens
from llmctl.workflows.generate.spec import GenerateConfig
from llmctl.workflows.train.assemble import Parts
from llmctl.workflows.train.checks import TrainPlan

Ids = tuple[int, ...]

AUTO_CLASSES: Final = {
    "decoder": "AutoModelForCausalLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModelForSequenceClassification",
    "ctc": "AutoModelForCTC",
    "speech-seq2seq": "AutoModelForSpeechSeq2Seq",
}
PROBE: Final = "TEXT"
NO_TOKEN: Final = -1
"""Placeholder for the tokens of the text when looking for the control tokens around it."""
CONTROL: Final = "control = tokenizer.convert_tokens_to_ids"
LONGEST_ANSWER: Final[int] = GenerateConfig.model_fields["max_new_tokens"].default


def text(
    model: Any,
    parts: Parts,
    plan: TrainPlan,
    facts: Mapping[str, Any],
    adapter: LoraFile | None,
) -> str:
    """The model card, in Markdown with the hub's front matter."""
    config = plan.config
    own = model.config.model_type.startswith("llmctl-")
    masked = plan.family == "encoder" and plan.answers.packed
    auto_class = "AutoModelForMaskedLM" if masked else AUTO_CLASSES[plan.family]
    steps = "import llmctl.models.auto  # registers the architecture with the Auto classes\n" if own else ""
    table = "\n".join(f"| {name} | {value} |" for name, value in _facts(model, plan, facts, adapter).items())
    out = os.path.relpath(config.out)
    name = Path(config.out).name if out.startswith(os.pardir) else Path(out).as_posix()
    promptable = plan.family in plan.answers.promptable
    asked = "--prompt TEXT" if plan.answers.modality == "text" else "--input FILE.wav"
    command = f"llmctl generate --model {name} {asked}" if promptable else f"llmctl train --model {name} --data DIR"
    tags = "\n".join(f"- {tag}" for tag in ("llmctl", plan.answers.name))
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
{steps}from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("{name}/model")
tokenizer = AutoTokenizer.from_pretrained("{name}/model")
```
{_by_hand(model, parts, plan, name) if promptable else ""}"""


def _facts(model: Any, plan: TrainPlan, facts: Mapping[str, Any], adapter: LoraFile | None) -> dict[str, str]:
    """The rows of the table."""
    validation = ", ".join(f"{name} {value:.4g}" for name, value in facts["validation"].items() if value is not None)
    best = facts["best"]
    rows = {
        "task": f"{plan.answers.name} (version {plan.answers.version}){_tuned(plan)}",
        "architecture": f"{model.config.model_type}, {plan.family}",
        "parameters": f"{facts['parameters']:,}",
        "trained": f"{facts['steps']:,} steps, {facts['tokens']:,} tokens, precision {facts['precision']}",
        "final validation": validation or "none",
        "checkpoint": f"step {best['step']}, best {best['metric']} {best['value']:.4g}" if best else "the last step",
        "prompt format": "see `llmctl.json`",
        "data": f"sha256 {plan.parents['data']}",
    }
    if plan.architecture is not None:
        rows["reference"] = plan.architecture.reference
    if adapter is not None:
        rows["adapter"] = (
            f"LoRA, rank {adapter.rank}, alpha {adapter.alpha:g}, on {', '.join(adapter.targets)}: "
            f"{facts['learned_parameters']:,} parameters"
        )
        rows["base"] = f"{plan.parents[PARENT_PATH]}, content hash {plan.parents[PARENT]}"
    return rows


# ---------------------------------------------------------------------------------------------------------------
# The same answer without llmctl


def _by_hand(model: Any, parts: Parts, plan: TrainPlan, name: str) -> str:
    """Python that gets the same answer as `llmctl generate`; empty for a plugin's task whose prompts are not a single
    text, and for encoder-decoders that hear: transformers' `generate` is for Whisper's published vocabularies. `name`: the path
    of the run as the card spells it."""
    if plan.answers.modality == "audio":
        return _recording_by_hand(parts) if plan.family == "ctc" and parts.hearing and parts.hearing.bands else ""
    if [segment.text for segment in _prompt_segments(plan.answers)] != [PROBE]:
        return ""
    recorded = plan.prepared.clean
    clean = CleanRules.recorded(recorded) if recorded else None
    lowered = ".lower()" if clean is not None and clean.lowercase else ""
    lines = [
        "import torch",
        "",
        f'text = "{PROBE}"{lowered}',
        *(_words(clean, name) if clean else ()),
        *_ids(parts, plan.answers),
        *_answer(model, parts, plan, segmented=clean is not None and clean.segment != "none"),
    ]
    code = "\n".join(lines)
    return f"""
The same answer as `llmctl generate` gives.{_cleaning(clean)}

```python
{code}
```
"""


def _recording_by_hand(parts: Parts) -> str:
    """Python that transcribes a recording by the most probable path."""
    assert parts.hearing is not None
    return f"""
The same transcript as `llmctl generate` gives of a recording of up to 30 s, 16 kHz and one channel.

```python
import soundfile
import torch
from llmctl.data.audio.mel import log_mel

samples, rate = soundfile.read("FILE.wav", dtype="float32")
with torch.inference_mode():
    logits = model(torch.from_numpy(log_mel(samples, {parts.hearing.bands}))[None]).logits[0]
path = logits.argmax(-1).unique_consecutive()
print(tokenizer.decode(path[path != model.config.pad_token_id], skip_special_tokens=True).strip())
```
"""


def _cleaning(clean: CleanRules | None) -> str:
    """How training cleaned its text: a caller has to clean prompts the same way."""
    if clean is None:
        return ""
    rules = {
        f"Unicode {clean.unicode.upper()}": clean.unicode != "none",
        "no control characters": clean.control,
        "runs of whitespace collapsed": clean.whitespace,
        "lower case": clean.lowercase,
        "Chinese cut into words": clean.segment != "none",
        "no stop words": bool(clean.stopword_list),
    }
    applied = ", ".join(rule for rule, holds in rules.items() if holds)
    return f" It first cleans the text as training did: {applied}." if applied else ""


def _words(clean: CleanRules, name: str) -> list[str]:
    """Code that cuts the text into words and removes stop words, as `data/cleaning/words.py` does."""
    segment, stop = clean.segment != "none", bool(clean.stopword_list)
    if not segment and not stop:
        return []
    dictionary = segment and bool(clean.dictionary_entries)
    files = ["import io"] if dictionary else []
    files += ["import json"] if stop or dictionary else []
    files += ["import re"] if segment else []
    files += ["import string"] if stop else []
    files += ["from pathlib import Path"] if stop or dictionary else []
    lines = [*files, *(["", "import jieba"] if segment else [""]), ""]
    if stop or dictionary:
        lines.append(f'rules = json.loads(Path("{name}/model/llmctl.json").read_text(encoding="utf-8"))["clean"]')
    if dictionary:
        lines.append('jieba.load_userdict(io.StringIO("\\n".join(rules["dictionary_entries"])))')
    if segment:
        lines += [
            "",
            "def cut(text):",
            "    pieces = jieba.lcut(text)",
            "    return pieces if len(pieces) < 2 else [word for piece in pieces for word in cut(piece)]",
        ]
    lines += ["", "def in_words(line):"]
    if segment:
        lines += [
            f'    if not re.search("[{HAN}]", line):',
            f"        return {'without_stop_words(line.split())' if stop else 'line'}",
            "    words = [word for word in cut(line) if not word.isspace()]",
        ]
    else:
        lines += ["    words = line.split()"]
    lines.append("    return without_stop_words(words)" if stop else '    return " ".join(words)')
    if stop:
        lines += [
            "",
            "def without_stop_words(words):",
            '    stop = set(rules["stopword_list"])',
            "    bare = lambda word: word.lower().strip(string.punctuation)",
            '    return " ".join(word for word in words if word.lower() not in stop and bare(word) not in stop)',
        ]
    return [*lines, "", 'text = "\\n".join(map(in_words, text.split("\\n")))', ""]


def _ids(parts: Parts, task: Task) -> list[str]:
    """Code that encodes the text with its control tokens."""
    layout = parts.layout
    if layout.prompt_format == "template" or task.answer_role == "assistant":
        needed = [CONTROL] if task.labelled else []
        instruction = f"{layout.instruction + chr(10) * 2!r} + " if layout.instruction else ""
        return [
            *needed,
            f'messages = [{{"role": "user", "content": {instruction}text}}]',
            "prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)",
            "ids = tokenizer.encode(prompt, add_special_tokens=False)",
        ]
    before, after = around(layout, task)
    spelt = [f"control({_names(parts, ids)})" if ids else "" for ids in (before, after)]
    encoded = "tokenizer.encode(text, add_special_tokens=False)"
    return [CONTROL, "ids = " + " + ".join(filter(None, (spelt[0], encoded, spelt[1])))]


def around(layout: Layout, task: Task) -> tuple[Ids, Ids]:
    """The control tokens before and after the text of a prompt."""
    uncut = Layout(layout.tokenizer, layout.family, layout.prompt_format, instruction=layout.instruction)
    [segment] = _prompt_segments(task)
    ids = uncut.prompt_of([Tokens(segment.role, np.array([NO_TOKEN]), False)])
    place = ids.index(NO_TOKEN)
    return ids[:place], ids[place + 1 :]


def _prompt_segments(task: Task) -> list[Segment]:
    return task.prompt(Record("", task.record_of(PROBE)))


def _names(parts: Parts, ids: Ids) -> str:
    names: list[str] = parts.tokenizer.convert_ids_to_tokens(list(ids))
    return "[" + ", ".join(_quoted(name) for name in names) + "]"


def _quoted(name: str) -> str:
    shown = repr(name)
    return shown if '"' in shown else f'"{shown[1:-1]}"'


def _answer(model: Any, parts: Parts, plan: TrainPlan, *, segmented: bool) -> list[str]:
    """Code that turns the ids into an answer."""
    if plan.family == "encoder":
        return [
            "with torch.inference_mode():",
            "    logits = model(input_ids=torch.tensor([ids])).logits",
            "print(model.config.id2label[logits.argmax().item()])",
        ]
    if plan.answers.labelled:
        return _likeliest(parts, plan)
    context = getattr(model.config, "max_position_embeddings", None)
    room = f"{context} - len(ids)" if plan.family == "decoder" else str(context)
    limit = str(LONGEST_ANSWER) if context is None else f"min({LONGEST_ANSWER}, {room})"
    inputs = "input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)"
    shown = "rows[0, len(ids):]" if plan.family == "decoder" and not plan.answers.packed else "rows[0]"
    decoded = f"tokenizer.decode({shown}, skip_special_tokens=True){'' if plan.answers.packed else '.strip()'}"
    if segmented:
        decoded = f're.sub({JOINT!a}, "", {decoded})'
    return [
        f"rows = model.generate({inputs}, max_new_tokens={limit}, do_sample=False)",
        f"print({decoded})",
    ]


def _likeliest(parts: Parts, plan: TrainPlan) -> list[str]:
    """Code that picks the label with the highest likelihood as an answer, end token included."""
    end = _names(parts, parts.layout.answer(""))
    decoder = plan.family == "decoder"
    seen, target_ids = ("ids + answer", "[-100] * len(ids) + answer") if decoder else ("ids", "answer")
    return [
        f"labels = [{', '.join(map(_quoted, parts.labels))}]",
        "",
        "def likelihood(label):",
        f"    answer = tokenizer.encode(label, add_special_tokens=False) + control({end})",
        "    with torch.inference_mode():",
        f"        loss = model(input_ids=torch.tensor([{seen}]), labels=torch.tensor([{target_ids}])).loss",
        "    return -loss.item() * len(answer)",
        "",
        "print(max(labels, key=likelihood))",
    ]


def _tuned(plan: TrainPlan) -> str:
    """What preference tuning adds to the name of the task."""
    dpo = plan.config.dpo
    return f", tuned on preference pairs (loss {dpo.loss}, beta {dpo.beta:g})" if plan.task.pairs else ""
