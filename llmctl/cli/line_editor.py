"""Line editing with history and completion. The only module that uses prompt_toolkit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from llmctl.cli.terminal import fancy


class ChatCommand(NamedTuple):
    """A command that can be typed at the prompt instead of a message."""

    name: str
    words: str
    does: str


def open_editor(prompt: str, commands: Sequence[ChatCommand]) -> Callable[[], str | None]:
    """Return a function that reads a line at the prompt and returns None at end of input.

    Lines can be edited and recalled; a pasted text with several lines stays one message.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import ColorDepth

    keys = KeyBindings()

    @keys.add("c-c")
    @keys.add("<sigint>")
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    colour = fancy(sys.stdout)
    editor: PromptSession[str] = PromptSession(
        FormattedText([("bold ansicyan" if colour else "", prompt)]),
        multiline=True,
        prompt_continuation=" " * len(prompt),
        key_bindings=keys,
        completer=_completer(commands),
        color_depth=None if colour else ColorDepth.DEPTH_1_BIT,
        enable_suspend=True,
    )

    def read_line() -> str | None:
        while True:
            try:
                return editor.prompt()
            except EOFError:
                return None
            except KeyboardInterrupt:  # a terminal without support for the key bindings
                continue

    return read_line


def _completer(commands: Sequence[ChatCommand]) -> Any:
    """Complete commands, and file names after /save and /load."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class CommandCompleter(Completer):
        paths = PathCompleter(expanduser=True)

        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            typed = document.text_before_cursor
            name, blank, rest = typed.partition(" ")
            if blank and name in ("/save", "/load"):
                yield from self.paths.get_completions(Document(rest), complete_event)
            elif typed.startswith("/"):
                for each in commands:
                    if each.name.startswith(typed):
                        yield Completion(each.name, start_position=-len(typed), display_meta=each.does)

    return CommandCompleter()
