"""Turn records into requests of an engine, to answer or to score, before the model's weights are needed."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from llmctl.data.cleaning.clean import Cleaner
from llmctl.data.cleaning.words import words_of
from llmctl.data.examples.layout import ROOM, Layout, layout_for, transcript_start
from llmctl.data.examples.pairs import sides
from llmctl.data.examples.truncation import recent
from llmctl.data.spec import CleanRules
from llmctl.data.tokenizing.plain import largest_id, unknown_id
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.data.tokenizing.tool_rendering import placed, uses_tools, written
from llmctl.errors import DataError, PromptTooLong, UsageError
from llmctl.models import families
from llmctl.models.pretrained import config_of
from llmctl.tasks.spec import Task
from llmctl.types import Event, EventSink, Fitted, Hearing, Record, Request, Segment, Tokens, Wording, null_sink
from llmctl.workflows.inference.filling import filling
from llmctl.workflows.inference.last_answer import last_answer
from llmctl.workflows.inference.model import ModelHandle
from llmctl.workflows.inference.served import ServerLayout, in_words
from llmctl.workflows.inference.windows import count, runs, spans

WINDOW_WITHOUT_CONTEXT: Final = 2048
"""Window in tokens for scoring documents with a model of unlimited context."""

Truncate = Literal["right", "left", "refuse"]
"""What happens to a prompt that is longer than the context."""

LONGEST_WITHOUT_CONTEXT: Final = 32_768
"""Tokens of a prompt for a model of unlimited context; more would take minutes, and gigabytes in an encoder."""

KEEP_END: Final = "shorten it, or keep its end: generate --truncate left"

SHOWN: Final = 40
"""Characters of a text that a message quotes."""


class ScoringRequests(NamedTuple):
    """Requests that together score a record, one for each window, made as they are taken: with a stride of 1 they hold the
    text many times over. `bytes`: UTF-8 bytes of the text that they score."""

    requests: Iterable[Request]
    windows: int
    bytes: int


class RequestBuilder:
    """Lays out records of a task as training did."""

    def __init__(
        self,
        task: Task,
        layout: Layout,
        *,
        clean: CleanRules | None = None,
        block_size: int | None = None,
        labels: Sequence[str] = (),
        calibrate: bool = False,
        truncate: Truncate = "right",
        hearing: Hearing | None = None,
        quotes: bool = True,
        emit: EventSink = null_sink,
    ) -> None:
        """`clean`: how training cleaned its text; None: not at all. `block_size`: tokens per block in training.

        `labels`: the answers from which a model without a classification head chooses by likelihood; `calibrate`:
        subtract the log likelihood of each given an empty text. `truncate`: see `fitted`. `hearing`: what a speech
        model reads. `quotes`: whether warnings may quote a text.
        """
        self.task, self.layout, self.emit, self.calibrate = task, layout, emit, calibrate
        self.truncate, self.truncated = truncate, 0
        self.hearing, self._quotes = hearing, quotes
        self.block_size = block_size
        self.labels = tuple(labels) if task.labelled and layout.family != "encoder" else ()
        self._answers = [layout.answer(label) for label in self.labels]
        self._room = max(map(len, self._answers), default=None)
        self._clean = Cleaner(clean) if clean else None
        # Whitespace at the end of a prompt to be continued is part of the prompt.
        self._clean_prompt = Cleaner(clean.replace(whitespace=False)) if clean and task.packed else self._clean
        self._words = words_of(clean) if clean else None
        self._answer_columns = {each.name for each in task.columns} - {each.name for each in task.prompt_columns()}
        self.segmented = clean is not None and clean.segment != "none"
        """Whether training cut texts into words: what it generates has blanks between them."""
        self._uncut = Layout(layout.tokenizer, layout.family, layout.prompt_format, instruction=layout.instruction)
        self._unknown = unknown_id(layout.tokenizer.backend_tokenizer)
        self._warned_truncated = self._warned_unknown = False

    def generation_request(self, record: Record) -> Request:
        """The record as a prompt: see `fitted`."""
        return self.fitted(record).request

    def fitted(self, record: Record) -> Fitted:
        """The record as a prompt that fits the context, and what was cut off.

        A longer one loses, by `truncate`, the ends of its texts (`right`, as in training; a text to be continued is
        refused), their beginnings (`left`), or is refused. Warns once of a truncated text, and once of a text that is
        mostly unknown to the tokenizer. Only as much is encoded as the context can hold.

        Raises `DataError` for a record that lacks a field of the prompt, `PromptTooLong` for one that is refused.
        """
        if self.hearing is not None:
            return Fitted(self._recording(record, self.hearing))
        asked = [Segment(segment.role, segment.text) for segment in self._prompt_segments(record)]
        segments, cut = self._bounded(self._rendered(asked, record), record)
        parts = self._uncut.tokens(segments)
        self._warn_unknown(record, segments, parts)
        ids, context = self._uncut.prompt_of(parts), self._most
        room = (self._room or 1) if self.layout.family == "decoder" else 0
        if len(ids) > context - room:
            if self._refuses:
                raise PromptTooLong(len(ids), context, where=record.origin or record.id, hint=KEEP_END)
            self.truncated += 1
            self._warn_truncated(context)
            whole = len(ids)
            if self.task.packed:
                start = len(self._uncut.prompt([Segment(segments[0].role, "")]))
                kept = max(1, context - (self._room or max(1, context // ROOM)) - start)
                ids = (*ids[:start], *ids[-kept:])
            elif uses_tools(segment.role for segment in asked):
                ids = self._recent(asked, context - room)
            else:
                ids = self.layout.prompt_of(parts, room=self._room)
            cut = {"truncated_tokens": whole - len(ids), **cut}
        opening = self._uncut.opening(segments) if self.task.packed and not cut else None
        return Fitted(Request(record.id, ids, opening=opening), cut)

    def _rendered(self, segments: list[Segment], record: Record) -> list[Segment]:
        """A conversation with tools as the chat template renders it. Raises `DataError` where none does."""
        place = ":tools" if any(segment.role == "tools" for segment in segments) else ""
        with placed(f"{record.origin or record.id}{place}"):
            return list(self._uncut.rendered(segments))

    def _recent(self, asked: list[Segment], most: int) -> tuple[int, ...]:
        """A conversation with tools without its oldest exchanges, as ids, of which at most `most` are left if possible."""
        tokens = [functools.partial(self._uncut.tokens, each) for each in recent(asked) or [asked]]
        long = range(len(tokens) - 1)
        place = bisect.bisect_left(long, True, key=lambda each: len(self._uncut.prompt_of(tokens[each]())) <= most)
        return self.layout.prompt_of(tokens[place](), room=self._room)

    def references(self, record: Record) -> tuple[str, ...]:
        """Every correct answer; one that calls tools as a model writes it, without special tokens."""
        segments = self.task.segments(record) if self.task.answer_role == "assistant" else []
        if not segments or segments[-1].role != "calls" or not segments[-1].in_loss:
            return self.task.references(record)
        with placed(record.origin or record.id):
            return (last_answer(self._uncut, segments),)

    def _recording(self, record: Record, hearing: Hearing) -> Request:
        """The request to transcribe a recording, which is opened and read when it is its turn."""
        from llmctl.data.audio import sound
        from llmctl.data.examples import speech

        audio = next(segment.audio for segment in self._prompt_segments(record) if segment.audio is not None)
        sound.seconds_of(audio)  # before anything is transcribed, a file that is no recording is refused
        return Request(record.id, self.layout.transcript_start, windows=speech.windows(audio, hearing))

    @property
    def _most(self) -> int:
        """The most tokens of a prompt."""
        return self.layout.context or LONGEST_WITHOUT_CONTEXT

    @property
    def _refuses(self) -> bool:
        """Whether a prompt that does not fit is refused. The end of a text to be continued is never cut off."""
        return self.truncate == "refuse" or (self.task.packed and self.truncate == "right")

    def _bounded(self, segments: list[Segment], record: Record) -> tuple[list[Segment], dict[str, int]]:
        """The segments without most of what cannot fit the context, so that encoding it takes no time and memory; and the
        characters that this cut off."""
        whole = sum(len(segment.text) for segment in segments)
        part = self._filling(segments)
        if part is None:
            return segments, {}
        if self._refuses:
            raise PromptTooLong(whole, self._most, where=record.origin or record.id, unit="characters", hint=KEEP_END)
        return part, {"truncated_characters": whole - sum(len(segment.text) for segment in part)}

    def _filling(self, segments: list[Segment]) -> list[Segment] | None:
        return filling(segments, self.layout.encode, self._most, keep_end=self.truncate != "right")

    def label_requests(self, request: Request) -> list[Request]:
        """The request with each label as its answer, in the order of the labels."""
        return [Request(request.id, request.input_ids, answer) for answer in self._answers]

    def null_prompt(self) -> Request:
        """The request for an empty text, for calibration."""
        return Request("", self.layout.prompt(self.task.prompt(Record("", self.task.record_of("")))))

    def length(self, record: Record) -> int:
        """Tokens of the record as a prompt, before any truncation; of one that is much too long, of a part of it."""
        asked = [Segment(segment.role, segment.text) for segment in self._prompt_segments(record)]
        segments = self._rendered(asked, record)
        return len(self._uncut.prompt(self._filling(segments) or segments))

    def _prompt_segments(self, record: Record) -> list[Segment]:
        self.task.check(record, self.task.prompt_columns())
        segments = self.task.prompt(self._cleaned(record, self._clean_prompt))
        if not segments:
            raise DataError("the record has no prompt", where=record.origin or record.id)
        return segments

    def _cleaned(self, record: Record, cleaner: Cleaner | None) -> Record:
        if cleaner is None:
            return record
        fields = {name: cleaner.value(value) for name, value in record.fields.items()}
        if self._words is not None:
            label = self.task.answer_role if self.task.labelled else None
            fields = self._words.fields(fields, () if self.task.packed else self._answer_columns, label)
        return Record(record.id, fields, record.origin)

    def _warn_truncated(self, context: int) -> None:
        if not self._warned_truncated:
            self._warned_truncated = True
            self.emit(Event("warning", {"text": f"texts are truncated to the model's context of {context:,} tokens"}))

    def _warn_unknown(self, record: Record, segments: Sequence[Segment], parts: Sequence[Tokens]) -> None:
        """Warn of the first text of which the tokenizer knows at most half of the tokens, whitespace and punctuation
        aside."""
        if self._warned_unknown or self._unknown is None:
            return
        for number, (segment, part) in enumerate(zip(segments, parts, strict=True)):
            unknown = sum(each == self._unknown for each in part.ids)
            if segment.text.strip() and unknown and unknown >= sum(map(self._is_visible, part.ids)):
                self._warned_unknown = True
                given = self.task.prompt(record)  # as the user wrote it: neither cleaned nor cut into words
                whole = given[number].text if len(given) == len(segments) else segment.text
                text = whole if len(whole) <= SHOWN else f"{whole[:SHOWN]}…"
                where = record.origin or record.id
                message = f"{where}: {unknown:,} of {len(part.ids):,} tokens are unknown to the tokenizer"
                message += f": {text!r}" if self._quotes else ""
                self.emit(Event("warning", {"text": message}))
                return

    def _is_visible(self, token: int) -> bool:
        """Whether a token is known and contains a letter or digit."""
        return token != self._unknown and any(map(str.isalnum, self.layout.tokenizer.decode([token])))

    def loglikelihood_requests(self, record: Record, window: int, stride: int) -> ScoringRequests:
        """Requests that together score each token in the record's loss once: see `spans`.

        No answer is truncated, so the bytes are those of its full text, cleaned as in training.

        Raises `DataError` for a record that lacks a field, or whose target does not fit the context.
        """
        self.task.check(record)
        segments = self._rendered(self.task.segments(self._cleaned(record, self._clean)), record)
        size = sum(
            len(written(each).encode()) for each in segments if each.in_loss and not self._uncut.ends_answer(each)
        )
        parts = self._uncut.tokens(segments)
        self._warn_unknown(record, segments, parts)
        sample = self._uncut.sample(parts)
        ids = sample.input_ids
        if self.layout.family == "decoder":
            scored = runs(sample.loss_mask)
            requests = (
                Request(record.id, tuple(ids[begin:first].tolist()), tuple(ids[first:last].tolist()))
                for start, end in scored
                for begin, first, last in spans(start, end, window, stride)
            )
            return ScoringRequests(requests, sum(count(*each, window, stride) for each in scored), size)
        target, context = sample.target_ids.tolist(), self.layout.context
        if context is not None and len(target) > context:
            raise DataError(
                f"the answer's {len(target):,} tokens exceed the model's context of {context:,}",
                where=record.origin or record.id,
            )
        if context is not None and len(ids) > context:
            self._warn_truncated(context)
            ids = self.layout.sample(self.layout.tokens(segments)).input_ids
        return ScoringRequests([Request(record.id, tuple(ids.tolist()), tuple(target))], 1, size)

    def pair_requests(self, pairs: Task, record: Record) -> list[Request]:
        """The preferred answer of a preference pair and the other one, each after the prompt. `pairs`: the record's task.

        Raises `DataError` for a record that lacks a field, or that exceeds the context.
        """
        pairs.check(record)
        parts = self._uncut.tokens(pairs.segments(self._cleaned(record, self._clean)))
        found = []
        for side in sides(parts, self.task.answer_role):
            if not self.layout.fits(side):
                problem = (
                    f"prompt and answer have {self._uncut.length(side):,} tokens, the context {self.layout.context:,}"
                )
                raise DataError(problem, where=record.origin or record.id, hint="leave the pair out")
            sample = self._uncut.sample(side)
            ids, target = sample.input_ids.tolist(), sample.target_ids.tolist()
            if self.layout.family == "decoder":
                [(start, end)] = runs(sample.loss_mask)
                ids, target = ids[:start], ids[start:end]
            found.append(Request(record.id, tuple(ids), tuple(target)))
        return found

    def window(self, window: int | None, stride: int | None) -> tuple[int, int]:
        """Window and stride in tokens. Defaults: the block size of training (the context if that is unknown), and half
        the window. Raises `UsageError` for impossible values."""
        context = self.layout.context
        window = window or self.block_size or context or WINDOW_WITHOUT_CONTEXT
        if context is not None and window > context:
            raise UsageError(f"a window of {window:,} tokens exceeds the model's context of {context:,}")
        stride = stride or max(1, window // 2)
        if stride > window:
            raise UsageError(f"a stride of {stride:,} tokens exceeds the window of {window:,} and would skip tokens")
        return window, stride


class ServerRequestBuilder(RequestBuilder):
    """Puts records in words for a server, which lays them out by its own template and cuts nothing off."""

    def __init__(self, handle: ModelHandle, *, emit: EventSink = null_sink) -> None:
        self.task, self.emit, self.calibrate = handle.task, emit, False
        self.truncate, self.truncated, self.block_size, self.labels = "refuse", 0, None, ()
        self.layout = ServerLayout(handle.instruct())  # type: ignore[assignment]
        self._clean = self._clean_prompt = self._words = self.hearing = None
        self.segmented, self._answer_columns = False, set()

    def fitted(self, record: Record) -> Fitted:
        segments = self._prompt_segments(record)
        return Fitted(Request(record.id, (), wording=in_words(self.task, self.layout.instruction, record, segments)))

    def references(self, record: Record) -> tuple[str, ...]:
        found = self.task.references(record)
        if not found and self.task.answer_role == "assistant":
            raise DataError(
                "the answer calls tools: score it with the model's folder", where=record.origin or record.id
            )
        return found

    def length(self, record: Record) -> int:
        return 0

    def loglikelihood_requests(self, record: Record, window: int, stride: int) -> ScoringRequests:
        """The record, and the whole of a plain text: a server does not continue a conversation that it is scored on."""
        self.task.check(record)
        text = "".join(segment.text for segment in self.task.segments(record)) if self.task.packed else ""
        wording = Wording(self.task.name, record.fields, answer=text, window=window or None, stride=stride or None)
        return ScoringRequests([Request(record.id, (), wording=wording)], 1, len(text.encode()))

    def window(self, window: int | None, stride: int | None) -> tuple[int, int]:
        """0 for what the server decides."""
        return window or 0, stride or 0


def open_request_builder(
    handle: ModelHandle,
    *,
    calibrate: bool = False,
    truncate: Truncate = "right",
    timestamps: bool = False,
    quotes: bool = True,
    emit: EventSink = null_sink,
) -> RequestBuilder:
    """The request builder of a model folder, with its tokenizer, layout and context.

    Raises `UsageError` with both sizes where tokenizer and model do not match.
    """
    if handle.server is not None:
        return ServerRequestBuilder(handle, emit=emit)
    config = config_of(handle.folder.architecture)
    tokenizer = load_tokenizer(handle.folder.path)
    handle.check_vocabulary(len(tokenizer), largest_id(tokenizer.backend_tokenizer))
    # Recurrent models and relative positions have no such setting: they take sequences of any length.
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "max_target_positions", None)
    card = handle.folder.card
    clean = CleanRules.recorded(card.clean) if card and card.clean else None
    block = card.block_size if card else None
    layout = layout_for(
        tokenizer,
        handle.family,
        packed=handle.task.packed,
        prompt_format=handle.prompt_format,
        context=context,
        instruction=handle.instruct(),
    )
    layout.keep_end = truncate == "left"
    if handle.family == "speech-seq2seq":
        language, several = handle.languages()
        layout.transcript_start = transcript_start(tokenizer, language if several else None, timestamps=timestamps)
    return RequestBuilder(
        handle.task,
        layout,
        clean=clean,
        block_size=block,
        labels=handle.labels,
        calibrate=calibrate,
        truncate=truncate,
        hearing=families.hearing_of(config.to_dict()) if handle.task.modality == "audio" else None,
        quotes=quotes,
        emit=emit,
    )
