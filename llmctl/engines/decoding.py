"""How a batch of rows that come and go is decoded, by kind of model: with key/value memory or a recurrent state, with or
without an encoder.

Letters: B rows of a batch, T tokens of a row, S tokens of a source, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from llmctl.engines.loaded import LoadedModel
from llmctl.engines.packed import shallow
from llmctl.engines.slots import Slots
from llmctl.types import Request

_WITH_ENCODER: Final = frozenset({"bart", "marian", "mt5", "t5"})
"""Encoder-decoders whose decoders are known to take rows of different lengths."""


class Decoding(Protocol):
    """The memory of a batch, and the passes of the model over it. Logits are (B, V), of the next token of each row."""

    def enter(self, requests: Sequence[Request]) -> Tensor:
        """Read the prompts of new rows, which follow the rows that are there; the logits of the new ones."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read the newest token of every row; their logits."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """Row i is from now on what row `order[i] >= i` was; the others leave."""
        ...


def decoding_for(loaded: LoadedModel) -> Decoding | None:
    """The decoding that fits the model; None: none does, and transformers' `generate` answers."""
    model, config = loaded.model, loaded.model.config
    if "cache_params" in loaded.accepts:
        return RecurrentRows(loaded) if config.model_type.startswith("llmctl-") else None
    if not {"attention_mask", "past_key_values"} <= loaded.accepts or getattr(model, "_is_stateful", False):
        return None
    layers = DynamicCache(config=config.get_text_config(decoder=True)).layers
    if not all(type(layer) is DynamicLayer for layer in layers):
        return None  # windows, states of linear attention
    if loaded.family == "decoder":
        return AttentionRows(loaded) if "position_ids" in loaded.accepts else None
    return SourceRows(loaded) if config.model_type in _WITH_ENCODER else None


class AttentionRows:
    """A decoder with key/value memory."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self._slots = loaded, Slots()
        self._options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in loaded.accepts else {}

    def enter(self, requests: Sequence[Request]) -> Tensor:
        ids, mask = self._loaded.padded([request.input_ids for request in requests], left=True)  # (B, T) each
        out = self._loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_(min=0),
            past_key_values=DynamicCache(config=self._loaded.model.config),
            use_cache=True,
            **self._options,
        )
        self._slots.append(out.past_key_values, [len(request.input_ids) for request in requests])
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def step(self, tokens: Sequence[int]) -> Tensor:
        slots, device = self._slots, self._loaded.device
        slots.reserve()
        out = self._loaded.model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=slots.mask(device, new=1),
            position_ids=torch.tensor(slots.lengths(), device=device)[:, None],
            past_key_values=slots.cache,
            use_cache=True,
        )
        slots.end += 1
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, order: Sequence[int]) -> None:
        self._slots.keep(order)


class SourceRows:
    """A decoder with key/value memory of its own tokens and of an encoded source."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self._own, self._source = loaded, Slots(), Slots()
        self._model, self._positions = _with_row_positions(loaded.model)

    def enter(self, requests: Sequence[Request]) -> Tensor:
        ids, mask = self._loaded.padded([request.input_ids for request in requests], left=False)  # (B, S) each
        config = self._loaded.model.config
        out = self._loaded.model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=torch.full_like(ids[:, :1], self._loaded.decoder_start),
            past_key_values=EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
            use_cache=True,
        )
        read = out.past_key_values
        self._own.append(read.self_attention_cache, [1] * len(requests))
        sources = [len(request.input_ids) for request in requests]
        self._source.append(read.cross_attention_cache, sources, padded_after=True)
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def step(self, tokens: Sequence[int]) -> Tensor:
        own, source, device = self._own, self._source, self._loaded.device
        own.reserve()
        source.show()
        if self._positions is not None:
            self._positions.rows = torch.tensor(own.lengths(), device=device)
        mask = source.mask(device, new=0)  # (B, S)
        # The source is in the memory already; only its shape is read.
        encoded = torch.zeros(1, 1, 1, dtype=self._model.dtype, device=device).expand(*mask.shape, 1)
        out = self._model(
            encoder_outputs=(encoded,),
            attention_mask=mask,
            decoder_input_ids=torch.tensor(tokens, device=device)[:, None],
            decoder_attention_mask=own.mask(device, new=1),
            past_key_values=EncoderDecoderCache(own.cache, source.cache),
            use_cache=True,
        )
        own.end += 1
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, order: Sequence[int]) -> None:
        self._own.keep(order)
        self._source.keep(order)


