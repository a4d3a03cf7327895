"""How the segments of a record become the token sequence of a model: the control tokens around plain text.

Text of a user is encoded as text, always: it can spell a control token and never become one. Control tokens are put
in by id, here and in `frames.py` alone. A style names an arrangement and is kept in the model folder, so that
generating and scoring ask exactly as training did:

    document   decoder           [bos] text … [eos]
    control    decoder           [bos] source [sep] … [sep] target [eos]; chat: [bos] ([role] text [eos])…
    template   decoder           the tokenizer's chat template: instruction and sources are one message of the user
    plain      decoder           [bos] source, instruction, target [eos], blank lines between: given weights that know
                                 no control tokens; chat: a line with the role before each turn
    pair       encoder-decoder   source [sep] … [eos] -> target [eos]
    single     encoder           [cls] text [sep]

What is longer than the context is cut by one rule. A conversation loses its last exchanges, whole (when it is asked:
its oldest). Then the longest text that is given loses its end. An answer loses its own end only where it fills the
context alone; the end of the sequence is then not learned, so that no model learns to stop in the middle.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from llmctl.data.frames import CHAT_TEMPLATES, NO_IDS, ChatFrame, ChatFrames, Ids, PromptFormat, is_chat
from llmctl.data.plain import control_tokens, plain_ids
from llmctl.data.spec import INSTRUCTION_FORMATS
from llmctl.types import Family, Segment, Tokens

__all__ = ["Ids", "Layout", "PromptFormat", "Sample", "layout_for", "prompt_format_for"]

Loss = Literal["nothing", "text", "answer"]
"""What of a record the context does not hold."""

ROOM: Final = 4
"""A quarter of the context is left for the answer where a prompt has to be cut and nobody says how long it may be."""


class Sample(NamedTuple):
    """One record as the model sees it.

    `input_ids`   (T,) decoder: prompt and answer; encoder-decoder: source; encoder: text
    `loss_mask`     (T,) bool, decoder only: whether the loss is taken on predicting this token
    `target_ids`  (U,) encoder-decoder only
    `label`       encoder only, else -1
    """

    input_ids: Ids
    loss_mask: NDArray[np.bool_]
    target_ids: Ids
    label: int = -1


def prompt_format_for(family: Family, tokenizer: Any, *, packed: bool) -> PromptFormat:
    """The arrangement for a family and a tokenizer. `packed`: documents are learned as they stand."""
    if family == "encoder-decoder":
        return "pair"
    if family == "encoder":
        return "single"
    if packed:
        return "document"
    if tokenizer.chat_template:
        return "template"
    own = tokenizer.backend_tokenizer.token_to_id("<|sep|>") is not None
    return "control" if own else "plain"


def layout_for(
    tokenizer: Any,
    family: Family,
    *,
    packed: bool,
    prompt_format: str | None = None,
    context: int | None = None,
    instruction: str = "",
) -> Layout:
    """The layout of a model. `prompt_format`: as its card says; None: the one that fits its tokenizer."""
    known = cast(PromptFormat, prompt_format) if prompt_format else prompt_format_for(family, tokenizer, packed=packed)
    return Layout(tokenizer, family, known, context=context, instruction=instruction)


class Layout:
    """Arranges segments for one tokenizer, family and style."""

    def __init__(
        self,
        tokenizer: Any,
        family: Family,
        prompt_format: PromptFormat,
        *,
        context: int | None = None,
        instruction: str = "",
    ) -> None:
        """`tokenizer`: a fast tokenizer of transformers. `context`: longest sequence, None for no limit.

        `instruction`: what a model is told to do with a record, in the styles `template` and `plain`.
        """
        self.tokenizer, self.family, self.prompt_format, self.context = tokenizer, family, prompt_format, context
        self.instruction = instruction if prompt_format in INSTRUCTION_FORMATS else ""
        self._backend = tokenizer.backend_tokenizer
        self._backend.encode_special_tokens = True
        template = tokenizer.chat_template
        self._control = frozenset(control_tokens(self._backend, template if isinstance(template, str) else ""))
        self._chat_frames = ChatFrames(tokenizer, prompt_format, self.instruction, self.encode)

    # -- text to ids ------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Plain text to ids; nothing in it becomes a control token."""
        return plain_ids(self._backend, text, self._control)

    def tokens(self, segments: Sequence[Segment]) -> list[Tokens]:
        return [Tokens(segment.role, self.encode(segment.text), segment.in_loss) for segment in segments]

    # -- what is learned --------------------------------------------------------------------------------------

    def sample(self, parts: Sequence[Tokens], label: int = -1) -> Sample:
        """A record's segments as a training example, cut to the context."""
        if self.family == "encoder":
            ids = self._text(_prompt_parts(parts))
            return Sample(ids, np.zeros(len(ids), bool), NO_IDS, label)
        if self.family == "encoder-decoder":
            return Sample(self._source(_prompt_parts(parts)), NO_IDS.astype(bool), self._target(parts))
        ids, loss_mask = self._arranged(self._within(parts, self.context))
        if self.context is not None and len(ids) > self.context:
            # The answer alone is too long. Where even that leaves nothing to learn, its end is shown instead.
            head = bool(loss_mask[: self.context].any())
            kept = slice(None, self.context) if head else slice(-self.context, None)
            ids, loss_mask = ids[kept], loss_mask[kept]
        return Sample(ids, loss_mask, NO_IDS)

    def loss(self, parts: Sequence[Tokens]) -> Loss:
        """What `sample` cannot keep of a record: nothing, some of the text that is given, or some of an answer."""
        if self.fits(parts):
            return "nothing"
        if self.family == "encoder":
            return "text"
        if self.family == "encoder-decoder":
            assert self.context is not None
            return "text" if len(self._whole_target(parts)) <= self.context else "answer"
        _, loss_mask = self._arranged(parts)
        return "text" if self.sample(parts).loss_mask.sum() == loss_mask.sum() else "answer"

    def fits(self, parts: Sequence[Tokens]) -> bool:
        """Whether `sample` keeps every token."""
        return self.context is None or self.length(parts) <= self.context

    def length(self, parts: Sequence[Tokens]) -> int:
        """Tokens of the longest sequence that a record makes, uncut."""
        if self.family == "decoder":
            return self._length(parts)
        prompt = _prompt_parts(parts)
        around = len(prompt) - 1 + (2 if self.family == "encoder" else 1)
        source = sum(len(part.ids) for part in prompt) + around
        return source if self.family == "encoder" else max(source, len(self._whole_target(parts)))

    # -- what is asked ----------------------------------------------------------------------------------------

    def prompt(self, segments: Sequence[Segment], *, room: int | None = None) -> tuple[int, ...]:
        """The ids that a model is given before it answers, cut to leave a decoder `room` tokens of its context for the
        answer (a quarter of it where None). A text to be continued is not cut."""
        return self.prompt_of(self.tokens([Segment(segment.role, segment.text) for segment in segments]), room=room)

    def prompt_of(self, parts: Sequence[Tokens], *, room: int | None = None) -> tuple[int, ...]:
        """The same of texts that are ids already."""
        if self.family == "encoder":
            return tuple(self._text(parts).tolist())
        if self.family == "encoder-decoder":
            return tuple(self._source(parts).tolist())
        if self.prompt_format == "document":
            return tuple(self._arranged(parts, add_generation_prompt=True)[0].tolist())
        if self.context is not None and self._length(parts, add_generation_prompt=True) >= self.context:
            room = max(1, self.context // ROOM) if room is None else room
        limit = None if self.context is None else max(1, self.context - (room or 0))
        ids, _ = self._arranged(self._within(parts, limit, add_generation_prompt=True), add_generation_prompt=True)
        return tuple(ids[-limit:].tolist() if limit is not None else ids.tolist())

    def answer(self, text: str) -> tuple[int, ...]:
        """The ids of an answer whose likelihood is wanted, its end included."""
        return (*self.encode(text), *self._chat_frames.answer_end.tolist())

    def chat_template(self) -> str | None:
        """The chat template that renders what this arrangement does of a conversation, so that other tools ask the same.

        None where the tokenizer brings its own, or where nobody converses.
        """
        return CHAT_TEMPLATES.get(self.prompt_format)

    # -- control tokens ---------------------------------------------------------------------------------------

    @functools.cached_property
    def eos(self) -> int:
        """The token that ends a text. Raises `IntegrityError` where the tokenizer has none."""
        return self._chat_frames.eos

    def _text(self, prompt: Sequence[Tokens]) -> Ids:
        """[cls] text [sep] text [sep], by the tokenizer's own names for them."""
        cls = self.tokenizer.cls_token_id
        first = cls if cls is not None else self._chat_frames.opening
        last = self.tokenizer.sep_token_id if cls is not None else self.eos
        return np.concatenate([[first], self._joined(prompt, 2), [last]]).astype(np.int64)

    def _source(self, prompt: Sequence[Tokens]) -> Ids:
        return np.append(self._joined(prompt, 1), self.eos).astype(np.int64)

    def _joined(self, prompt: Sequence[Tokens], around: int) -> Ids:
        """Texts with a separator between, cut so that `around` more tokens have room."""
        between = np.array([self._chat_frames.separator], np.int64) if len(prompt) > 1 else NO_IDS
        if self.context is not None:
            prompt = _shortened(prompt, self.context - around - len(between) * (len(prompt) - 1))
        pieces = [ids for part in prompt for ids in (between, np.asarray(part.ids, np.int64))]
        return np.concatenate(pieces[1:]) if pieces else NO_IDS

    def _target(self, parts: Sequence[Tokens]) -> Ids:
        return self._whole_target(parts)[: self.context]

    def _whole_target(self, parts: Sequence[Tokens]) -> Ids:
        answers = [np.asarray(part.ids, np.int64) for part in parts if part.in_loss]
        return np.concatenate([*answers, [self.eos]]).astype(np.int64)

    # -- a decoder's sequence ---------------------------------------------------------------------------------

    def _frame(self, parts: Sequence[Tokens], add_generation_prompt: bool) -> ChatFrame:
        return self._chat_frames.of(tuple((part.role, part.in_loss) for part in parts), add_generation_prompt)

    def _length(self, parts: Sequence[Tokens], *, add_generation_prompt: bool = False) -> int:
        return self._frame(parts, add_generation_prompt).length + sum(len(part.ids) for part in parts)

    def _arranged(
        self, parts: Sequence[Tokens], *, add_generation_prompt: bool = False
    ) -> tuple[Ids, NDArray[np.bool_]]:
        """(T,) ids and (T,) whether each is learned; `add_generation_prompt` ends where the answer begins."""
        frame = self._frame(parts, add_generation_prompt)
        ids: list[Ids] = []
        marks: list[bool] = []
        for part, before, end in zip(parts, frame.before, frame.ends, strict=True):
            ids += [before, np.asarray(part.ids, np.int64), end]
            marks += [False, part.in_loss, part.in_loss]
        ids.append(frame.after)
        marks.append(False)
        loss_mask = np.repeat(marks, [len(each) for each in ids])
        return np.concatenate(ids), loss_mask

    def _within(
        self, parts: Sequence[Tokens], limit: int | None, *, add_generation_prompt: bool = False
    ) -> Sequence[Tokens]:
        """The parts that a sequence of `limit` tokens holds; see the head of this file."""
        if limit is None or self._length(parts, add_generation_prompt=add_generation_prompt) <= limit:
            return parts
        if is_chat(part.role for part in parts):
            shorter = _recent(parts) if add_generation_prompt else _beginnings(parts)
            fitting = (
                each for each in shorter if self._length(each, add_generation_prompt=add_generation_prompt) <= limit
            )
            parts = next(fitting, shorter[-1] if shorter else parts)
        prompt = sum(len(part.ids) for part in _prompt_parts(parts))
        return _shortened(parts, limit - (self._length(parts, add_generation_prompt=add_generation_prompt) - prompt))


def _prompt_parts(parts: Sequence[Tokens]) -> list[Tokens]:
    return [part for part in parts if not part.in_loss]


def _beginnings(parts: Sequence[Tokens]) -> list[Sequence[Tokens]]:
    """A conversation without its last exchange, without its last two, …"""
    ends = [number + 1 for number, part in enumerate(parts) if part.in_loss]
    return [parts[:end] for end in reversed(ends)]


def _recent(parts: Sequence[Tokens]) -> list[Sequence[Tokens]]:
    """A conversation without its oldest exchange, without its oldest two, …; what the system says stays."""
    begin = next((number for number, part in enumerate(parts) if part.role != "system"), len(parts))
    starts = [number for number, part in enumerate(parts) if part.role == "user" and number >= begin]
    return [[*parts[:begin], *parts[start:]] for start in starts]


def _shortened(parts: Sequence[Tokens], room: int) -> list[Tokens]:
    """Parts whose given texts have `room` tokens together: no more than so many each, the same for all."""
    lengths = [len(part.ids) for part in parts if not part.in_loss]
    low, high = 0, max(lengths, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= room:
            low = middle
        else:
            high = middle - 1
    return [part if part.in_loss else part._replace(ids=part.ids[:low]) for part in parts]
