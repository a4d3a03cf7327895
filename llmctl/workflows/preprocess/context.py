"""How records are read with the settings of `preprocess`, and what helps where one is bad. Worker processes import it."""

from __future__ import annotations

from pathlib import Path

from llmctl.data.reading.read import Check, OpenAudio, ReadContext, parse_columns
from llmctl.errors import DataError, MissingField
from llmctl.tasks.spec import Task
from llmctl.types import Adapting, Record
from llmctl.workflows.preprocess.spec import PreprocessConfig


def read_context_of(
    config: PreprocessConfig,
    task: Task,
    template: Path | None = None,
    recordings: dict[str, list[int] | None] | None = None,
) -> ReadContext:
    """`template`: the folder of a tokenizer whose chat template knows tools. `recordings`: gets the state of each file that
    a record names."""
    rendered = config.tool_calls == "template" and template is not None
    return ReadContext(
        check=_rendering(task, template) if rendered and template is not None else task.check,
        rename=parse_columns(config.columns),
        wanted=[column.name for column in task.columns],
        also=task.also,
        adapt=task.adapt,
        adapting=Adapting(tool_calls="fail" if config.tool_calls == "template" and not rendered else config.tool_calls),
        open_audio=_open_audio(task, recordings),
        delimiter=config.delimiter,
        quoting=config.quoting,
        records=config.records,
        fields_of=task.record_of if task.packed else None,
        document=config.document,
        encoding=config.encoding,
    )


def _rendering(task: Task, folder: Path) -> Check:
    """The check of the task, and of conversations with tools whether the chat template renders them."""
    from llmctl.data.tokenizing.chat_template import ChatTemplate, open_chat_template
    from llmctl.data.tokenizing.tool_rendering import placed, rendered, uses_tools

    opened: list[ChatTemplate] = []

    def check(record: Record) -> None:
        task.check(record)
        segments = task.segments(record)
        if uses_tools(segment.role for segment in segments):
            if not opened:
                opened.append(open_chat_template(folder))
            with placed(record.origin):
                rendered(opened[0], segments)

    return check


def _open_audio(task: Task, seen: dict[str, list[int] | None] | None) -> OpenAudio | None:
    if task.modality != "audio":
        return None
    from llmctl.data.audio import sound
    from llmctl.data.reading import recordings

    sound.check_installed()
    return recordings.loaded(task.audio_columns, seen)


def with_hint(error: DataError, *, first: bool = False) -> DataError:
    """The error of a record, with the options that help unless it has a hint. `first`: it is the first record of its
    input."""
    skip = "or continue without such records: --on-bad-record skip|reject"
    if isinstance(error, MissingField):
        if error.hint is not None and error.hint.startswith("the first line"):
            return error
        error.hint = f"name the columns: --columns {error.columns}" + ("" if first else f"; {skip}")
    elif error.hint is None:
        error.hint = f"fix it; {skip}"
    return error
