"""A prompt that ends in blanks is continued as the text without them would be: no empty answer, no lost indentation."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmctl.engines.healing import Healing
from llmctl.engines.local import TorchEngine
from llmctl.engines.spec import Answered, NewText, Sampling
from llmctl.types import Opening, Request
from llmctl.workflows.serve.tokens import TextPosition, TokenTexts, chat_logprobs, completion_logprobs

ONE = "It was: the best of times"
TWO = "def fox(dog):\n    if dog:\n        jumps over"
BLANK_LINE = "The dog\n\nThe fox"


@pytest.fixture(scope="module")
def engine(tokenizer: Any) -> TorchEngine:
    """A model that knows a few texts by heart."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    shape = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), embd_pdrop=0.0, attn_pdrop=0.0, **shape, **ids))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    texts = [
        torch.tensor([[1, *tokenizer.encode(text, add_special_tokens=False), 2]]) for text in (ONE, TWO, BLANK_LINE)
    ]
    for _ in range(60):
        optimizer.zero_grad()
        sum(model(text, labels=text).loss for text in texts).backward()
        optimizer.step()
    return TorchEngine(model.eval(), tokenizer, "decoder")


def asked(tokenizer: Any, prompt: str) -> Request:
    def ids(text: str) -> tuple[int, ...]:
        return (1, *tokenizer.encode(text, add_special_tokens=False))

    bare = prompt.rstrip(" \n")
    return Request("1", ids(prompt), opening=Opening(ids(bare), prompt[len(bare) :]) if bare != prompt else None)


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        *((ONE[:end], ONE) for end in (7, 8)),
        *((TWO[:end], TWO) for end in (13, 14, 15, 18, 25, 26, 34)),
        *((BLANK_LINE[:end], BLANK_LINE) for end in (7, 8, 9)),
    ],
)
@pytest.mark.parametrize("way", ["rows that come and go", "transformers' generate", "sampling"])
def test_a_prompt_that_ends_in_blanks_is_continued_as_the_text_was(
    way: str, prompt: str, whole: str, engine: TorchEngine, tokenizer: Any
) -> None:
    sampling = Sampling(40, temperature=0.1, seed=3) if way == "sampling" else Sampling(40)
    session = engine.session()
    if way == "transformers' generate":
        session._continuous = None  # type: ignore[attr-defined]
    session.submit(asked(tokenizer, prompt), sampling, stream=True, logprobs=0)
    events = []
    while session.pending:
        events += session.step()
    [answer] = [each.completion for each in events if isinstance(each, Answered)]
    assert prompt + answer.text == whole
    assert "".join(each.text for each in events if isinstance(each, NewText)) == answer.text
    assert len(answer.token_logprobs) == answer.tokens
    session.close()


def test_a_stop_text_and_a_limit_count_from_the_end_of_the_prompt(engine: TorchEngine, tokenizer: Any) -> None:
    [stopped] = engine.generate([asked(tokenizer, TWO[:14])], Sampling(40, stop=("\n",)))
    assert stopped.text == "    if dog:"
    [short] = engine.generate([asked(tokenizer, ONE[:8])], Sampling(1))
    [bare] = engine.generate([asked(tokenizer, ONE[:7])], Sampling(1))
    assert (short.text, short.tokens, short.finish_reason) == (bare.text.removeprefix(" "), 1, "length")


@pytest.mark.parametrize("way", ["rows that come and go", "transformers' generate"])
def test_a_blank_near_the_end_of_the_context_costs_no_token_of_the_answer(
    way: str, engine: TorchEngine, tokenizer: Any
) -> None:
    bare = (1, *tokenizer.encode(ONE[:7], add_special_tokens=False))
    bare += (bare[-1],) * (60 - len(bare))
    request = Request("1", (*bare, *tokenizer.encode(" ", add_special_tokens=False)), opening=Opening(bare, " "))
    session = engine.session()
    if way == "transformers' generate":
        session._continuous = None  # type: ignore[attr-defined]
    session.submit(request, Sampling(40))
    events = []
    while session.pending:
        events += session.step()
    [answer] = [each.completion for each in events if isinstance(each, Answered)]
    assert (answer.tokens, answer.finish_reason) == (4, "length"), "the context has 64 places"
    session.close()


def test_the_tokens_of_an_answer_join_to_its_text(engine: TorchEngine, tokenizer: Any) -> None:
    texts = TokenTexts(tokenizer)
    for prompt in (ONE[:8], TWO[:14], BLANK_LINE[:8]):
        session = engine.session()
        session.submit(asked(tokenizer, prompt), Sampling(4), stream=True, logprobs=2)
        events = []
        while session.pending:
            events += session.step()
        [answer] = [each.completion for each in events if isinstance(each, Answered)]
        tokens = answer.token_logprobs
        position = TextPosition()
        found = completion_logprobs(tokens, texts, position)
        assert "".join(found["tokens"]) == answer.text
        assert position.at == len(answer.text)
        assert found["text_offset"][1] == len(found["tokens"][0])
        assert [top[name] for top, name in zip(found["top_logprobs"], found["tokens"], strict=True)] == found[
            "token_logprobs"
        ]
        chat = chat_logprobs(tokens, texts)["content"]
        assert bytes(byte for each in chat for byte in each["bytes"]).decode() == answer.text
        assert tokens == tuple(token for each in events if isinstance(each, NewText) for token in each.tokens)
        session.close()


def test_an_engine_that_is_gone_keeps_no_tokenizer(tokenizer: Any) -> None:
    healing = Healing(tokenizer)
    assert healing.allowed(" ")
    gone = weakref.ref(healing)
    del healing
    gc.collect()
    assert gone() is None


def test_a_tokenizer_that_joins_no_blank_with_a_word_takes_the_prompt_as_it_is(
    tokenizer: Any, engine: TorchEngine
) -> None:
    opening = Opening((1, 5), "\t")  # no token begins with a tab and goes on
    request = Request("1", (1, 5, 9), opening=opening)
    session = engine.session()
    session.submit(request, Sampling(1))
    [job] = engine.loaded.healing.jobs(session._submitted)
    assert job.request == Request("1", (1, 5, 9))
