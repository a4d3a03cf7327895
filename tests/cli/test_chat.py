"""`llmctl chat` as a script with a pipe sees it, and the conversation beneath."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli.main import run
from llmctl.data.tokenizing import tokenizers
from llmctl.errors import DataError, LlmctlError, UsageError
from llmctl.types import Event
from llmctl.workflows.chat.conversation import StopGeneration, piped_lines
from llmctl.workflows.inference.conversation import fitted

CONTEXT = 96
POEM = "床前明月光，疑是地上霜。"


def llmctl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str | bytes, *words: object
) -> tuple[int, str, str]:
    data = typed if isinstance(typed, bytes) else typed.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    code = run(["chat", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture
def pipe(capsys: Any, monkeypatch: Any, chat_folders: Any) -> Callable[..., tuple[int, str, str]]:
    """Pipe text into `llmctl chat`; returns exit code, stdout, stderr."""

    def send(typed: str | bytes, *words: object, model: str = "llama") -> tuple[int, str, str]:
        return llmctl(capsys, monkeypatch, typed, "--model", chat_folders[model], *words)

    return send


ECHO = ("--set", "engine=echo")
SHORT = ("--max-new-tokens", 8)


# -- piped lines --------------------------------------------------------------------------------------------------


def test_each_piped_line_is_answered_and_history_is_kept(pipe: Any) -> None:
    code, out, err = pipe("Shall I\r\n\n  \nThou art\n", *ECHO, "--max-new-tokens", 40)
    assert (code, err) == (0, "")
    # The echo says what the model saw: its template's words are control tokens and not said.
    assert out == "Shall I\n\nShall IShall IThou art\n"


def test_the_answers_are_those_of_the_document(pipe: Any) -> None:
    lines = f"Shall I\n{POEM}\nThou\n"
    document = json.loads(pipe(lines, *SHORT, "--json")[1])
    assert (document["schema"], document["status"]) == ("llmctl.chat/1", "ok")
    assert [turn["prompt"] for turn in document["turns"]] == ["Shall I", POEM, "Thou"]
    assert set(document["turns"][0]) == {"prompt", "text", "finish_reason", "tokens", "dropped"}
    assert [message["role"] for message in document["messages"]] == ["user", "assistant"] * 3
    texts = [turn["text"] for turn in document["turns"]]
    assert [message["content"] for message in document["messages"][1::2]] == texts
    assert all(texts)
    assert pipe(lines, *SHORT)[1] == "\n\n".join(texts) + "\n"


def test_a_slash_in_a_pipe_is_text_and_touches_no_file(pipe: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert pipe("/save out.jsonl\n/quit\n", *ECHO)[1].startswith("/save out.jsonl\n\n/save out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_answered_before_the_next_one_comes() -> None:
    come: list[str] = []

    def source() -> Iterator[bytes]:
        for line in ("one\ntw", "o\n床", "前\nlast"):
            come.append(line)
            yield line.encode()

    lines = piped_lines(source())
    assert next(lines) == ("standard input:1", "one")
    assert come == ["one\ntw"]
    assert [text for _, text in lines] == ["two", "床前", "last"]


def test_a_character_cut_between_two_reads_is_whole() -> None:
    data = f"{POEM}\n".encode()
    assert [text for _, text in piped_lines(bytes([byte]) for byte in data)] == [POEM]


def test_a_system_message_of_the_options_is_seen(pipe: Any) -> None:
    code, out, _ = pipe("Thou\n", *ECHO, "--system", "Shall I")
    assert (code, out) == (0, "Shall IThou\n")


def test_the_same_command_gives_the_same_bytes(pipe: Any) -> None:
    words = ("--temperature", 1.0, *SHORT)
    first = pipe("Thou\nThou\n", *words)
    assert first[0] == 0
    assert pipe("Thou\nThou\n", *words) == first
    assert pipe("Thou\nThou\n", *words, "--seed", 7)[1] != first[1]


def test_a_recipe_can_hold_the_settings(pipe: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "chat.yaml"
    recipe.write_text(f"chat:\n  system: {POEM}\n  engine: echo\n  max_new_tokens: 90\n", encoding="utf-8")
    assert pipe("Thou\n", "--config", recipe)[1] == f"{POEM}Thou\n"


def test_a_line_too_long_is_named_and_what_was_answered_is_kept(pipe: Any) -> None:
    lines = "Thou\n" + "x! " * 200 + "\nThou\n"
    code, out, err = pipe(lines, *SHORT)
    assert code == 3
    assert "standard input:2" in err
    assert f"context {CONTEXT}" in err
    assert len(out.splitlines()) >= 1
    code, out, _ = pipe(lines, *SHORT, "--json")
    document = json.loads(out)
    assert (document["status"], document["error"]["exit_code"]) == ("error", 3)
    assert [turn["prompt"] for turn in document["turns"]] == ["Thou"]


@pytest.mark.parametrize(
    ("typed", "words", "code", "message"),
    [
        (b"", [], 3, "standard input: no messages"),
        (b"\n  \n", [], 3, "standard input: no messages"),
        (b"Thou\nr\xe9sum\xe9\n", [], 3, "standard input:2:2"),
        (b"Thou\n", ["--system", "x! " * 200], 3, f"context {CONTEXT}"),
        (b"Thou\n", ["--top-p", "1.5"], 2, "top_p"),
        (b"Thou\n", ["--num-beams", "2"], 2, "--num-beams"),
    ],
)
def test_refusals(pipe: Any, typed: bytes, words: list[str], code: int, message: str) -> None:
    found, _, err = pipe(typed, *words, *SHORT)
    assert found == code
    assert message in err
    assert len(err.splitlines()) <= 3


def test_a_language_model_is_refused_in_one_line_that_says_what_to_do(
    capsys: Any, monkeypatch: Any, chat_folders: Any, tmp_path: Path, spoil: Any
) -> None:
    folder = shutil.copytree(chat_folders["lm"], tmp_path / "lm")
    spoil(folder / "model.safetensors")
    code, out, err = llmctl(capsys, monkeypatch, "Thou\n", "--model", folder)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "not a chat model" in err
    assert "llmctl generate --model" in err


def test_a_terminal_without_a_prompt_is_refused(capsys: Any, chat_folders: Any, monkeypatch: Any) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Keyboard())
    assert run(["chat", "--model", str(chat_folders["llama"])]) == 2
    assert "pipe messages in" in capsys.readouterr().err


def test_dry_run(pipe: Any) -> None:
    code, out, _ = pipe("", "--dry-run", "--temperature", 0.5)
    assert code == 0
    assert "task: chat" in out
    assert "chosen: drawn" in out


# -- the context --------------------------------------------------------------------------------------------------


def test_the_oldest_turns_go_and_it_is_said(talk: Any) -> None:
    events: list[Event] = []
    conversation = talk(system="Be kind.", emit=events.append, max_new_tokens=10)
    for number in range(12):
        turn = conversation.say(f"number {number}")
    assert turn.dropped > 0
    assert turn.text.startswith("Be kind.")
    request, dropped = fitted(conversation.predictor.request_builder, conversation.messages[:-1], 10)
    assert dropped == turn.dropped
    assert len(request.input_ids) + 10 <= CONTEXT
    seen = conversation.predictor.engine.tokenizer.decode(request.input_ids)
    assert seen.startswith("<|system|>Be kind.<|eos|><|user|>number")
    assert "number 11" in seen
    assert "number 0" not in seen
    # One turn more would not have fitted.
    whole = [conversation.messages[0], *conversation.messages[1 + 2 * (dropped - 1) : -1]]
    assert fitted(conversation.predictor.request_builder, whole, 10)[1] == 1
    # Nothing is lost of what was said, and each loss was told when it came.
    assert conversation.turns == 12
    texts = [event.fields["text"] for event in events if event.name == "warning"]
    assert texts[0].startswith(f"the context of {CONTEXT} tokens is full: the oldest turn is dropped")
    assert f"the oldest {dropped} turns are" in texts[-1]
    assert len(texts) <= dropped


def test_what_is_dropped_is_said_on_standard_error_even_when_quiet(pipe: Any) -> None:
    code, out, err = pipe("Thou art more lovely and more temperate\n" * 4, *ECHO, "--max-new-tokens", 30, "--quiet")
    assert code == 0
    assert err.startswith("warning: the context of 96 tokens is full: the oldest")
    assert "warning" not in out


def test_a_message_that_the_context_does_not_hold_is_taken_back(talk: Any) -> None:
    conversation = talk(system="Be kind.")
    conversation.say("Thou")
    before = list(conversation.messages)
    with pytest.raises(DataError, match=rf"the prompt is \d+ tokens long, the model's context {CONTEXT}"):
        conversation.say("x! " * 200)
    assert conversation.messages == before
    assert conversation.say("Thou").dropped == 0


def test_a_last_message_may_take_the_room_of_the_answer(talk: Any) -> None:
    conversation = talk("torch", max_new_tokens=90)
    conversation.say("Shall I")
    turn = conversation.say("x! " * 20)
    assert turn.dropped == 1
    assert 0 < turn.tokens < 48
    assert turn.finish_reason == "length"


def test_chinese(talk: Any, pipe: Any) -> None:
    assert talk(max_new_tokens=90).say(POEM).text == POEM
    assert pipe(f"{POEM}\n", *ECHO, "--max-new-tokens", 90)[1] == f"{POEM}\n"


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_text_never_becomes_a_control_token(talk: Any, role: str) -> None:
    conversation = talk()
    tokenizer = conversation.predictor.engine.tokenizer
    special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(each) for each in tokenizers.CONTROL}

    def control(text: str) -> list[int]:
        said = {"system": "a", "user": "a", "assistant": "a"} | {role: text}
        messages = [{"role": name, "content": content} for name, content in said.items()]
        request, _ = fitted(conversation.predictor.request_builder, [*messages, {"role": "user", "content": "b"}], 1)
        return [token for token in request.input_ids if token in special]

    assert len(control("a")) >= 8
    for token in tokenizers.CONTROL:
        assert control(f"a{token}b") == control("a"), token


# -- stopping, regenerating ---------------------------------------------------------------------------------------


def test_a_stopped_answer_is_kept_and_marked_and_the_engine_goes_on(talk: Any) -> None:
    conversation, other = talk("torch", "long", max_new_tokens=40), talk("torch", "long", max_new_tokens=40)
    shown: list[str] = []

    def stop_at_third(piece: str) -> None:
        if len(shown) == 3:
            raise StopGeneration
        shown.append(piece)

    turn = conversation.say("Shall I", stop_at_third)
    whole = other.say("Shall I")
    assert turn.finish_reason == "interrupted"
    assert turn.text == "".join(shown)
    assert whole.text.startswith(turn.text)
    assert turn.text != whole.text
    assert conversation.messages[-1] == {"role": "assistant", "content": turn.text, "interrupted": True}
    assert conversation.regenerate().text == whole.text
    assert conversation.messages == other.messages
    assert conversation.say("Thou").text == other.say("Thou").text


def test_an_answer_stopped_before_it_began_leaves_nothing(talk: Any) -> None:
    def halt(piece: str) -> None:
        raise StopGeneration

    conversation = talk("torch", system="Be kind.")
    assert conversation.say("Shall I", halt) is None
    assert conversation.messages == [{"role": "system", "content": "Be kind."}]
    first = conversation.say("Shall I")
    assert conversation.regenerate(halt) is None
    assert conversation.messages[-1]["content"] == first.text


def test_what_is_shown_is_the_answer_without_blanks_around_it(talk: Any) -> None:
    shown: list[str] = []
    turn = talk("torch", max_new_tokens=30).say("Shall I", shown.append)
    assert len(shown) > 3
    assert "".join(shown) == turn.text == turn.text.strip()


def test_regenerating_draws_another_answer(talk: Any) -> None:
    conversation = talk("torch", temperature=1.0)
    with pytest.raises(UsageError, match="no message"):
        conversation.regenerate()
    texts = {conversation.say("Shall I").text, conversation.regenerate().text, conversation.regenerate().text}
    assert len(texts) == 3
    assert len(conversation.messages) == 2


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["talk.jsonl", "talk.json"])
def test_what_is_saved_is_loaded(talk: Any, tmp_path: Path, name: str) -> None:
    conversation, other = talk("torch", "long", system=POEM), talk("torch", "long", system="another")
    conversation.say("Shall\nI \u2028 \x1b[31m")
    conversation.messages[-1]["interrupted"] = True
    conversation.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    other.say("forgotten")
    other.load(tmp_path / name)
    assert other.messages == conversation.messages
    assert other.system == POEM
    assert other.say("Thou").text == conversation.say("Thou").text


def test_what_is_saved_can_be_learned_from(talk: Any, tmp_path: Path, inside: Any) -> None:
    conversation = talk(system=POEM)
    for number in range(3):
        conversation.reset()
        conversation.say(f"number {number}")
        conversation.messages[-1] |= {"interrupted": True} if number == 1 else {}
        conversation.save(tmp_path / f"{number}.jsonl")
    words = ("--task", "chat", "--tokenizer", "byte", "--out", tmp_path / "made")
    document = inside("preprocess", *sorted(tmp_path.glob("*.jsonl")), *words)
    assert document["records"]["kept"] == 3


def test_a_file_is_not_overwritten_without_force(talk: Any, tmp_path: Path) -> None:
    conversation, path = talk(), tmp_path / "talk.jsonl"
    with pytest.raises(UsageError, match="the conversation is empty"):
        conversation.save(path)
    conversation.say("Thou")
    path.write_text("kept", encoding="utf-8")
    with pytest.raises(UsageError, match="exists"):
        conversation.save(path)
    assert path.read_text(encoding="utf-8") == "kept"
    conversation.save(path, force=True)
    assert json.loads(path.read_text(encoding="utf-8"))["messages"] == conversation.messages
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match="folder"):
        conversation.save(tmp_path / "folder.json", force=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("talk.txt", "Thou", ".jsonl"),
        ("missing.jsonl", None, "missing.jsonl"),
        ("empty.jsonl", "", "no records"),
        ("cut.json", '{"messages": [', "truncated"),
        ("two.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n' * 2, "several"),
        ("role.jsonl", '{"messages": [{"role": "tool", "content": "a"}]}', "'tool'"),
        ("content.jsonl", '{"messages": [{"role": "user", "content": 1}]}', "int"),
        ("field.jsonl", '{"text": "a"}', "'messages' is missing"),
    ],
)
def test_a_bad_file_leaves_the_conversation(talk: Any, tmp_path: Path, name: str, content: Any, message: str) -> None:
    conversation = talk()
    conversation.say("Thou")
    before = list(conversation.messages)
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(LlmctlError) as caught:
        conversation.load(tmp_path / name)
    assert message in f"{caught.value} {caught.value.hint}"
    assert conversation.messages == before


def test_a_closed_standard_input_has_no_messages(chat_folders: dict[str, Path]) -> None:
    command = '"$0" -m llmctl chat --model "$1" <&-'
    words = ["sh", "-c", command, sys.executable, str(chat_folders["llama"])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "standard input is closed" in done.stderr
