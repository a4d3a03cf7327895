"""Chat models to talk to, shared by the tests of the pipe and of the terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from llmctl.data.tokenizing import tokenizers
from llmctl.engines.spec import Sampling
from llmctl.types import null_sink
from llmctl.workflows.chat.conversation import Conversation
from llmctl.workflows.inference.session import open_predictor

CONTEXT = 96
TEXT = "Shall I compare thee to a summer's day? Thou art more lovely and more temperate. 床前明月光，疑是地上霜。"
POEM = "床前明月光，疑是地上霜。"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _spoil(weights: Path) -> None:
    """Fill a safetensors file with values that are not finite: only what reads the values notices it."""
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights.write_bytes(data[:start] + b"\xff" * (len(data) - start))


@pytest.fixture(scope="session")
def spoil() -> Callable[[Path], None]:
    return _spoil


@pytest.fixture(scope="session")
def chat_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A llama with a chat template; the same with a long context, and with a system message of its template's own; a
    language model without a template."""
    root = tmp_path_factory.mktemp("models")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 320}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(1)
    llama = LlamaForCausalLM(LlamaConfig(max_position_embeddings=CONTEXT, **sizes, **ids))
    with torch.no_grad():
        for weights in llama.parameters():
            if weights.dim() > 1:
                weights.normal_(0.0, 0.3)
        llama.lm_head.weight[: len(tokenizers.CONTROL)] = 0.0  # never the likeliest: answers are text and do not end
    llama.save_pretrained(root / "llama")
    tokenizers.save(tokenizers.train("bpe", lambda: [TEXT], len(TEXT), 320), root / "llama")
    (root / "llama" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    shutil.copytree(root / "llama", root / "long")
    settings = json.loads((root / "long" / "config.json").read_text(encoding="utf-8"))
    (root / "long" / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 100_000}))
    shutil.copytree(root / "llama", root / "lm")
    GPT2LMHeadModel(GPT2Config(n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2, **ids)).save_pretrained(root / "lm")
    (root / "lm" / "chat_template.jinja").unlink()
    return {name: root / name for name in ("llama", "long", "lm")}


@pytest.fixture(scope="session")
def talk(chat_folders: dict[str, Path]) -> Callable[..., Conversation]:
    """A conversation: `engine` echo answers with all that the model sees."""

    def start(engine: str = "echo", model: str = "llama", emit: Any = null_sink, **settings: Any) -> Conversation:
        system = settings.pop("system", None)
        sampling = Sampling(**{"max_new_tokens": 24} | settings)
        return Conversation(open_predictor(str(chat_folders[model]), engine=engine), sampling, system=system, emit=emit)

    return start
