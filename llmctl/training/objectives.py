"""What is learned: the summed negative log-likelihood of a micro-batch, by the family of the model.

Losses are sums. They are divided once, by the number of learned tokens of the whole optimizer step.

Letters: B examples, T positions, U target positions, H width, V vocabulary, N = B·T rows, M hidden places, L labels.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from llmctl.types import IGNORED, Family

CHUNK: Final = 256
"""Rows of logits made at once: small enough to stay in the cache."""
ROWS: Final = 64
PLAIN_HEADS: Final = frozenset({"gpt2", "llama", "qwen2", "mistral", "opt", "gpt_neox"})
"""Architectures of the library whose logits are just the output embedding of the last hidden state."""


SOURCE_HEADS: Final = frozenset({"bart", "marian"})
"""The same of encoder-decoders, with a bias."""
MASKED_HEADS: Final = {"bert": "cls", "roberta": "lm_head", "xlm-roberta": "lm_head"}
"""The part of the library's masked language models that reads one place by itself: it need not read the others."""


def loss_token_count(arrays: dict[str, NDArray[np.int64]]) -> int:
    """How many tokens (or labels) of a micro-batch are learned."""
    return int((arrays["labels"] != IGNORED).sum())


def token_count(arrays: dict[str, NDArray[np.int64]], family: Family) -> int:
    """How many tokens of a micro-batch are not padding, source and target together."""
    mask = arrays.get("attention_mask")
    count = arrays["input_ids"].size if mask is None else int(mask.sum())
    return count + (loss_token_count(arrays) if family == "encoder-decoder" else 0)


