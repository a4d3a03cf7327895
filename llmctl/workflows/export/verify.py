"""Compares an export with the model that it was made from: token ids, log-probabilities and greedy answers.

The prompts come from the built-in data of the model's task, laid out as in training. The export is opened as `--model`
opens it, and runs in the engine that users get.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from llmctl import registry
from llmctl.compatibility import references_audio
from llmctl.data.reading.read import read_records
from llmctl.engines.spec import Sampling
from llmctl.models.exports.probes import TEXTS
from llmctl.models.exports.table import Quantization
from llmctl.models.resolve import convert, gguf_file
from llmctl.store.exports import Check, read_export
from llmctl.tasks.spec import Task
from llmctl.types import Likelihood, Record, Request
from llmctl.workflows.inference.model import ModelHandle, find_model
from llmctl.workflows.inference.requests import open_request_builder
from llmctl.workflows.inference.session import Predictor, open_predictor

NEW_TOKENS: Final = 32
SCORED: Final = 6
"""Next tokens of each answer whose log-probabilities are compared."""
PROMPT_CHARACTERS: Final = 80
"""Of a document to be continued."""
BATCH: Final = 8


class Tolerance(NamedTuple):
    """`logprob`: largest difference of a log-probability in nats. `ties`: an answer may leave that of the model where the
    model's own log-probabilities of the two tokens differ by at most this."""

    logprob: float
    ties: float
    different: float = 0.05
    """Share of the greedy answers that may differ otherwise."""


TOLERANCES: Final[dict[Quantization, Tolerance]] = {
    "f32": Tolerance(1e-3, 0.0),
    "f16": Tolerance(0.05, 0.0),
    "bf16": Tolerance(0.3, 0.6, 0.25),
    "q8_0": Tolerance(0.3, 0.6, 0.25),
    "int8": Tolerance(0.5, 1.0, 0.25),
}
"""By precision. Rounding changes an answer only where two tokens are almost equally likely."""


def compare(source: ModelHandle, folder: Path, prompts: int) -> tuple[Check, ...]:
    """What the verification of the export in `folder` measured, with `prompts` prompts."""
    export = read_export(folder)
    assert export is not None
    tolerance = TOLERANCES[export.quantize]  # type: ignore[index]
    with tempfile.TemporaryDirectory(prefix="llmctl-export-") as place:
        opened = find_model(str(_usable(folder, Path(place))))
        ours, theirs = (
            open_predictor(each, request_builder=open_request_builder(each, truncate="left"))
            for each in (source, opened)
        )
        records = list(itertools.islice(_records(source.task), prompts))
        requests = [ours.request_builder.generation_request(record) for record in records]
        found = [_token_ids(ours, theirs, folder, requests, records)]
        answers = [_answers(each, requests) for each in (ours, theirs)]
        if source.task.modality == "text":  # likelihoods of transcripts are not computed
            found.append(_logprobs(ours, theirs, requests, answers[0], len(source.labels), tolerance.logprob))
        found.append(_texts(ours, requests, answers, tolerance))
        return tuple(found)


def _usable(folder: Path, place: Path) -> Path:
    """The folder, or for GGUF its conversion, outside of the user's cache."""
    file = gguf_file(folder)
    if file is None:
        return folder
    convert(file, place)
    return place


def _records(task: Task) -> Iterator[Record]:
    """Records of the task from the built-in data sets, in turns; texts in many scripts for a task without any."""
    names = [
        entry.name for entry in registry.entries("datasets") if registry.load("datasets", entry.name).task == task.name
    ]
    open_audio = references_audio(task)
    read = [read_records([name], open_audio=open_audio) for name in names]
    for record in itertools.chain.from_iterable(zip(*read, strict=False)) if read else ():
        if task.packed:
            text = next(iter(record.fields.values()))[:PROMPT_CHARACTERS]
            yield Record(record.id, task.record_of(text), record.origin)
        else:
            yield record
    for number, text in enumerate(TEXTS):
        if text.strip() and task.modality == "text":
            yield Record(f"probe-{number}", task.record_of(text))


