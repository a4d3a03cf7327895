"""Training objectives: what a step minimizes, as modules whose `forward` maps a micro-batch to a summed loss.

A likelihood objective holds a model and returns the summed negative log-likelihood of its target tokens. Losses are sums;
the training loop divides once, by the number of target tokens of the whole optimizer step. Because the loss is computed
inside `forward`, whatever hooks `forward` (torch.compile, DDP, FSDP) sees all of it. A new objective is a subclass of
`Objective`.

Letters: B examples, T positions, U target positions, H width, V vocabulary, N = B·T rows, M masked places, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmctl.types import IGNORED, Family

CPU_CHUNK, ACCELERATOR_CHUNK = 256, 4096
"""Rows of logits made at once: few enough to stay in the cache of a CPU, enough to keep an accelerator busy."""
ROWS: Final = 64
PLAIN_HEADS: Final = frozenset({"gpt2", "llama", "qwen2", "mistral", "opt", "gpt_neox"})
"""Architectures of the library whose logits are just the output embedding of the last hidden state."""
SOURCE_HEADS: Final = frozenset({"bart", "marian", "whisper"})
"""The same of encoder-decoders, most with a bias."""
MASKED_HEADS: Final = {"bert": "cls", "roberta": "lm_head", "xlm-roberta": "lm_head"}
"""The attribute of the library's masked language models that maps one hidden state to logits, whatever its neighbours are."""

SOURCES: Final = ("input_ids", "attention_mask", "input_features")
"""What the encoder of an encoder-decoder reads, of a text or a recording."""

Arrays = Mapping[str, NDArray[Any]]
"""A micro-batch before it becomes tensors."""


