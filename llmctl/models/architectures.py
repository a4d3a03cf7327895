"""The built-in architectures: family, sizes and number of weights of each. Imported where a name leads to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.models import counts
from llmctl.models.spec import ModelSpec, Shape


def _transformer(layers: int, hidden: int, heads: int, context: int, **more: Any) -> Shape:
    return Shape(layers=layers, hidden=hidden, heads=heads, context=context, dropout=0.0, **more)


def _relative(layers: int, hidden: int, heads: int, **more: Any) -> Shape:
    """A shape with relative positions and therefore no length limit."""
    return Shape(layers=layers, hidden=hidden, heads=heads, dropout=0.0, **more)


def _decoder_sizes(inner: Mapping[str, int]) -> dict[str, Shape]:
    """The same layers, width, heads and context for each size in every decoder, so that they are comparable."""
    return {
        "nano": _transformer(3, 128, 4, 256, inner=inner["nano"]),
        "tiny": _transformer(4, 256, 4, 512, inner=inner["tiny"]),
        "small": _transformer(6, 320, 5, 512, inner=inner["small"]),
        "base": _transformer(12, 768, 12, 1024, inner=inner["base"]),
    }


_FOUR_TIMES = {"nano": 512, "tiny": 1024, "small": 1280, "base": 3072}
_EIGHT_THIRDS = {"nano": 344, "tiny": 688, "small": 856, "base": 2048}


def _recurrent(layers: int, hidden: int, embedding: int, **more: Any) -> Shape:
    return Shape(layers=layers, hidden=hidden, embedding=embedding, dropout=0.0, **more)


RNN = ModelSpec(
    name="rnn",
    family="decoder",
    summary="Elman recurrence h_t = σ(W x_t + U h_{t-1} + b), softmax over the vocabulary",
    reference="Elman, Finding Structure in Time, Cognitive Science 14 (1990)",
    sizes={
        "nano": _recurrent(1, 256, 128, activation="tanh"),
        "tiny": _recurrent(2, 384, 256, activation="tanh"),
        "small": _recurrent(2, 768, 320, activation="tanh"),
        "base": _recurrent(3, 1536, 768, activation="tanh"),
    },
    implementation="llmctl.models.rnn:build",
    weights=counts.rnn,
    learning_rate=6e-3,
    ungated=True,
)

LSTM = ModelSpec(
    name="lstm",
    family="decoder",
    summary="embedding, stacked LSTM, softmax over the vocabulary",
    reference="Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9 (1997)",
    sizes={
        "nano": _recurrent(1, 256, 128),
        "tiny": _recurrent(2, 384, 256),
        "small": _recurrent(2, 768, 320),
        "base": _recurrent(3, 1536, 768),
    },
    implementation="llmctl.models.lstm:build",
    weights=counts.lstm,
    learning_rate=6e-3,
)

ATTENTION = ModelSpec(
    name="attention",
    family="decoder",
    summary="multi-head scaled dot-product self-attention, a readable implementation",
    reference="Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762",
    sizes=_decoder_sizes(_FOUR_TIMES),
    implementation="llmctl.models.attention:build",
    weights=counts.attention,
    learning_rate=2e-3,
)

GPT2 = ModelSpec(
    name="gpt2",
    family="decoder",
    summary="GPT-2 (transformers implementation)",
    reference="Radford et al., Language Models are Unsupervised Multitask Learners, OpenAI 2019",
    sizes=_decoder_sizes(_FOUR_TIMES),
    implementation="llmctl.models.library:gpt2",
    weights=counts.gpt2,
    learning_rate=2e-3,
)

LLAMA = ModelSpec(
    name="llama",
    family="decoder",
    summary="Llama: rotary positions, RMS norm, gated MLP (transformers implementation)",
    reference="Touvron et al., LLaMA, 2023, arXiv:2302.13971",
    sizes=_decoder_sizes(_EIGHT_THIRDS),
    implementation="llmctl.models.library:llama",
    weights=counts.llama,
    head_multiple=2,
)

LSTM_SEQ2SEQ = ModelSpec(
    name="lstm-seq2seq",
    family="encoder-decoder",
    summary="LSTM encoder, LSTM decoder with attention over the source",
    reference="Bahdanau, Cho and Bengio, 2015, arXiv:1409.0473; Luong, Pham and Manning, 2015, arXiv:1508.04025",
    sizes={
        "nano": _recurrent(1, 192, 128, score="additive"),
        "tiny": _recurrent(2, 384, 256, score="additive"),
        "small": _recurrent(2, 768, 320, score="dot"),
        "base": _recurrent(4, 1024, 768, score="dot"),
    },
    implementation="llmctl.models.lstm_seq2seq:build",
    weights=counts.lstm_seq2seq,
    learning_rate=6e-3,
)

_CLASSIFIER: dict[str, Any] = {"bidirectional": True, "pooling": "max", "head": "softmax"}

LSTM_CLASSIFIER = ModelSpec(
    name="lstm-classifier",
    family="encoder",
    summary="embedding, LSTM, linear layer over the labels",
    reference="Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9 (1997)",
    sizes={
        "nano": _recurrent(1, 128, 128, **_CLASSIFIER),
        "tiny": _recurrent(1, 256, 256, **_CLASSIFIER),
        "small": _recurrent(2, 384, 320, **_CLASSIFIER),
        "base": _recurrent(2, 768, 512, **_CLASSIFIER),
    },
    implementation="llmctl.models.lstm_classifier:build",
    weights=counts.lstm_classifier,
    learning_rate=3e-3,
    labels_only=True,
)

BERT = ModelSpec(
    name="bert",
    family="encoder",
    summary="BERT: masked language modelling, classification (transformers implementation)",
    reference="Devlin et al., BERT, NAACL 2019, arXiv:1810.04805; small shapes after Turc et al., arXiv:1908.08962",
    sizes={
        "nano": _transformer(2, 128, 2, 512, inner=512),
        "tiny": _transformer(4, 256, 4, 512, inner=1024),
        "small": _transformer(4, 512, 8, 512, inner=2048),
        "base": _transformer(12, 768, 12, 512, inner=3072),
    },
    implementation="llmctl.models.library:bert",
    weights=counts.bert,
    learning_rate=5e-4,
)

CTC = ModelSpec(
    name="ctc",
    family="ctc",
    summary="speech recognition: convolutions, bidirectional LSTM, connectionist temporal classification",
    reference="Graves et al., Connectionist Temporal Classification, ICML 2006; Amodei et al., arXiv:1512.02595",
    sizes={
        "nano": _recurrent(2, 128, 128),
        "tiny": _recurrent(3, 256, 256),
        "small": _recurrent(4, 384, 384),
        "base": _recurrent(5, 768, 768),
    },
    implementation="llmctl.models.ctc:build",
    weights=counts.ctc,
    learning_rate=3e-3,
)

WHISPER = ModelSpec(
    name="whisper",
    family="speech-seq2seq",
    summary="Whisper: log-mel features of 30 s, transformer encoder and decoder (transformers implementation)",
    reference="Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, arXiv:2212.04356",
    sizes={
        "nano": _transformer(2, 128, 2, 448, inner=512),
        "tiny": _transformer(4, 384, 6, 448, inner=1536),
        "small": _transformer(12, 768, 12, 448, inner=3072),
        "base": _transformer(6, 512, 8, 448, inner=2048),
    },
    implementation="llmctl.models.library:whisper",
    weights=counts.whisper,
)

T5 = ModelSpec(
    name="t5",
    family="encoder-decoder",
    summary="T5: relative positions, RMS norm (transformers implementation)",
    reference="Raffel et al., T5, JMLR 21 (2020), arXiv:1910.10683; tiny as in Tay et al., 2022, arXiv:2109.10686",
    sizes={
        "nano": _relative(2, 128, 4, inner=512),
        "tiny": _relative(4, 256, 4, inner=1024),
        "small": _relative(6, 512, 8, inner=2048),
        "base": _relative(12, 768, 12, inner=3072),
    },
    implementation="llmctl.models.library:t5",
    weights=counts.t5,
)

MARIAN = ModelSpec(
    name="marian",
    family="encoder-decoder",
    summary="Marian: sinusoidal positions, as in the opus-mt models (transformers implementation)",
    reference="Junczys-Dowmunt et al., Marian, ACL 2018, arXiv:1804.00344; Tiedemann and Thottingal, OPUS-MT, EAMT 2020",
    sizes={
        "nano": _transformer(2, 128, 4, 512, inner=512),
        "tiny": _transformer(3, 256, 4, 512, inner=1024),
        "small": _transformer(4, 384, 6, 512, inner=1536),
        "base": _transformer(6, 512, 8, 512, inner=2048),
    },
    implementation="llmctl.models.library:marian",
    weights=counts.marian,
)

BART = ModelSpec(
    name="bart",
    family="encoder-decoder",
    summary="BART: learned positions (transformers implementation)",
    reference="Lewis et al., BART, ACL 2020, arXiv:1910.13461",
    sizes={
        "nano": _transformer(2, 128, 4, 512, inner=512),
        "tiny": _transformer(3, 256, 4, 512, inner=1024),
        "small": _transformer(4, 512, 8, 1024, inner=2048),
        "base": _transformer(6, 768, 12, 1024, inner=3072),
    },
    implementation="llmctl.models.library:bart",
    weights=counts.bart,
)
