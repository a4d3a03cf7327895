"""Loading and saving model folders in the Hugging Face layout: safetensors only, with a check of every weight."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

import llmctl.models.auto  # noqa: F401 - registers our architectures with the Auto classes
from llmctl.errors import IntegrityError, UsageError
from llmctl.store.border import border, quiet
from llmctl.store.model_config import check_config
from llmctl.store.safety import check_folder, check_weights, read_json
from llmctl.store.weights import headers, shapes
from llmctl.types import Family

SHARD_BYTES: Final = 2 * 10**9
"""Maximum size of a weight file; smaller models are a single file."""
SIZE_FACTOR, SIZE_SPARE = 4, 100_000_000
"""A model may have so many times the weights in its files, and so many more."""
_AUTO: Final[dict[Family, Any]] = {
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
    "encoder": AutoModelForSequenceClassification,
    "ctc": AutoModelForCTC,
    "speech-seq2seq": AutoModelForSpeechSeq2Seq,
}


def load(
    folder: Path,
    family: Family,
    *,
    dtype: torch.dtype = torch.float32,
    labels: tuple[str, ...] | None = None,
    masked: bool = False,
) -> PreTrainedModel:
    """Load the model in `folder` from its safetensors. Runs no code from the folder and does not use the network.

    `labels` makes an encoder a classifier of these labels; `masked` makes it a masked language model instead. An
    encoder trained for another task then gets a new head, random from torch's current seed, including a pooler if the
    architecture has one and the checkpoint does not; heads of other tasks are ignored. `fresh_head` reports this
    in advance.

    Raises `IntegrityError` for weights that are missing, unexpected, of a different shape, not finite, not safetensors,
    or that need code from the folder; `UsageError` if the model was trained with labels other than `labels`.
    """
    config = _checked_config(folder)
    if hasattr(config, "apply_spec_augment"):
        config.apply_spec_augment = False  # it draws from numpy's generator, so a resumed run would differ
    new_head = _new_head(config.architectures, family, labels, masked) is not None
    if family == "encoder" and labels is not None:
        _set_labels(config, labels, folder)
    opener = AutoModelForMaskedLM if masked and family == "encoder" else _AUTO[family]
    with quiet():
        with _naming_key(folder, opener.from_config), border("the model cannot be opened", folder / "config.json"):
            _check_size(opener, config, folder)
        with border("the model cannot be opened", folder):
            model, info = opener.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are reported and rejected below, with the rest
                output_loading_info=True,
            )
        _check_loaded_weights(model, info, folder, new_head=new_head)
        if model.loss_type is None:
            model.loss_type = "ForCausalLM"  # transformers' own default, without its warning
    return model


def load_empty(
    folder: Path, family: Family, *, dtype: torch.dtype = torch.float32, labels: tuple[str, ...] | None, masked: bool
) -> tuple[PreTrainedModel, dict[str, str]] | None:
    """The model that `load` would return, with its weights on the device `meta`, which has shapes and no data, and the name in
    the files of each of them and of each buffer that they hold.

    None where the names or shapes differ, so that only `load` can map or refuse them.
    """
    from accelerate import init_empty_weights

    config = _checked_config(folder)
    if _new_head(config.architectures, family, labels, masked) is not None:
        return None
    if family == "encoder" and labels is not None:
        _set_labels(config, labels, folder)
    opener = AutoModelForMaskedLM if masked and family == "encoder" else _AUTO[family]
    # Buffers that are not saved, such as rotary frequencies, get their values here.
    with quiet(), border("the model cannot be opened", folder / "config.json"):
        with init_empty_weights(include_buffers=False), no_init_weights():
            model: PreTrainedModel = opener.from_config(config, dtype=dtype)
        model.tie_weights()
    if model.loss_type is None:
        model.loss_type = "ForCausalLM"
    names = _names_in(model, {name: tuple(shape) for name, shape in shapes(folder).items()})
    return None if names is None else (model, names)


def _names_in(model: PreTrainedModel, held: Mapping[str, tuple[int, ...]]) -> dict[str, str] | None:
    """The name in the files of each weight and saved buffer of a model; None unless all are found and no other is held."""
    prefix = f"{model.base_model_prefix}."
    saved = model.state_dict()
    aliases: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(weight), []).append(name)
    names: dict[str, str] = {}
    known: set[str] = set()
    wanted = [(each[0], each) for each in aliases.values()] + [
        (name, [name]) for name, _ in model.named_buffers() if name in saved
    ]
    for name, own in wanted:
        possible = [*own, *(each.removeprefix(prefix) for each in own)]
        known |= set(possible)
        found = next((each for each in possible if held.get(each) == tuple(saved[name].shape)), None)
        if found is not None:
            names[name] = found
        elif saved[name].is_meta:
            return None
    return names if held.keys() <= known else None


def fresh_head(
    config: Mapping[str, Any], family: Family, *, labels: tuple[str, ...] | None = None, masked: bool = False
) -> str | None:
    """Which part of a model with this config.json would be newly initialised by `load`; None if nothing would."""
    return _new_head(config.get("architectures"), family, labels, masked)


def _new_head(
    architectures: Sequence[str] | None, family: Family, labels: tuple[str, ...] | None, masked: bool
) -> str | None:
    if family != "encoder":
        return None
    own = " ".join(map(str, architectures or ()))
    if masked:
        return None if "ForMaskedLM" in own else "the head over the vocabulary"
    if labels is None or "ForSequenceClassification" in own:
        return None
    return f"the classifier over {len(labels)} labels"


def save(
    model: PreTrainedModel,
    folder: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write config.json, model.safetensors (sharded beyond `shard_bytes`) and generation_config.json into `folder`.

    `weights`: the weights to write in place of the model's own.
    """
    with quiet():
        model.save_pretrained(folder, max_shard_size=shard_bytes, state_dict=dict(weights) if weights else None)


