"""Small folders to damage, and a command that must end well whatever is in them."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmctl.data.tokenizing import tokenizers

Strike = Callable[..., str]

HELD = frozenset({0, 2, 3, 4, 5})
"""Exit codes of a command on a damaged input: it works, or it says what is wrong."""
SECONDS, KILOBYTES = 10.0, 1_000_000
"""Limits on CPU time, which a busy machine does not lengthen, and on memory."""
WAIT_SECONDS = 60.0
"""Limit on the time by the clock: a command that hangs uses no CPU."""
TEXT = "Shall I compare thee to a summer's day? Thou art more lovely and more temperate. " * 3
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal would obey."""
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 320}


@pytest.fixture
def strike(capfd: pytest.CaptureFixture[str]) -> Strike:
    """Run a command in this process; returns what it printed. Fails unless it ends with one of the `codes`, in CPU time, in
    memory, without a traceback and without control characters."""
    from llmctl.cli import main

    def run(*words: str | Path, codes: Collection[int] = HELD) -> str:
        capfd.readouterr()
        before, start, began = _peak(), _cpu_seconds(), time.monotonic()
        code = main.run([*map(str, words), "--json"])
        seconds, grown = _cpu_seconds() - start, _peak() - before
        out, err = capfd.readouterr()
        shown = f"exit code {code} of {' '.join(map(str, words))}\n{out}\n{err}"
        assert code in codes, shown
        assert "Traceback" not in out + err, shown
        assert "panicked" not in out + err, shown
        assert "a bug in llmctl" not in out + err, shown
        assert not RAW.search((out + err).replace("\r", "")), repr(shown)
        document = json.loads(out)
        assert (document["status"] == "error") == (code != 0), shown
        if code:
            assert len(document["error"]["message"]) > len("a word or two"), shown
        assert seconds < SECONDS, f"{seconds:.1f} s: {shown}"
        assert time.monotonic() - began < WAIT_SECONDS, shown
        assert grown < KILOBYTES, f"{grown:,} kB: {shown}"
        return out + err

    return run


def _cpu_seconds() -> float:
    """Of this process and of the children that it waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _peak() -> int:
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole model folders: a chat model by llmctl and the same of another program, an encoder, an encoder-decoder."""
    root = tmp_path_factory.mktemp("seeds")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(max_position_embeddings=96, **sizes, **IDS)).save_pretrained(root / "llama")
    config = BertConfig(max_position_embeddings=96, id2label={0: "bad", 1: "good"}, **sizes, **IDS)
    BertForSequenceClassification(config).save_pretrained(root / "encoder")
    spans = T5Config(d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0, **IDS)
    T5ForConditionalGeneration(spans).save_pretrained(root / "pairs")
    for name in ("llama", "encoder", "pairs"):
        tokenizers.save(tokenizers.train("bpe", lambda: [TEXT], len(TEXT), 320), root / name)
    (root / "llama/chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    shutil.copytree(root / "llama", root / "carded")
    card = {"version": 1, "task": "chat", "task_version": 1, "family": "decoder", "style": "template", "instruction": "",
            "labels": [], "block_size": None, "noise_density": None, "parents": {},
            "clean": {"unicode": "nfc", "control": True, "whitespace": True, "lowercase": False, "min_chars": 1}}  # fmt: skip
    (root / "carded/llmctl.json").write_text(json.dumps(card), encoding="utf-8")
    return {each.name: each for each in root.iterdir()}


@pytest.fixture
def copy(seeds: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a seed, to be damaged."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(seeds[name], tmp_path / name))

    return make


def edit(path: Path, keys: str, value: Any) -> None:
    """Set a key, at a path of keys with dots, of a JSON file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    place = document
    *outer, last = keys.split(".")
    for each in outer:
        place = place.setdefault(each, {})
        if not isinstance(place, dict):
            return
    place[last] = value
    path.write_text(json.dumps(document), encoding="utf-8")