def loss_sum(model: Any, family: Family, batch: dict[str, Tensor]) -> Tensor:
    """Summed negative log-likelihood in nats of what is learned in the batch. Scalar."""
    if family == "decoder":
        return _decoder(model, batch)
    if family == "encoder-decoder":
        return _encoder_decoder(model, batch)
    if batch["labels"].ndim == 2:
        return _masked(model, batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # (B, L)
    return F.cross_entropy(logits.float(), batch["labels"], reduction="sum")


def _masked(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Masked language modelling: labels stand in the places that are hidden."""
    labels = batch["labels"]  # (B, T)
    hidden_places = labels != IGNORED
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    head = getattr(model, MASKED_HEADS.get(model.config.model_type, ""), None)
    if head is not None:
        logits = head(model.base_model(**inputs)[0][hidden_places])  # (M, V)
    else:
        logits = model(**inputs).logits[hidden_places]  # (M, V)
    return F.cross_entropy(logits.float(), labels[hidden_places], reduction="sum")


def _decoder(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Labels are the successors already: position t predicts labels[t]."""
    inputs, mask, labels = batch["input_ids"], batch.get("attention_mask"), batch["labels"]
    hidden = _features(model, inputs, mask)
    if hidden is None:
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return _through_head(model, hidden, labels)


def _through_head(model: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    """Hidden states (B, T, H) through the output embedding, against labels (B, T)."""
    head = model.get_output_embeddings()
    rows, wanted = hidden.flatten(0, 1), labels.flatten()  # (N, H), (N,)
    kept = wanted != IGNORED
    if not bool(kept.all()):
        rows, wanted = rows[kept], wanted[kept]
    bias = getattr(head, "bias", None)
    if bias is None and hasattr(model, "final_logits_bias"):
        bias = model.final_logits_bias[0]  # (V,), zeros that are not learned in BART and Marian
    return linear_cross_entropy(rows, head.weight, bias, wanted)


def _features(model: Any, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
    """Hidden states before the head (B, T, H), where the head is a plain linear map of them."""
    if hasattr(model, "features"):
        hidden: Tensor = model.features(inputs, attention_mask=mask)
        return hidden
    if model.config.model_type in PLAIN_HEADS:
        out: Tensor = model.base_model(input_ids=inputs, attention_mask=mask, use_cache=False)[0]
        return out
    return None


def _encoder_decoder(model: Any, batch: dict[str, Tensor]) -> Tensor:
    labels = batch["labels"]  # (B, U)
    start = model.config.decoder_start_token_id
    pad = model.config.pad_token_id
    shifted = labels.new_full(labels.shape, pad)
    shifted[:, 0] = start
    shifted[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, pad)
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    hidden = _decoded(model, source, shifted)
    if hidden is not None:
        return _through_head(model, hidden, labels)
    logits = model(**source, decoder_input_ids=shifted, use_cache=False).logits  # (B, U, V)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def _decoded(model: Any, source: dict[str, Tensor], shifted: Tensor) -> Tensor | None:
    """Hidden states before the head (B, U, H), where the head is a linear map of them."""
    hidden: Tensor
    if hasattr(model, "features"):
        hidden = model.features(**source, decoder_input_ids=shifted)
    elif model.config.model_type in SOURCE_HEADS:
        hidden = model.base_model(**source, decoder_input_ids=shifted, use_cache=False)[0]
    elif model.config.model_type == "t5":
        read = model.encoder(**source)[0]  # (B, S, H)
        mask = source["attention_mask"]
        hidden = model.decoder(
            input_ids=shifted, encoder_hidden_states=read, encoder_attention_mask=mask, use_cache=False
        )[0]
        if model.config.scale_decoder_outputs:
            hidden = hidden * model.model_dim**-0.5
    else:
        return None
    return hidden


def linear_cross_entropy(rows: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor) -> Tensor:
    """Σ -log softmax(rows · weightᵀ + bias)[wanted], never holding more than `CHUNK` rows of logits.

    rows (N, H), weight (V, H), wanted (N,). Gradients are made in the forward pass, chunk by chunk.
    """
    if not torch.is_grad_enabled():
        total = rows.new_zeros((), dtype=torch.float32)
        for first in range(0, len(rows), CHUNK):
            real = min(CHUNK, len(rows) - first)
            logits = F.linear(_filled(rows[first : first + CHUNK]), weight, bias)[:real]
            total = total + F.cross_entropy(logits.float(), wanted[first : first + CHUNK], reduction="sum")
        return total
    loss: Tensor = _LinearCrossEntropy.apply(rows, weight, bias, wanted)  # type: ignore[no-untyped-call]
    return loss


def _filled(rows: Tensor) -> Tensor:
    """(C, …) with zeros behind up to a multiple of `ROWS`: oneDNN compiles its kernels anew for every number of rows and
    keeps them, hundreds of megabytes where each batch has another."""
    missing = -len(rows) % ROWS
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


class _LinearCrossEntropy(torch.autograd.Function):
    """d loss / d logits = softmax - one hot; its products with weight and rows are the gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor) -> Tensor:
        kind = torch.get_autocast_dtype(rows.device.type) if torch.is_autocast_enabled(rows.device.type) else rows.dtype
        with torch.autocast(rows.device.type, enabled=False):
            w = weight.to(kind)  # (V, H)
            rows_grad = torch.empty_like(rows)
            weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # none where it is frozen
            bias_grad = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
            total = rows.new_zeros((), dtype=torch.float32)
            for first in range(0, len(rows), CHUNK):
                real = min(CHUNK, len(rows) - first)
                h = _filled(rows[first : first + CHUNK].to(kind))  # (C, H)
                target = _filled(wanted[first : first + CHUNK])
                logits = F.linear(h, w).float()  # (C, V)
                if bias is not None:
                    logits += bias
                log_total = torch.logsumexp(logits, 1)
                total += (log_total - logits.gather(1, target[:, None])[:, 0])[:real].sum()
                slope = logits.sub_(log_total[:, None]).exp_()  # softmax
                slope.scatter_add_(1, target[:, None], slope.new_full((len(target), 1), -1.0))
                slope[real:] = 0.0
                if bias_grad is not None:
                    bias_grad += slope.sum(0)
                narrow = slope.to(kind)
                rows_grad[first : first + CHUNK] = (narrow @ w)[:real]
                if weight_grad is not None:
                    weight_grad += narrow.t() @ h
        ctx.save_for_backward(rows_grad, weight_grad, bias_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        slope = slopes[0]
        rows, weight, bias = (None if each is None else each * slope for each in ctx.saved_tensors)
        return rows, weight, bias, None
