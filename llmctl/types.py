"""Plain data types shared across packages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Family = Literal["decoder", "encoder-decoder", "encoder", "ctc", "speech-seq2seq"]
"""Architecture family: decoders continue a text, encoder-decoders map a text to another, encoders read a full text. Of
models that hear, `ctc` labels each moment of a recording, `speech-seq2seq` writes its transcript."""

Modality = Literal["text", "audio"]
"""What a model or a task reads; all write text."""

MODALITY: Final[Mapping[Family, Modality]] = {
    "decoder": "text",
    "encoder-decoder": "text",
    "encoder": "text",
    "ctc": "audio",
    "speech-seq2seq": "audio",
}
"""What models of each family read."""

Precision = Literal["fp32", "bf16"]
"""Compute precision."""

IGNORED: Final = -100
"""The label of a position excluded from the loss."""

Role = Literal[
    "text", "source", "target", "label", "system", "user", "assistant", "rejected", "tools", "calls", "tool", "template"
]
"""The role of a segment in its record; it decides which control tokens a layout adds.

`rejected`: the answer of a pair that is not preferred. Of a conversation with tools: `tools` on offer and `calls` of the
assistant, both as JSON, and what a `tool` answers. `template`: what a chat template writes around the texts of such a
conversation; names of control tokens in it are control tokens, and a record with it needs none added.
"""
TOOL_ROLES: Final = ("tools", "calls", "tool")
"""Roles that only a chat template expresses."""
TOOL_JSON: Final = ("tools", "calls")
"""Those whose texts are JSON."""
TURNS: Final = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "data")
"""Columns with the turns of a conversation."""


@dataclass(frozen=True, slots=True)
class Audio:
    """A recording: a file or, with `data`, the content of one. `path` is then the name it had."""

    path: str
    data: bytes | None = field(default=None, repr=False)


class Hearing(NamedTuple):
    """What a speech model reads: log-mel features or samples, and how they relate to its output."""

    bands: int
    """Mel bands; 0: samples."""
    max_seconds: float | None = None
    """Longest recording, None for no limit."""
    padded: bool = False
    """Whether every recording is filled with silence up to `max_seconds`."""
    stride: int = 1
    """Frames of 10 ms in an output frame of a `ctc` model."""


class AudioWindow(NamedTuple):
    """A stretch of a recording as a model reads it: its place in seconds, and features (bands, frames) or samples."""

    start: float
    end: float
    features: NDArray[np.float32]


class Spoken(NamedTuple):
    """What is said between two moments of a recording, in seconds."""

    start: float
    end: float
    text: str


class Denoising(NamedTuple):
    """Denoising objective of encoders and encoder-decoders on plain text; see `data/examples/noising.py`."""

    scheme: Literal["masked", "spans", "infilling"]
    noise_density: float
    """Fraction of tokens that are corrupted."""


@dataclass(frozen=True, slots=True)
class Record:
    """One input record, with the field names of its task. `origin` is `file:line`."""

    id: str
    fields: Mapping[str, Any]
    origin: str = ""


@dataclass(slots=True)
class Adapting:
    """How records in other layouts than a task's own are read, and counts of what that did."""

    tool_calls: Literal["template", "fail", "drop"] = "template"
    """Turns of tools and calls of them: keep them for a chat template, refuse the record, or leave them out."""
    layouts: Counter[str] = field(default_factory=Counter)
    """Records by layout, where it is not the task's own."""
    changed: Counter[str] = field(default_factory=Counter)
    """Records of which something was changed or left out, by what."""
    turns: Counter[str] = field(default_factory=Counter)
    """Turns of conversations that are left out or not learned, by what `changed` calls that."""
    unused: Counter[str] = field(default_factory=Counter)
    """Records with a field that is not read, by field."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of plain text with one role, or with `audio` a recording; `text` is then its name. `in_loss`: its tokens
    count in the loss."""

    role: Role
    text: str
    in_loss: bool = False
    audio: Audio | None = None


class Tokens(NamedTuple):
    """A tokenized segment: its role, token ids, and whether they count in the loss."""

    role: Role
    ids: Any  # a sequence of int: a list, a tuple or a one-dimensional integer array
    in_loss: bool


