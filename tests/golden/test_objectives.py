"""The loss against torch's own cross-entropy, and one optimizer step put together in different ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmctl import registry
from llmctl.data.examples.batches import Batches, Blocks, epoch_batches
from llmctl.data.storing.tokens import TokenStore
from llmctl.models import autocast_kernels
from llmctl.models.spec import ModelSpec, Shape, Vocabulary
from llmctl.training import devices, loop, objectives, optimizers, parallel, plan
from llmctl.training.spec import Optimizer, Schedule

VOCABULARY = Vocabulary(96, 0, 1, 2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 255, 256, 700])
def test_chunked_cross_entropy_equals_torch_s_with_its_gradients(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    h = torch.randn(rows, 24, requires_grad=True)
    w = torch.randn(50, 24, requires_grad=True)
    b = torch.randn(50, requires_grad=True) if bias else None
    wanted = torch.randint(50, (rows,))
    ours = objectives.linear_cross_entropy(h, w, b, wanted)
    inputs = [each for each in (h, w, b) if each is not None]
    ours_gradients = torch.autograd.grad(ours / 7, inputs)
    theirs = F.cross_entropy(F.linear(h, w, b), wanted, reduction="sum")
    theirs_gradients = torch.autograd.grad(theirs / 7, inputs)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(ours_gradients, theirs_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    with torch.no_grad():  # as validation computes it
        torch.testing.assert_close(objectives.linear_cross_entropy(h, w, b, wanted), theirs.detach())


def blocks(tokens: int = 1000) -> Blocks:
    values = np.random.default_rng(0).integers(9, 96, tokens).astype(np.uint16)
    store = TokenStore(values, np.array([0, tokens]), np.array([0, 1]), np.array([0], np.uint8), None)
    return Blocks(store, 16)


def fitted(
    name: str,
    *,
    steps: int,
    micro: int | None = None,
    batch_size: int = 16,
    optimizer: Optimizer | None = None,
    lr: float = 1e-2,
) -> Iterator[tuple[torch.nn.Module, loop.Report]]:
    spec: ModelSpec = registry.load("models", name)
    shape = (
        Shape(layers=1, hidden=16, heads=2, context=32, inner=32)
        if name in ("gpt2", "llama", "attention")
        else Shape(hidden=16)
    )
    torch.manual_seed(0)
    model: Any = spec.build(spec.shape("nano", shape), VOCABULARY, ())
    examples = blocks()
    batches = Batches(examples.lengths(), batch_size=batch_size, seed=0)
    # The key bias of attention has the gradient 0: a larger eps keeps Adam from amplifying what rounding leaves of it.
    made = optimizers.build(model, optimizer or Optimizer(eps=1e-6), lr=lr)
    planned = plan.plan(
        run_budget=plan.Budget(steps),
        batch_size=batch_size,
        micro_batch_size=micro,
        world=1,
        steps_per_epoch=batches.per_epoch,
        learning_rate=lr,
        schedule=Schedule(),
        eval_every=None,
        save_every=None,
    )
    for report in loop.fit(
        parallel.Strategy(objectives.LIKELIHOODS["decoder"](model), devices.accelerator("fp32")),
        examples,
        batches,
        made,
        planned,
        clip_norm=1.0,
        seed=0,
        start=loop.Position(),
        stop=lambda: False,
    ):
        yield model, report


@pytest.mark.parametrize("name", ["lstm", "attention", "gpt2", "llama"])
def test_a_batch_of_16_is_4_times_4_accumulated_also_in_the_last_smaller_one(name: str) -> None:
    """63 blocks in batches of 16: the fourth has 15. The mean of means would differ there."""
    whole = list(fitted(name, steps=6))
    parts = list(fitted(name, steps=6, micro=4))
    for (_, one), (_, other) in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=2e-5)
    for one, other in zip(whole[-1][0].parameters(), parts[-1][0].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_the_loss_of_a_step_is_the_mean_over_its_tokens() -> None:
    """Against a plain forward pass of transformers' GPT-2 with the same weights."""
    examples = blocks()
    first = Batches(examples.lengths(), batch_size=16, seed=0)(0)
    spec: ModelSpec = registry.load("models", "gpt2")
    torch.manual_seed(0)
    model: Any = spec.build(
        spec.shape("nano", Shape(layers=1, hidden=16, heads=2, context=32, inner=32)), VOCABULARY, ()
    )
    arrays = examples.arrays(first.tolist())
    logits = model(input_ids=torch.from_numpy(arrays["input_ids"])).logits
    expected = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(arrays["labels"]).flatten(), ignore_index=-100)
    report = next(iter(fitted("gpt2", steps=1)))[1]
    assert report.loss == pytest.approx(expected.item(), abs=1e-5)


