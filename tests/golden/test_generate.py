"""A model folder asked by llmctl answers and scores as transformers alone does, on the same folder.

The reference numbers are computed here, by transformers' `generate` and by the strided perplexity recipe of its
documentation ("Perplexity of fixed-length models"), so that they hold for whatever version is installed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from llmctl.data.tokenizing import tokenizers
from llmctl.engines.spec import Sampling
from llmctl.types import Record
from llmctl.workflows.inference.session import open_predictor

CONTEXT = 64
SONNET = (
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate: Rough winds do shake the darling "
    "buds of May, And summer's lease hath all too short a date. "
)
POEM = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that llmctl did not make: no card, and sampling defaults in its generation settings."""
    path = tmp_path_factory.mktemp("model")
    texts = [SONNET, POEM]
    tokenizers.save(tokenizers.train("bpe", lambda: texts, len(SONNET + POEM), 330), path)
    tokenizer = tokenizers.load_tokenizer(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0.0, 0.2)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.2, eos_token_id=2, pad_token_id=0
    )
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


PROMPTS = ("Shall I", "Thou art more lovely and", POEM[:7], "")


@pytest.mark.parametrize("beams", [1, 4])
def test_answers_are_those_of_transformers(folder: Path, model: Any, beams: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    predictor = open_predictor(str(folder))
    assert predictor.task.name == "language-modeling"
    records = [Record(str(number), {"text": prompt}) for number, prompt in enumerate(PROMPTS)]
    answers = list(predictor.answers(records, Sampling(max_new_tokens=16, num_beams=beams, batch_size=3)))
    greedy = GenerationConfig(
        do_sample=False, temperature=1.0, top_p=1.0, repetition_penalty=1.0, num_beams=beams, max_new_tokens=16
    )
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = [1, *tokenizer(prompt, add_special_tokens=False).input_ids]
        reference = model.generate(torch.tensor([ids]), generation_config=greedy)[0, len(ids) :]
        assert answer.text == tokenizer.decode(reference, skip_special_tokens=True)


def test_perplexity_is_that_of_the_strided_recipe(folder: Path, model: Any) -> None:
    text, window, stride = SONNET + POEM + SONNET, 32, 16
    predictor = open_predictor(str(folder))
    [answer] = predictor.likelihoods([Record("0", {"text": text})], window=window, stride=stride)
    ids = torch.tensor([[1, *predictor.request_builder.layout.encode(text), 2]])
    total, done = 0.0, 1
    while done < ids.shape[1]:
        end = min(ids.shape[1], window + 1 if done == 1 else done + stride)
        part = ids[:, max(0, end - window - 1) : end]
        labels = part.clone()
        labels[:, : -(end - done)] = -100
        with torch.no_grad():
            total += float(model(part, labels=labels).loss) * (end - done)
        done = end
    assert answer.tokens == ids.shape[1] - 1
    assert math.exp(-answer.logprob / answer.tokens) == pytest.approx(math.exp(total / answer.tokens), rel=1e-5)


def test_a_chat_template_is_rendered_as_transformers_renders_it(folder: Path, tmp_path: Path) -> None:
    import shutil

    chat = tmp_path / "chat"
    shutil.copytree(folder, chat)
    (chat / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    predictor = open_predictor(str(chat))
    assert predictor.task.name == "chat"
    messages = [{"role": "user", "content": "床前 day?"}]
    tokenizer = AutoTokenizer.from_pretrained(chat)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert (
        tokenizer.decode(predictor.request_builder.generation_request(Record("0", {"messages": messages})).input_ids)
        == rendered
    )
