"""Adapters as their users see them: trained on given weights, resumed, asked, merged; and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

Inside = Callable[..., dict[str, Any]]

BASES = {"llama": "sonnets", "gpt2": "sonnets", "t5": "dates", "bert": "reviews"}
OPENERS = {"t5": AutoModelForSeq2SeqLM, "bert": AutoModelForSequenceClassification}
SHAPE = ("model.layers=2", "model.hidden=16", "model.heads=2", "model.inner=32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def base(inside: Inside, request: pytest.FixtureRequest, folder: Path) -> Callable[[str], Path]:
    """A run of a small model to stand on, trained once."""

    def made(name: str) -> Path:
        run = folder / f"{name}-base"
        if not run.exists():
            data = request.getfixturevalue(BASES[name])
            sets = [f"--set={each}" for each in (*SHAPE, "max_steps=3", "precision=fp32")]
            inside("train", "--data", data, "--model", name, "--out", run, *sets)
        return run

    return made


@pytest.fixture(scope="module")
def adapted(
    inside: Inside, request: pytest.FixtureRequest, base: Callable[[str], Path], folder: Path
) -> Callable[[str], Path]:
    """A run of an adapter that has moved: a high learning rate, and both matrices away from where they began."""

    def made(name: str) -> Path:
        run = folder / f"{name}-lora"
        if not run.exists():
            inside(*lora(request.getfixturevalue(BASES[name]), base(name), run, "max_steps=8"))
        return run

    return made


def lora(data: Path, base: Path, out: Path, *sets: str) -> list[str]:
    words = ["train", "--data", str(data), "--model", str(base), "--out", str(out), "--adapter", "lora"]
    return [*words, *(f"--set={each}" for each in ("adapter.rank=4", "lr=0.02", "precision=fp32", *sets))]


def opened(name: str, folder: Path) -> Any:
    return OPENERS.get(name, AutoModelForCausalLM).from_pretrained(folder).eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(4, 36).reshape(2, 16)
    with torch.no_grad():
        more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        found: torch.Tensor = model(input_ids=ids, **more).logits
    return found


@pytest.mark.parametrize("name", BASES)
def test_a_run_keeps_the_adapter_and_names_its_base_by_content(
    name: str, adapted: Callable[[str], Path], base: Callable[[str], Path]
) -> None:
    run = adapted(name)
    files = {each.name for each in (run / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "llmctl.json", "README.md"} <= files
    assert not {"config.json", "model.safetensors"} & files
    learned = load_file(run / "model/adapter_model.safetensors")
    others = [key for key in learned if ".lora_A." not in key and ".lora_B." not in key]
    assert all(name == "bert" and (".classifier." in key or ".pooler." in key) for key in others)
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    assert len(load_file(checkpoint / "model.safetensors")) == len(learned)
    parents = json.loads((run / "model/llmctl.json").read_text())["parents"]
    assert parents["model_path"] == str(base(name))
    assert parents["model"] == json.loads((run / "run.json").read_text())["parents"]["model"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # which peft 0.21 still reads
@pytest.mark.parametrize("name", BASES)
def test_merged_weights_say_what_peft_says_and_are_a_plain_model(
    name: str, inside: Inside, adapted: Callable[[str], Path], base: Callable[[str], Path], tmp_path: Path
) -> None:
    run, out = adapted(name), tmp_path / "merged"
    document = inside("merge", run, "--out", out)
    assert document["dtype"] == "float32"
    files = {each.name for each in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "llmctl.json", "README.md"} <= files
    assert ("generation_config.json" in files) == (name != "bert")
    assert not [each for each in files if each.startswith("adapter")]
    without = opened(name, base(name) / "model")
    before = logits(without)
    by_peft = logits(PeftModel.from_pretrained(without, run / "model").eval())
    merged = logits(opened(name, out))
    torch.testing.assert_close(merged, by_peft, rtol=0, atol=1e-5)
    assert (merged - before).abs().max() > 0.01
    parents = json.loads((out / "llmctl.json").read_text())["parents"]
    assert set(parents) == {"data", "model", "adapter"}
    assert "is not an adapter" in inside("merge", out, "--out", tmp_path / "again", code=2)["error"]["message"]


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_an_adapter_is_asked_and_scored_as_any_run_and_answers_as_its_merged_weights(
    name: str, inside: Inside, request: pytest.FixtureRequest, adapted: Callable[[str], Path], tmp_path: Path
) -> None:
    run, out = adapted(name), tmp_path / "merged"
    inside("merge", run, "--out", out)
    data = request.getfixturevalue(BASES[name])
    answers = [
        inside("generate", "--model", each, "--prompt", "I love it", "--max-new-tokens", "6")["completions"][0]["text"]
        for each in (run, out)
    ]
    assert answers[0] == answers[1]
    metric = {"bert": "accuracy", "t5": "chrf"}.get(name, "perplexity")
    scores = [
        inside("eval", "--model", each, "--data", data, "--metric", metric, "--limit", "5")["scores"][0]["value"]
        for each in (run, out)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_transformers_opens_the_run_by_itself(adapted: Callable[[str], Path], inside: Inside, tmp_path: Path) -> None:
    inside("merge", adapted("gpt2"), "--out", tmp_path / "merged")
    whole, with_adapter = opened("gpt2", tmp_path / "merged"), opened("gpt2", adapted("gpt2") / "model")
    torch.testing.assert_close(logits(with_adapter), logits(whole), rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_ends_with_the_same_bytes(
    precision: str, inside: Inside, sonnets: Path, base: Callable[[str], Path], tmp_path: Path
) -> None:
    sets = ("schedule.name=constant", "save_every=3", "eval_every=3", "adapter.dropout=0.1", f"precision={precision}")
    inside(*lora(sonnets, base("llama"), tmp_path / "whole", "max_steps=8", *sets))
    inside(*lora(sonnets, base("llama"), tmp_path / "parts", "max_steps=5", *sets))
    document = inside("train", "--resume", tmp_path / "parts", "--max-steps", "8")
    assert document["resumed_from"].endswith("step-00000005")
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = (tmp_path / each / "checkpoints/step-00000008" / name for each in ("whole", "parts"))
        assert one.read_bytes() == other.read_bytes()
    assert document["learned_parameters"] < document["parameters"]


def test_a_narrow_base_learns_what_autocast_learns(
    inside: Inside, sonnets: Path, base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen weights in bfloat16 change no product: autocast rounds them to it anyway."""
    from llmctl.models import adapters

    sets = ("max_steps=5", "precision=bf16", "log_every=1")
    inside(*lora(sonnets, base("llama"), tmp_path / "narrow", *sets))
    monkeypatch.setattr(adapters, "cast_frozen_to_bf16", lambda model: None)
    inside(*lora(sonnets, base("llama"), tmp_path / "wide", *sets))
    one, other = (load_file(tmp_path / each / "model/adapter_model.safetensors") for each in ("narrow", "wide"))
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=1e-3)


