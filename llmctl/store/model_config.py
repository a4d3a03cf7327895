"""Checks the settings of a model folder against its weights, from JSON and headers, before a library builds anything.

A library believes config.json: a billion layers are built one by one until memory ends. The headers of the weights say
what can be true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llmctl.errors import IntegrityError
from llmctl.store.safety import read_json
from llmctl.store.weights import Weight, headers

CONFIG, GENERATION = "config.json", "generation_config.json"

_LAYERS: Final = re.compile(r"(n|num|encoder|decoder)_(\w+_)?(layers?|blocks?)|\w+_layers|depth|n_layer")
_COUNTS: Final = re.compile(r"(n|num)_(\w+_)?(experts?|heads?|groups?|labels|codebooks|buckets|languages)|n_head\w*")
"""Settings that say how many modules or entries are built, one by one."""
_TOKEN: Final = re.compile(r"\w+_token_ids?")
_LISTS: Final = frozenset(["suppress_tokens", "begin_suppress_tokens"])
"""Settings that list token ids."""
_WORDS: Final = "bad_words_ids"
"""The setting that lists words, each a list of token ids."""
_KNOWN: Final = frozenset([_WORDS, "forced_bos_token_id", "forced_eos_token_id"])
"""Settings whose token ids the vocabulary must have. transformers ignores others, such as a second end token."""
_POSITIVE: Final = frozenset(
    [
        "hidden_size",
        "d_model",
        "n_embd",
        "vocab_size",
        "num_attention_heads",
        "num_heads",
        "n_head",
        "num_key_value_heads",
    ]
)
LEAST_LAYERS: Final = 128
LEAST_COUNT: Final = 4096
"""Counts up to these are not compared with the weights: layers and experts may share one tensor."""


def check_config(folder: Path, *, with_weights: bool = True) -> None:
    """Raise `IntegrityError`, with file and key, for settings that no model with these weights can have. `with_weights`:
    the weights are to be read, so they must not be quantised."""
    path = folder / CONFIG
    if not path.is_file():
        return
    config, weights = read_json(path), headers(folder)
    if with_weights:
        _check_quantization(config, path, weights)
    _check_attention(config, path)
    if config.get("return_dict") is False:
        raise IntegrityError("is false; llmctl reads the outputs of a model by name", where=f"{path}:return_dict")
    if not isinstance(config.get("id2label", {}), dict | None):
        raise IntegrityError("must be an object of number and label", where=f"{path}:id2label")
    _check_sizes(config, path, weights)
    vocabulary = config.get("vocab_size")
    _check_tokens(config, path, vocabulary)
    if (folder / GENERATION).is_file():
        _check_tokens(read_json(folder / GENERATION), folder / GENERATION, vocabulary)


def _check_quantization(config: Mapping[str, Any], path: Path, weights: Mapping[str, Weight]) -> None:
    """Raise `IntegrityError` for quantised weights: they are whole numbers that mean nothing by themselves."""
    hint = "use the original model, or a GGUF file of it"
    method = config.get("quantization_config")
    if method:
        name = method.get("quant_method") if isinstance(method, dict) else None
        raise IntegrityError(
            f"the weights are quantised ({name or 'unknown method'}); llmctl reads weights that are not",
            where=f"{path}:quantization_config",
            hint=hint,
        )
    for name, each in weights.items():
        # Old checkpoints also keep constants that are whole numbers, such as position_ids or a causal mask.
        if each.is_whole and "weight" in name.rpartition(".")[2]:
            raise IntegrityError(
                f"the weights are whole numbers ({name} is {each.dtype}), as after quantisation; llmctl reads floats",
                where=str(path.parent),
                hint=hint,
            )


def _check_attention(config: Mapping[str, Any], path: Path) -> None:
    """Raise `IntegrityError` for an attention kernel from the hub, which is code."""
    for key in ("_attn_implementation", "attn_implementation", "_experts_implementation"):
        if "/" in str(config.get(key)):
            raise IntegrityError(
                "names code to download; llmctl never runs it", where=f"{path}:{key}", hint="remove the key"
            )


def _check_sizes(config: Mapping[str, Any], path: Path, weights: Mapping[str, Weight]) -> None:
    """Raise `IntegrityError` where a count exceeds what the weights can hold."""
    layers = max(LEAST_LAYERS, len(weights))
    most = max(LEAST_COUNT, layers, *(size for each in weights.values() for size in each.shape), 0)
    for key, value in _numbers(config):
        name = key.rpartition(".")[2]
        if (value < 0 and (_LAYERS.fullmatch(name) or _COUNTS.fullmatch(name))) or (value <= 0 and name in _POSITIVE):
            raise IntegrityError(f"is {value:,}, but must be positive", where=f"{path}:{key}")
        limit = layers if _LAYERS.fullmatch(name) else most if _COUNTS.fullmatch(name) else None
        if limit is not None and value > limit:
            raise IntegrityError(
                f"is {value:,}, but the weights have {len(weights):,} tensors, "
                f"of at most {most if weights else 0:,} rows",
                where=f"{path}:{key}",
                hint="copy the folder again, or use a config.json that matches the weights",
            )


def _numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Each number at any depth of objects, with its path of keys."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + key, value


def _check_tokens(settings: Mapping[str, Any], path: Path, vocabulary: Any) -> None:
    """Raise `IntegrityError` for token ids that are not whole numbers or lists of them, or not in the vocabulary."""
    for key, value in settings.items():
        if value is None:
            continue
        where = f"{path}:{key}"
        if _TOKEN.fullmatch(key) and not _are_ids(value if isinstance(value, list) else [value]):
            raise IntegrityError("must be a token id or a list of token ids", where=where)
        if key in _LISTS and not _are_ids(value):
            raise IntegrityError("must be a list of token ids", where=where)
        if key == _WORDS and not (isinstance(value, list) and all(each and _are_ids(each) for each in value)):
            raise IntegrityError("must be a list of words, each a list of token ids", where=where)
        if key in _KNOWN and type(vocabulary) is int:
            rows = value if isinstance(value, list) else [value]
            for one in (id for row in rows for id in (row if isinstance(row, list) else [row])):
                if not 0 <= one < vocabulary:
                    problem = f"{one:,} is no token id; the vocabulary has {vocabulary:,} tokens"
                    raise IntegrityError(problem, where=where)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)