class Objective(nn.Module):
    """A loss over micro-batches. Its parameters are those of the models it holds; checkpoints save a model, never the
    objective, so parameter names on disk do not depend on it.

    The counts and `without_targets` are static: they describe a batch and need no model.
    """

    reported: tuple[str, ...] = ()
    """Scores besides the loss, which steps and evaluations report."""
    sums: Tensor
    """(len(reported),) the scores summed over the targets of the last batch, left by `forward` where there are any."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss summed over the targets of `batch`. Scalar."""
        raise NotImplementedError

    @staticmethod
    def target_count(arrays: Arrays) -> int:
        """How many targets the sum of `forward` has: tokens, or labels of a classifier."""
        return int((arrays["labels"] != IGNORED).sum())

    @staticmethod
    def token_count(arrays: Arrays) -> int:
        """How many tokens of a micro-batch are not padding."""
        mask = arrays.get("attention_mask")
        return arrays["input_ids"].size if mask is None else int(mask.sum())

    @staticmethod
    def without_targets(arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The micro-batch with no targets, so that its loss is 0, for a process with fewer micro-batches than others."""
        return {**arrays, "labels": np.full_like(arrays["labels"], IGNORED)}


class LikelihoodObjective(Objective):
    """Negative log-likelihood in nats of what one model is trained to predict."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def logprobs(self, batch: Mapping[str, Tensor]) -> Tensor:
        """log p of the targets of each row of `batch` (see `forward`) in nats, (B,). Not for encoders."""
        raise NotImplementedError


class DecoderLikelihood(LikelihoodObjective):
    """Negative log-likelihood in nats of the next tokens, by a causal language model."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """`input_ids` (B, T); `labels` (B, T), shifted already: position t predicts labels[t]; `attention_mask` (B, T)
        where there is padding -> scalar."""
        inputs, mask, labels = batch["input_ids"], batch.get("attention_mask"), batch["labels"]
        hidden = self._hidden(inputs, mask)
        if hidden is not None:
            loss: Tensor = _through_head(self.model, hidden, labels)
            return loss
        logits = self.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")

    def logprobs(self, batch: Mapping[str, Tensor]) -> Tensor:
        inputs, mask = batch["input_ids"], batch.get("attention_mask")
        states, model = self._hidden(inputs, mask), self.model
        if states is None:
            states, model = self.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits, None  # (B, T, V)
        found: Tensor = _row_logprobs(model, states, batch["labels"])
        return found

    def _hidden(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """Hidden states before the head (B, T, H), where the head is a plain linear map of them."""
        model = self.model
        hidden: Tensor | None = None
        if hasattr(model, "features"):
            hidden = model.features(inputs, attention_mask=mask)
        elif model.config.model_type in PLAIN_HEADS:
            hidden = model.base_model(input_ids=inputs, attention_mask=mask, use_cache=False)[0]
        return hidden


class EncoderDecoderLikelihood(LikelihoodObjective):
    """Negative log-likelihood in nats of the target text given the source text."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """`input_ids` and `attention_mask` (B, S) of the source, `labels` (B, U) of the target -> scalar. The decoder
        reads the labels one position later, behind the start token."""
        labels = batch["labels"]
        source, shifted = self._inputs(batch)
        hidden = self._hidden(source, shifted)
        if hidden is not None:
            loss: Tensor = _through_head(self.model, hidden, labels)
            return loss
        logits = self.model(**source, decoder_input_ids=shifted, use_cache=False).logits  # (B, U, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")

    def logprobs(self, batch: Mapping[str, Tensor]) -> Tensor:
        source, shifted = self._inputs(batch)
        states, model = self._hidden(source, shifted), self.model
        if states is None:
            states, model = self.model(**source, decoder_input_ids=shifted, use_cache=False).logits, None  # (B, U, V)
        found: Tensor = _row_logprobs(model, states, batch["labels"])
        return found

    def _inputs(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The source, and what the decoder reads (B, U): the labels behind the start token."""
        labels = batch["labels"]
        start = self.model.config.decoder_start_token_id
        pad = self.model.config.pad_token_id
        shifted = labels.new_full(labels.shape, pad)
        shifted[:, 0] = start
        shifted[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, pad)
        return {name: batch[name] for name in SOURCES if name in batch}, shifted

    @staticmethod
    def token_count(arrays: Arrays) -> int:
        """Tokens of the source that are not padding, and targets."""
        return Objective.token_count(arrays) + Objective.target_count(arrays)

    def _hidden(self, source: Mapping[str, Tensor], shifted: Tensor) -> Tensor | None:
        """Hidden states before the head (B, U, H), where the head is a linear map of them."""
        model = self.model
        hidden: Tensor | None = None
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
        return hidden


class EncoderLikelihood(LikelihoodObjective):
    """Negative log-likelihood in nats of one label per text, or of the masked tokens of a text."""

    masked_heads: Mapping[str, str] = MASKED_HEADS

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """`input_ids` and `attention_mask` (B, T); `labels` (B,) for classification, (B, T) with the original tokens at
        the masked places for masked language modelling -> scalar."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        labels = batch["labels"]
        if labels.ndim == 2:
            return self._masked(inputs, labels)
        logits = self.model(**inputs).logits  # (B, L)
        return F.cross_entropy(logits.float(), labels, reduction="sum")

    def _masked(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """The head reads the masked places alone where the architecture is known to map each place by itself."""
        masked = labels != IGNORED  # (B, T)
        head = getattr(self.model, self.masked_heads.get(self.model.config.model_type, ""), None)
        if head is not None:
            logits = head(self.model.base_model(**inputs)[0][masked])  # (M, V)
        else:
            logits = self.model(**inputs).logits[masked]  # (M, V)
        return F.cross_entropy(logits.float(), labels[masked], reduction="sum")


class CTCLikelihood(LikelihoodObjective):
    """Negative log-likelihood in nats of transcripts, summed over all alignments with the recordings."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """`input_features` (B, M, T) or `input_values` (B, N), `attention_mask`, `labels` (B, U) -> scalar."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        mask, labels = batch["attention_mask"], batch["labels"]
        logits = self.model(**inputs).logits  # (B, S, V)
        if not labels.shape[1]:
            nothing: Tensor = logits.float().sum() * 0.0
            return nothing  # no targets; of an empty transcript the loss would be that of silence
        lengths = self.model.output_lengths(mask.sum(1)) if hasattr(self.model, "output_lengths") else None
        if lengths is None:
            lengths = self.model._get_feat_extract_output_lengths(mask.sum(1))
        log_p = logits.float().log_softmax(-1).transpose(0, 1)  # (S, B, V)
        sizes = (labels != IGNORED).sum(1)  # (B,)
        # Of a recording that is too short for its text, which `SpeechRecords` leaves out, the loss would be infinite.
        loss: Tensor = F.ctc_loss(
            log_p,
            labels.clamp(min=0),
            lengths,
            sizes,
            blank=self.model.config.pad_token_id,
            reduction="sum",
            zero_infinity=True,
        )
        return loss

    @staticmethod
    def token_count(arrays: Arrays) -> int:
        """Tokens of the transcripts."""
        return Objective.target_count(arrays)

    @staticmethod
    def without_targets(arrays: Arrays) -> dict[str, NDArray[Any]]:
        return {**arrays, "labels": arrays["labels"][:, :0]}


class SpeechLikelihood(EncoderDecoderLikelihood):
    """Negative log-likelihood in nats of transcripts, by an encoder-decoder that reads `input_features` (B, M, T)."""

    @staticmethod
    def token_count(arrays: Arrays) -> int:
        """Tokens of the transcripts."""
        return Objective.target_count(arrays)


LIKELIHOODS: Final[Mapping[Family, type[LikelihoodObjective]]] = {
    "decoder": DecoderLikelihood,
    "encoder-decoder": EncoderDecoderLikelihood,
    "encoder": EncoderLikelihood,
    "ctc": CTCLikelihood,
    "speech-seq2seq": SpeechLikelihood,
}
"""The likelihood objective of each family of models."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _through_head(model: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    """Hidden states (B, T, H) through the output embedding, against labels (B, T).

    Not compiled: how many rows are targets differs by batch, and the chunks of `linear_cross_entropy` are a loop that
    torch.compile would unroll. The forward pass of the model before it is one graph of its own.
    """
    head = model.get_output_embeddings()
    rows, wanted = hidden.flatten(0, 1), labels.flatten()  # (N, H), (N,)
    kept = wanted != IGNORED
    if not bool(kept.all()):
        rows, wanted = rows[kept], wanted[kept]
    bias = getattr(head, "bias", None)
    if bias is None and hasattr(model, "final_logits_bias"):
        bias = model.final_logits_bias[0]  # (V,), zeros that are not trained in BART and Marian
    return linear_cross_entropy(rows, head.weight, bias, wanted)


def chunk_rows(device: torch.device) -> int:
    """How many rows of logits are made at once on a device."""
    return CPU_CHUNK if device.type == "cpu" else ACCELERATOR_CHUNK


def linear_cross_entropy(rows: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor) -> Tensor:
    """Σ -log softmax(rows · weightᵀ + bias)[wanted], never holding more than `chunk_rows` rows of logits.

    rows (N, H), weight (V, H), wanted (N,). Gradients are made in the forward pass, chunk by chunk.
    """
    size = chunk_rows(rows.device)
    if not torch.is_grad_enabled():
        total = rows.new_zeros((), dtype=torch.float32)
        for first in range(0, len(rows), size):
            real = min(size, len(rows) - first)
            logits = F.linear(_filled(rows[first : first + size]), weight, bias)[:real]
            total = total + F.cross_entropy(logits.float(), wanted[first : first + size], reduction="sum")
        return total
    loss: Tensor = _LinearCrossEntropy.apply(rows, weight, bias, wanted)  # type: ignore[no-untyped-call]
    return loss


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _row_logprobs(model: Any, states: Tensor, labels: Tensor) -> Tensor:
    """Σ log p(label) over the targets of each row, (B,). `states`: hidden states (B, T, H) before the head of `model`, or
    logits (B, T, V) without one. At most `chunk_rows` of logits are held; the backward pass computes them again."""
    kept = labels != IGNORED  # (B, T)
    rows, wanted = states[kept], labels[kept]  # (N, H), (N,)
    head = model.get_output_embeddings() if model is not None else None
    bias = getattr(head, "bias", None)
    if head is not None and bias is None and hasattr(model, "final_logits_bias"):
        bias = model.final_logits_bias[0]

    def chunk(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = rows if head is None else F.linear(rows, head.weight, bias)
        return -F.cross_entropy(logits.float(), wanted, reduction="none")

    size = chunk_rows(rows.device)
    parts = [
        checkpoint(chunk, rows[first : first + size], wanted[first : first + size], use_reentrant=False)
        for first in range(0, len(rows), size)
    ]
    owners = kept.nonzero()[:, 0]  # (N,) the row of each target
    total = states.new_zeros(len(labels), dtype=torch.float32)
    return total.index_add(0, owners, torch.cat(parts)) if parts else total + 0.0 * states.sum()


def _filled(rows: Tensor) -> Tensor:
    """(C, …) with zeros behind up to a multiple of `ROWS`: oneDNN compiles its kernels again for every number of rows and
    keeps them, hundreds of megabytes where each batch has another."""
    missing = -len(rows) % ROWS if rows.device.type == "cpu" else 0
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
            size = chunk_rows(rows.device)
            for first in range(0, len(rows), size):
                real = min(size, len(rows) - first)
                h = _filled(rows[first : first + size].to(kind))  # (C, H)
                target = _filled(wanted[first : first + size])
                logits = F.linear(h, w).float()  # (C, V)
                if bias is not None:
                    logits += bias
                chosen = logits.gather(1, target[:, None])[:, 0]
                if kind == torch.float32:
                    log_total = torch.logsumexp(logits, 1)
                    slope = logits.sub_(log_total[:, None]).exp_()  # softmax
                else:  # one exponential a logit instead of two; in float32 the rounding of earlier runs is kept
                    peak = logits.amax(1)
                    slope = logits.sub_(peak[:, None]).exp_()
                    sums = slope.sum(1)
                    log_total = peak + sums.log()
                    slope /= sums[:, None]
                total += (log_total - chosen)[:real].sum()
                slope.scatter_add_(1, target[:, None], slope.new_full((len(target), 1), -1.0))
                slope[real:] = 0.0
                if bias_grad is not None:
                    bias_grad += slope.sum(0)
                narrow = slope.to(kind)
                rows_grad[first : first + size] = (narrow @ w)[:real]
                if weight_grad is not None:
                    weight_grad += narrow.t() @ h
        ctx.save_for_backward(rows_grad, weight_grad, bias_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        slope = slopes[0]
        rows, weight, bias = (None if each is None else each * slope for each in ctx.saved_tensors)
        return rows, weight, bias, None
