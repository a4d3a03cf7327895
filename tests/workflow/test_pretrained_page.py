"""The section of docs/pretrained.md on chat data, LoRA and Qwen weights: its commands, on a tiny model of that architecture."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from llmctl.cli import main

PAGE = Path(__file__).parents[2] / "docs/pretrained.md"
HEAD = "## Qwen or Llama weights with your chat data\n"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_the_commands_from_conversations_to_a_merged_model_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text(encoding="utf-8").split(HEAD)[1].split("\n## ")[0]
    shell = "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)).splitlines()
    commands = [shlex.split(line)[1:] for line in shell if line.startswith("llmctl ")]
    assert {words[0] for words in commands} == {
        *("doctor", "preprocess", "show", "train", "eval", "chat", "merge", "generate")
    }
    _tiny_qwen(Path("qwen3"))
    shown = "".join(re.findall(r"^```json\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)).splitlines()
    Path("chats.jsonl").write_text("\n".join([*shown, *_conversations()]) + "\n", encoding="utf-8")

    said: dict[str, Any] = {}
    for words in commands:
        if words[0] == "doctor":
            continue
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"How are you?\n")))
        code = main.run([*words, *(["--json"] if words[0] != "show" else [])])
        out, err = capsys.readouterr()
        assert code == 0, (words, err)
        said[words[0]] = out if words[0] == "show" else json.loads(out)

    assert "[<|im_end|>]" in said["show"]  # the end of an answer is in the loss
    assert "[<|im_start|>]" not in said["show"]
    assert said["chat"]["turns"]
    assert said["generate"]["completions"]
    merged = {path.name for path in Path("qwen3-chats").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= merged
    assert "adapter_config.json" not in merged


def _conversations() -> list[str]:
    return [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is {number} plus 1?"},
                    {"role": "assistant", "content": f"It is {number + 1}."},
                ]
            }
        )
        for number in range(60)
    ]


def _tiny_qwen(folder: Path) -> None:
    """A model of the Qwen 3 architecture with random weights and a byte tokenizer with Qwen's control tokens."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    entries = [*control, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={entry: number for number, entry in enumerate(entries)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(control)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(entries),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
