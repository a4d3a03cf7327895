"""Log-likelihoods of given answers, and the labels of an encoder, in batches of similar length.

Letters: B rows of a batch, T tokens of a row, K scored positions kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from llmctl.engines.batching import sorted_batches
from llmctl.engines.loaded import LoadedModel
from llmctl.errors import DataError, PromptTooLong
from llmctl.types import AnswerToken, Likelihood, Request

LOGITS_AT_ONCE: Final = 64_000_000
"""Maximum number of logits in one scoring pass, B · K · V: 256 MB in fp32."""
ROWS_AT_ONCE: Final = 256
"""Scored positions per softmax call."""

Likelihoods = Callable[[LoadedModel, Sequence[Request]], list[Likelihood]]


def check_fits(loaded: LoadedModel, request: Request) -> None:
    """Raise `PromptTooLong` if the prompt leaves no room in the context, `DataError` if it has no token to go on from."""
    if loaded.family == "decoder" and not request.input_ids:
        raise DataError(
            "the prompt has no tokens, and the model's tokenizer no token that begins a text",
            where=request.id,
            hint="give a prompt that is not empty",
        )
    length, context = len(request.input_ids), loaded.context
    if context is not None and length > context - (loaded.family == "decoder"):
        raise PromptTooLong(length, context, where=request.id)


def label_logits(loaded: LoadedModel, batch: Sequence[Request]) -> Tensor:
    """(B, labels)."""
    ids, mask = loaded.padded([request.input_ids for request in batch], left=False)  # (B, T) each
    with loaded.computing():
        logits: Tensor = loaded.model(input_ids=ids, attention_mask=mask).logits
    return logits


def score(
    loaded: LoadedModel, requests: Sequence[Request], batch_size: int, *, likelihoods: Likelihoods | None = None
) -> Iterator[Likelihood]:
    """log p(answer_ids | input_ids) in nats, in the order of the requests; the softmax is computed in fp32.

    `likelihoods`: how a batch is scored; default: from the logits of a forward pass. Raises `DataError` if a request does
    not fit the context.
    """
    if loaded.family == "encoder":
        for request in requests:
            check_fits(loaded, request)
        return sorted_batches(
            requests,
            batch_size,
            key=lambda request: len(request.input_ids),
            run=lambda batch: _label_likelihoods(loaded, batch),
        )
    for request in requests:
        _check_scorable(loaded, request)
    return sorted_batches(
        requests,
        batch_size,
        key=lambda request: len(request.input_ids) + len(request.answer_ids),
        together=lambda batch, request: _logits_fit(loaded, batch, request),
        run=lambda batch: (likelihoods or _likelihoods)(loaded, batch),
    )


def _check_scorable(loaded: LoadedModel, request: Request) -> None:
    """Raise `DataError` if prompt and answer do not fit the context."""
    if not request.input_ids:
        raise ValueError(f"request {request.id!r} has an empty prompt")
    length = len(_fed(loaded, request)[0])
    if loaded.context is not None and max(length, len(request.input_ids)) > loaded.context:
        raise DataError(
            f"{length} tokens to score exceed the model's context of {loaded.context}",
            where=request.id,
            hint="score it in windows",
        )


def _fed(loaded: LoadedModel, request: Request) -> tuple[tuple[int, ...], int]:
    """The decoder's input ids, and the first position that is scored."""
    if loaded.family == "decoder":
        both = request.input_ids + request.answer_ids
        return both[:-1] if request.answer_ids else both, len(request.input_ids) - 1
    return (loaded.decoder_start, *request.answer_ids[:-1]), 0


def _logits_fit(loaded: LoadedModel, batch: Sequence[Request], request: Request) -> bool:
    fed = [_fed(loaded, each) for each in (*batch, request)]
    kept = max(len(ids) for ids, _ in fed) - min(start for _, start in fed)
    return len(fed) * kept * (loaded.vocabulary or 1) <= LOGITS_AT_ONCE


def _label_likelihoods(loaded: LoadedModel, batch: Sequence[Request]) -> list[Likelihood]:
    scores = label_logits(loaded, batch).float().log_softmax(-1).tolist()  # (B, labels)
    return [
        Likelihood(request.id, sum(row[label] for label in request.answer_ids), len(request.answer_ids))
        for request, row in zip(batch, scores, strict=True)
    ]


def _likelihoods(loaded: LoadedModel, batch: Sequence[Request]) -> list[Likelihood]:
    sums = torch.zeros(len(batch), dtype=torch.float64)  # on the CPU: not every device has float64
    with loaded.computing():
        for rows, targets, some in _scored_logits(loaded, batch):
            values = some.gather(1, targets[:, None])[:, 0] - some.logsumexp(1)
            sums.index_add_(0, rows.cpu(), values.cpu().double())
    return [
        Likelihood(id=request.id, logprob=value, tokens=len(request.answer_ids))
        for request, value in zip(batch, sums.tolist(), strict=True)
    ]


def token_logprobs(
    loaded: LoadedModel, request: Request, top: int, *, logits: Callable[[Request], Tensor] | None = None
) -> list[AnswerToken]:
    """Each of the answer's tokens with its log-probability in nats, and those of the `top` most likely tokens there.

    `logits`: (answer, V) in their places; default: by a forward pass. Raises `DataError` if they do not fit the context.
    """
    _check_scorable(loaded, request)
    if logits is not None:
        return _details(torch.tensor(request.answer_ids), logits(request), top)
    with loaded.computing():
        parts = _scored_logits(loaded, [request])
        return [each for _, targets, some in parts for each in _details(targets, some, top)]


def _details(targets: Tensor, logits: Tensor, top: int) -> list[AnswerToken]:
    """Of tokens (T,) from logits (T, V)."""
    logprobs = logits.log_softmax(1)
    values = logprobs.gather(1, targets[:, None])[:, 0].tolist()
    best = logprobs.topk(min(top, logprobs.shape[1]), 1)
    return [
        AnswerToken(token, value, tuple(zip(ids, others, strict=True)))
        for token, value, ids, others in zip(
            targets.tolist(), values, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]


def _scored_logits(loaded: LoadedModel, batch: Sequence[Request]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The scored tokens of a batch in parts: row of each (part,), its id (part,), and the logits in its place in fp32
    (part, V)."""
    fed = [_fed(loaded, request) for request in batch]
    ids, mask = loaded.padded([each for each, _ in fed], left=False)  # (B, T) each
    first = min(start for _, start in fed)
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in loaded.accepts else {}
    if loaded.family == "decoder":
        if "logits_to_keep" in loaded.accepts:
            options["logits_to_keep"] = ids.shape[1] - first
        options |= {"input_ids": ids, "attention_mask": mask}
    else:
        sources, source_mask = loaded.padded([request.input_ids for request in batch], left=False)
        options |= {"input_ids": sources, "attention_mask": source_mask, "decoder_input_ids": ids}
    logits = loaded.model(**options).logits  # (B, K, V), K the last positions of T
    rows, columns, targets = _scored(loaded, batch, [start for _, start in fed])
    columns -= ids.shape[1] - logits.shape[1]
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        yield rows[part], targets[part], logits[rows[part], columns[part]].float()


def _scored(loaded: LoadedModel, batch: Sequence[Request], starts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Row, position and target of every scored token in a batch, each one-dimensional."""
    found = [
        (row, start + number, target)
        for row, (request, start) in enumerate(zip(batch, starts, strict=True))
        for number, target in enumerate(request.answer_ids)
    ]
    rows, columns, targets = torch.tensor(found, dtype=torch.long, device=loaded.device).reshape(-1, 3).unbind(1)
    return rows, columns.clone(), targets
