"""`llmctl chat`: a conversation on a terminal, or answers to piped lines."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmctl.cli import options
from llmctl.cli.line_editor import ChatCommand, open_editor
from llmctl.cli.render import aside, error_lines
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import DataError, LlmctlError, UsageError
from llmctl.readable import number
from llmctl.registry import near
from llmctl.types import Event
from llmctl.workflows.chat.spec import ChatConfig

if TYPE_CHECKING:
    from llmctl.workflows.chat.conversation import ChatPlan, Conversation, Show, Turn

BLOCK_BYTES: Final = 1 << 16
PROMPT: Final = "> "


COMMANDS: Final = (
    ChatCommand("/reset", "", "forget the conversation; the system message stays"),
    ChatCommand("/system", "[TEXT]", 'show the system message, or set it; "" removes it'),
    ChatCommand("/save", "FILE [--force]", "write the conversation as a record: .jsonl or .json"),
    ChatCommand("/load", "FILE", "go on from a conversation that was saved"),
    ChatCommand("/regenerate", "", "answer the last message again"),
    ChatCommand("/help", "", "this list"),
    ChatCommand("/quit", "", "end, as Ctrl-D does"),
)
KEYS: Final = (
    ("Ctrl-C", "stops an answer; at the prompt, clears the line"),
    ("Alt-Enter", "a new line within a message"),
    ("//TEXT", "a message that begins with a slash"),
)


def run(session: Session) -> None:
    config = session.config(ChatConfig)
    from llmctl.workflows.chat import conversation as workflow

    plan = workflow.preflight(config, offline=session.offline, emit=session.emit)
    if session.dry_run:
        return session.plan(config, plan.to_dict())
    if sys.stdin is None or not sys.stdin.isatty():
        return _answer_lines(session, config, plan)
    if session.json or not sys.stdout.isatty():
        raise UsageError(
            "standard input is a terminal and standard output is for a script: there would be no prompt to type at",
            hint="pipe the messages in, one a line; or leave out --json and the redirection",
        )
    return Prompter(session, workflow.open_conversation(config, plan, session.emit), plan.model.folder.path).run()


# ---------------------------------------------------------------------------------------------------------------
# A pipe


def _answer_lines(session: Session, config: ChatConfig, plan: ChatPlan) -> None:
    """Every line is a message, a slash at its beginning too: what comes through a pipe never reads or writes files."""
    from llmctl.workflows.chat import conversation as workflow

    lines = workflow.piped_lines(iter(_stdin_block, b""))
    first = next(lines, None)
    if first is None:
        raise DataError("no messages", where="standard input", hint="it is empty; give one message a line")
    conversation = workflow.open_conversation(config, plan, session.emit)
    live = sys.stdout.isatty() and not session.json
    turns: list[Turn] = []
    try:
        for where, text in itertools.chain([first], lines):
            if live and turns:
                print()
            turn = conversation.say(text, _show if live else None, where=where)
            assert turn is not None, "a pipe stops no answer"
            if not session.json:
                print("" if live else f"\n{turn.text}" if turns else turn.text, flush=True)
            turns.append(turn)
    except DataError as error:
        error.document = workflow.document(conversation, turns, plan.model.folder.path)
        raise
    session.finish(workflow.document(conversation, turns, plan.model.folder.path))


def _stdin_block() -> bytes:
    """What is there of standard input, so that an answer can come before the next line does."""
    buffer: Any = sys.stdin.buffer  # a BufferedReader, which typeshed does not promise
    block: bytes = buffer.read1(BLOCK_BYTES)
    return block


def _show(piece: str) -> None:
    sys.stdout.write(plain(piece))
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------------------
# A terminal


class Prompter:
    """The conversation of a person: a line typed is a message or a command."""

    def __init__(self, session: Session, conversation: Conversation, model: Path) -> None:
        self.session, self.conversation, self.model = session, conversation, model
        self.commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/save": self._save,
            "/load": self._load,
            "/regenerate": self._regenerate,
            "/help": self._help,
        }

    def run(self) -> None:
        """Until Ctrl-D or `/quit`. An error is told and the conversation goes on."""
        ask = open_editor(PROMPT, COMMANDS)
        self._note(self._greeting())
        while (line := ask()) is not None and line.strip() != "/quit":
            if not line.strip():
                continue
            try:
                self._take(line)
            except LlmctlError as error:
                print(error_lines(error.kind, str(error), error.hint), file=sys.stderr)
            print(flush=True)
        self.session.finish({})

    def _greeting(self) -> str:
        from llmctl.workflows.chat.conversation import chosen

        context = self.conversation.context
        holds = f"a context of {context:,} tokens" if context is not None else "no limit of context"
        name = self.model.resolve().parent.name if self.model.name == "model" else self.model.resolve().name
        return (
            f"{name}: {holds}, {chosen(self.conversation.sampling)} answers\n"
            "/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends\n"
        )

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            return self._answer(lambda show: self.conversation.say(line, show))
        if line.startswith("//"):
            return self._answer(lambda show: self.conversation.say(line[1:], show))
        name, _, words = line.strip().partition(" ")
        if name not in self.commands:
            known = [each.name for each in COMMANDS]
            hint = near(name, known) or "/help lists the commands; //TEXT is a message that begins with a slash"
            raise UsageError(f"no such command: {name}", hint=hint)
        return self.commands[name](words.strip())

    def _answer(self, ask: Callable[[Show], Turn | None]) -> None:
        from llmctl.workflows.chat.conversation import StopGeneration

        turn = None
        with _stoppable() as show, contextlib.suppress(StopGeneration):
            turn = ask(show)
        if turn is None:
            return self._note("(stopped before anything was said: nothing of it is kept)")
        print(flush=True)
        if not turn.text:
            self._note("(an empty answer)")
        if turn.finish_reason == "interrupted":
            self._note("(stopped)")
        if turn.finish_reason == "length":
            self._note(f"(cut after {turn.tokens:,} tokens; --max-new-tokens or the context allows no more)")
        speed = turn.tokens / max(turn.seconds, 1e-9)
        self.session.emit(Event("detail", {"text": f"{turn.tokens:,} tokens, {number(speed)} a second"}))
        return None

    # -- commands ---------------------------------------------------------------------------------------------

    def _reset(self, words: str) -> None:
        self.conversation.reset()
        self._note("the conversation is forgotten")

    def _system(self, words: str) -> None:
        if words:
            self.conversation.instruct(None if words == '""' else words)
        system = self.conversation.system
        self._note("no system message" if system is None else f"system: {system}")

    def _save(self, words: str) -> None:
        names = _split(words)
        force = self.session.force or "--force" in names
        path = _one_path([each for each in names if each != "--force"], "/save FILE [--force]")
        self.conversation.save(path, force=force)
        self._note(f"{_counted(self.conversation.turns)} saved: {path}")

    def _load(self, words: str) -> None:
        path = _one_path(_split(words), "/load FILE")
        self.conversation.load(path)
        self._note(f"{_counted(self.conversation.turns)} loaded: {path}")
        if self.conversation.waiting:
            self._note("the last message has no answer yet: /regenerate gives one")

    def _regenerate(self, words: str) -> None:
        before = self.conversation.messages
        self._answer(self.conversation.regenerate)
        if self.conversation.messages == before and not self.conversation.sampling.samples:
            self._note("(answers are greedy, so the same again; --temperature 0.7 draws others)")

    def _help(self, words: str) -> None:
        rows = [(f"{each.name} {each.words}".strip(), each.does) for each in COMMANDS] + [*KEYS]
        left = max(len(first) for first, _ in rows)
        for first, second in rows:
            print(f"{first:<{left}}  {second}")

    def _note(self, text: str) -> None:
        if not self.session.quiet:
            aside(text)


def _counted(turns: int) -> str:
    return f"{turns:,} turn{'s' * (turns != 1)}"


def _split(words: str) -> list[str]:
    try:
        return shlex.split(words)
    except ValueError as error:
        raise UsageError(f"not understood: {error}", hint='quote a name that has blanks: "my talk.jsonl"') from error


def _one_path(names: list[str], usage: str) -> Path:
    if len(names) != 1:
        raise UsageError(f"one file is needed, {len(names)} are named", hint=usage)
    return Path(names[0]).expanduser()


@contextlib.contextmanager
def _stoppable() -> Iterator[Show]:
    """Gives what shows the pieces of an answer. Ctrl-C once ends it at its next piece, where the engine is left in
    good order; twice, wherever it stands."""
    from llmctl.workflows.chat.conversation import StopGeneration

    pressed = False

    def press(signal_number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise StopGeneration
        pressed = True

    def show(piece: str) -> None:
        if pressed:
            raise StopGeneration
        _show(piece)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield show
    finally:
        signal.signal(signal.SIGINT, before)


PAGE = options.Page(
    run,
    ChatConfig,
    examples=(
        "llmctl chat --model runs/chat",
        "llmctl chat --model runs/chat --system 你是一个助手 --temperature 0.7",
        "cat questions.txt | llmctl chat --model runs/chat --json",
    ),
)