def test_the_best_by_a_metric_is_found_on_a_narrow_base(
    inside: Inside, reviews: Path, base: Callable[[str], Path], tmp_path: Path
) -> None:
    words = lora(reviews, base("bert"), tmp_path / "run", "max_steps=2", "precision=bf16", "best_by_limit=8")
    assert inside(*words, "--best-by", "accuracy")["best"]["metric"] == "accuracy"


def test_targets_are_settable(inside: Inside, sonnets: Path, base: Callable[[str], Path], tmp_path: Path) -> None:
    inside(*lora(sonnets, base("llama"), tmp_path / "run", "max_steps=1", "adapter.targets=[q_proj, v_proj]"))
    config = json.loads((tmp_path / "run/model/adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    learned = load_file(tmp_path / "run/model/adapter_model.safetensors")
    assert {key.split(".")[-3] for key in learned} == {"q_proj", "v_proj"}
    assert len(learned) == 2 * 2 * 2  # layers, targets, matrices


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "llama"), "llama has random ones"),
        (("--set", "adapter.targets=[q_prj]"), "did you mean 'q_proj'"),
        (("--set", "adapter.rnk=4"), "did you mean 'rank'"),
        (("--adapter", "lore"), "must be 'lora'"),
        (("--model", "ADAPTER"), "llmctl merge"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    words: tuple[str, ...],
    said: str,
    inside: Inside,
    sonnets: Path,
    base: Callable[[str], Path],
    adapted: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    words = tuple(str(adapted("llama")) if each == "ADAPTER" else each for each in words)
    error = inside(*lora(sonnets, base("llama"), tmp_path / "run"), *words, code=2)["error"]
    assert said in f"{error['message']} {error['hint']}"
    assert not (tmp_path / "run").exists()


def test_a_recurrent_model_has_nothing_to_stand_on(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    sets = ("--set=model.hidden=16", "--set=model.embedding=16", "--max-steps=1")
    inside("train", "--data", sonnets, "--model", "lstm", "--out", tmp_path / "lstm", *sets)
    error = inside(*lora(sonnets, tmp_path / "lstm", tmp_path / "run"), code=2)["error"]
    assert "no stack of linear layers" in error["message"]


@pytest.fixture
def moved(adapted: Callable[[str], Path], base: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of an adapter's run and of its base; the card names the copy."""
    shutil.copytree(adapted("llama"), tmp_path / "lora")
    shutil.copytree(base("llama"), tmp_path / "base")
    card = tmp_path / "lora/model/llmctl.json"
    value = json.loads(card.read_text())
    value["parents"]["model_path"] = str(tmp_path / "base")
    card.write_text(json.dumps(value))
    return tmp_path / "lora", tmp_path / "base"


ASK = ("--prompt", "Shall I", "--max-new-tokens", "2")


def test_a_base_that_changed_is_refused(inside: Inside, moved: tuple[Path, Path]) -> None:
    run, base = moved
    weights = load_file(base / "model/model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1.0
    save_file(weights, base / "model/model.safetensors", metadata={"format": "pt"})
    for words in (("generate", *ASK), ("merge", "--out", str(run.parent / "merged"))):
        error = inside(words[0], "--model", run, *words[1:], code=5)["error"]
        assert "its hash differs" in error["message"]


def test_a_run_is_not_resumed_on_another_base(inside: Inside, sonnets: Path, moved: tuple[Path, Path]) -> None:
    _, base = moved
    run = base.parent / "new"
    inside(*lora(sonnets, base, run, "max_steps=1"))
    config = json.loads((base / "model/config.json").read_text())
    (base / "model/config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    error = inside("train", "--resume", run, "--max-steps", "2", code=5)["error"]
    assert "not the base that the run was started on" in error["message"]


def test_a_base_that_is_gone_can_be_named(inside: Inside, moved: tuple[Path, Path]) -> None:
    run, base = moved
    before = inside("generate", "--model", run, *ASK)["completions"][0]["text"]
    base.rename(base.parent / "elsewhere")
    error = inside("generate", "--model", run, *ASK, code=2)["error"]
    assert "is missing" in error["message"]
    assert "--set base=DIR" in error["hint"]
    named = ("--set", f"base={base.parent / 'elsewhere'}")
    assert inside("generate", "--model", run, *ASK, *named)["completions"][0]["text"] == before


HOSTILE: dict[str, dict[str, Any]] = {
    "code of its own": {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
    "a module to import": {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
    "a file to unpickle": {"corda_config": {"cache_file": "x.pt"}},
    "another kind": {"peft_type": "XLORA"},
    "another arithmetic": {"use_dora": True},
    "a pattern": {"target_modules": "(a+)+$"},
    "nonsense": {"r": "many"},
    "a rank that fills the memory": {"r": 10**9},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_config_that_asks_for_more_than_lora_is_refused(what: str, inside: Inside, moved: tuple[Path, Path]) -> None:
    path = moved[0] / "model/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | HOSTILE[what]))
    error = inside("generate", "--model", moved[0], *ASK, code=5)["error"]
    assert "adapter_config.json" in error["message"]


def test_what_is_no_adapter_file_is_refused(inside: Inside, moved: tuple[Path, Path]) -> None:
    """Without hashes in the card, as version 0.1 wrote it: the files themselves are refused."""
    model = moved[0] / "model"
    card = json.loads((model / "llmctl.json").read_text())
    assert card["files"].keys() == {"adapter_model.safetensors"}
    (model / "llmctl.json").write_text(json.dumps(card | {"files": {}}))
    weights = model / "adapter_model.safetensors"
    kept = weights.read_bytes()
    (model / "adapter_model.bin").write_bytes(b"\x80\x04.")
    weights.unlink()
    assert "pickled" in inside("generate", "--model", moved[0], *ASK, code=5)["error"]["message"]
    (model / "adapter_model.bin").unlink()
    weights.write_bytes(kept[:-4])
    assert "cannot be opened" in inside("generate", "--model", moved[0], *ASK, code=5)["error"]["message"]
    tensors = load_file(moved[0].parent / "lora/checkpoints/step-00000008/model.safetensors")
    save_file(tensors, weights)
    assert "do not fit the adapter" in inside("generate", "--model", moved[0], *ASK, code=5)["error"]["message"]
    weights.write_bytes(kept)
    (model / "modeling_x.py").write_text("raise SystemExit")
    assert "never run" in inside("generate", "--model", moved[0], *ASK, code=5)["error"]["message"]


def test_a_model_and_an_adapter_in_one_folder_are_refused(inside: Inside, moved: tuple[Path, Path]) -> None:
    """transformers would leave the model's weights and follow the adapter's config to a base on the hub."""
    run, base = moved
    config = json.loads((run / "model/adapter_config.json").read_text())
    (base / "model/adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "some/where"}))
    assert "both a model" in inside("generate", "--model", base, *ASK, code=5)["error"]["message"]


def test_the_base_that_a_config_names_is_never_asked_for(inside: Inside, moved: tuple[Path, Path]) -> None:
    """The card says what the adapter stands on. Without one nothing does, until the user names it."""
    run, base = moved
    path = run / "model/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "some/where"}))
    before = inside("generate", "--model", run, *ASK)["completions"][0]["text"]
    (run / "model/llmctl.json").unlink()
    error = inside("generate", "--model", run, *ASK, code=2)["error"]
    assert "--set base=DIR" in error["hint"]
    assert inside("generate", "--model", run, *ASK, "--set", f"base={base}")["completions"][0]["text"] == before


def test_without_peft_the_line_that_installs_it_is_told(
    sonnets: Path, base: Callable[[str], Path], tmp_path: Path
) -> None:
    words = lora(sonnets, base("llama"), tmp_path / "run")
    program = f"import sys; sys.modules['peft'] = None; from llmctl.cli.main import run; sys.exit(run({words!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "'peft'" in done.stderr
    assert "pip install 'llmctl[adapters]'" in done.stderr
    assert not (tmp_path / "run").exists()
