"""The nouns that cross borders. They hold values and do nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Family = Literal["decoder", "encoder-decoder", "encoder"]
"""What a model can express: continue a text, turn a text into another, or read a text whole."""

Precision = Literal["fp32", "bf16"]
"""What a model computes in."""

IGNORED: Final = -100
"""The label of a position on which no loss is taken."""

Role = Literal["text", "source", "target", "label", "system", "user", "assistant"]
"""What a segment is to its record; a layout puts the control tokens that belong to it around it."""


class Denoising(NamedTuple):
    """How a model that is no decoder learns from plain text: see `data/corruption.py`."""

    scheme: Literal["masked", "spans", "infilling"]
    noise_density: float
    """Of the tokens, those that are taken away."""


@dataclass(frozen=True, slots=True)
class Record:
    """One input record as its task names it. `origin` is `file:line`."""

    id: str
    fields: Mapping[str, Any]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of plain text in one role. `in_loss`: the loss is taken on its tokens."""

    role: Role
    text: str
    in_loss: bool = False


class Tokens(NamedTuple):
    """A segment after tokenization: its role, token ids, and whether they are learned."""

    role: Role
    ids: Any  # a sequence of int: a list, a tuple or a one-dimensional integer array
    in_loss: bool


class Examples(Protocol):
    """A split as numbered examples: something that has a length and gives the arrays of some of them."""

    def __len__(self) -> int: ...

    def lengths(self) -> NDArray[np.int64]:
        """Length of every example in tokens, to sort by."""
        ...

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> dict[str, NDArray[np.int64]]:
        """Model inputs of these examples: `input_ids`, `labels`, and `attention_mask` where there is padding.

        `epoch`: for what is drawn anew each time that an example is seen; the others are the same in every epoch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked, in token ids and already laid out for the model's family.

    `input_ids`   decoder: the whole prompt; encoder-decoder: the source; encoder: the text.
    `answer_ids`  for `score` only: the continuation (or target) whose likelihood is wanted; encoder: a label's number.
    """

    id: str
    input_ids: tuple[int, ...]
    answer_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answers. `tokens` counts generated tokens; `sample` numbers several answers to one request."""

    id: str
    text: str
    finish_reason: Literal["stop", "length", "label"]
    tokens: int
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Likelihood:
    """log p(answer | input): `logprob` in nats, summed over `tokens` tokens (a label is one)."""

    id: str
    logprob: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a metric measures: a prediction beside everything that is right for it.

    Text metrics read `prediction` and `references`; likelihood metrics read `logprob` (nats), `tokens` and `bytes`.
    """

    id: str
    prediction: str = ""
    references: tuple[str, ...] = ()
    logprob: float = 0.0
    tokens: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, saying how it was made."""

    level: float
    low: float
    high: float
    method: str
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Score:
    """A number with its signature: two values are comparable only where their signatures agree.

    `value` is on the reference library's own `scale` (for example `0-100`, `0-1`, `perplexity`, `bits`).
    """

    metric: str
    value: float
    scale: str
    signature: str
    n: int
    higher_is_better: bool = True
    ci: Interval | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something a long verb tells while it works: a terminal shows it, `--events` writes it down."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


EventSink = Callable[[Event], None]
"""Where a workflow sends its events."""


def null_sink(event: Event) -> None:
    """A `EventSink` that nobody listens to."""