def _checked_config(folder: Path) -> PreTrainedConfig:
    """Load the config after checking that opening the folder reads nothing outside it and runs no code."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"no model in {folder}: it has no config.json", where=str(folder))
    check_folder(folder)
    check_weights(folder)
    return config_of(folder)


def config_of(folder: Path) -> PreTrainedConfig:
    """The config of a model folder. Raises `IntegrityError`, with file and key, for one that does not describe a model."""
    check_config(folder)
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type is not None and not (isinstance(model_type, str) and model_type in CONFIG_MAPPING):
        raise IntegrityError(
            f"the model cannot be opened: transformers {transformers.__version__} does not know the model type {str(model_type)[:100]!r}",
            where=f"{folder / 'config.json'}:model_type",
            hint="pip install --upgrade transformers, if the model is newer",
        )
    with quiet(), _naming_key(folder), border("the model cannot be opened", folder / "config.json"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return config


@contextlib.contextmanager
def _naming_key(folder: Path, build: Callable[[PreTrainedConfig], Any] | None = None) -> Iterator[None]:
    """Add the key to an error about config.json: the one without which the config is opened, and the model built by `build`."""
    path = folder / "config.json"
    try:
        yield
    except IntegrityError as error:
        settings = read_json(path)
        for key in settings if error.where == str(path) else ():
            if _is_opened({name: each for name, each in settings.items() if name != key}, build):
                raise IntegrityError(error.message, where=f"{path}:{key}", hint=error.hint) from error
        raise


def _is_opened(settings: Mapping[str, Any], build: Callable[[PreTrainedConfig], Any] | None) -> bool:
    """Whether settings make a config, and the config a model."""
    try:
        with torch.device("meta"), no_init_weights():
            config = CONFIG_MAPPING[settings["model_type"]].from_dict(dict(settings))
            if build is not None:
                build(config)
    except Exception:
        return False
    return True


def _check_size(opener: Any, config: PreTrainedConfig, folder: Path) -> None:
    """Raise `IntegrityError` if the config describes a much larger model than the weights, which would fill the memory.

    The model is built on the device `meta`, which has shapes and no data. Weights may be missing (a new head, tied
    embeddings) and constants are not saved, so only a multiple is refused; `_check_loaded_weights` is exact.
    """
    held = sum(weight.elements for weight in headers(folder).values())
    with torch.device("meta"), no_init_weights():
        model = opener.from_config(config)
    wanted = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    if wanted > SIZE_FACTOR * held + SIZE_SPARE:
        raise IntegrityError(
            f"config.json describes a model of {wanted:,} weights, but the files hold {held:,}",
            where=str(folder),
            hint="copy the folder again, or use a config.json that matches the weights",
        )


def _names_labels(config: PreTrainedConfig) -> bool:
    return any(str(each).endswith("ForSequenceClassification") for each in config.architectures or ())


def _set_labels(config: PreTrainedConfig, labels: tuple[str, ...], folder: Path) -> None:
    """Write the labels into the config. Raises `UsageError` if the model's classifier already has other labels."""
    own = [str(label) for _, label in sorted(config.id2label.items())]
    unnamed = own == [f"LABEL_{number}" for number in range(len(labels))]
    if _names_labels(config) and not unnamed and own != list(labels):
        raise UsageError(
            f"the model has {len(own)} labels ({_first(own)}), not the {len(labels)} requested ({_first(labels)})",
            where=str(folder / "config.json"),
            hint="use a model without a classifier, or data with the model's labels",
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}


def _check_loaded_weights(model: PreTrainedModel, info: dict[str, Any], folder: Path, *, new_head: bool) -> None:
    """Raise `IntegrityError` unless every weight came from the files and every weight in the files was used."""
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(each[0] for each in info["mismatched_keys"])
    base = f"{model.base_model_prefix}."
    if new_head:
        missing = [key for key in missing if key.startswith(base) and not key.startswith(f"{base}pooler.")]
        unexpected = [key for key in unexpected if _is_of_body(key, model, folder)]
    elif "ForMaskedLM" in type(model).__name__:
        # BERT was published with a second head (next-sentence prediction) and its pooler.
        unexpected = [key for key in unexpected if not key.removeprefix(base).startswith(("cls.seq_", "pooler."))]
    faults = [
        f"{len(keys)} {kind}: {_first(keys)}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("with a different shape", mismatched))
        if keys
    ]
    broken = [name for name, weight in model.state_dict().items() if not bool(torch.isfinite(weight).all())]
    if broken and not missing and not mismatched:
        faults.append(f"{len(broken)} not finite: {_first(broken)}")
    if faults or info["error_msgs"]:
        raise IntegrityError(
            f"the weights do not fit the model {type(model).__name__}: {'; '.join([*faults, *info['error_msgs'][:1]])}",
            where=str(folder),
            hint="copy the folder again, or use a config.json that matches the weights",
        )


def _is_of_body(key: str, model: PreTrainedModel, folder: Path) -> bool:
    """Whether a weight of a checkpoint belongs to the body that all models of this architecture share.

    All else is a head of the checkpoint's former purpose. A checkpoint with a head has the body under a prefix; one of
    the body alone has no prefix, and then its own modules say what belongs to it.
    """
    base = f"{model.base_model_prefix}."
    prefixed = any(name.startswith(base) for name in shapes(folder))
    if prefixed and not key.startswith(base):
        return False
    body = {name for name, _ in model.base_model.named_children()}
    return key.removeprefix(base).partition(".")[0] in body


def _first(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
