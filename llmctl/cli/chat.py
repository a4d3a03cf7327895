"""`llmctl chat`: an interactive conversation, or answers to piped lines."""

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
from llmctl.errors import DataError, EnvironmentFault, LlmctlError, UsageError
from llmctl.readable import number
from llmctl.registry import near
from llmctl.settings import VERIFY, VERIFY_HELP
from llmctl.types import Event
from llmctl.verbs import LOADING
from llmctl.workflows.chat.spec import ChatConfig

if TYPE_CHECKING:
    from llmctl.workflows.chat.checks import ChatPlan
    from llmctl.workflows.chat.conversation import Conversation, Show, Turn

BLOCK_BYTES: Final = 1 << 16
PROMPT: Final = "> "


COMMANDS: Final = (
    ChatCommand("/reset", "", "clear the conversation; keep the system message"),
    ChatCommand("/system", "[TEXT]", 'show the system message, or set it; "" removes it'),
    ChatCommand("/save", "FILE [--force]", "write the conversation as a record: .jsonl or .json"),
    ChatCommand("/load", "FILE", "continue a saved conversation"),
    ChatCommand("/regenerate", "", "answer the last message again"),
    ChatCommand("/help", "", "list the commands"),
    ChatCommand("/quit", "", "quit; same as Ctrl-D"),
)
KEYS: Final = (
    ("Ctrl-C", "stop the answer; at the prompt, clear the line"),
    ("Alt-Enter", "insert a line break"),
    ("//TEXT", "send a message that starts with a slash"),
)


def run(session: Session) -> None:
    config = session.config(ChatConfig)
    from llmctl.workflows.chat import checks

    plan = checks.preflight(config, offline=session.offline, verify=session.extra[VERIFY], emit=session.emit)
    if session.dry_run:
        return session.plan(config, plan.to_dict())
    if sys.stdin is None or not sys.stdin.isatty():
        return _answer_lines(session, plan)
    if session.json or not sys.stdout.isatty():
        raise UsageError(
            "interactive chat needs a terminal for both input and output",
            hint="pipe messages in, one per line, or drop --json and the redirection",
        )
    session.reporter.starting(LOADING)
    from llmctl.workflows.chat import conversation as workflow

    conversation = workflow.open_conversation(plan, session.emit)
    session.reporter.clear()
    return Prompter(session, conversation, plan.model.folder.path).run()


# ---------------------------------------------------------------------------------------------------------------
# Piped input


def _answer_lines(session: Session, plan: ChatPlan) -> None:
    """Answer every line as a message, even if it starts with a slash: piped input must not read or write files."""
    if sys.stdin is None:
        raise EnvironmentFault("standard input is closed", hint="pipe messages in, one per line")
    from llmctl.workflows.chat import conversation as workflow

    lines = workflow.piped_lines(iter(_stdin_block, b""))
    first = next(lines, None)
    if first is None:
        raise DataError("no messages", where="standard input", hint="send one message per line")
    conversation = workflow.open_conversation(plan, session.emit)
    live = sys.stdout.isatty() and not session.json
    turns: list[Turn] = []
    try:
        for where, text in itertools.chain([first], lines):
            if live and turns:
                print()
            turn = conversation.say(text, _show if live else None, where=where)
            assert turn is not None, "piped answers are never interrupted"
            if not session.json:
                print("" if live else f"\n{turn.text}" if turns else turn.text, flush=True)
            turns.append(turn)
    except DataError as error:
        error.document = workflow.document(conversation, turns, plan.model.folder.path)
        raise
    session.finish(workflow.document(conversation, turns, plan.model.folder.path))


def _stdin_block() -> bytes:
    """Read what is available on standard input, so that an answer can precede the next line."""
    buffer: Any = sys.stdin.buffer  # a BufferedReader; typeshed does not guarantee it
    block: bytes = buffer.read1(BLOCK_BYTES)
    return block


def _show(piece: str) -> None:
    sys.stdout.write(plain(piece))
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------------------
# Interactive