def small(name: str) -> Any:
    spec: ModelSpec = registry.load("models", name)
    torch.manual_seed(0)
    return spec.build(spec.shape("nano", Shape(layers=1, hidden=16, heads=2, inner=32)), VOCABULARY).eval()


def rows() -> dict[str, torch.Tensor]:
    """Two texts, the second padded."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(9, 96, (2, 8), generator=rng)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = VOCABULARY.pad, 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", ["t5", "marian", "bart", "lstm-seq2seq"])
def test_the_loss_of_an_encoder_decoder_is_transformers_own(name: str) -> None:
    """Whose models shift the labels themselves, behind the start of each kind; and so are its gradients."""
    model, batch = small(name), rows()
    batch["labels"] = torch.randint(9, 96, (2, 6), generator=torch.Generator().manual_seed(1))
    batch["labels"][1, 3:] = objectives.IGNORED
    expected = model(**batch).loss * 9
    expected.backward()
    slopes = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    found = objectives.LIKELIHOODS["encoder-decoder"](model)(batch)
    found.backward()
    torch.testing.assert_close(found, expected)
    for slope, weight in zip(slopes, [each for each in model.parameters() if each.grad is not None], strict=True):
        torch.testing.assert_close(weight.grad, slope, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("whole_head", [False, True])
def test_the_loss_of_masked_language_modelling_is_transformers_own(whole_head: bool) -> None:
    """Whether the head reads the masked positions alone, as for known architectures, or all of them."""
    model, batch = small("bert"), rows()
    batch["labels"] = torch.full((2, 8), objectives.IGNORED)
    batch["labels"][0, 2], batch["labels"][0, 7], batch["labels"][1, 4] = 30, 40, 50
    arrays = {each: value.numpy() for each, value in batch.items()}
    objective = objectives.EncoderLikelihood(model)
    if whole_head:
        objective.masked_heads = {}
    assert objective.target_count(arrays) == 3
    assert objective.token_count(arrays) == 13
    torch.testing.assert_close(objective(batch), model(**batch).loss * 3)


@pytest.mark.parametrize("name", ["t5", "marian", "bart", "bert", "gpt2"])
def test_the_functions_for_bfloat16_learn_what_float32_does(name: str) -> None:
    model, batch = small(name), rows()
    family: Any = registry.load("models", name).family
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, objectives.IGNORED)
    objective = objectives.LIKELIHOODS[family](model)
    exact = objective(batch)
    autocast_kernels.use(model)
    with torch.autocast("cpu", torch.bfloat16):
        near = objective(batch)
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0)
    autocast_kernels.restore(model)
    torch.testing.assert_close(objective(batch), exact)


@pytest.mark.parametrize(("name", "lr"), [("adamw", 1e-2), ("adam", 1e-2), ("sgd", 0.5)])
def test_every_optimizer_learns_the_training_data_by_heart(name: Any, lr: float) -> None:
    """Tokens are drawn from 87 entries at random. Who knows no more than which they are is at ln 87 = 4.47 nats; what is
    below that over a whole epoch was learned from the blocks themselves."""
    losses = [report.loss for _, report in fitted("lstm", steps=40, optimizer=Optimizer(name=name), lr=lr)]
    assert losses[0] == pytest.approx(np.log(96), abs=0.1)
    assert np.mean(losses[-4:]) < np.log(87) - 0.25


def test_an_epoch_has_every_example_once_and_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 1003)
    batches = epoch_batches(3, 5, lengths, 16)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert all((one == other).all() for one, other in zip(batches, epoch_batches(3, 5, lengths, 16), strict=True))
    assert any(
        len(one) != len(other) or (one != other).any()
        for one, other in zip(batches, epoch_batches(3, 6, lengths, 16), strict=False)
    )
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.15 * lengths.sum()


def test_blocks_cover_the_stream_and_labels_are_the_successors() -> None:
    examples = blocks(101)
    assert len(examples) == 7
    arrays = examples.arrays(range(7))
    stream = examples.store.values.astype(np.int64)
    learned = arrays["labels"][arrays["labels"] != -100]
    assert learned.tolist() == stream[1:].tolist()
    assert arrays["input_ids"][0].tolist() == stream[:16].tolist()
