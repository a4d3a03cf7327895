"""Losses and rewards of preference pairs against trl 1.16 (`DPOTrainer`), on the same token ids and weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmctl.training.objectives import DecoderLikelihood
from llmctl.training.preference import PreferenceObjective
from llmctl.training.spec import Dpo
from llmctl.types import IGNORED

TRL = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

folder = sys.argv[1]
words = [f"w{i}" for i in range(20)]
vocabulary = {word: i for i, word in enumerate(["<eos>", "<pad>", *words])}
backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
config = dict(vocab_size=22, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
config |= dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
torch.manual_seed(0)
reference = GPT2LMHeadModel(GPT2Config(**config))
model = GPT2LMHeadModel(GPT2Config(**config))
for name, each in (("reference", reference), ("model", model)):
    each.save_pretrained(f"{folder}/{name}")
pairs = [
    {"prompt": "w1 w2 ", "chosen": "w3 w4 w5", "rejected": "w6"},
    {"prompt": "w7 ", "chosen": "w8", "rejected": "w9 w10 w11 w12"},
    {"prompt": "w2 w3 w4 w5 ", "chosen": "w1 w0", "rejected": "w2 w2"},
]
found = {}
for loss in ("sigmoid", "hinge", "ipo"):
    settings = DPOConfig(
        output_dir=folder, loss_type=loss, beta=0.3, per_device_train_batch_size=3, report_to="none", use_cpu=True,
        bf16=False, gradient_checkpointing=False,
    )
    trainer = DPOTrainer(model, reference, settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    model.eval()
    value = trainer.compute_loss(model, batch)
    metrics = trainer._metrics["eval"]
    found[loss] = {
        "loss": float(value), "margin": metrics["rewards/margins"][-1], "accuracy": metrics["rewards/accuracies"][-1],
        "ids": batch["input_ids"].tolist(), "answer": batch["completion_mask"].tolist(),
        "mask": batch["attention_mask"].tolist(),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def trl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the two models, and what trl computes with them by the name of the loss."""
    folder = tmp_path_factory.mktemp("trl")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", TRL, str(folder)], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_loss_and_rewards_of_pairs_equal_those_of_trl(loss: Any, trl: tuple[Path, dict[str, Any]]) -> None:
    folder, found = trl
    expected = found[loss]
    ids, answer, mask = (torch.tensor(expected[name]) for name in ("ids", "answer", "mask"))
    batch = {
        "input_ids": ids[:, :-1],
        "attention_mask": mask[:, :-1],
        "labels": ids[:, 1:].masked_fill(answer[:, 1:] == 0, IGNORED),
    }
    model, reference = (
        DecoderLikelihood(AutoModelForCausalLM.from_pretrained(folder / name).eval()) for name in ("model", "reference")
    )
    with torch.no_grad():
        batch["reference"] = reference.logprobs(batch)
    objective = PreferenceObjective(model, Dpo(beta=0.3, loss=loss))
    total = objective(batch).detach()
    pairs = objective.target_count({name: each.numpy() for name, each in batch.items()})
    margin, accurate = (objective.sums / pairs).tolist()
    assert pairs == 3
    assert float(total) / pairs == pytest.approx(expected["loss"], abs=1e-5)
    assert margin == pytest.approx(expected["margin"], abs=1e-5)
    assert accurate == pytest.approx(expected["accuracy"], abs=1e-9)


def test_label_smoothing_is_the_expected_loss_when_some_preferences_are_flipped() -> None:
    """Mitchell 2023: (1 - ε) times the loss of a pair plus ε times the loss of the flipped pair."""
    from llmctl.training.preference import preference_losses

    ratios, tokens = torch.tensor([0.7, -0.2, -1.1, 0.4]), torch.tensor([3, 2, 4, 5])
    kept, _ = preference_losses(ratios, tokens, Dpo(beta=0.5))
    flipped, _ = preference_losses(ratios.roll(2), tokens.roll(2), Dpo(beta=0.5))
    smooth, margins = preference_losses(ratios, tokens, Dpo(beta=0.5, label_smoothing=0.2))
    torch.testing.assert_close(smooth, 0.8 * kept + 0.2 * flipped)
    torch.testing.assert_close(margins, torch.tensor([0.9, -0.3]))
