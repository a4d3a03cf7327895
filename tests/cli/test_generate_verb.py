"""`llmctl generate` as a user and a script see it."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from llmctl.cli.main import run
from llmctl.data.tokenizing import tokenizers
from llmctl.store.models import Card, write_card

CONTEXT = 64
TEXT = "Shall I compare thee to a summer's day? Thou art more lovely and more temperate. 床前明月光，疑是地上霜。"
POEM = "床前明月光"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language model without a card; a translator, a classifier and a chat model that llmctl made."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = root / "tokenizer"
    tokenizers.save(tokenizers.train("bpe", lambda: [TEXT], len(TEXT), 320), tokenizer)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 320}
    torch.manual_seed(0)
    models: dict[str, Any] = {
        "lm": GPT2LMHeadModel(GPT2Config(n_positions=CONTEXT, n_embd=32, n_layer=1, n_head=2, **ids)),
        "translator": T5ForConditionalGeneration(
            T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0, **ids)
        ),
        "classifier": BertForSequenceClassification(
            BertConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                id2label={0: "bad", 1: "good"},
                **ids,
            )
        ),
    }
    for name, model in models.items():
        with torch.no_grad():
            for weights in model.parameters():
                if weights.dim() > 1:
                    weights.normal_(0.0, 0.3)
        model.save_pretrained(root / name)
        shutil.copytree(tokenizer, root / name, dirs_exist_ok=True)
    write_card(root / "translator", Card(task="translation", family="encoder-decoder", style="pair"))
    write_card(
        root / "classifier",
        Card(task="classification", family="encoder", style="single", labels=("bad", "good")),
    )
    return {name: root / name for name in models}


def llmctl(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = run(["generate", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


def completions(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    code, out, err = llmctl(capsys, *words, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["schema"], document["status"]) == ("llmctl.generate/1", "ok")
    assert document["tokens_per_second"] >= 0
    found: list[dict[str, Any]] = document["completions"]
    return found


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]


# -- what is printed ----------------------------------------------------------------------------------------------


def test_one_prompt_of_a_language_model_is_printed_with_what_follows_it(capsys: Any, folders: Any) -> None:
    [row] = completions(capsys, "--model", folders["lm"], "--prompt", POEM, "--max-new-tokens", 6)
    assert set(row) == {"id", "prompt", "text", "finish_reason", "tokens"}
    code, out, _ = llmctl(capsys, "--model", folders["lm"], "--prompt", POEM, "--max-new-tokens", 6)
    assert (code, out) == (0, row["prompt"] + row["text"] + "\n")
    assert row["prompt"] == POEM
    assert row["tokens"] == 6


def test_one_answer_of_a_translator_is_printed_alone(capsys: Any, folders: Any) -> None:
    words = ("--model", folders["translator"], "--prompt", "Shall I", "--max-new-tokens", 9)
    [row] = completions(capsys, *words)
    assert llmctl(capsys, *words)[1] == row["text"] + "\n"
    assert row["text"]


def test_several_answers_are_printed_as_json_lines(capsys: Any, folders: Any) -> None:
    words = ("--model", folders["lm"], "--prompt", "Shall I", "--prompt", "", "--max-new-tokens", 3)
    found = completions(capsys, *words)
    assert [json.loads(line) for line in llmctl(capsys, *words)[1].splitlines()] == found
    assert [row["prompt"] for row in found] == ["Shall I", ""]


def test_an_input_is_answered_in_json_lines_however_short_it_is(capsys: Any, folders: Any, tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text("Shall I\n", encoding="utf-8")
    _, out, _ = llmctl(capsys, "--model", folders["lm"], "--input", source, "--max-new-tokens", 3)
    assert json.loads(out)["prompt"] == "Shall I"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_the_answer_and_no_control_characters(
    capsys: Any, folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "Shall\x1b[31m I"
    words = ("--model", folders["lm"], "--prompt", prompt, "--max-new-tokens", 20)
    [row] = completions(capsys, *words)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert run(["generate", *map(str, words)]) == 0
    assert screen.getvalue().startswith(r"Shall\x1b[31m I")
    assert "\x1b" not in screen.getvalue()
    assert screen.getvalue().endswith("\n")
    from llmctl.cli.terminal import plain

    assert screen.getvalue() == plain(prompt + row["text"]) + "\n"


def test_the_same_command_gives_the_same_bytes(capsys: Any, folders: Any) -> None:
    words = ("--model", folders["lm"], "--prompt", "Shall I", "--temperature", "1.0", "--num-samples", 3)
    first = llmctl(capsys, *words)[1]
    assert llmctl(capsys, *words)[1] == first
    assert llmctl(capsys, *words, "--batch-size", 1)[1] == first
    assert llmctl(capsys, *words, "--seed", 1)[1] != first
    assert [json.loads(line)["sample"] for line in first.splitlines()] == [0, 1, 2]


def test_a_classifier_answers_with_a_label(capsys: Any, folders: Any) -> None:
    [row] = completions(capsys, "--model", folders["classifier"], "--prompt", "Thou art lovely")
    assert row["text"] in ("bad", "good")
    assert row["finish_reason"] == "label"


def test_a_classifier_that_llmctl_did_not_make_knows_its_labels(capsys: Any, folders: Any, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folders["classifier"], bare)
    (bare / "llmctl.json").unlink()
    words = ("--task", "classification", "--prompt", "Thou art lovely")
    assert completions(capsys, "--model", bare, *words) == completions(capsys, "--model", folders["classifier"], *words)


def test_the_speed_of_a_classifier_is_told_in_records(capsys: Any, folders: Any, tmp_path: Path) -> None:
    words = ("--model", folders["classifier"], "--prompt", "Thou", "--prompt", "lovely", "--json")
    code, out, _ = llmctl(capsys, *words, "--events", tmp_path / "events.jsonl")
    assert code == 0
    assert json.loads(out)["tokens_per_second"] == 0
    assert json.loads(out)["records_per_second"] > 0
    events = [row for row in rows(tmp_path / "events.jsonl") if row["event"] == "progress"]
    assert len(events) == 2
    assert all(row["records_per_second"] > 0 and "tokens_per_second" not in row for row in events)


def test_stop_and_dry_run(capsys: Any, folders: Any) -> None:
    words = ("--model", folders["lm"], "--prompt", "Shall I", "--max-new-tokens", 12)
    [row] = completions(capsys, *words)
    stop = row["text"][4]
    [cut] = completions(capsys, *words, "--stop", stop)
    assert cut["text"] == row["text"].split(stop)[0]
    assert cut["finish_reason"] == "stop"
    code, out, _ = llmctl(capsys, *words, "--dry-run")
    assert code == 0
    assert "task: language-modeling" in out
    assert "chosen: greedy" in out


def test_another_engine_and_another_task(capsys: Any, folders: Any) -> None:
    [row] = completions(
        capsys, "--model", folders["lm"], "--task", "translation", "--prompt", POEM, "--set", "engine=echo"
    )
    assert row["text"] == POEM


# -- files and pipes ----------------------------------------------------------------------------------------------


def test_every_line_of_a_text_file_gets_a_row(capsys: Any, folders: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    source.write_text(f"Shall I\n\n{POEM}\u2028x\nThou", encoding="utf-8")
    code, out, _ = llmctl(capsys, "--model", folders["lm"], "--input", source, "--output", output)
    assert code == 0
    assert str(output) in out
    assert [row["prompt"] for row in rows(output)] == ["Shall I", "", f"{POEM}\u2028x", "Thou"]
    assert [row["prompt"] for row in rows(output)] == [
        row["prompt"] for row in completions(capsys, "--model", folders["lm"], "--input", source)
    ]


@pytest.mark.parametrize("name", ["dates.en", "诗.zh", "prompts", "ask.en.gz"])
def test_a_file_of_another_ending_is_read_line_by_line(capsys: Any, folders: Any, tmp_path: Path, name: str) -> None:
    lines = f"Shall I\n{{\n{POEM}\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(lines, mtime=0) if name.endswith(".gz") else lines)
    found = completions(capsys, "--model", folders["lm"], "--input", tmp_path / name, "--max-new-tokens", "2")
    assert [row["prompt"] for row in found] == ["Shall I", "{", POEM]
    words = ("--model", folders["lm"], "--input", tmp_path / name, "--output", tmp_path / name, "--force")
    assert llmctl(capsys, *words)[0] == 2


def test_records_keep_their_order_and_ids_and_bad_rows_their_places(capsys: Any, folders: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "records.jsonl", tmp_path / "answers.jsonl"
    source.write_text(
        '{"id": "one", "text": "Thou art more lovely and more temperate"}\n'
        '{"id": 2, "words": "Shall I"}\n'
        '{"text": "Shall I", "label": "unread"}\n'
        "{broken\n" + json.dumps({"id": "long", "text": "x! " * 200}) + '\n{"id": "last", "text": "Shall I"}\n',
        encoding="utf-8",
    )
    code, _, err = llmctl(capsys, "--model", folders["lm"], "--input", source, "--output", output)
    assert code == 10
    assert "3 of 6 rows failed" in err
    found = rows(output)
    assert [row["id"] for row in found][:2] == ["one", "2"]
    assert [row["id"] for row in found][4:] == ["long", "last"]
    assert ["error" in row for row in found] == [False, True, False, True, True, False]
    assert set(found[4]) == {"id", "error"}
    assert "text" in found[1]["error"]
    assert "4" in found[3]["id"]
    assert "context 64" in found[4]["error"]
    assert found[2]["text"] == found[5]["text"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_an_output_the_first_bad_row_ends_it(capsys: Any, folders: Any, tmp_path: Path) -> None:
    source = tmp_path / "records.jsonl"
    source.write_text('{"text": "a"}\n{"words": "b"}\n', encoding="utf-8")
    code, out, err = llmctl(capsys, "--model", folders["lm"], "--input", source)
    assert (code, out) == (3, "")
    assert f"{source}:2:text" in err


@pytest.mark.parametrize(
    "text",
    ["Shall I\nThou", '{"source": "Shall I"}\n{"source": "Thou"}\n', '\n {"source": "Shall I"}\n{"source": "Thou"}'],
)
def test_a_pipe_holds_lines_or_records(capsys: Any, folders: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    stdin(monkeypatch, text)
    found = completions(capsys, "--model", folders["translator"], "--max-new-tokens", 4)
    stdin(monkeypatch, text)
    assert completions(capsys, "--model", folders["translator"], "--max-new-tokens", 4, "--input", "-") == found
    assert [row["prompt"] for row in found] == ["Shall I", "Thou"]


@pytest.mark.parametrize(("text", "said"), [("", "no prompts"), ('{"promt": "hi"}', "is missing")])
def test_an_input_that_cannot_be_asked_is_told_before_torch_is_imported(
    folders: Any, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "asked.jsonl").write_text(text)
    words = ["generate", "--model", str(folders["lm"]), "--input", str(tmp_path / "asked.jsonl")]
    probe = f"import sys; from llmctl.cli.main import run; print(run({words!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert said in done.stderr
    assert done.stdout.split() == ["3", "False"]


def test_a_row_without_the_field_is_told_the_fields_and_no_option_that_generate_lacks(
    capsys: Any, folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, '{"promt": "hi"}\n')
    assert run(["generate", "--model", str(folders["lm"])]) == 3
    assert capsys.readouterr().err.splitlines() == [
        "error: standard input:1:text: the field 'text' is missing; fields found: promt",
        "  required fields: text; optional: id",
    ]


def test_a_row_that_offers_tools_is_refused_and_not_answered_without_them(
    capsys: Any, folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "function": {"name": "f"}}]}
    stdin(monkeypatch, json.dumps(row))
    assert run(["generate", "--model", str(folders["lm"]), "--task", "chat", "--input", "-"]) == 3
    assert "standard input:1:tools: the conversation offers tools" in capsys.readouterr().err


def test_an_empty_pipe_asks_nothing(capsys: Any, folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, "")
    code, _, err = llmctl(capsys, "--model", folders["lm"])
    assert code == 3
    assert "standard input: no prompts" in err


# -- refusals -----------------------------------------------------------------------------------------------------


def test_an_output_is_not_overwritten_and_never_an_input(capsys: Any, folders: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    source.write_text("Shall I\n", encoding="utf-8")
    output.write_text("kept", encoding="utf-8")
    words = ("--model", folders["lm"], "--input", source, "--max-new-tokens", 2)
    code, _, err = llmctl(capsys, *words, "--output", output)
    assert code == 2
    assert "--force" in err
    assert output.read_text(encoding="utf-8") == "kept"
    assert llmctl(capsys, *words, "--output", output, "--force")[0] == 0
    assert len(rows(output)) == 1
    link = tmp_path / "link.jsonl"
    link.symlink_to(source)
    for same in (source, link):
        assert llmctl(capsys, *words, "--output", same, "--force")[0] == 2
    assert source.read_text(encoding="utf-8") == "Shall I\n"
    assert llmctl(capsys, *words, "--output", folders["lm"] / "config.json", "--force")[0] == 2
    assert llmctl(capsys, *words, "--output", tmp_path, "--force")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "gpt2", "--prompt", "a"], 2, "untrained architecture"),
        (["--model", "lm", "--prompt", "a", "--input", "b"], 2, "not both"),
        (["--model", "lm", "--input", "missing.txt"], 2, "missing.txt"),
        (["--model", "lm", "--prompt", "a", "--task", "classification"], 2, "has no labels of its own"),
        (["--model", "lm", "--prompt", "a", "--set", "calibrate=true"], 2, "no labels to choose from"),
        (["--model", "classifier", "--prompt", "a", "--set", "calibrate=true"], 2, "nothing to calibrate"),
        (["--model", "classifier", "--prompt", "a", "--set", "labels=[up, down]"], 2, "other labels (bad, good)"),
        (["--model", "classifier", "--prompt", "a", "--num-samples", "2"], 2, "one answer per prompt"),
        (["--model", "classifier", "--prompt", "a", "--task", "lm"], 2, "it can be fine-tuned, but not prompted"),
        (["--model", "classifier", "--prompt", "a", "--task", "chat"], 2, "family decoder"),
        (["--model", "lm", "--prompt", "a", "--num-beams", "2", "--temperature", "1"], 2, "beam"),
        (["--model", "lm", "--prompt", "x! " * 200], 3, "context 64"),
        (["--model", "hf:nobody/nothing", "--prompt", "a", "--offline"], 4, "copy"),
        (["--prompt", "a"], 2, "model"),
    ],
)
def test_refusals(
    capsys: Any, folders: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(folders["lm"].parent)
    found, out, err = llmctl(capsys, *words)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) <= 3
    error = json.loads(run_json(capsys, words))["error"]
    assert error["exit_code"] == code


def run_json(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    return llmctl(capsys, *words, "--json")[1]


def test_nothing_asked_on_a_terminal(capsys: Any, folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    code, _, err = llmctl(capsys, "--model", folders["lm"])
    assert code == 2
    assert "--prompt TEXT" in err


def test_a_prompt_that_does_not_fit_is_refused_before_weights_are_read(
    capsys: Any, folders: Any, tmp_path: Path, spoil: Any
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders["lm"], broken)
    spoil(broken / "model.safetensors")
    assert llmctl(capsys, "--model", broken, "--prompt", "x! " * 200)[0] == 3
    assert llmctl(capsys, "--model", broken, "--prompt", "a")[0] == 5


def test_a_tokenizer_of_another_vocabulary_is_refused_with_both_numbers(
    capsys: Any, folders: Any, tmp_path: Path, spoil: Any
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folders["lm"], mixed)
    tokenizers.save(tokenizers.train("bpe", lambda: [TEXT], len(TEXT), 340), mixed)
    spoil(mixed / "model.safetensors")
    code, _, err = llmctl(capsys, "--model", mixed, "--prompt", "a")
    assert code == 2
    assert "the tokenizer has 340 entries" in err
    assert "the model 320" in err


@pytest.mark.parametrize(
    ("model", "row", "code"),
    [
        ("translator", {"prompt": "Shall I", "target": "Thou art"}, 0),
        ("classifier", {"prompt": "Thou art lovely", "label": "good"}, 0),
        ("classifier", {"prompt": "Thou art lovely"}, 3),
    ],
)
def test_eval_reads_rows_of_prompts_as_generate_does(
    folders: Any, tmp_path: Path, model: str, row: dict[str, str], code: int
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"id": "b", **row}) + "\n")
    words = ("--model", str(folders[model]), "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "scores"))
    assert run(["eval", *words]) == code


def test_a_row_that_offers_tools_is_not_scored_without_them(capsys: Any, folders: Any, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Shall I"}, {"role": "assistant", "content": "Thou art"}]
    rows: list[dict[str, Any]] = [
        {"messages": turns, "tools": []},
        {"messages": turns, "tools": [{"type": "function"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    words = ("--model", str(folders["lm"]), "--task", "chat", "--data", str(tmp_path / "rows.jsonl"))
    assert run(["eval", *words, "--out", str(tmp_path / "scores")]) == 3
    assert "rows.jsonl:2:tools: the conversation offers tools" in capsys.readouterr().err
