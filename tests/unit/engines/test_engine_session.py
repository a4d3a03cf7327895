"""Sessions: requests that come and go at any time, each with its own settings, answered as if each were alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmctl.engines.echo import EchoEngine
from llmctl.engines.local import TorchEngine
from llmctl.engines.spec import Answered, Engine, EngineEvent, EngineSession, NewText, Sampling
from llmctl.errors import PromptTooLong, UsageError
from llmctl.types import Completion, Request

FAMILIES = {"gpt2": "decoder", "llama": "decoder", "t5": "encoder-decoder", "bart": "encoder-decoder"}
PROMPTS = ("The quick", "It was the worst of times, it was", "", "床前明月光，疑是", "a", "dog", "over the lazy dog")
SAMPLINGS = (
    Sampling(max_new_tokens=20),
    Sampling(max_new_tokens=7, temperature=1.2, seed=5),
    Sampling(max_new_tokens=12, top_k=5, num_samples=3, seed=9),
    Sampling(max_new_tokens=15, repetition_penalty=1.4),
    Sampling(max_new_tokens=30, temperature=0.9, top_p=0.8, min_p=0.01),
    Sampling(max_new_tokens=9, num_beams=2, num_samples=2),
    Sampling(max_new_tokens=1),
)

Built = Callable[[str], Engine]


@pytest.fixture
def built(models: Any, tokenizer: Any) -> Built:
    def build(name: str) -> Engine:
        if name == "echo":
            return EchoEngine(None, tokenizer, "decoder")
        return TorchEngine(models[name], tokenizer, FAMILIES[name], layout_context=None if name == "t5" else 64)  # type: ignore[arg-type]

    return build


def requests(tokenizer: Any) -> list[Request]:
    return [
        Request(f"r{number}", (1, *tokenizer(prompt, add_special_tokens=False).input_ids), place=number)
        for number, prompt in enumerate(PROMPTS)
    ]


def answers(events: list[EngineEvent], ticket: int) -> list[Completion]:
    found = [each for each in events if isinstance(each, Answered) and each.ticket == ticket]
    assert [each.last for each in found] == [False] * (len(found) - 1) + [True]
    return sorted((each.completion for each in found), key=lambda each: each.sample)


def drained(session: EngineSession) -> list[EngineEvent]:
    events: list[EngineEvent] = []
    while session.pending:
        events += session.step()
    assert session.step() == []
    return events


@pytest.mark.parametrize("name", ["echo", *FAMILIES])
def test_requests_with_different_settings_are_answered_as_if_each_were_alone(
    built: Built, tokenizer: Any, name: str
) -> None:
    engine, asked = built(name), requests(tokenizer)
    alone = [
        list(engine.generate([request], replace(sampling, batch_size=1)))
        for request, sampling in zip(asked, SAMPLINGS, strict=True)
    ]
    session, events, tickets = engine.session(rows=3), list[EngineEvent](), list[int]()
    for request, sampling in zip(asked, SAMPLINGS, strict=True):  # they arrive while others are being answered
        tickets.append(session.submit(request, sampling, stream=sampling.num_beams == 1))
        events += session.step()
    events += drained(session)
    for ticket, expected, sampling in zip(tickets, alone, SAMPLINGS, strict=True):
        assert answers(events, ticket) == expected
        for completion in expected if sampling.num_beams == 1 else ():
            news = [
                each
                for each in events
                if isinstance(each, NewText) and (each.ticket, each.sample) == (ticket, completion.sample)
            ]
            assert "".join(each.text for each in news) == completion.text
            assert sum(len(each.tokens) for each in news) == completion.tokens


@pytest.mark.parametrize("name", ["echo", "llama", "t5"])
def test_a_cancelled_request_leaves_and_the_others_stay(built: Built, tokenizer: Any, name: str) -> None:
    engine, asked = built(name), requests(tokenizer)
    sampling = Sampling(max_new_tokens=20)
    expected = list(engine.generate(asked, sampling))
    session = engine.session(rows=3)
    tickets = [session.submit(request, sampling, stream=True) for request in asked]
    events = session.step()
    for ticket in (tickets[0], tickets[6], 999):
        session.cancel(ticket)
    events = drained(session)
    assert {each.ticket for each in events} == set(tickets[1:6])
    for ticket, completion in zip(tickets[1:6], expected[1:6], strict=True):
        assert answers(events, ticket) == [completion]


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_those_of_the_models_own_logits(
    built: Built, models: Any, tokenizer: Any, name: str
) -> None:
    engine, model = built(name), models[name]
    session = engine.session()
    sampling = Sampling(max_new_tokens=6, temperature=1.5, seed=3)
    tickets = [session.submit(each, sampling, stream=True, logprobs=2) for each in requests(tokenizer)[:3]]
    without = session.submit(requests(tokenizer)[0], sampling)
    events = drained(session)
    assert answers(events, without)[0].token_logprobs == ()
    for ticket, request in zip(tickets, requests(tokenizer), strict=False):
        [completion] = answers(events, ticket)
        tokens = completion.token_logprobs
        assert len(tokens) == completion.tokens
        ids = [each.id for each in tokens]
        with torch.no_grad():
            if FAMILIES[name] == "decoder":
                logits = model(torch.tensor([[*request.input_ids, *ids]])).logits[0, len(request.input_ids) - 1 : -1]
            else:
                start = model.config.decoder_start_token_id
                logits = model(
                    torch.tensor([request.input_ids]), decoder_input_ids=torch.tensor([[start, *ids]])
                ).logits[0, :-1]
        expected = logits.log_softmax(-1)
        for row, token in zip(expected, tokens, strict=True):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
            assert [value for _, value in token.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)
            assert [each for each, _ in token.top] == row.topk(2).indices.tolist()
        streamed = [
            token for each in events if isinstance(each, NewText) and each.ticket == ticket for token in each.tokens
        ]
        assert tuple(streamed) == tokens


def test_what_cannot_be_answered_is_refused_at_once(built: Built) -> None:
    session = built("gpt2").session()
    with pytest.raises(PromptTooLong):
        session.submit(Request("long", (5,) * 64), Sampling())
    with pytest.raises(UsageError, match="empty stop"):
        session.submit(Request("a", (5,)), Sampling(stop=("",)))
    with pytest.raises(UsageError, match="log-probabilities"):
        session.submit(Request("a", (5,)), Sampling(num_beams=2), logprobs=1)
    assert session.pending == 0


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_sessions_of_one_engine_run_in_several_threads(built: Built, tokenizer: Any, name: str) -> None:
    engine, asked = built(name), requests(tokenizer)
    expected = [list(engine.generate([request], sampling)) for request, sampling in zip(asked, SAMPLINGS, strict=True)]
    found: dict[int, list[Completion]] = {}

    def work(number: int) -> None:
        found[number] = list(engine.generate([asked[number]], SAMPLINGS[number]))

    threads = [threading.Thread(target=work, args=[number]) for number in range(len(asked))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [found[number] for number in range(len(asked))] == expected


def test_a_request_may_be_submitted_while_another_thread_steps(built: Built, tokenizer: Any) -> None:
    engine, asked = built("llama"), requests(tokenizer)
    sampling = Sampling(max_new_tokens=10)
    expected = list(engine.generate(asked, sampling))
    session, tickets = engine.session(rows=2), list[int]()

    def submit() -> None:
        tickets.extend(session.submit(request, sampling) for request in asked)

    thread = threading.Thread(target=submit)
    events: list[EngineEvent] = []
    thread.start()
    while thread.is_alive() or session.pending:
        events += session.step()
    assert [answers(events, ticket) for ticket in tickets] == [[each] for each in expected]