class Examples(Protocol):
    """A split as a sequence of examples: has a length and returns the arrays of any subset."""

    def __len__(self) -> int: ...

    def lengths(self) -> NDArray[np.int64]:
        """Length of every example in tokens, shape (examples,); used for sorting."""
        ...

    def arrays(self, indices: Sequence[int], epoch: int = 0) -> dict[str, NDArray[Any]]:
        """Model inputs of these examples: `input_ids` or `input_features`, `labels`, and `attention_mask` if there is
        padding; of preference pairs also `reference`.

        `epoch` selects the random corruption of a denoising objective; other examples are the same in every epoch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wording:
    """A prompt in words, for a server that lays it out itself.

    `messages` (role, content) of a conversation, or `text` to be continued; `fields` of the record, for a server that knows
    the `task`. `answer`: for `score` only, the continuation of `text`. `window`, `stride`: in tokens, for the same; None: those
    of the server.
    """

    task: str
    fields: Mapping[str, Any]
    messages: tuple[tuple[str, str], ...] = ()
    text: str = ""
    answer: str = ""
    window: int | None = None
    stride: int | None = None


BLANKS: Final = " \t\n\r"


class Opening(NamedTuple):
    """Blanks at the end of a prompt, with which an answer can begin in their place. `ids`: the prompt without them."""

    ids: tuple[int, ...]
    blanks: str


@dataclass(frozen=True, slots=True)
class Request:
    """An engine request in token ids, laid out for the model's family; to a server, in words.

    `input_ids`   decoder: the full prompt; encoder-decoder: the source; encoder: the text.
    `answer_ids`  for `score` only: the continuation (or target) to score; encoder: the index of a label.
    """

    id: str
    input_ids: tuple[int, ...]
    answer_ids: tuple[int, ...] = ()
    windows: Callable[[], Iterator[AudioWindow]] | None = field(default=None, compare=False)
    """Of a recording: opens it and yields it window by window."""
    place: int | None = None
    """The number by which its random numbers are drawn; default: its place among the requests."""
    opening: Opening | None = None
    """Of a text to be continued that ends in blanks; see `engines.healing`."""
    wording: Wording | None = None
    """For a server; `input_ids` are then empty."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request that fits the context. `cut`: what of its prompt was cut off, by unit; empty for nothing."""

    request: Request
    cut: Mapping[str, int] = field(default_factory=dict)


class AnswerToken(NamedTuple):
    """A generated token. `logprob`: its log-probability in nats before temperature and filters, None where that was not
    asked for; `top`: the most likely tokens in its place with theirs, best first; `before`: what its text begins with that
    belongs to the prompt."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    before: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """A generated answer. `tokens` counts generated tokens, without the end token; `sample` numbers the answers to one
    request, from 0."""

    id: str
    text: str
    finish_reason: Literal["stop", "length", "label"]
    tokens: int
    sample: int = 0
    token_logprobs: tuple[AnswerToken, ...] = ()
    """The generated tokens, where log-probabilities were asked for; as many as `tokens`."""
    spoken: tuple[Spoken, ...] = ()
    """Of a recording: the text with its times."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """log p(answer | input): `logprob` in nats, summed over `tokens` tokens (a label is one).

    `bytes`: the UTF-8 bytes of the answer, where a server laid out the record; None: whoever asked knows them.
    """

    id: str
    logprob: float
    tokens: int
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The input of a metric: a prediction with its references.

    Text metrics read `prediction` and `references`; likelihood metrics read `logprob` (nats), `tokens` and `bytes`;
    preference metrics read `reward_margin`.
    """

    id: str
    prediction: str = ""
    references: tuple[str, ...] = ()
    logprob: float = 0.0
    tokens: int = 0
    bytes: int = 0
    reward_margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and how it was computed."""

    level: float
    low: float
    high: float
    method: str
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Score:
    """A metric value with its signature; two values are comparable only if their signatures are equal.

    `value` is on the `scale` of the reference library (for example `0-100`, `0-1`, `perplexity`, `bits`).
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
    """A progress report of a running verb: shown on the terminal and written by `--events`."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


EventSink = Callable[[Event], None]
"""Receives the events of a workflow."""


def null_sink(event: Event) -> None:
    """An `EventSink` that discards events."""
