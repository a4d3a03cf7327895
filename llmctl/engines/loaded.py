"""A transformers model that an engine has borrowed: what it needs to know of it, and how it calls it.

Letters: B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from llmctl.engines.healing import Healing
from llmctl.engines.packed import packed
from llmctl.engines.spec import Job
from llmctl.errors import UsageError
from llmctl.store.border import running
from llmctl.types import Family, Precision, Request


class LoadedModel:
    """A model and its tokenizer. The model is left as it was found; no call changes it, unless it is in training mode."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family,
        *,
        layout_context: int | None,
        device: str | None,
        precision: Precision,
    ) -> None:
        self.model = (
            packed(model.to(device or model.device)) if precision == "bf16" else model.to(device or model.device)
        )
        self.tokenizer, self.family = tokenizer, family
        self.device = str(self.model.device)
        limits = (layout_context, getattr(model.config, "max_position_embeddings", None))
        self.context = min((limit for limit in limits if limit is not None), default=None)
        self.bf16 = precision == "bf16"
        self.accepts = frozenset(inspect.signature(model.forward).parameters)
        self.vocabulary: int | None = getattr(model.config.get_text_config(), "vocab_size", None)
        self.ends = self._end_tokens()
        pad = tokenizer.pad_token_id
        self.healing = Healing(tokenizer)
        self.pad: int = pad if pad is not None else min(self.ends, default=0)

    def _end_tokens(self) -> frozenset[int]:
        """The ids that end an answer, from the tokenizer and from the model (a chat model may have several)."""
        settings = getattr(self.model, "generation_config", None)  # an encoder has none
        own = settings.eos_token_id if settings is not None else None
        found = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        return frozenset(
            each for each in found if each is not None and (self.vocabulary is None or each < self.vocabulary)
        )

    @property
    def decoder_start(self) -> int:
        """The first input of a decoder that has an encoder. Raises `UsageError` if the model names none."""
        for holder in (self.model.generation_config, self.model.config):
            found: int | None = getattr(holder, "decoder_start_token_id", None)
            if found is not None:
                return found
        raise UsageError(
            "the model does not specify the first decoder token",
            hint="set decoder_start_token_id in config.json",
        )

    def room(self, request: Request) -> int | None:
        """Number of tokens that can still be generated within the context; None: no limit."""
        if self.context is None:
            return None
        return self.context - len(request.input_ids) if self.family == "decoder" else self.context

    def limit_of(self, job: Job) -> int:
        """Maximum number of new tokens: as requested, or what remains of the context."""
        room = self.room(job.request)
        return job.sampling.max_new_tokens if room is None else min(job.sampling.max_new_tokens, room)

    @property
    def bytes_per_token(self) -> int:
        """Key/value memory of a token, of all layers."""
        config = self.model.config.get_text_config(decoder=True)
        heads = getattr(config, "num_attention_heads", None) or 1
        width = getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads) // heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        layers = getattr(config, "num_hidden_layers", None) or 1
        return 2 * int(layers * groups * width) * (2 if self.bf16 else 4)

    def without_own_settings(self) -> Any:
        """The same model without its generation config, from which transformers would fill in unset options."""
        shared = copy.copy(self.model)  # shares all weights
        shared.generation_config = GenerationConfig()
        return shared

    def padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Padded ids and attention mask, (B, T) each."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            span = slice(longest - len(row), None) if left else slice(0, len(row))
            ids[number, span] = torch.tensor(row, dtype=torch.long)
            mask[number, span] = 1
        return ids.to(self.device), mask.to(self.device)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Disable gradients and dropout and set the requested precision; restore the model's mode afterwards.

        What the library raises in between is a fault of the model's folder. A model that was built here has none: what it
        raises is a bug.
        """
        was_training = self.model.training
        if was_training:
            self.model.eval()
        # bf16 weights need no autocast.
        cast = self.bf16 and self.model.dtype == torch.float32
        try:
            with (
                running(self.model),
                torch.inference_mode(),
                torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=cast),
            ):
                yield
        finally:
            if was_training:
                self.model.train()
