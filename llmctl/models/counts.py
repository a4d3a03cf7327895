"""The number of weights of a shape, by arithmetic; a test compares each count with the built model.

Letters: V vocabulary, C labels or, in a transformer, its context; E width of token vectors, H hidden width, I width
inside the MLP, R width of a bidirectional reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol


class Sizes(Protocol):
    """The settings of a `Shape` that affect the count; each architecture reads those it has."""

    layers: int
    hidden: int
    heads: int
    context: int
    embedding: int
    inner: int
    score: Literal["additive", "dot"]
    bidirectional: bool
    head: Literal["softmax", "sigmoid"]


Count = Callable[[Any, int, int], int]
"""(shape, vocabulary size, number of labels) -> number of weights, tied ones counted once."""


def rnn(s: Sizes, vocabulary: int, labels: int) -> int:
    """Token vectors, recurrent layers, the projection back to the width of the token vectors, the head's bias."""
    e, h = s.embedding, s.hidden
    return vocabulary * e + sum(_linear(i, h) + h * h for i in _inputs(e, h, s.layers)) + _linear(h, e) + vocabulary


def lstm(s: Sizes, vocabulary: int, labels: int) -> int:
    """Like `rnn`, with LSTM layers."""
    e, h = s.embedding, s.hidden
    return vocabulary * e + sum(_lstm(i, h) for i in _inputs(e, h, s.layers)) + _linear(h, e) + vocabulary


def attention(s: Sizes, vocabulary: int, labels: int) -> int:
    """Token and position vectors, layers, the final norm; tied head."""
    h = s.hidden
    return (vocabulary + s.context) * h + s.layers * _block(h, s.inner) + 2 * h


gpt2 = attention
"""`attention` has the shape of GPT-2."""


def llama(s: Sizes, vocabulary: int, labels: int) -> int:
    """Layers with four square projections, a gated MLP of three matrices and two norms; no biases; tied head."""
    h = s.hidden
    return vocabulary * h + s.layers * (4 * h * h + 3 * h * s.inner + 2 * h) + h


def bert(s: Sizes, vocabulary: int, labels: int) -> int:
    """Token, position and two segment vectors with a norm; layers; pooler and classifier or, without labels, the
    transform, norm and bias around the tied head."""
    h = s.hidden
    body = (vocabulary + s.context + 2) * h + 2 * h + s.layers * _block(h, s.inner)
    return body + _linear(h, h) + (_linear(h, labels) if labels else 2 * h + vocabulary)


def t5(s: Sizes, vocabulary: int, labels: int) -> int:
    """Tied token vectors; encoder layers, and decoder layers with cross-attention, without biases; RMS norms; in the
    first layer of each, 32 relative position biases per head."""
    h = s.hidden
    square, mlp = 4 * h * h, 2 * h * s.inner
    layers = s.layers * ((square + mlp + 2 * h) + (2 * square + mlp + 3 * h))
    return vocabulary * h + layers + 2 * 32 * s.heads + 2 * h


def marian(s: Sizes, vocabulary: int, labels: int) -> int:
    """Tied token vectors, the sinusoids of encoder and decoder (stored as frozen weights), layers."""
    return vocabulary * s.hidden + 2 * s.context * s.hidden + _both_sides(s)


def bart(s: Sizes, vocabulary: int, labels: int) -> int:
    """Tied token vectors, positions (context + 2) and a norm for encoder and decoder, layers."""
    return vocabulary * s.hidden + 2 * ((s.context + 2) * s.hidden + 2 * s.hidden) + _both_sides(s)


def lstm_seq2seq(s: Sizes, vocabulary: int, labels: int) -> int:
    """Bidirectional encoder with two projections to the decoder, decoder, attention, projection to the head, bias."""
    e, h = s.embedding, s.hidden
    encoder = _reader(e, h, s.layers, directions=2) + _linear(2 * h, h) + _linear(2 * h, s.layers * h)
    decoder = sum(_lstm(i, h) for i in _inputs(e, h, s.layers))
    score = h * h + (h * h + h if s.score == "additive" else 0)
    return vocabulary * e + encoder + decoder + score + _linear(2 * h, e) + vocabulary


def lstm_classifier(s: Sizes, vocabulary: int, labels: int) -> int:
    """Token vectors, reader, classifier."""
    directions = 2 if s.bidirectional else 1
    reader = _reader(s.embedding, s.hidden, s.layers, directions)
    return vocabulary * s.embedding + reader + _linear(directions * s.hidden, 1 if s.head == "sigmoid" else labels)


def ctc(s: Sizes, vocabulary: int, labels: int) -> int:
    """Two convolutions over 5 frames, the first of 80 mel bands; norm, bidirectional reader, head."""
    e = s.embedding
    convolutions = _linear(5 * 80, e) + _linear(5 * e, e) + 2 * e
    return convolutions + _reader(e, s.hidden, s.layers, directions=2) + _linear(2 * s.hidden, vocabulary)


def whisper(s: Sizes, vocabulary: int, labels: int) -> int:
    """Two convolutions over 3 frames, frozen sinusoids for 1,500 positions; tied token vectors, positions of the
    decoder; layers, whose projections of keys have no bias; final norms."""
    h = s.hidden
    convolutions = _linear(3 * 80, h) + _linear(3 * h, h) + 1500 * h
    return convolutions + (vocabulary + s.context) * h + _both_sides(s) - 3 * s.layers * h + 4 * h


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _lstm(inputs: int, hidden: int) -> int:
    """Four gates, each with torch's two biases."""
    return 4 * (inputs * hidden + hidden * hidden + 2 * hidden)


def _inputs(embedding: int, hidden: int, layers: int) -> list[int]:
    """The input width of each layer in a stack."""
    return [embedding] + [hidden] * (layers - 1)


def _reader(embedding: int, hidden: int, layers: int, directions: int) -> int:
    return directions * sum(_lstm(i, hidden) for i in _inputs(embedding, directions * hidden, layers))


def _block(hidden: int, inner: int) -> int:
    """A transformer layer with biases: q, k, v and output projections, MLP, two norms."""
    return 4 * _linear(hidden, hidden) + _linear(hidden, inner) + _linear(inner, hidden) + 4 * hidden


def _both_sides(s: Sizes) -> int:
    """The layers of an encoder and of a decoder with cross-attention and its norm."""
    return s.layers * (2 * _block(s.hidden, s.inner) + 4 * _linear(s.hidden, s.hidden) + 2 * s.hidden)
