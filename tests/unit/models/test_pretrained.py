"""Loading model folders: intact ones load, all others are refused with a specific message."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from llmctl import registry
from llmctl.errors import IntegrityError, LlmctlError, UsageError
from llmctl.models import pretrained
from llmctl.models.spec import ModelSpec, Shape, Vocabulary
from llmctl.types import MODALITY, Family

LABELS = ("no", "perhaps", "yes")
GENERATES = ("decoder", "encoder-decoder", "speech-seq2seq")
"""Families that write token by token."""
NAMES = [entry.name for entry in registry.entries("models")]


def spec_of(name: str) -> ModelSpec:
    spec: ModelSpec = registry.load("models", name)
    return spec


def built(name: str) -> Any:
    spec = spec_of(name)
    torch.manual_seed(0)
    return spec.build(spec.shape("nano", Shape(layers=1, hidden=16)), Vocabulary(40, 0, 1, 2), LABELS).eval()


def inputs(model: Any, family: Family, ids: torch.Tensor) -> torch.Tensor:
    """What a model of the family reads: these tokens (B, T), or features of sound (B, M, T) in its precision."""
    if MODALITY[family] == "text":
        return ids
    frames = {"ctc": 50, "speech-seq2seq": 3000}[family]
    return torch.randn(len(ids), model.config.num_mel_bins, frames, dtype=model.dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pretrained.save(built("lstm"), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A plain encoder as sentence-embedding models come: architectures ["BertModel"]."""
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("name", NAMES)
def test_saved_models_load_again_without_warnings(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, family = built(name), spec_of(name).family
    pretrained.save(model, tmp_path / "m")
    files = {each.name for each in (tmp_path / "m").iterdir()}
    assert files == {"config.json", "model.safetensors"} | (
        {"generation_config.json"} if family in GENERATES else set()
    )
    with caplog.at_level(logging.INFO):
        again = pretrained.load(tmp_path / "m", family, labels=LABELS if family == "encoder" else None)
    assert type(again) is type(model)
    ids = torch.randint(3, 40, (2, 6))
    read = inputs(model, family, ids)
    extra = {"decoder_input_ids": ids} if family in ("encoder-decoder", "speech-seq2seq") else {}
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(read, **extra).logits, model(read, **extra).logits, rtol=0, atol=0)
    out = again(read, labels=ids[:, 0] % 3 if family == "encoder" else ids)
    assert out.loss.isfinite()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    if family == "encoder":
        assert again.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_weights_generate_too(name: str, tmp_path: Path) -> None:
    family = spec_of(name).family
    pretrained.save(built(name), tmp_path / "m")
    model = pretrained.load(tmp_path / "m", family, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    ids = torch.randint(3, 40, (2, 6))
    read = inputs(model, family, ids)
    mask = (
        torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
        if MODALITY[family] == "text"
        else torch.ones(2, read.shape[-1]).long()
    )
    if family not in GENERATES:
        assert model(read, attention_mask=mask).logits.isfinite().all()
    else:
        assert len(model.generate(read, attention_mask=mask, max_new_tokens=3, do_sample=False)) == 2


def test_a_plain_encoder_gets_a_classifier_from_the_seed(encoder: Path) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = pretrained.load(encoder, "encoder", labels=LABELS)
        heads.append(model.classifier.weight)
    assert heads[0].shape == (3, 16)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    body = load_file(encoder / "model.safetensors")
    for name, weight in model.bert.named_parameters():
        assert torch.equal(weight, body[name])
    assert model.config.label2id == {"no": 0, "perhaps": 1, "yes": 2}


def test_a_masked_language_model_becomes_a_classifier(encoder: Path, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(encoder)
    BertForMaskedLM(config).save_pretrained(tmp_path / "mlm")
    assert pretrained.load(tmp_path / "mlm", "encoder", labels=LABELS).config.num_labels == 3


def test_without_labels_a_missing_classifier_is_refused(encoder: Path) -> None:
    with pytest.raises(IntegrityError, match=r"2 missing: classifier.bias, classifier.weight"):
        pretrained.load(encoder, "encoder")


def test_a_missing_encoder_weight_is_refused_even_with_a_new_head(encoder: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"1 missing: bert.encoder.layer.0.output.dense.weight"):
        pretrained.load(encoder, "encoder", labels=LABELS)


def test_labels_that_differ_from_those_of_the_model_are_refused(tmp_path: Path) -> None:
    pretrained.save(built("lstm-classifier"), tmp_path / "m")
    with pytest.raises(UsageError, match=r"has 3 labels \(no, perhaps, yes\), not the 2 requested \(bad, good\)"):
        pretrained.load(tmp_path / "m", "encoder", labels=("bad", "good"))


def without_two(weights: dict[str, Any]) -> None:
    del weights["lstm.weight_hh_l0"], weights["narrow.bias"]


def with_many(weights: dict[str, Any]) -> None:
    weights.update({f"more.{number}": torch.zeros(1) for number in range(7)})


def misshapen(weights: dict[str, Any]) -> None:
    weights["narrow.weight"] = torch.zeros(3, 3)


def not_a_number(weights: dict[str, Any]) -> None:
    weights["narrow.weight"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_two, r"2 missing: lstm.weight_hh_l0, narrow.bias"),
        (with_many, r"7 unexpected: more.0, more.1, more.2, more.3, more.4, …"),
        (misshapen, r"1 with a different shape: narrow.weight"),
        (not_a_number, r"1 not finite: narrow.weight"),
    ],
)
def test_weights_that_do_not_fit_are_counted_and_named(folder: Path, change: Any, message: str) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=message) as error:
        pretrained.load(folder, "decoder")
    assert error.value.hint


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lying_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def weightless(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_code(folder: Path) -> None:
    (folder / "modeling_mine.py").write_text("raise SystemExit('ran')")


def auto_map(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))


