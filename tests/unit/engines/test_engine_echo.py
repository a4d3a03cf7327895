"""The echo engine keeps the interface of the real one."""

from __future__ import annotations

import math
from typing import Any

from llmctl.engines.echo import EchoEngine
from llmctl.engines.spec import ECHO, Sampling
from llmctl.types import Request


def test_it_answers_with_the_prompt(tokenizer: Any) -> None:
    engine = ECHO.build(model=None, tokenizer=tokenizer, family="decoder", precision="fp32")
    assert isinstance(engine, EchoEngine)
    ids = tuple(tokenizer("The quick 明月", add_special_tokens=False).input_ids)
    requests = [Request("a", (1, *ids)), Request("b", (1,))]
    first, second = engine.generate(requests, Sampling())
    assert (first.text, first.finish_reason, first.tokens) == ("The quick 明月", "stop", len(ids))
    assert (second.text, second.id) == ("", "b")
    cut = next(iter(engine.generate(requests, Sampling(max_new_tokens=1))))
    assert (cut.finish_reason, cut.tokens) == ("length", 1)
    stopped = next(iter(engine.generate(requests, Sampling(stop=("quick",)))))
    assert stopped.text == "The "


def test_all_tokens_are_equally_likely(tokenizer: Any) -> None:
    engine = EchoEngine(None, tokenizer, "decoder")
    [found] = engine.score([Request("a", (1,), (5, 6))])
    assert found.logprob == -2 * math.log(len(tokenizer))
    [label] = EchoEngine(None, tokenizer, "encoder", labels=("bad", "good")).score([Request("a", (1,), (1,))])
    assert label.logprob == -math.log(2)