def _token_ids(
    ours: Predictor, theirs: Predictor, folder: Path, requests: Sequence[Request], records: Sequence[Record]
) -> Check:
    """Texts and prompts to which the tokenizer of the export gives other ids."""
    texts = [*TEXTS, *ours.request_builder.layout.tokenizer.all_special_tokens]
    encode = theirs.request_builder.layout.encode
    if (file := gguf_file(folder)) is not None:
        from llmctl.models.exports.gguf_tokenizer import differing, read

        different = len(differing(read(file).tokenizer(), ours.request_builder.layout.encode, texts))
    else:
        different = sum(encode(text) != ours.request_builder.layout.encode(text) for text in texts)
    again = [theirs.request_builder.generation_request(record) for record in records]
    different += sum(one.input_ids != other.input_ids for one, other in zip(requests, again, strict=True))
    return _check("token_ids", different, 0, unit="texts that differ", of=len(texts) + len(requests))


def _answers(predictor: Predictor, requests: Sequence[Request]) -> list[str]:
    sampling = Sampling(max_new_tokens=NEW_TOKENS, batch_size=BATCH)
    return [each.text for each in predictor.complete(requests, sampling)]


def _texts(
    ours: Predictor, requests: Sequence[Request], answers: Sequence[Sequence[str]], tolerance: Tolerance
) -> Check:
    """Greedy answers that differ. With a tolerance for ties, only those that leave the model's answer where it was sure."""
    pairs = [(request, *texts) for request, *texts in zip(requests, *answers, strict=True) if texts[0] != texts[1]]
    if tolerance.ties and ours.request_builder.layout.family not in ("encoder", "speech-seq2seq"):
        pairs = [pair for pair in pairs if _margin(ours, *pair) > tolerance.ties]
    return _check(
        "greedy_text",
        len(pairs),
        int(tolerance.different * len(requests)),
        unit="answers that differ",
        of=len(requests),
    )


def _margin(ours: Predictor, request: Request, one: str, other: str) -> float:
    """log p of the first token of the model's answer that the other answer does not have, less that of the other's."""
    both = [ours.request_builder.layout.answer(text) for text in (one, other)]
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*both, strict=False)))
    parts = [Request(request.id, request.input_ids, ids[: same + 1]) for ids in both]
    found = [each.logprob for each in ours.engine.score(parts, batch_size=BATCH)]
    return found[0] - found[1]


def _logprobs(
    ours: Predictor,
    theirs: Predictor,
    requests: Sequence[Request],
    answers: Sequence[str],
    labels: int,
    tolerance: float,
) -> Check:
    """The largest difference of the log-probability of a next token, over the first tokens of the model's answers; of an
    encoder, of each label."""
    builder = ours.request_builder
    scored = []
    for request, answer in zip(requests, answers, strict=True):
        choices: list[tuple[int, ...]]
        if builder.layout.family == "encoder":
            choices = [(number,) for number in range(labels)]
        else:
            ids = builder.layout.answer(answer)[:SCORED]
            choices = [ids[: length + 1] for length in range(len(ids))]
        scored.append([Request(request.id, request.input_ids, each) for each in choices])
    pairs = zip(*(_scores(each, scored) for each in (ours, theirs)), strict=True)
    largest = max((abs(one - other) for one, other in pairs), default=0.0)
    return _check("next_token_logprobs", largest, tolerance, unit="nats", of=sum(map(len, scored)))


def _scores(predictor: Predictor, scored: Sequence[Sequence[Request]]) -> Iterator[float]:
    """The log-probability of the last token of each request given those before it."""
    found: Iterator[Likelihood] = predictor.engine.score(list(itertools.chain(*scored)), batch_size=BATCH)
    for requests in scored:
        before = 0.0
        for likelihood in itertools.islice(found, len(requests)):
            nested = len(requests[-1].answer_ids) > 1
            yield likelihood.logprob - (before if nested else 0.0)
            before = likelihood.logprob


def _check(what: str, measured: float, tolerance: float, *, unit: str, of: int) -> Check:
    """A measurement; what is not a number is not met, and `None` in JSON."""
    shown = float(measured) if math.isfinite(measured) else None
    return Check(what=what, measured=shown, tolerance=tolerance, met=measured <= tolerance, unit=unit, of=of)
