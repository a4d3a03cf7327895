"""`llmctl chat` as a person at a terminal sees it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli.chat import COMMANDS, Prompter
from llmctl.cli.session import Session
from llmctl.workflows.chat.conversation import Conversation

CONTEXT = 96


def typed(conversation: Conversation, keys: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What a person sees who types these keys, then Ctrl-D: standard output (answers), standard error (talk)."""
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text(f"{keys}\x04")
        Prompter(Session(verb="chat"), conversation, Path("model")).run()
    found = capsys.readouterr()
    return found.out, found.err


def test_help_lists_every_command_and_every_command_is_known(talk: Any, capsys: Any) -> None:
    out, err = typed(talk(), "/help\r", capsys)
    for command in COMMANDS:
        assert re.search(rf"^{command.name} .*{re.escape(command.does)}$", out, re.MULTILINE)
    assert "error" not in err
    known = {*Prompter(Session(verb="chat"), talk(), Path("model")).commands, "/quit"}
    assert {command.name for command in COMMANDS} == known
    assert {"/reset", "/system", "/save", "/load", "/regenerate", "/help", "/quit"} <= known


def test_a_conversation_with_its_commands(talk: Any, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    keys = (
        "/system Be kind.\rThou\r/save a.jsonl\r/save 'a b.json'\r/save a.jsonl\r/save a.jsonl --force\r"
        "/reset\r//quit it\r/load a.jsonl\r/regenerate\r/sytsem x\r/save\r"
    )
    out, err = typed(talk(), keys, capsys)
    assert out.split() == ["Be", "kind.Thou", "Be", "kind./quit", "it", "Be", "kind.Thou"]
    assert "system: Be kind." in err
    assert "1 turn saved: a b.json" in err
    assert err.count("1 turn saved: a.jsonl") == 2
    assert err.count("a.jsonl exists") == 1
    assert "conversation cleared" in err
    assert "1 turn loaded: a.jsonl" in err
    assert "greedy, so the answer is the same" in err
    assert "did you mean '/system'" in err
    assert "expected one file name, got 0" in err
    saved = json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))
    assert saved == {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Thou"},
            {"role": "assistant", "content": "Be kind.Thou"},
        ]
    }


def test_ctrl_c_clears_the_line_and_quit_ends(talk: Any, capsys: Any) -> None:
    out, _ = typed(talk(), "never said\x03Thou\r\r/quit\rnor this\r", capsys)
    assert out == "Thou\n\n"


def test_alt_enter_and_a_pasted_text_are_one_message(talk: Any, capsys: Any) -> None:
    conversation = talk()
    typed(conversation, "Thou\x1b\rart\r\x1b[200~Shall\nI\x1b[201~\r", capsys)
    assert [each["content"] for each in conversation.messages[::2]] == ["Thou\nart", "Shall\nI"]


def test_an_error_is_told_and_the_conversation_goes_on(talk: Any, capsys: Any) -> None:
    out, err = typed(talk(), "x! " * 200 + "\rThou\r", capsys)
    assert f"the model's context {CONTEXT}" in err
    assert out.split() == ["Thou"]


def test_a_removed_system_message_is_gone(talk: Any, capsys: Any) -> None:
    out, err = typed(talk(system="Be kind."), '/system\r/system ""\rThou\r', capsys)
    assert "system: Be kind." in err
    assert "no system message" in err
    assert out.split() == ["Thou"]


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|2)(?:;\d+)*m")
"""A colour, or dim."""


class Terminal:
    """The program in a terminal of its own."""

    def __init__(self, *words: object, **settings: str) -> None:
        self.keyboard, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 100))
        program = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "os.execv(sys.executable, [sys.executable, '-m', 'llmctl', *sys.argv[1:]])"
        )
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "chat", *map(str, words)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            # Nobody here answers where the cursor stands.
            env={**kept, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **settings},
        )
        os.close(terminal)
        self.screen = ""

    def press(self, keys: str) -> None:
        self.screen = ""
        os.write(self.keyboard, keys.encode())

    def see(self, pattern: str, seconds: float = 60) -> str:
        """Wait until the screen shows it; returns all that came since the last key."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.screen, re.DOTALL):
            ready, _, _ = select.select([self.keyboard], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.screen!r}"
            try:
                self.screen += os.read(self.keyboard, 1 << 16).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the program ended: {self.screen!r}") from None
        return self.screen

    def end(self) -> int:
        with contextlib.suppress(OSError):
            while os.read(self.keyboard, 1 << 16):
                pass
        return self.process.wait(30)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.keyboard)


def test_ctrl_c_stops_the_answer_and_not_the_program(chat_folders: Any) -> None:
    with Terminal("--model", chat_folders["long"], "--max-new-tokens", 90_000) as terminal:
        assert COLOUR.search(terminal.see("> "))
        terminal.press("Shall I\r")
        terminal.see(r"Shall I.*\n.{40}")
        terminal.press("\x03")
        terminal.see(r"\(stopped\).*> ")
        terminal.press("/help\r")
        terminal.see("/quit.*> ")
        terminal.press("Thou\r")
        terminal.see(r"Thou.*\n.{40}")
        terminal.press("\x03")
        terminal.see(r"\(stopped\).*> ")
        terminal.press("\x04")
        assert terminal.end() == 0


def test_no_color_is_kept(chat_folders: Any) -> None:
    with Terminal("--model", chat_folders["llama"], "--set", "engine=echo", NO_COLOR="1") as terminal:
        seen = terminal.see(">")
        terminal.press("Thou\r")
        seen += terminal.see(r"Thou.*Thou.*>")
        assert not COLOUR.search(seen)
        terminal.press("/quit\r")
        assert terminal.end() == 0
