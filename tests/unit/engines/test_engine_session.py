"""Sessions: requests that come and go at any time, each with its own settings, answered as if each were alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MistralConfig, MistralForCausalLM

from llmctl import registry
from llmctl.engines.decoding import decoding_for
from llmctl.engines.echo import EchoEngine
from llmctl.engines.local import TorchEngine
from llmctl.engines.spec import Answered, Engine, EngineEvent, EngineSession, NewText, Sampling
from llmctl.errors import PromptTooLong, UsageError
from llmctl.models.spec import Shape, Vocabulary
from llmctl.types import Completion, Request

FAMILIES = {
    "gpt2": "decoder",
    "llama": "decoder",
    "window": "decoder",
    "attention": "decoder",
    "lstm": "decoder",
    "rnn": "decoder",
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
    "marian": "encoder-decoder",
    "lstm-seq2seq": "encoder-decoder",
}
CONTINUOUS = {"window": None, "lstm": "RecurrentRows", "rnn": "RecurrentRows", "lstm-seq2seq": "RecurrentRows"} | {
    "t5": "SourceRows",
    "bart": "SourceRows",
    "marian": "SourceRows",
}
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


@pytest.fixture(scope="module")
def all_models(models: Any, tokenizer: Any) -> dict[str, Any]:
    """The models of the other tests, one with sliding windows, Marian, and our own."""
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(1)
    own = {}
    for name in ("attention", "lstm", "rnn", "lstm-seq2seq"):
        spec = registry.load("models", name)
        shape = spec.shape("nano", Shape(hidden=32, context=64 if name == "attention" else None))
        own[name] = spec.build(shape, Vocabulary(len(tokenizer), 0, 1, 2), ())
    half = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
    window = MistralConfig(vocab_size=len(tokenizer), hidden_size=32, sliding_window=8, **half, **ids)
    marian = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        decoder_start_token_id=0,
        max_position_embeddings=64,
        forced_eos_token_id=None,
        **ids,
    )
    made = own | {"window": MistralForCausalLM(window), "marian": MarianMTModel(marian)}
    for model in made.values():
        model.eval()
        for parameter in model.parameters():  # answers that differ from prompt to prompt
            parameter.data.mul_(3.0)
    return models | made


@pytest.fixture
def built(all_models: Any, tokenizer: Any) -> Built:
    def build(name: str) -> Engine:
        if name == "echo":
            return EchoEngine(None, tokenizer, "decoder")
        context = None if name in ("t5", "lstm", "rnn", "lstm-seq2seq") else 64
        return TorchEngine(all_models[name], tokenizer, FAMILIES[name], layout_context=context)  # type: ignore[arg-type]

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
    assert len({each[0].text for each in alone}) > 4, "answers that are all alike would prove nothing"
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


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_are_those_of_transformers(built: Built, all_models: Any, tokenizer: Any, name: str) -> None:
    engine, model, asked = built(name), all_models[name], requests(tokenizer)
    session = engine.session(rows=3)
    limits = (9, 2, 17, 5, 12, 1, 8)
    tickets = [session.submit(each, Sampling(max_new_tokens=limit)) for each, limit in zip(asked, limits, strict=True)]
    events = drained(session)
    for ticket, request, limit in zip(tickets, asked, limits, strict=True):
        options = {"do_sample": False, "num_beams": 1, "use_cache": False, "eos_token_id": 2, "pad_token_id": 0}
        ids = model.generate(torch.tensor([request.input_ids]), max_new_tokens=limit, **options)[0].tolist()
        new = ids[len(request.input_ids) :] if FAMILIES[name] == "decoder" else ids[1:]
        assert answers(events, ticket)[0].text == tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_which_models_are_batched_continuously(built: Built, name: str) -> None:
    found = decoding_for(built(name).loaded)  # type: ignore[attr-defined]
    assert (None if found is None else type(found).__name__) == CONTINUOUS.get(name, "AttentionRows")


def test_tokens_that_a_model_forbids_or_forces(built: Built, all_models: Any, tokenizer: Any) -> None:
    [request] = requests(tokenizer)[:1]
    model = all_models["marian"]
    free = list(built("marian").generate([request], Sampling(max_new_tokens=6), stream=None))
    ids = tokenizer(free[0].text, add_special_tokens=False).input_ids
    own = model.generation_config
    model.generation_config = GenerationConfig(
        bad_words_ids=[[ids[0]]], suppress_tokens=[ids[-1]], forced_bos_token_id=50, forced_eos_token_id=2,
        decoder_start_token_id=0, eos_token_id=2, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    try:
        [found] = built("marian").generate([request], Sampling(max_new_tokens=6))
        expected = model.generate(torch.tensor([request.input_ids]), max_new_tokens=6, do_sample=False, num_beams=1)
    finally:
        model.generation_config = own
    assert found.text == tokenizer.decode(expected[0, 1:], skip_special_tokens=True)
    assert (found.tokens, found.finish_reason) == (5, "stop")
    assert found != free[0]


@pytest.mark.parametrize("name", ["echo", "llama", "t5", "window", "lstm-seq2seq"])
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
    built: Built, all_models: Any, tokenizer: Any, name: str
) -> None:
    engine, model = built(name), all_models[name]
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
