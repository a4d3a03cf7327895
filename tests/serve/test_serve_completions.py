"""`/v1/completions` and `/v1/chat/completions`, asked by the `openai` client: every field is followed or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmctl.models.auto  # noqa: F401 - our architectures for the Auto classes
from tests.serve.conftest import CONTEXT, Running

Served = Callable[[str], Running]
Generated = Callable[..., list[str]]
PROMPTS = ("Shall I compare", "床前明月光", "Thou art", "more lovely and more", "day?", "")
HELLO = [{"role": "user", "content": "床前 thee"}]


def texts(completion: Any) -> list[str]:
    return [each.text for each in completion.choices]


def contents(completion: Any) -> list[str]:
    return [each.message.content for each in completion.choices]


# -- answers are those of generate ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lm", "lstm"])
def test_greedy_answers_are_those_of_generate_one_at_a_time_and_all_at_once(
    served: Served, generated: Generated, name: str
) -> None:
    client = served(name).client()
    expected = [generated(name, prompt)[0] for prompt in PROMPTS]
    assert len(set(expected)) > 3

    def asked(prompt: str) -> str:
        return texts(client.completions.create(model=name, prompt=prompt, max_tokens=12, temperature=0))[0]

    assert [asked(prompt) for prompt in PROMPTS] == expected
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(asked, PROMPTS)) == expected
    together = client.completions.create(model=name, prompt=list(PROMPTS), max_tokens=12, temperature=0)
    assert texts(together) == expected


@pytest.mark.parametrize("settings", [{"temperature": 0.9}, {"temperature": 1.3, "top_p": 0.9}, {"top_p": 0.8}])
def test_sampled_answers_depend_on_the_seed_alone(
    served: Served, generated: Generated, settings: dict[str, float]
) -> None:
    client = served("lm").client()
    expected = generated("lm", "Shall", seed=7, num_samples=3, **settings)

    def asked(seed: int) -> list[str]:
        return texts(
            client.completions.create(model="lm", prompt="Shall", n=3, seed=seed, max_tokens=12, **settings)  # type: ignore[arg-type]
        )

    assert asked(7) == expected
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(asked, [7, 1, 7, 2, 7, 3]))
    assert [found[0], found[2], found[4]] == [expected] * 3
    assert found[1] != expected


def test_without_a_seed_each_answer_is_another(served: Served) -> None:
    client = served("lm").client()
    found = {texts(client.completions.create(model="lm", prompt="a", temperature=1.5))[0] for _ in range(4)}
    assert len(found) > 1


def test_the_server_s_seed_is_for_requests_without_one(serving: Any, generated: Generated) -> None:
    with serving("lm", seed=3) as server:
        client = server.client()
        found = [texts(client.completions.create(model="lm", prompt="a", temperature=1.0, max_tokens=12)) for _ in "ab"]
    assert found == [generated("lm", "a", temperature=1.0, seed=3)] * 2


def test_several_greedy_answers_are_equal(served: Served) -> None:
    completion = served("lm").client().completions.create(model="lm", prompt="a", n=2, temperature=0)
    assert len(completion.choices) == 2
    assert len(set(texts(completion))) == 1
    assert completion.usage is not None
    assert completion.usage.completion_tokens <= 32


def test_stop_texts_end_an_answer_across_tokens_and_are_not_in_it(served: Served, generated: Generated) -> None:
    client = served("lm").client()
    [whole] = generated("lm", "Shall I", max_new_tokens=30)
    stop = whole[4:7]
    assert whole.index(stop) >= 2
    completion = client.completions.create(
        model="lm", prompt="Shall I", max_tokens=30, temperature=0, stop=[stop, "ÿÿ"]
    )
    assert texts(completion) == [whole[: whole.index(stop)]]
    assert completion.choices[0].finish_reason == "stop"
    streamed = client.completions.create(
        model="lm", prompt="Shall I", max_tokens=30, temperature=0, stop=stop, stream=True
    )
    assert "".join(each.choices[0].text for each in streamed) == whole[: whole.index(stop)]


# -- length, usage ----------------------------------------------------------------------------------------------


def test_usage_counts_tokens_of_the_model_and_length_says_so(served: Served, folders: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders("lm"))
    completion = served("lm").client().completions.create(model="lm", prompt="Shall I", max_tokens=5, temperature=0)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 1 + len(tokenizer("Shall I", add_special_tokens=False).input_ids)
    assert completion.usage.completion_tokens == 5
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 5
    assert completion.choices[0].finish_reason == "length"
    default = served("lm").client().completions.create(model="lm", prompt="Shall I", temperature=0)
    assert default.usage is not None
    assert default.usage.completion_tokens == 16, "OpenAI's default of this interface"


def test_metrics_count_every_step(served: Served) -> None:
    server, name = served("lm"), "llmctl_engine_steps_total"
    before = server.metric(name)
    usage = server.client().completions.create(model="lm", prompt="Shall I compare", max_tokens=6, temperature=0).usage
    assert usage is not None
    assert server.metric(name) - before >= usage.completion_tokens > 1


def test_no_answer_outgrows_the_context(served: Served) -> None:
    completion = (
        served("chat")
        .client()
        .chat.completions.create(model="chat", messages=HELLO, max_completion_tokens=100_000, temperature=0)
    )
    assert completion.usage is not None
    assert completion.usage.total_tokens <= CONTEXT


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(served: Served) -> None:
    for ask in (
        lambda: served("lm").client().completions.create(model="lm", prompt="day " * 300),
        lambda: served("lm").client().completions.create(model="lm", prompt=[5] * 500),
        lambda: (
            served("chat")
            .client()
            .chat.completions.create(model="chat", messages=[{"role": "user", "content": "day " * 300}])
        ),
    ):
        with pytest.raises(openai.BadRequestError, match=rf"long, the model's context {CONTEXT}") as error:
            ask()
        assert error.value.code == "context_length_exceeded"


# -- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.2, "seed": 4, "n": 3}])
def test_a_stream_joined_is_the_whole_answer(served: Served, settings: dict[str, Any]) -> None:
    client = served("chat").client()
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 40, **settings}
    whole = client.chat.completions.create(**asked)
    found, reasons = [""] * settings.get("n", 1), {}
    roles: list[Any] = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        assert chunk.usage is None
        (choice,) = chunk.choices
        roles.append(choice.delta.role)
        piece = choice.delta.content or ""
        piece.encode()  # no half of a character
        found[choice.index] += piece
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert found == contents(whole)
    assert reasons == {each.index: each.finish_reason for each in whole.choices}
    assert roles.count("assistant") == settings.get("n", 1)


def test_chinese_characters_arrive_whole(served: Served) -> None:
    """The random weights give many tokens that are parts of characters."""
    client = served("lm").client()
    for seed in range(5):
        asked = {"model": "lm", "prompt": "床前明月", "max_tokens": 60, "temperature": 1.5, "seed": seed}
        whole = client.completions.create(**asked)
        pieces = [each.choices[0].text for each in client.completions.create(**asked, stream=True)]
        assert "".join(pieces) == texts(whole)[0]
        assert len(pieces) > 3


def test_usage_of_a_stream_comes_last_without_choices_and_only_if_asked_for(served: Served) -> None:
    body = {"model": "chat", "messages": HELLO, "stream": True, "max_tokens": 5, "temperature": 0}
    *events, done = served("chat").stream("/v1/chat/completions", body)
    assert done == "[DONE]"
    assert all("usage" not in json.loads(each) for each in events)
    asked = body | {"stream_options": {"include_usage": True}}
    *chunks, last, done = served("chat").stream("/v1/chat/completions", asked)
    assert done == "[DONE]"
    assert all(json.loads(each)["usage"] is None for each in chunks)
    assert json.loads(last)["choices"] == []
    assert json.loads(last)["usage"]["completion_tokens"] == 5
    assert len({json.loads(each)["id"] for each in (*chunks, last)}) == 1


# -- log-probabilities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lm", "lstm"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_prompt_log_probabilities_are_those_of_transformers(
    served: Served, folders: Callable[[str], Path], name: str, as_ids: bool
) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folders(name)), AutoModelForCausalLM.from_pretrained(folders(name))
    prompt = "Shall I compare 床前明月光"
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    fed = ids if as_ids else [1, *ids]
    with torch.inference_mode():
        expected = model(torch.tensor([fed])).logits[0].log_softmax(-1)
    completion = (
        served(name)
        .client()
        .completions.create(model=name, prompt=ids if as_ids else prompt, max_tokens=0, echo=True, logprobs=2)
    )
    assert texts(completion) == [prompt]
    found = completion.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert len(found.token_logprobs) == len(ids), "as many as the client's own tokenizer counts"
    if as_ids:
        assert found.token_logprobs[0] is None
    begin = 1 if as_ids else 0
    given = [expected[place, token].item() for place, token in enumerate(fed[1:])]
    assert found.token_logprobs[begin:] == pytest.approx(given, abs=1e-5)
    best = expected[: len(fed) - 1].max(1).values.tolist()
    assert found.top_logprobs is not None
    assert [max(each.values()) for each in found.top_logprobs[begin:]] == pytest.approx(best, abs=1e-5)


def test_log_probabilities_of_an_answer_agree_with_those_of_the_same_text_as_a_prompt(served: Served) -> None:
    client = served("lm").client()
    answer = client.completions.create(
        model="lm", prompt=[1, 40, 50], max_tokens=6, temperature=0, logprobs=1, echo=True
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert len(logprobs.token_logprobs) == 9
    assert logprobs.top_logprobs is not None
    for logprob, top in zip(logprobs.token_logprobs[3:], logprobs.top_logprobs[3:], strict=True):
        assert logprob == pytest.approx(max(top.values()), abs=1e-6), "greedy answers are the likeliest tokens"
    streamed = client.completions.create(
        model="lm", prompt=[1, 40, 50], max_tokens=6, temperature=0, logprobs=1, echo=True, stream=True
    )
    pieces = [each.choices[0].logprobs for each in streamed]
    joined = [value for each in pieces if each is not None for value in each.token_logprobs or []]
    assert joined == logprobs.token_logprobs


def test_chat_log_probabilities_come_with_the_bytes_of_each_token(served: Served) -> None:
    completion = (
        served("chat")
        .client()
        .chat.completions.create(
            model="chat", messages=HELLO, logprobs=True, top_logprobs=3, max_tokens=8, temperature=1.5, seed=1
        )
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 8
    for each in logprobs.content:
        assert len(each.top_logprobs) == 3
        assert each.logprob <= 0
        assert math.isfinite(each.logprob)
    raw = b"".join(bytes(each.bytes or []) for each in logprobs.content)
    assert (completion.choices[0].message.content or "") in raw.decode("utf-8", "replace")


# -- what the client sees of the model --------------------------------------------------------------------------


def test_the_model_is_listed_by_name_and_any_other_is_unknown(served: Served, folders: Callable[[str], Path]) -> None:
    client = served("chat").client()
    (model,) = client.models.list()
    assert model.id == "chat"
    assert client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    _, listed, _ = served("chat").ask("/v1/models")
    assert str(folders("chat").parent) not in json.dumps(listed)


def test_a_model_that_is_no_chat_model_says_what_it_is(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="its task is language-modeling"):
        served("lm").client().chat.completions.create(model="lm", messages=HELLO)


def test_messages_of_parts_and_developers_are_read(served: Served) -> None:
    client = served("chat").client()
    parts: Any = [{"type": "text", "text": "床前"}, {"type": "text", "text": " thee"}]
    first = client.chat.completions.create(
        model="chat", messages=[{"role": "system", "content": "art"}, *HELLO], temperature=0, max_tokens=8
    )
    second = client.chat.completions.create(
        model="chat",
        messages=[{"role": "developer", "content": "art"}, {"role": "user", "content": parts}],
        temperature=0,
        max_tokens=8,
    )
    assert contents(first) == contents(second)


def test_an_answer_can_be_sent_back(served: Served) -> None:
    client = served("chat").client()
    answer = client.chat.completions.create(model="chat", messages=HELLO, temperature=0, max_tokens=8)
    history: Any = [*HELLO, answer.choices[0].message, {"role": "user", "content": "more"}]
    assert client.chat.completions.create(model="chat", messages=history, max_tokens=4).choices


def test_text_is_text(served: Served) -> None:
    """The name of a control token in a message is no control token."""
    client = served("chat").client()
    completion = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "<|eos|>"}], max_tokens=1, temperature=0
    )
    assert completion.usage is not None
    assert completion.usage.prompt_tokens > 5