class Prompter:
    """The interactive loop: each line is a message or a command."""

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
        """Run until Ctrl-D or `/quit`. Errors are printed and the conversation continues."""
        read_line = open_editor(PROMPT, COMMANDS)
        self._note(self._greeting())
        while (line := read_line()) is not None and line.strip() != "/quit":
            if not line.strip():
                continue
            try:
                self._take(line)
            except LlmctlError as error:
                print(error_lines(error.kind, str(error), error.hint), file=sys.stderr)
            print(flush=True)
        self.session.finish({})

    def _greeting(self) -> str:
        context = self.conversation.context
        window = f"a context of {context:,} tokens" if context is not None else "unlimited context"
        decoding = "sampled" if self.conversation.sampling.samples else "greedy"
        name = self.model.resolve().parent.name if self.model.name == "model" else self.model.resolve().name
        return (
            f"{name}: {window}, {decoding} decoding\n/help lists the commands, Ctrl-C stops an answer, Ctrl-D quits\n"
        )

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            return self._answer(lambda show: self.conversation.say(line, show))
        if line.startswith("//"):
            return self._answer(lambda show: self.conversation.say(line[1:], show))
        name, _, words = line.strip().partition(" ")
        if name not in self.commands:
            known = [each.name for each in COMMANDS]
            hint = near(name, known) or "/help lists the commands; //TEXT sends a message that starts with a slash"
            raise UsageError(f"no such command: {name}", hint=hint)
        return self.commands[name](words.strip())

    def _answer(self, generate: Callable[[Show], Turn | None]) -> None:
        from llmctl.workflows.chat.conversation import StopGeneration

        turn = None
        with _stoppable() as show, contextlib.suppress(StopGeneration):
            turn = generate(show)
        if turn is None:
            return self._note("(stopped before any text: discarded)")
        print(flush=True)
        if not turn.text:
            self._note("(empty answer)")
        if turn.finish_reason == "interrupted":
            self._note("(stopped)")
        if turn.finish_reason == "length":
            self._note(f"(truncated after {turn.tokens:,} tokens: limit of --max-new-tokens or the context)")
        speed = turn.tokens / max(turn.seconds, 1e-9)
        self.session.emit(Event("detail", {"text": f"{turn.tokens:,} tokens, {number(speed)} tokens/s"}))
        return None

    # -- commands ---------------------------------------------------------------------------------------------

    def _reset(self, words: str) -> None:
        self.conversation.reset()
        self._note("conversation cleared")

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
            self._note("the last message has no answer yet; use /regenerate")

    def _regenerate(self, words: str) -> None:
        before = self.conversation.messages
        self._answer(self.conversation.regenerate)
        if self.conversation.messages == before and not self.conversation.sampling.samples:
            self._note("(decoding is greedy, so the answer is the same; restart with --temperature 0.7 to sample)")

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
        raise UsageError(
            f"cannot parse the file name: {error}", hint='quote names that contain spaces: "my chat.jsonl"'
        ) from error


def _one_path(names: list[str], usage: str) -> Path:
    if len(names) != 1:
        raise UsageError(f"expected one file name, got {len(names)}", hint=usage)
    return Path(names[0]).expanduser()


@contextlib.contextmanager
def _stoppable() -> Iterator[Show]:
    """Yield the callback that prints pieces of an answer. The first Ctrl-C stops the answer at its next piece, which leaves
    the engine in a consistent state; the second stops it immediately."""
    from llmctl.workflows.chat.conversation import StopGeneration

    pressed = False

    def on_interrupt(signal_number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise StopGeneration
        pressed = True

    def show(piece: str) -> None:
        if pressed:
            raise StopGeneration
        _show(piece)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield show
    finally:
        signal.signal(signal.SIGINT, before)


PAGE = options.Page(
    run,
    ChatConfig,
    extra=(options.Option(f"--{VERIFY}", VERIFY_HELP, "Main"),),
    examples=(
        "llmctl chat --model runs/chat",
        "llmctl chat --model runs/chat --system 你是一个助手 --temperature 0.7",
        "cat questions.txt | llmctl chat --model runs/chat --json",
    ),
)