def climbing_index(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"tokens.weight": "../model.safetensors"}}
    shutil.move(folder / "model.safetensors", folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def link_out(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"tokens.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nothing-like-this"}')


def wrong_field(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "sixteen"}))


def broken_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, "cannot be opened"),
        (lying_header, "cannot be opened"),
        (empty, "cannot be opened"),
        (pickled, r"pickled \(pytorch_model.bin\); opening them could run code"),
        (weightless, r"no \*.safetensors in the folder"),
        (with_code, "a Python file in a model folder; llmctl never runs it"),
        (auto_map, "auto_map would run code from the folder"),
        (climbing_index, r"the index names '../model.safetensors', which is not in this folder"),
        (link_out, "a link that leaves the folder"),
        (missing_shard, "the index names 'model-00001-of-00001.safetensors', which is not in this folder"),
        (unknown_type, "cannot be opened"),
        (wrong_field, "cannot be opened"),
        (broken_json, "cannot be read as JSON"),
    ],
)
def test_a_corrupt_folder_is_refused(folder: Path, harm: Any, message: str) -> None:
    harm(folder)
    with pytest.raises(IntegrityError, match=message) as error:
        pretrained.load(folder, "decoder")
    assert error.value.exit_code == 5
    assert error.value.where


def test_the_hub_cache_s_links_are_followed(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        shutil.move(file, blobs / f"blob-{file.name}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob-{file.name}")
    assert pretrained.load(snapshot, "decoder").config.model_type == "llmctl-lstm"


def test_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(LlmctlError, match=r"no config.json") as error:
        pretrained.load(tmp_path, "decoder")
    assert error.value.exit_code == 2


def test_a_model_above_the_limit_is_split_into_shards_and_loaded_again(folder: Path, tmp_path: Path) -> None:
    model = pretrained.load(folder, "decoder")
    pretrained.save(model, tmp_path / "cut", shard_bytes=10_000)
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 1
    again = pretrained.load(tmp_path / "cut", "decoder")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
