"""An exported folder as `--model`: the engine follows from the folder, and answers are those of the torch engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.engines.spec import Answered, NewText, Sampling
from llmctl.types import Completion, Record
from llmctl.workflows.inference.session import Predictor, open_predictor

Inside = Callable[..., dict[str, Any]]
Source = Callable[[str], Path]
Pair = tuple[Predictor, Predictor]

PROMPTS = (
    "The quick brown fox",
    "Shall I compare thee",
    "床前明月光，疑是",
    "It was",
    "the worst of times, it was the best",
)
NAMES = ("llama", "marian", "t5")


@pytest.fixture(scope="module", params=list(itertools.product(["ctranslate2"], NAMES)), ids="-".join)
def pair(request: Any, inside: Inside, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The torch engine on the model, and the engine of its export."""
    to, name = request.param
    out = tmp_path_factory.mktemp("engine") / "out"
    inside("export", source(name), "--to", to, "--out", out, "--verify", "0")
    task = "language-modeling" if name == "llama" else "translation"
    ours, theirs = open_predictor(str(source(name)), task=task), open_predictor(str(out))
    assert theirs.task.name == task
    assert type(theirs.engine) is not type(ours.engine)
    return ours, theirs


def both(pair: Pair, sampling: Sampling) -> tuple[list[Completion], list[Completion]]:
    ours, theirs = pair
    records = [Record(f"{number}", ours.task.record_of(text)) for number, text in enumerate(PROMPTS)]
    one, other = (list(each.answers(records, sampling)) for each in (ours, theirs))
    return one, other


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=12, batch_size=3),
        Sampling(max_new_tokens=12, repetition_penalty=1.3, batch_size=5),
        Sampling(max_new_tokens=8, temperature=0.9, top_k=20, num_samples=2, seed=3, batch_size=4),
        Sampling(max_new_tokens=12, stop=("e", "月"), batch_size=2),
    ],
    ids=["greedy", "repetition", "sampled", "stop"],
)
def test_answers_are_those_of_torch(pair: Pair, sampling: Sampling) -> None:
    ours, theirs = both(pair, sampling)
    assert [each.text for each in theirs] == [each.text for each in ours]
    assert [each.tokens for each in theirs] == [each.tokens for each in ours]
    assert [each.finish_reason for each in theirs] == [each.finish_reason for each in ours]


def test_answers_do_not_depend_on_the_batch(pair: Pair) -> None:
    _, together = both(pair, Sampling(max_new_tokens=12, batch_size=5))
    _, alone = both(pair, Sampling(max_new_tokens=12, batch_size=1))
    assert together == alone


def test_beams_find_answers_that_are_at_least_as_likely(pair: Pair) -> None:
    ours, theirs = pair
    records = [Record(f"{number}", ours.task.record_of(text)) for number, text in enumerate(PROMPTS)]
    found = list(theirs.answers(records, Sampling(max_new_tokens=6, num_beams=3, num_samples=2)))
    assert [each.sample for each in found] == [0, 1] * len(PROMPTS)
    assert all(each.tokens <= 6 for each in found)


def test_a_session_streams_with_log_probabilities_and_cancels(pair: Pair) -> None:
    for logprobs in (None, 3):
        found = []
        for each in pair:
            request = each.request_builder.generation_request(Record("a", each.task.record_of(PROMPTS[0])))
            session = each.engine.session(rows=2)
            ticket = session.submit(request, Sampling(max_new_tokens=6), stream=True, logprobs=logprobs)
            dropped = session.submit(request, Sampling(max_new_tokens=60), stream=True, logprobs=logprobs)
            session.cancel(dropped)
            events = []
            while session.pending:
                events += session.step()
            session.close()
            assert {event.ticket for event in events} == {ticket}
            text = "".join(event.text for event in events if isinstance(event, NewText))
            (answer,) = (event.completion for event in events if isinstance(event, Answered))
            assert text == answer.text
            found.append(answer)
        assert found[0].text == found[1].text
        for one, other in zip(found[0].token_logprobs, found[1].token_logprobs, strict=True):
            assert one.id == other.id
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


def test_the_command_line_takes_the_engine_from_the_folder(
    inside: Inside, source: Source, tmp_path: Path, llmctl: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    inside("export", source("gpt2"), "--to", "ctranslate2", "--quantize", "int8", "--out", out)
    words = ("--prompt", "The quick", "--max-new-tokens", "4")
    assert inside("generate", "--model", out, *words)["completions"][0]["tokens"] == 4
    wrong = inside("generate", "--model", out, *words, "--set", "engine=torch", code=2)
    assert "was exported to ctranslate2" in wrong["error"]["message"]
    wrong = inside("generate", "--model", source("gpt2"), *words, "--set", "engine=ctranslate2", code=2)
    assert "--to ctranslate2 --out DIR" in wrong["error"]["hint"]
