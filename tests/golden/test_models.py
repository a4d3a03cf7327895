"""Our architectures against independent computations: torch's own modules, transformers' GPT-2, loops written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

import llmctl.models.auto  # noqa: F401
from llmctl import registry
from llmctl.models import attention, library, lstm, lstm_classifier, lstm_seq2seq, rnn
from llmctl.models.architectures import ATTENTION, LSTM, LSTM_CLASSIFIER, LSTM_SEQ2SEQ, RNN
from llmctl.models.lstm_seq2seq import LSTMForConditionalGeneration
from llmctl.models.reader import Reader
from llmctl.models.spec import ModelSpec, Shape, Vocabulary
from llmctl.types import MODALITY

VOCABULARY = Vocabulary(50, 0, 1, 2)
LABELS = ("bad", "good", "so-so")
NAMES = [
    entry.name for entry in registry.entries("models") if MODALITY[registry.load("models", entry.name).family] == "text"
]
"""The models of texts; those of recordings are in `test_speech.py`."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def ids(rows: int = 3, tokens: int = 9) -> Tensor:
    return torch.randint(3, 50, (rows, tokens))


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)


def test_the_recurrence_with_tanh_is_torch_s_rnn() -> None:
    model = rnn.build(RNN.shape("nano", Shape(layers=2, hidden=24, embedding=16)), VOCABULARY)
    theirs = nn.RNN(16, 24, 2, batch_first=True)
    for layer, ours in enumerate(model.layers):
        weights = {"weight_ih": ours.W.weight, "weight_hh": ours.U.weight, "bias_ih": ours.W.bias}
        for name, weight in (weights | {"bias_hh": torch.zeros(24)}).items():
            getattr(theirs, f"{name}_l{layer}").data.copy_(weight)
    x = torch.randn(3, 9, 16)
    ours_h, state = model.read(x, None, None)
    theirs_h, last = theirs(x)
    close(ours_h, theirs_h)
    close(state.tensors[0], last)
    ours_h.square().sum().backward()
    theirs_h.square().sum().backward()
    close(model.layers[0].U.weight.grad, theirs.weight_hh_l0.grad, atol=1e-4)


def test_the_recurrence_with_sigmoid_is_its_formula() -> None:
    model = rnn.build(RNN.shape("nano", Shape(hidden=24, embedding=16, activation="sigmoid")), VOCABULARY)
    x = torch.randn(3, 9, 16)
    layer, h = model.layers[0], torch.zeros(3, 24)
    for t in range(9):
        h = 1 / (1 + torch.exp(-(x[:, t] @ layer.W.weight.T + layer.W.bias + h @ layer.U.weight.T)))
        close(model.read(x, None, None)[0][:, t], h)


def test_the_lstm_is_its_formula() -> None:
    model = lstm.build(LSTM.shape("nano", Shape(hidden=24, embedding=16)), VOCABULARY)
    x = torch.randn(3, 9, 16)
    w, u = model.lstm.weight_ih_l0, model.lstm.weight_hh_l0
    b = model.lstm.bias_ih_l0 + model.lstm.bias_hh_l0
    assert b.tolist() == [0.0] * 24 + [1.0] * 24 + [0.0] * 48  # the forget gate begins open
    h = c = torch.zeros(3, 24)
    ours, state = model.read(x, None, None)
    for t in range(9):
        i, f, g, o = (x[:, t] @ w.T + h @ u.T + b).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        close(ours[:, t], h)
    close(state.tensors[1][0], c)


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_logits_are_the_token_vectors_times_what_was_read(name: str) -> None:
    spec: ModelSpec = registry.load("models", name)
    model = spec.build(spec.shape("nano", Shape(hidden=24, embedding=16)), VOCABULARY)
    tokens = ids()
    h, _ = model.read(4.0 * model.tokens.weight[tokens], None, None)  # 4 = √16
    close(model(tokens).logits, model.narrow(h) @ model.tokens.weight.T + model.lm_head.bias)


