"""Exported GGUF files in the real llama.cpp: token ids, probabilities of the next token, greedy answers."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from llmctl.data.examples.layout import layout_for
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.models.exports.probes import TEXTS
from llmctl.types import Segment
from tests.export.conftest import save_tokenizer

HERE = Path(__file__).parent
INSTALLED = HERE / "node_modules/node-llama-cpp"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not INSTALLED.exists(),
    reason="llama.cpp is not installed: npm install --ignore-scripts --omit=optional --prefix tests/export",
)

Inside = Callable[..., dict[str, Any]]
PROMPTS = ("The quick brown", "Shall I compare thee", "床前明月光", "It was the worst of")
NEW = 12


def llama_cpp(file: Path, prompts: list[list[int]], texts: list[str], *, prefixed: bool = False) -> dict[str, Any]:
    asked = {"file": str(file.resolve()), "texts": texts, "prompts": prompts, "tokens": NEW, "prefixed": prefixed}
    command = ["node", str(HERE / "llama_cpp.mjs"), str(HERE)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-2", "mistral", "qwen2", "qwen3"])
def test_llama_cpp_answers_as_the_model_does(
    inside: Inside, source: Callable[[str], Path], sentencepiece: Tokenizer, tmp_path: Path, name: str
) -> None:
    folder, out, prefixed = source(name.removesuffix("-2")), tmp_path / "out", name == "llama-2"
    if prefixed:
        shutil.copytree(folder, tmp_path / "model")
        folder = tmp_path / "model"
        save_tokenizer(sentencepiece, folder)
    inside("export", folder, "--to", "gguf", "--out", out, "--verify", "0")
    tokenizer = load_tokenizer(folder)
    layout = layout_for(tokenizer, "decoder", packed=True)
    prompts = [list(layout.prompt([Segment("text", text)])) for text in PROMPTS]
    texts = [*TEXTS, *tokenizer.all_special_tokens]
    found = llama_cpp(out / "model-f32.gguf", prompts, texts, prefixed=prefixed)

    assert found["ids"] == [layout.encode(text) for text in texts]
    assert found["special"]["eos"] == tokenizer.eos_token_id
    assert found["add_bos"] is True
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for prompt, greedy, probabilities in zip(prompts, found["greedy"], found["probabilities"], strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            logprobs = model(ids).logits[0, -1].log_softmax(-1)
            # (T, V); llama.cpp reads its GELU from a table of half precision, so near ties may turn.
            scores = model(torch.tensor([[*prompt, *greedy]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        lost = scores.max(-1).values - scores.gather(1, torch.tensor(greedy)[:, None])[:, 0]
        assert lost.max() < 5e-3, lost
        for token, probability in probabilities.items():
            assert math.log(probability) == pytest.approx(logprobs[int(token)].item(), abs=5e-3)
