"""Output files of `generate`: rows that do not fit, interrupted batches, and what is read back."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli.main import run

Inside = Callable[..., dict[str, Any]]
Folders = dict[str, Path]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


CONVERSATION = [
    {"role": role, "content": f"thou art {number}"} for number in range(8) for role in ("user", "assistant")
] + [{"role": "user", "content": "LAST"}]
TOO_LONG = [
    ("lm", {"id": "long", "text": "love " * 200}),
    ("llama", {"id": "long", "messages": CONVERSATION}),
    ("llama", {"id": "long", "prompt": "love " * 200}),
    ("lm", {"id": "long", "text": "love " * 200_000}),
]


@pytest.mark.parametrize(("model", "record"), TOO_LONG)
def test_a_prompt_longer_than_the_context_is_an_error_row(
    chat_folders: Folders, tmp_path: Path, inside: Inside, model: str, record: dict[str, Any]
) -> None:
    short = {"id": "short", "prompt": "love"}
    asked, out = written(tmp_path / "in.jsonl", short, record), tmp_path / "out.jsonl"
    words = ("generate", "--model", chat_folders[model], "--input", asked, "--output", out, "--max-new-tokens", "2")
    inside(*words, code=10)
    first, second = rows(out)
    assert "text" in first
    assert second["id"] == "long"
    assert "the model's context 96" in second["error"]
    inside(*words, "--force", "--truncate", "left")
    assert rows(out)[1]["truncated_tokens"] > 0
    assert "truncated_tokens" not in rows(out)[0]


def test_what_generate_writes_is_asked_again(chat_folders: Folders, tmp_path: Path, inside: Inside) -> None:
    asked = written(tmp_path / "in.jsonl", {"prompt": "10 hours"}, {"prompt": "22 years ago"}, {"prompt": "10 hours"})
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for model in ("lm", "llama"):
        words = ("generate", "--model", chat_folders[model], "--max-new-tokens", "3", "--force")
        inside(*words, "--input", asked, "--output", one)
        inside(*words, "--input", one, "--output", two)
        assert one.read_bytes() == two.read_bytes()
        inside("eval", "--predictions", one, "--references", two, "--metric", "chrf")


def test_two_questions_of_one_id_are_refused(chat_folders: Folders, tmp_path: Path, inside: Inside) -> None:
    asked = written(tmp_path / "in.jsonl", {"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"})
    error = inside("generate", "--model", chat_folders["lm"], "--input", asked, code=3)["error"]
    assert "in.jsonl:2: duplicate id 'a', as in" in error["message"]


def test_a_file_without_a_readable_row_ends_before_the_model_is_loaded(chat_folders: Folders, tmp_path: Path) -> None:
    asked = written(tmp_path / "in.jsonl", {"txt": "one"}, {"txt": "two"})
    words = ["generate", "--model", chat_folders["lm"], "--input", asked, "--output", tmp_path / "out.jsonl"]
    probe = f"import sys; from llmctl.cli.main import run; print(run({[*map(str, words)]!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "3 False\n"
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "sent", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM), (signal.SIGKILL,)]
)
def test_an_interrupted_batch_keeps_its_rows_and_goes_on(
    chat_folders: Folders, tmp_path: Path, inside: Inside, sent: tuple[signal.Signals, ...]
) -> None:
    asked = written(tmp_path / "in.jsonl", *({"id": str(n), "prompt": f"love {n}"} for n in range(200)))
    sampled = ("--temperature", "0.8", "--max-new-tokens", "8", "--batch-size", "1")
    words = ["generate", "--model", chat_folders["lm"], "--input", asked, *sampled]
    inside(*words, "--output", tmp_path / "whole.jsonl")
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "llmctl", *map(str, words), "--output", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(left.stat().st_size for left in tmp_path.glob("out.jsonl.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for each in sent:
        process.send_signal(each)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert not out.exists()
    if signal.SIGKILL not in sent:
        assert process.returncode == 75, err
        assert "with --resume continues" in err
    inside(*words, "--output", out, "--resume")
    error = inside(*words, "--output", out, "--resume", code=2)["error"]
    assert error["message"] == f"the output {out} is complete"
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_rows_of_a_pipe_are_answered_before_the_pipe_ends(chat_folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    words = ("--set", "engine=echo", "--batch-size", "1", "--input", "-", "--output", str(out))
    command = [sys.executable, "-m", "llmctl", "generate", "--model", str(chat_folders["lm"]), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        for number in range(60):
            process.stdin.write(json.dumps({"id": str(number), "prompt": "床前明月"}) + "\n")
        process.stdin.flush()
        while not any(left.stat().st_size for left in tmp_path.glob("out.jsonl.*.partial")):
            assert process.poll() is None
            time.sleep(0.02)
        process.stdin.write('{"id": "last", "prompt": "x"}\n')
        process.stdin.close()
        assert process.wait(60) == 0
    assert [each["id"] for each in rows(out)] == [*map(str, range(60)), "last"]


def test_rows_are_printed_as_they_are_answered(chat_folders: Folders, tmp_path: Path) -> None:
    asked = written(tmp_path / "in.jsonl", *({"id": str(n), "prompt": f"love {n} " * 40} for n in range(1_000)))
    events = tmp_path / "events.jsonl"
    asking = ("--input", str(asked), "--truncate", "left", "--events", str(events))
    words = ("--set", "engine=echo", "--batch-size", "1", *asking)
    command = [sys.executable, "-m", "llmctl", "generate", "--model", str(chat_folders["lm"]), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "0"
        # The rows do not fit into the pipe, so the command waits for its reader.
        assert all(each["done"] < 1_000 for each in rows(events) if each["event"] == "progress")
        process.stdout.close()
        assert process.wait(60) == 141
        assert "error" not in process.stderr.read()


def test_a_file_killed_at_any_moment_is_the_same_in_the_end(
    chat_folders: Folders, tmp_path: Path, inside: Inside
) -> None:
    asked = written(tmp_path / "in.jsonl", *({"id": str(n), "prompt": f"love {n}"} for n in range(1_200)))
    words = ["generate", "--model", chat_folders["lm"], "--set", "engine=echo", "--input", asked]
    document = inside(*words, "--output", tmp_path / "whole.jsonl")
    assert (document["answers"], document["completions"]) == (1_200, [])
    out, whole = tmp_path / "out.jsonl", (tmp_path / "whole.jsonl").read_bytes()
    process = subprocess.Popen([sys.executable, "-m", "llmctl", *map(str, words), "--output", str(out), "--quiet"])
    while not (found := list(tmp_path.glob("out.jsonl.*.partial"))) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    [place] = found
    for cut in (None, 1, len(whole) // 3, len(whole) - 1):  # what a process that is killed may leave
        if cut is not None:
            place.write_bytes(whole[:cut])
        assert inside(*words, "--output", out, "--resume")["answers"] == 1_200
        assert out.read_bytes() == whole
        out.unlink()


def test_the_second_row_of_an_id_is_an_error_row(chat_folders: Folders, tmp_path: Path, inside: Inside) -> None:
    same = {"id": "b", "prompt": "same"}
    asked = written(tmp_path / "in.jsonl", {"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"}, same, same)
    out = tmp_path / "out.jsonl"
    words = ("generate", "--model", chat_folders["lm"], "--set", "engine=echo", "--input", asked, "--output", out)
    error = inside(*words, code=10)
    assert (error["answers"], error["failed"], len(error["completions"])) == (3, 1, 3)
    assert [each["id"] for each in rows(out)] == ["a", f"{asked}:2", "b", "b"]
    assert "in.jsonl:2: duplicate id 'a', as in" in rows(out)[1]["error"]


@pytest.mark.parametrize("name", ["out.txt", "out.csv", "out.JSON", "out.jsonl.gz"])
def test_an_output_is_named_as_what_it_holds(chat_folders: Folders, tmp_path: Path, inside: Inside, name: str) -> None:
    words = ("generate", "--model", chat_folders["lm"], "--prompt", "x", "--output", tmp_path / name)
    error = inside(*words, code=2)["error"]
    assert "the output holds JSON lines" in error["message"]
    assert not list(tmp_path.iterdir())


def test_an_output_is_not_resumed_with_other_settings(chat_folders: Folders, tmp_path: Path, inside: Inside) -> None:
    asked, out = written(tmp_path / "in.jsonl", {"prompt": "x"}), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.00000000.partial").write_text('{"id": "a"}\n')
    words = ("generate", "--model", chat_folders["lm"], "--input", asked, "--output", out, "--max-new-tokens", "1")
    assert "other settings or another model" in inside(*words, "--resume", code=2)["error"]["message"]
    inside(*words)  # begins again, and nothing of the old one stays
    assert [each.name for each in tmp_path.glob("out*")] == ["out.jsonl"]


def test_a_system_message_and_the_role_developer(chat_folders: Folders, tmp_path: Path, inside: Inside) -> None:
    words = ("generate", "--model", chat_folders["long"], "--set", "engine=echo")
    (row,) = inside(*words, "--prompt", "hi", "--system", "Be brief.")["completions"]
    assert row["prompt"] == "Be brief.\nhi"
    parts = [{"type": "text", "text": "hi "}, {"type": "text", "text": "you"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    asked = written(tmp_path / "in.jsonl", {"messages": messages})
    assert inside(*words, "--input", asked)["completions"][0]["prompt"] == "Be brief.\nhi you"
    error = inside("generate", "--model", chat_folders["lm"], "--prompt", "x", "--system", "y", code=2)["error"]
    assert "a system message is for chat models" in error["message"]


def test_a_stop_text_of_a_shell_may_be_a_line_break(chat_folders: Folders, inside: Inside) -> None:
    words = ("generate", "--model", chat_folders["lm"], "--set", "engine=echo", "--prompt", "one\ntwo", "--stop", "\\n")
    assert inside(*words)["completions"][0]["text"] == "one"


@pytest.mark.parametrize("closed", ["stderr", "stdout"])
def test_a_closed_stream_is_no_bug(closed: str) -> None:
    number = {"stdout": 1, "stderr": 2}[closed]
    command = f'"$0" -m llmctl list {number}>&-'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == {"stdout": 4, "stderr": 0}[closed]
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


def test_leftovers_of_a_killed_merge_are_removed(tmp_path: Path) -> None:
    from llmctl.store import atomic

    script = (
        "import os, signal, sys; from pathlib import Path; from llmctl.store import atomic\n"
        "with atomic.atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'weights').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic.atomic_folder(tmp_path / "out") as folder:
        (folder / "weights").write_text("y")
        with atomic.atomic_folder(tmp_path / "out") as other:  # one in use stays
            assert folder.exists()
            assert other.exists()
        shutil.rmtree(tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_line_break_in_a_file_name_is_escaped(
    chat_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two\nlines.jsonl"
    words = ["generate", "--model", str(chat_folders["lm"]), "--prompt", "x", "--output", str(out)]
    assert run([*words, "--max-new-tokens", "1"]) == 0
    assert "two\\nlines.jsonl" in capsys.readouterr().out
