"""How the segments of a record become a model's token sequences: plain text with control tokens around it.

User text is always encoded as text: it can contain the name of a control token and never becomes one. Control tokens
are inserted by id, only here, in `prompt_format.py` and in `chat_template.py`. The name of the prompt format is stored in the model folder, so
that inference and evaluation use the format of training:

    document   decoder           [bos] text … [eos]
    control    decoder           [bos] source [sep] … [sep] target [eos]; chat: [bos] ([role] text [eos])…
    template   decoder           the tokenizer's chat template: instruction and sources form one user message
    plain      decoder           [bos] source, instruction, target [eos], separated by blank lines: for pretrained models
                                 without control tokens; chat: a line with the role before each turn
    pair       encoder-decoder   source [sep] … [eos] -> target [eos]
    single     encoder           [cls] text [sep]
    transcript ctc               recording -> text
               speech-seq2seq    recording -> [language, task, notimestamps] text [eos], as far as the tokenizer has them

Sequences longer than the context are truncated by one rule. First, a conversation loses complete exchanges: the last ones
in training, the oldest ones in a prompt. Then the longest source texts lose their ends, down to 1/`ROOM` of the context.
If the answer does not fit beside that, `long_answers` decides: `drop` leaves the record out (see `Records`); `cut` keeps
the whole question and cuts the end of the answer; `question`, the rule of version 0.1, cuts the question down to nothing.
Where an answer is cut, the eos token is cut off too, so that no model learns to stop in the middle.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from llmctl.data.examples.prompt_format import CHAT_TEMPLATES, NO_IDS, Delimiters, Ids, PromptFormatter, is_chat
from llmctl.data.examples.truncation import beginnings, first_exchange, prompt_parts, recent, shortened
from llmctl.data.spec import INSTRUCTION_FORMATS, PromptFormat
from llmctl.data.tokenizing.plain import control_tokens, plain_ids
from llmctl.data.tokenizing.tool_rendering import rendered, uses_tools
from llmctl.errors import DataError, UsageError
from llmctl.types import BLANKS, MODALITY, Family, Opening, Role, Segment, Tokens

__all__ = ["Ids", "Layout", "PromptFormat", "Sample", "layout_for", "prompt_format_for"]

LongAnswers = Literal["drop", "cut", "question"]
Loss = Literal["nothing", "text", "answer"]
"""What the context truncates: nothing, prompt text, or an answer."""

MOST_BLANKS: Final = 32
"""Blanks at the end of a prompt that are taken back from it."""
ROOM: Final = 4
"""1/ROOM of the context is reserved for the answer if a prompt must be truncated and no answer length is specified."""
LONGEST_INSTRUCTION: Final = 100
"""Characters of an instruction for each token of the context; a longer one cannot fit and would take minutes to encode."""


class Sample(NamedTuple):
    """One training example.

    `input_ids`   (T,) decoder: prompt and answer; encoder-decoder: source; encoder: text
    `loss_mask`   (T,) bool, decoder only: whether predicting this token is in the loss
    `target_ids`  (U,) encoder-decoder only
    `label`       encoder only, else -1
    """

    input_ids: Ids
    loss_mask: NDArray[np.bool_]
    target_ids: Ids
    label: int = -1


def prompt_format_for(family: Family, tokenizer: Any, *, packed: bool) -> PromptFormat:
    """The prompt format for a family and a tokenizer. `packed`: the task trains on documents without a prompt."""
    if family == "encoder-decoder":
        return "pair"
    if family == "encoder":
        return "single"
    if MODALITY[family] == "audio":
        return "transcript"
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
    long_answers: LongAnswers = "drop",
) -> Layout:
    """The layout of a model. `prompt_format`: as stored with the model; None: chosen by `prompt_format_for`."""
    known = cast(PromptFormat, prompt_format) if prompt_format else prompt_format_for(family, tokenizer, packed=packed)
    return Layout(tokenizer, family, known, context=context, instruction=instruction, long_answers=long_answers)


def transcript_start(tokenizer: Any, language: str | None = None, *, timestamps: bool = False) -> tuple[int, ...]:
    """The tokens between Whisper's <|startoftranscript|> and the text: language and task, where the model knows several
    (Radford et al. 2022, figure 1), and <|notimestamps|> unless the times are to be written too; none for a tokenizer without them."""
    ids = tokenizer.backend_tokenizer.token_to_id
    names = [f"<|{language}|>", "<|transcribe|>"] if language else []
    names += [] if timestamps else ["<|notimestamps|>"]
    return tuple(found for name in names if (found := ids(name)) is not None)


class Layout:
    """Builds token sequences from segments for one tokenizer, family and prompt format."""

    def __init__(
        self,
        tokenizer: Any,
        family: Family,
        prompt_format: PromptFormat,
        *,
        context: int | None = None,
        instruction: str = "",
        long_answers: LongAnswers = "drop",
    ) -> None:
        """`tokenizer`: a fast transformers tokenizer. `context`: longest sequence in tokens, None for no limit.

        `instruction`: the instruction in the prompt; only the formats `template` and `plain` use one.
        """
        if len(instruction) > LONGEST_INSTRUCTION * (context or 0) > 0:
            problem = f"has {len(instruction):,} characters, the model's context {context:,} tokens"
            raise UsageError(problem, where="instruction", hint="shorten it")
        self.tokenizer, self.family, self.prompt_format, self.context = tokenizer, family, prompt_format, context
        self.long_answers = long_answers
        self.keep_end = False
        """Whether a prompt text that is too long keeps its end; training keeps its beginning."""
        self.transcript_start = transcript_start(tokenizer) if family == "speech-seq2seq" else ()
        """Of `speech-seq2seq`: the tokens between the first of the decoder and the text."""
        self.instruction = instruction if prompt_format in INSTRUCTION_FORMATS else ""
        self._backend = tokenizer.backend_tokenizer
        self._backend.encode_special_tokens = True
        template = tokenizer.chat_template
        self._control = frozenset(control_tokens(self._backend, template if isinstance(template, str) else ""))
        self._formatter = PromptFormatter(tokenizer, prompt_format, self.instruction, self.encode)

    # -- text to ids ------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Encode plain text; nothing in it becomes a control token."""
        return plain_ids(self._backend, text, self._control)

    def tokens(self, segments: Sequence[Segment]) -> list[Tokens]:
        return [Tokens(each.role, self._ids(each), each.in_loss) for each in self.rendered(segments)]

    def _ids(self, segment: Segment) -> list[int]:
        return self._formatter.template.ids(segment.text) if segment.role == "template" else self.encode(segment.text)

    def rendered(self, segments: Sequence[Segment]) -> Sequence[Segment]:
        """A conversation with tools as the chat template renders it; others as they are. Raises `DataError` where the
        prompt format or the template does not express it."""
        if not uses_tools(segment.role for segment in segments):
            return segments
        if self.prompt_format != "template":
            raise DataError(
                f"the conversation uses tools, which the prompt format `{self.prompt_format}` does not express",
                hint="use a model with a chat template that knows tools, or leave the tools out",
            )
        return rendered(self._formatter.template, segments)

    def ends_answer(self, segment: Segment) -> bool:
        """Whether the segment is the control token that a chat template ends an answer with."""
        return segment.role == "template" and segment.text in self._formatter.template.names

    def shown(self, text: str) -> str:
        """What a reader sees of a text that a chat template writes: special tokens are left out."""
        ids = self._formatter.template.ids(text)
        found: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return found

    # -- training examples ------------------------------------------------------------------------------------

    def sample(self, parts: Sequence[Tokens], label: int = -1) -> Sample:
        """A record's segments as a training example, truncated to the context."""
        if self.family == "encoder":
            ids = self._text(prompt_parts(parts))
            return Sample(ids, np.zeros(len(ids), bool), NO_IDS, label)
        if self.family == "encoder-decoder":
            return Sample(self._source(prompt_parts(parts)), NO_IDS.astype(bool), self._target(parts))
        if self.prompt_format == "transcript":
            return Sample(NO_IDS, NO_IDS.astype(bool), self._target(parts))
        cut = self.long_answers == "cut" and not self.answer_fits(parts)
        ids, loss_mask = self._sequence(first_exchange(parts) if cut else self._within(parts, self.context))
        if self.context is not None and len(ids) > self.context:
            # The answer alone is too long. Keep the start; if no token of it is in the loss, keep the end.
            start_in_loss = bool(loss_mask[: self.context].any())
            kept = slice(None, self.context) if start_in_loss else slice(-self.context, None)
            ids, loss_mask = ids[kept], loss_mask[kept]
        return Sample(ids, loss_mask, NO_IDS)

    def loss(self, parts: Sequence[Tokens]) -> Loss:
        """What `sample` truncates of a record: nothing, prompt text, or an answer."""
        if self.fits(parts):
            return "nothing"
        if self.family == "encoder":
            return "text"
        if self.family in ("encoder-decoder", "speech-seq2seq"):
            assert self.context is not None
            return "text" if len(self._full_target(parts)) <= self.context else "answer"
        _, loss_mask = self._sequence(parts)
        return "text" if self.sample(parts).loss_mask.sum() == loss_mask.sum() else "answer"

    def answer_fits(self, parts: Sequence[Tokens]) -> bool:
        """Whether the context holds the (first) answer and the question before it, or at least 1/`ROOM` of the context of
        the question."""
        if self.context is None or self.family == "encoder" or self.fits(parts):
            return True
        if self.family in ("encoder-decoder", "speech-seq2seq"):
            return len(self._full_target(parts)) <= self.context
        parts = first_exchange(parts)
        question = sum(len(part.ids) for part in prompt_parts(parts))
        return self.context - (self._length(parts) - question) >= min(question, max(1, self.context // ROOM))

    def usable(self, parts: Sequence[Tokens]) -> bool:
        """Whether the record is an example: its answer fits, or may be cut and something of it is left."""
        if self.long_answers == "question" or self.answer_fits(parts):
            return True
        return self.long_answers == "cut" and (self.family != "decoder" or bool(self.sample(parts).loss_mask.any()))

    def turns_left_out(self, parts: Sequence[Tokens]) -> int:
        """The number of turns at the end of a conversation that `sample` leaves out."""
        if self.family != "decoder":
            return 0
        kept = len(self._within(parts, self.context))
        return sum(part.role != "template" for part in parts[kept:])

    def near_limit(
        self, lengths: NDArray[np.int64], texts: NDArray[np.int64], first: Sequence[Tokens]
    ) -> NDArray[np.int64]:
        """Indices of the records that may not fit, by their (R,) tokens and (R,) number of texts; `first`: any record."""
        if self.context is None:
            return np.zeros(0, np.int64)
        # No text has more control tokens around it than one record has in all.
        if any(part.role == "template" for part in first):
            first = [Tokens("user", (), False), Tokens("assistant", (), True)]
        around = self.length(first) - sum(len(part.ids) for part in first)
        return np.flatnonzero(lengths + max(4, around) * texts > self.context)

    def fits(self, parts: Sequence[Tokens]) -> bool:
        """Whether `sample` keeps every token."""
        return self.context is None or self.length(parts) <= self.context

    def length(self, parts: Sequence[Tokens]) -> int:
        """Length in tokens of the longest sequence of a record, before truncation."""
        if self.family == "decoder":
            return self._length(parts)
        if self.prompt_format == "transcript":
            return len(self._full_target(parts))
        prompt = prompt_parts(parts)
        around = len(prompt) - 1 + (2 if self.family == "encoder" else 1)
        source = sum(len(part.ids) for part in prompt) + around
        return source if self.family == "encoder" else max(source, len(self._full_target(parts)))

    # -- prompts ----------------------------------------------------------------------------------------------

    def prompt(self, segments: Sequence[Segment], *, room: int | None = None) -> tuple[int, ...]:
        """The token ids of a prompt, truncated so that a decoder keeps `room` tokens of its context for the answer (None:
        1/`ROOM` of the context). A plain text to continue is not truncated."""
        return self.prompt_of(self.tokens([Segment(segment.role, segment.text) for segment in segments]), room=room)

    def prompt_of(self, parts: Sequence[Tokens], *, room: int | None = None) -> tuple[int, ...]:
        """Like `prompt`, for segments that are already encoded."""
        if self.family == "encoder":
            return tuple(self._text(parts).tolist())
        if self.family == "encoder-decoder":
            return tuple(self._source(parts).tolist())
        if self.prompt_format == "document":
            return tuple(self._sequence(parts, add_generation_prompt=True)[0].tolist())
        if self.context is not None and self._length(parts, add_generation_prompt=True) >= self.context:
            room = max(1, self.context // ROOM) if room is None else room
        limit = None if self.context is None else max(1, self.context - (room or 0))
        ids, _ = self._sequence(self._within(parts, limit, add_generation_prompt=True), add_generation_prompt=True)
        return tuple(ids[-limit:].tolist() if limit is not None else ids.tolist())

    def opening(self, segments: Sequence[Segment]) -> Opening | None:
        """The blanks at the end of a text that a decoder is to continue."""
        text = segments[-1].text
        blanks = text[len(text.rstrip(BLANKS)) :][-MOST_BLANKS:]
        if self.family != "decoder" or not blanks or len(blanks) == len(text):
            return None
        return Opening(self.prompt([*segments[:-1], Segment(segments[-1].role, text[: -len(blanks)])]), blanks)

    def answer(self, text: str) -> tuple[int, ...]:
        """The ids of an answer with its end tokens, as likelihoods need them."""
        return (*self.encode(text), *self._formatter.answer_end.tolist())

    def chat_template(self) -> str | None:
        """A chat template that renders conversations as this layout does, for use by other tools.

        None if the tokenizer has its own, or if the format does not support conversations.
        """
        return CHAT_TEMPLATES.get(self.prompt_format)

    def delimiters(self, turns: Sequence[tuple[Role, bool]]) -> Delimiters:
        """The tokens around the segments of a prompt with these roles, each with whether it is in the loss; `after` is where
        the answer begins."""
        return self._formatter.delimiters(tuple(turns), True)

    # -- control tokens ---------------------------------------------------------------------------------------

    @functools.cached_property
    def eos(self) -> int:
        """The end-of-text token. Raises `IntegrityError` if the tokenizer has none."""
        return self._formatter.eos

    def _text(self, prompt: Sequence[Tokens]) -> Ids:
        """[cls] text [sep] text [sep], with the tokenizer's own tokens for them."""
        cls = self.tokenizer.cls_token_id
        first = cls if cls is not None else self._formatter.opening
        last = self.tokenizer.sep_token_id if cls is not None else self.eos
        return np.concatenate([[first], self._joined(prompt, 2), [last]]).astype(np.int64)

    def _source(self, prompt: Sequence[Tokens]) -> Ids:
        return np.append(self._joined(prompt, 1), self.eos).astype(np.int64)

    def _joined(self, prompt: Sequence[Tokens], around: int) -> Ids:
        """Join texts with separators, truncated to leave space for `around` more tokens."""
        between = np.array([self._formatter.separator], np.int64) if len(prompt) > 1 else NO_IDS
        if self.context is not None:
            room = self.context - around - len(between) * (len(prompt) - 1)
            prompt = shortened(prompt, room, keep_end=self.keep_end)
        pieces = [ids for part in prompt for ids in (between, np.asarray(part.ids, np.int64))]
        return np.concatenate(pieces[1:]) if pieces else NO_IDS

    def target(self, parts: Sequence[Tokens]) -> Ids:
        """The ids of a transcript, in full."""
        return self._full_target(parts)

    def _target(self, parts: Sequence[Tokens]) -> Ids:
        return self._full_target(parts)[: self.context]

    def _full_target(self, parts: Sequence[Tokens]) -> Ids:
        answers = [np.asarray(part.ids, np.int64) for part in parts if part.in_loss]
        end = [] if self.family == "ctc" else [self.eos]
        return np.concatenate([self.transcript_start, *answers, end]).astype(np.int64)

    # -- decoder sequences ------------------------------------------------------------------------------------

    def _delimiters(self, parts: Sequence[Tokens], add_generation_prompt: bool) -> Delimiters:
        return self._formatter.delimiters(tuple((part.role, part.in_loss) for part in parts), add_generation_prompt)

    def _length(self, parts: Sequence[Tokens], *, add_generation_prompt: bool = False) -> int:
        return self._delimiters(parts, add_generation_prompt).length + sum(len(part.ids) for part in parts)

    def _sequence(
        self, parts: Sequence[Tokens], *, add_generation_prompt: bool = False
    ) -> tuple[Ids, NDArray[np.bool_]]:
        """(T,) ids and (T,) loss mask; `add_generation_prompt` ends the sequence where the answer begins."""
        around = self._delimiters(parts, add_generation_prompt)
        ids: list[Ids] = []
        in_loss: list[bool] = []
        for part, before, end in zip(parts, around.before, around.ends, strict=True):
            ids += [before, np.asarray(part.ids, np.int64), end]
            in_loss += [False, part.in_loss, part.in_loss]
        ids.append(around.after)
        in_loss.append(False)
        loss_mask = np.repeat(in_loss, [len(each) for each in ids])
        return np.concatenate(ids), loss_mask

    def _within(
        self, parts: Sequence[Tokens], limit: int | None, *, add_generation_prompt: bool = False
    ) -> Sequence[Tokens]:
        """Truncate the parts to a sequence of `limit` tokens, by the rule in the module docstring."""
        if limit is None or self._length(parts, add_generation_prompt=add_generation_prompt) <= limit:
            return parts
        if is_chat(part.role for part in parts):
            shorter = recent(parts) if add_generation_prompt else beginnings(parts)
            fitting = (
                each for each in shorter if self._length(each, add_generation_prompt=add_generation_prompt) <= limit
            )
            parts = next(fitting, shorter[-1] if shorter else parts)
        prompt = sum(len(part.ids) for part in prompt_parts(parts))
        room = limit - (self._length(parts, add_generation_prompt=add_generation_prompt) - prompt)
        return shortened(parts, room, keep_end=self.keep_end)