class RecurrentRows:
    """A model of ours whose past is a state of fixed size, with or without an encoded source."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._state: Any = None
        """Its `tensors` are (layers, B, width)."""
        self._encoded: Any = None
        """Fields (B, …); `last_hidden_state` is (B, S, width)."""
        self._mask: Tensor | None = None
        """(B, S)."""

    def enter(self, requests: Sequence[Request]) -> Tensor:
        loaded, with_encoder = self._loaded, self._loaded.family == "encoder-decoder"
        ids, mask = loaded.padded([request.input_ids for request in requests], left=not with_encoder)
        if not with_encoder:
            out = loaded.model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
        else:
            encoded = loaded.model.get_encoder()(ids, mask)
            start = torch.full_like(ids[:, :1], loaded.decoder_start)
            out = loaded.model(encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=start, use_cache=True)
            if self._encoded is not None:
                encoded = type(encoded)(
                    **{name: _stacked(self._encoded[name], value) for name, value in encoded.items()}
                )
                mask = _stacked(self._mask, mask)
            self._encoded, self._mask = encoded, mask
        tensors = out.cache_params.tensors
        if self._state is not None:
            tensors = [torch.cat(both, 1) for both in zip(self._state.tensors, tensors, strict=True)]
        self._state = type(out.cache_params)(tuple(tensors))
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def step(self, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor(tokens, device=self._loaded.device)[:, None]
        if self._encoded is None:
            out = self._loaded.model(input_ids=ids, cache_params=self._state, use_cache=True)
        else:
            out = self._loaded.model(
                encoder_outputs=self._encoded,
                attention_mask=self._mask,
                decoder_input_ids=ids,
                cache_params=self._state,
                use_cache=True,
            )
        self._state = out.cache_params
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, order: Sequence[int]) -> None:
        rows = torch.tensor(order, dtype=torch.long, device=self._loaded.device)
        self._state.reorder_cache(rows)
        if self._mask is not None:
            self._mask = self._mask[rows]
            longest = int(self._mask.sum(1).max()) if order else 0
            self._mask = self._mask[:, :longest]
            fields = {name: value[rows] for name, value in self._encoded.items()}
            fields["last_hidden_state"] = fields["last_hidden_state"][:, :longest]
            self._encoded = type(self._encoded)(**fields)
        if not order:
            self._state = self._encoded = self._mask = None


def _stacked(old: Any, new: Tensor) -> Tensor:
    """Rows of both, (B, T, …); the shorter ones are padded with 0 after their end."""
    longest = max(old.shape[1], new.shape[1])
    padded = []
    for each in (old, new):
        missing = each.new_zeros(each.shape[0], longest - each.shape[1], *each.shape[2:])
        padded.append(torch.cat([each, missing], 1) if longest > each.shape[1] else each)
    return torch.cat(padded)


class RowPositions(nn.Module):
    """Position vectors of a decoder for rows of different lengths, in the place of its own module."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own
        self.rows = torch.zeros(0, dtype=torch.long)
        """The position of the newest token of each row, (B,)."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """(B, 1, width); the arguments describe rows of one length."""
        found = self.own(*args, **(kwargs | {"position_ids": self.rows}))
        return found.reshape(len(self.rows), 1, -1)


def _with_row_positions(model: Any) -> tuple[Any, RowPositions | None]:
    """The same model, sharing all weights, whose decoder takes positions by row; None: it has no position vectors."""
    decoder = model.get_decoder()
    own = getattr(decoder, "embed_positions", None)
    if own is None:
        return model, None
    assert "position_ids" in inspect.signature(own.forward).parameters
    positions = RowPositions(own)
    path = next(name for name, module in model.named_modules() if module is decoder)
    shared = place = shallow(model)
    for name in path.split("."):
        place._modules[name] = shallow(place._modules[name])
        place = place._modules[name]
    place._modules["embed_positions"] = positions
    return shared, positions