def small_attention() -> attention.AttentionForCausalLM:
    return attention.build(ATTENTION.shape("nano", Shape(layers=2, hidden=32, inner=48, context=20)), VOCABULARY)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Vaswani et al. 2017, equation 1, query by query."""
    out = torch.zeros_like(q)
    for t in range(q.shape[2]):
        scores = (k[:, :, : t + 1] * q[:, :, t : t + 1]).sum(-1) / math.sqrt(q.shape[-1])  # (B, N, t+1)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        out[:, :, t] = (weights[..., None] * v[:, :, : t + 1]).sum(2)
    return out


@pytest.mark.parametrize("bfloat16", [False, True])
def test_attention_is_its_formula(bfloat16: bool) -> None:
    q, k, v = (torch.randn(2, 4, 9, 8) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        close(attention.attend(q, k, v, None, 0.0), plain_attention(q, k, v))


def gpt2_with_the_weights_of(model: attention.AttentionForCausalLM) -> Any:
    shape = ATTENTION.shape("nano", Shape(layers=2, hidden=32, inner=48, context=20))
    theirs = library.gpt2(shape, VOCABULARY).eval()
    body = theirs.transformer
    pairs = [(body.wte, model.tokens), (body.wpe, model.positions), (body.ln_f, model.norm)]
    for block, ours in zip(body.h, model.blocks, strict=True):
        pairs += [
            (block.ln_1, ours.norm_attention),
            (block.attn.c_attn, ours.attention.qkv),
            (block.attn.c_proj, ours.attention.out),
            (block.ln_2, ours.norm_mlp),
            (block.mlp.c_fc, ours.up),
            (block.mlp.c_proj, ours.down),
        ]
    with torch.no_grad():
        for target, source in pairs:
            turned = isinstance(source, nn.Linear)  # GPT-2 keeps its matrices the other way round
            target.weight.copy_(source.weight.T if turned else source.weight)
            if getattr(source, "bias", None) is not None:
                target.bias.copy_(source.bias)
    return theirs


def test_attention_with_gpt2_s_weights_is_gpt2() -> None:
    ours = small_attention().eval()
    theirs = gpt2_with_the_weights_of(ours)
    tokens = ids(3, 20)
    close(ours(tokens).logits, theirs(tokens).logits)
    close(ours(tokens, labels=tokens).loss, theirs(tokens, labels=tokens).loss)
    mask = torch.ones_like(tokens)
    mask[1, :6] = 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    padded = theirs(tokens, attention_mask=mask, position_ids=places).logits
    close(ours(tokens, attention_mask=mask).logits[mask.bool()], padded[mask.bool()])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_reader_is_torch_s_packed_lstm(bidirectional: bool) -> None:
    reader = Reader(16, 24, 2, bidirectional=bidirectional, dropout=0.0)
    theirs = nn.LSTM(16, 24, 2, batch_first=True, bidirectional=bidirectional)
    for suffix, ours in (("", reader.forwards), ("_reverse", reader.backwards)):
        for layer, each in enumerate(ours):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(theirs, f"{name}_l{layer}{suffix}").data.copy_(getattr(each, f"{name}_l0"))
    x, lengths = torch.randn(3, 9, 16), torch.tensor([9, 5, 1])
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    packed, (h, _) = theirs(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
    expected, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    y, ends = reader(x, mask)
    close(y[mask.bool()], expected[mask.bool()])
    close(ends, torch.cat([h[-2], h[-1]], 1) if bidirectional else h[-1])
    # padding before the tokens instead of behind them
    shifted = torch.stack([row.roll(9 - int(length), 0) for row, length in zip(x, lengths, strict=True)])
    left, left_ends = reader(shifted, mask.flip(1))
    close(left[mask.flip(1).bool()], expected[mask.bool()])
    close(left_ends, ends)


def small_translator(score: str = "dot") -> LSTMForConditionalGeneration:
    shape = LSTM_SEQ2SEQ.shape("nano", Shape.model_validate({"layers": 2, "hidden": 24, "score": score}))
    return lstm_seq2seq.build(shape, VOCABULARY).eval()


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_attention_over_the_source_is_its_formula(score: str) -> None:
    """Bahdanau et al. 2015, appendix A.1.2, and Luong et al. 2015, equations 7 and 8 (general, scaled), one by one."""
    attend = small_translator(score).attention
    h, memory, mask = torch.randn(1, 4, 24), torch.randn(1, 6, 24), torch.tensor([[1, 1, 1, 1, 0, 0]])
    context, weights = attend(h, memory, mask)
    for t in range(4):
        query = attend.query.weight @ h[0, t]
        scores = []
        for s in range(4):
            if score == "additive":
                scores.append(attend.v.weight[0] @ torch.tanh(query + attend.key.weight @ memory[0, s]))
            else:
                scores.append(query @ memory[0, s] / math.sqrt(24))
        expected = torch.stack(scores).softmax(0)
        close(weights[0, t], torch.cat([expected, torch.zeros(2)]))
        close(context[0, t], expected @ memory[0, :4])


@pytest.mark.parametrize("score", ["dot", "additive"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_the_source_changes_nothing(score: str, side: str) -> None:
    model, source, target = small_translator(score), ids(3, 7), ids(3, 5)
    alone = model(source, labels=target, output_attentions=True)
    padding, ones = torch.zeros(3, 4, dtype=torch.long), torch.ones_like(source)
    joined = (lambda a, b: torch.cat([b, a], 1)) if side == "left" else (lambda a, b: torch.cat([a, b], 1))
    padded = model(joined(source, padding), attention_mask=joined(ones, padding), labels=target, output_attentions=True)
    close(padded.logits, alone.logits)
    close(padded.loss, alone.loss)
    kept = padded.cross_attentions[0][..., 4:] if side == "left" else padded.cross_attentions[0][..., :7]
    close(kept, alone.cross_attentions[0])


def test_the_translator_learns_its_target_and_nothing_of_what_is_ignored() -> None:
    model, source, target = small_translator(), ids(3, 7), ids(3, 5)
    target[1, 3:] = -100
    out = model(source, labels=target)
    seen = target[:, :-1].masked_fill(target[:, :-1] == -100, VOCABULARY.pad)
    read = torch.cat([torch.full((3, 1), VOCABULARY.bos), seen], 1)
    explicit = model(source, decoder_input_ids=read)
    close(out.logits[target != -100], explicit.logits[target != -100])
    close(out.loss, F.cross_entropy(explicit.logits[target != -100], target[target != -100]))
    features = model.features(source, decoder_input_ids=read)
    close(model.get_output_embeddings()(features), explicit.logits)


@pytest.mark.parametrize("pooling", ["max", "last"])
def test_one_sigmoid_output_is_two_logits_and_its_loss_binary_cross_entropy(pooling: str) -> None:
    shape = LSTM_CLASSIFIER.shape(
        "nano", Shape(hidden=12, embedding=16, bidirectional=False, head="sigmoid", pooling=pooling)
    )
    model = lstm_classifier.build(shape, VOCABULARY, ("bad", "good")).eval()
    assert model.classifier.weight.shape == (1, 12)
    ids, mask = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    wanted = torch.tensor([1, 0])
    out = model(input_ids=ids, attention_mask=mask, labels=wanted)
    states, _ = model.reader(model.scale * model.tokens(ids), mask)
    ends = torch.stack([states[0, 3], states[1, 1]])
    read = ends if pooling == "last" else torch.stack([states[0].max(0).values, states[1, :2].max(0).values])
    score = model.classifier(read)[:, 0]
    close(out.logits.softmax(-1)[:, 1], score.sigmoid())
    close(out.loss, torch.nn.functional.binary_cross_entropy_with_logits(score, wanted.float()))


def test_the_classifier_is_the_maximum_over_the_tokens_alone() -> None:
    model = lstm_classifier.build(LSTM_CLASSIFIER.shape("nano", Shape(hidden=12, embedding=16)), VOCABULARY, LABELS)
    tokens = ids(3, 9)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    logits = model(tokens, attention_mask=mask).logits
    y, _ = model.reader(4.0 * model.tokens(tokens[1:2, :4]), mask[1:2, :4])
    close(logits[1], model.classifier(y[0].max(0).values))
    close(logits[:1], model(tokens[:1]).logits)
    labels = torch.tensor([2, -100, 0])
    close(model(tokens, attention_mask=mask, labels=labels).loss, F.cross_entropy(logits[[0, 2]], labels[[0, 2]]))
    assert model.config.label2id == {"bad": 0, "good": 1, "so-so": 2}


def tiny(name: str, **settings: Any) -> Any:
    spec: ModelSpec = registry.load("models", name)
    return spec.build(spec.shape("nano", Shape.model_validate(settings)), VOCABULARY, LABELS)


AUTO = {
    "rnn": AutoModelForCausalLM,
    "lstm": AutoModelForCausalLM,
    "attention": AutoModelForCausalLM,
    "lstm-seq2seq": AutoModelForSeq2SeqLM,
    "lstm-classifier": AutoModelForSequenceClassification,
}


@pytest.mark.parametrize("name", AUTO)
def test_the_auto_classes_give_back_the_same_model(name: str, tmp_path: Path) -> None:
    model = tiny(name, layers=2, dropout=0.1).eval()
    model.save_pretrained(tmp_path)
    again = AUTO[name].from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(again) is type(model)
    batch = {"input_ids": ids()} | ({"decoder_input_ids": ids()} if name == "lstm-seq2seq" else {})
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=0)


def batch_for(name: str, rows: int = 8) -> dict[str, Tensor]:
    tokens = ids(rows, 12)
    if name in ("bert", "lstm-classifier"):
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": torch.arange(rows) % 3}
    if name == "lstm-seq2seq":
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": ids(rows, 10)}
    return {"input_ids": tokens, "labels": tokens}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_under_bfloat16_autocast_is_near_that_in_float32(name: str) -> None:
    model, batch = tiny(name, layers=2), batch_for(name)
    gradients, losses = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(**batch).loss
        loss.backward()
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.requires_grad]))
        losses.append(loss.item())
        model.zero_grad()
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


@pytest.mark.parametrize("labels", [(), LABELS])
def test_bert_s_places_begin_as_sines_and_cosines_and_are_learned(labels: tuple[str, ...]) -> None:
    model = library.bert(Shape(layers=1, hidden=32, heads=2, context=40, inner=64, dropout=0.0), VOCABULARY, labels)
    places = model.bert.embeddings.position_embeddings.weight
    for place in (0, 1, 7, 39):
        turns = [place / 10_000 ** (2 * pair / 32) for pair in range(16)]
        waves = [wave(turn) for turn in turns for wave in (math.sin, math.cos)]
        close(places[place] / places[place].norm(), torch.tensor(waves) / 4)  # 16 pairs of sin² + cos²
    assert places.square().mean().sqrt().item() == pytest.approx(model.config.initializer_range)
    assert places.requires_grad


@pytest.mark.parametrize("name", [*NAMES, "rnn-sigmoid", "lstm-seq2seq-additive"])
def test_eight_sequences_are_learned_by_heart(name: str) -> None:
    settings: dict[str, Any] = {"hidden": 64} if name not in ("attention", "gpt2", "llama", "bert") else {}
    for architecture, key in (("rnn-sigmoid", "activation"), ("lstm-seq2seq-additive", "score")):
        if name == architecture:
            settings[key] = name.rpartition("-")[2]
            name = name.rpartition("-")[0]
    model, batch = tiny(name, **settings), batch_for(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3 if settings else 2e-3, weight_decay=0.0)
    first = model(**batch).loss.item()
    for _ in range(80):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    classes = len(LABELS) if name in ("bert", "lstm-classifier") else VOCABULARY.size
    assert first == pytest.approx(math.log(classes), rel=0.35)  # nothing known at the start
    assert loss.item() < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_dropout_drops_while_training_alone(name: str) -> None:
    model, batch = tiny(name, layers=2, dropout=0.4), batch_for(name)
    model.train()
    assert model(**batch).loss.item() != model(**batch).loss.item()
    model.eval()
    assert model(**batch).loss.item() == model(**batch).loss.item()
