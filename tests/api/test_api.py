"""`import llmctl`: the lifecycle from Python, with what the command line makes, refuses and says."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmctl

Inside = Callable[..., dict[str, Any]]
SMALL = {"model": {"name": "lstm-seq2seq:nano", "hidden": 16, "embedding": 16}, "precision": "fp32", "batch_size": 8}
SMALL_FLAGS = ("--model", "lstm-seq2seq:nano", "--set", "model.hidden=16", "--set", "model.embedding=16")
SMALL_FLAGS = (*SMALL_FLAGS, "--precision", "fp32", "--batch-size", "8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> llmctl.PreparedData:
    return llmctl.preprocess("dates-en-zh", out=tmp_path_factory.mktemp("api") / "data", vocab_size=500)


@pytest.fixture(scope="module")
def run(data: llmctl.PreparedData, tmp_path_factory: pytest.TempPathFactory) -> llmctl.Run:
    return llmctl.train(data=data, out=tmp_path_factory.mktemp("api") / "run", max_steps=4, **SMALL)


@pytest.fixture(scope="module")
def model(run: llmctl.Run) -> llmctl.Model:
    return llmctl.load(run)


@pytest.fixture(scope="module")
def poems(tmp_path_factory: pytest.TempPathFactory) -> llmctl.Model:
    """A language model of Chinese characters, hardly trained."""
    folder = tmp_path_factory.mktemp("poems")
    data = llmctl.preprocess("tang-poems", out=folder / "data", tokenizer="char", block_size=32)
    small = {"name": "lstm:nano", "hidden": 16, "embedding": 16}
    return llmctl.load(llmctl.train(data=data, model=small, out=folder / "run", max_steps=2))


def content(folder: Path) -> dict[str, str]:
    """The hash of every file that does not name a time, a place or a machine."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".npy", ".parquet", ".safetensors") or path.name == "tokenizer.json"
    }


def comparable(document: Any) -> Any:
    """A document without times, places and what the command line puts around it."""
    if isinstance(document, list | tuple):
        return [comparable(each) for each in document]
    if not isinstance(document, dict):
        return document
    left_out = ("schema", "status", "seconds", "out", "predictions")
    return {name: comparable(value) for name, value in document.items() if name not in left_out}


# ---------------------------------------------------------------------------------------------------------------
# The lifecycle


def test_data_is_that_of_the_command_line(data: llmctl.PreparedData, inside: Inside, tmp_path: Path) -> None:
    told = inside("preprocess", "dates-en-zh", "--vocab-size", "500", "--out", tmp_path / "data")
    assert content(data.path) == content(tmp_path / "data") != {}
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (data.path, tmp_path / "data")]
    assert comparable(manifests[0]) == comparable(manifests[1])
    assert data.splits == told["splits"]
    assert data.records == told["records"]


def test_weights_are_those_of_the_command_line(
    data: llmctl.PreparedData, run: llmctl.Run, inside: Inside, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    told = inside("train", "--data", data.path, *SMALL_FLAGS, "--max-steps", "4", "--out", out)
    assert content(run.model) == content(out / "model")
    assert any(name.endswith(".safetensors") for name in content(run.model))
    assert run.steps == told["steps"] == 4
    assert run.validation == told["validation"]
    assert run.loss_plot.is_file()


def test_scores_and_text_are_those_of_the_command_line(
    data: llmctl.PreparedData, run: llmctl.Run, model: llmctl.Model, inside: Inside
) -> None:
    told = inside("eval", "--model", run.path, "--data", data.path, "--metric", "bleu", "--limit", "5")
    evaluation = llmctl.evaluate(run, data=data, metric="bleu", limit=5)
    assert comparable(evaluation.document) == comparable(told)
    assert evaluation["bleu"] == told["scores"][0]["value"]
    (score,) = evaluation.scores
    assert score.ci is not None
    assert score.ci.low == told["scores"][0]["ci"]["low"]
    with pytest.raises(KeyError, match="the scores are bleu"):
        evaluation["blue"]
    words = ("--prompt", "March 4, 1999", "--max-new-tokens", "6", "--temperature", "1.0", "--seed", "3")
    (row,) = inside("generate", "--model", run.path, *words)["completions"]
    answer = model.generate("March 4, 1999", max_new_tokens=6, temperature=1.0, seed=3)
    assert (answer.id, answer.text, answer.tokens) == (row["id"], row["text"], row["tokens"])


def test_files_are_scored_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("五月四日\n", encoding="utf-8")
    (tmp_path / "ref.txt").write_text("五月五日\n", encoding="utf-8")
    files = {"predictions": tmp_path / "out.txt", "references": tmp_path / "ref.txt"}
    evaluation = llmctl.evaluate(metric="chrf", **files)  # type: ignore[arg-type]
    assert 0 < evaluation["chrf"] < 100


def test_a_run_is_resumed_with_its_own_settings(data: llmctl.PreparedData, tmp_path: Path) -> None:
    out = tmp_path / "run"
    llmctl.train(data=data, out=out, max_steps=2, schedule={"name": "constant"}, seed=5, **SMALL)
    resumed = llmctl.train(out=out, resume=True, max_steps=4)
    whole = llmctl.train(data=data, out=tmp_path / "whole", max_steps=4, schedule={"name": "constant"}, seed=5, **SMALL)
    assert resumed.steps == 4
    assert content(resumed.model) == content(whole.model)
    with pytest.raises(llmctl.errors.ConfigError, match="seed: the run was started with 5"):
        llmctl.train(out=out, resume=True, seed=6)
    with pytest.raises(llmctl.errors.UsageError, match="not a run that can be resumed"):
        llmctl.train(out=tmp_path / "nothing", resume=True)


def test_all_of_it_in_another_thread(tmp_path: Path) -> None:
    found: list[Any] = []

    def work() -> None:
        try:
            data = llmctl.preprocess("dates-en-zh", out=tmp_path / "data", vocab_size=500)
            run = llmctl.train(data=data, out=tmp_path / "run", max_steps=2, **SMALL)
            found.append(llmctl.load(run).generate("May 1", max_new_tokens=3))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(found[0], llmctl.Completion)


def test_a_script_without_a_main_guard_uses_several_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import llmctl\n"
        "print('begins')\n"
        "data = llmctl.preprocess('dates-en-zh', out='data', vocab_size=500, workers=2)\n"
        "model = {'name': 'lstm-seq2seq', 'hidden': 16, 'embedding': 16}\n"
        "print(llmctl.train(data=data, model=model, out='run', max_steps=2, processes=2).steps, __file__)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == f"begins\n2 {script}\n", done.stderr


# ---------------------------------------------------------------------------------------------------------------
# A model


def test_one_prompt_has_one_completion_and_a_list_has_a_list(model: llmctl.Model) -> None:
    alone = model.generate("May 1", max_new_tokens=4)
    assert isinstance(alone, llmctl.Completion)
    assert alone.tokens <= 4
    assert model.generate(["May 1"], max_new_tokens=4) == [alone]
    assert model.generate({"source": "May 1"}, max_new_tokens=4) == alone
    assert model.generate([{"source": "May 1", "id": 7}], max_new_tokens=4)[0].id == "7"
    drawn = model.generate(["May 1", "June 2"], max_new_tokens=4, temperature=1.0, num_samples=3)
    assert [each.sample for each in drawn] == [0, 1, 2, 0, 1, 2]
    assert [each.id for each in drawn] == [drawn[0].id] * 3 + [drawn[3].id] * 3
    assert len(model.generate("May 1", max_new_tokens=4, temperature=1.0, num_samples=1)) == 1
    assert model.generate([]) == []
    for wrong in (3, None):
        with pytest.raises(llmctl.errors.UsageError, match="a prompt is text or a record, not"):
            model.generate(wrong)  # type: ignore[call-overload]


def test_answers_and_texts_are_scored(model: llmctl.Model, poems: llmctl.Model) -> None:
    record = {"source": "May 1", "target": "5月1日"}
    alone = model.score(record)
    assert isinstance(alone, llmctl.ScoredRecord)
    assert alone.logprob < 0
    assert alone.bytes == len("5月1日".encode())
    assert alone.perplexity == pytest.approx(2.718281828 ** (-alone.logprob / alone.tokens))
    again = model.score([record, record], batch_size=1)
    assert [each.logprob for each in again] == pytest.approx([alone.logprob] * 2)
    assert poems.score("床前明月光").bytes == 15
    assert poems.score([]) == []
    with pytest.raises(llmctl.errors.DataError, match="prompt 2:target: the field 'target' is missing"):
        model.score([record, {"source": "May 1"}])


def test_chinese_is_continued(poems: llmctl.Model) -> None:
    assert poems.task == "language-modeling"
    completion = poems.generate("床前明月光", max_new_tokens=5, stop="，")
    assert completion.tokens <= 5
    assert "，" not in completion.text


def test_a_conversation_is_one_record(tmp_path: Path) -> None:
    data = llmctl.preprocess("smalltalk-zh", out=tmp_path / "data", tokenizer="char")
    small = {"name": "lstm", "hidden": 16, "embedding": 16}
    model = llmctl.load(llmctl.train(data=data, model=small, out=tmp_path / "run", max_steps=2))
    conversation = {"messages": [{"role": "user", "content": "你好"}]}
    assert model.generate(conversation, max_new_tokens=3) == model.generate("你好", max_new_tokens=3)
    with pytest.raises(llmctl.errors.UsageError, match="pass the conversation, not a single message") as caught:
        model.generate(conversation["messages"])
    assert caught.value.hint is not None
    assert '{"messages": [...]}' in caught.value.hint


# ---------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_stps": 4, "model": "lstm"}, ("--set", "max_stps=4", "--model", "lstm")),
        ({"model": "gtp2"}, ("--model", "gtp2")),
        ({"model": {"name": "gpt2", "layrs": 2}}, ("--model", "gpt2", "--set", "model.layrs=2")),
        ({"model": "lstm", "optimizer": {"lr": "high"}}, ("--model", "lstm", "--set", "optimizer.lr=high")),
        ({}, ()),
    ],
)
def test_settings_are_refused_in_the_words_of_the_command_line(
    settings: dict[str, Any], words: tuple[str, ...], inside: Inside, tmp_path: Path
) -> None:
    with pytest.raises(llmctl.errors.ConfigError) as caught:
        llmctl.train(data=tmp_path, out=tmp_path / "run", **settings)
    told = inside("train", "--data", tmp_path, "--out", tmp_path / "run", *words, code=2)["error"]
    assert (str(caught.value), caught.value.hint) == (told["message"], told["hint"])
    assert not (tmp_path / "run").exists()


def test_options_of_sampling_are_settings_too(model: llmctl.Model) -> None:
    with pytest.raises(llmctl.errors.ConfigError, match="tempreature: unknown key; did you mean 'temperature'"):
        model.generate("May 1", tempreature=1.0)  # type: ignore[call-overload]
    with pytest.raises(llmctl.errors.ConfigError, match="top_p: must be at most 1"):
        model.generate("May 1", top_p=2.0)
    with pytest.raises(llmctl.errors.UsageError, match="cannot be combined with num_beams > 1"):
        model.generate("May 1", num_beams=2, temperature=1.0)


def test_every_option_of_sampling_has_a_type() -> None:
    from dataclasses import fields

    from llmctl.api.model import SamplingOptions
    from llmctl.engines.spec import Sampling

    assert {*SamplingOptions.__annotations__, "num_samples"} == {each.name for each in fields(Sampling)}


def test_a_gate_that_is_not_met_comes_with_the_scores(data: llmctl.PreparedData, run: llmctl.Run) -> None:
    with pytest.raises(llmctl.errors.GateError, match="bleu") as caught:
        llmctl.evaluate(run, data=data, metric="bleu", require="bleu>=99", limit=3)
    assert caught.value.exit_code == 10
    assert [score["metric"] for score in caught.value.document["scores"]] == ["bleu"]


def test_nothing_is_overwritten_without_force(data: llmctl.PreparedData, run: llmctl.Run, tmp_path: Path) -> None:
    before = content(data.path) | content(run.path)
    with pytest.raises(llmctl.errors.UsageError, match="exists"):
        llmctl.preprocess("dates-en-zh", out=data)
    with pytest.raises(llmctl.errors.UsageError, match="exists") as caught:
        llmctl.train(data=data, out=run, max_steps=1, **SMALL)
    assert content(data.path) | content(run.path) == before
    assert caught.value.__notes__ == [caught.value.hint]  # Python shows them below the message
    small = tmp_path / "small"
    for seed in (0, 1):
        assert llmctl.preprocess("dates-en-zh", out=small, seed=seed, force=True).path == small


# ---------------------------------------------------------------------------------------------------------------
# What is shown


def test_progress_can_be_printed_or_handed_on(
    data: llmctl.PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[llmctl.Event] = []
    llmctl.train(data=data, out=tmp_path / "run", max_steps=2, force=True, progress=events.append, **SMALL)
    assert {"note", "train", "evaluation"} <= {event.name for event in events}
    assert capsys.readouterr() == ("", "")
    llmctl.train(data=data, out=tmp_path / "run", max_steps=2, force=True, progress=True, **SMALL)
    shown = capsys.readouterr()
    assert "step 2: validation loss" in shown.out
    assert "\r" not in shown.out
    assert shown.err == ""
    with caplog.at_level(logging.INFO, "llmctl"):
        llmctl.train(data=data, out=tmp_path / "run", max_steps=2, force=True, **SMALL)
    assert any("step 2: validation loss" in each.message for each in caplog.records)
    assert capsys.readouterr().out == ""


def test_results_show_what_they_are(data: llmctl.PreparedData, run: llmctl.Run, model: llmctl.Model) -> None:
    assert repr(data).startswith(f"PreparedData({str(data.path)!r}, train=")
    assert "4 steps, validation loss" in repr(run)
    assert "task='translation'" in repr(model)


# ---------------------------------------------------------------------------------------------------------------
# The package


def test_importing_it_imports_nothing() -> None:
    probe = (
        "import sys; before = set(sys.modules); import llmctl; names = dir(llmctl);"
        "print(sorted(name for name in set(sys.modules) - before if name != 'llmctl'), names)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", probe], capture_output=True, text=True, check=True, env=_path())
    assert done.stdout == f"[] {sorted(llmctl.__all__)}\n"


def test_settings_are_refused_before_anything_heavy() -> None:
    probe = (
        "import sys, llmctl\n"
        "try: llmctl.train(data='d', model='gtp2', out='o')\n"
        "except llmctl.errors.ConfigError: print([name for name in ('torch', 'transformers', 'numpy', 'typer')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    for name in llmctl.__all__:
        assert getattr(llmctl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        llmctl.trian  # type: ignore[attr-defined]  # noqa: B018


def test_a_type_checker_knows_the_results(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import llmctl\n"
        "run = llmctl.train(data='d', model='gpt2', out='o', max_steps=2)\n"
        "model = llmctl.load(run)\n"
        "records = [{'source': 'a'}]\n"
        "reveal_type(model.generate('a', top_k=3))\n"
        "reveal_type(model.generate('a', num_samples=3))\n"
        "reveal_type(model.generate(['a', 'b']))\n"
        "reveal_type(model.generate(records))\n"
        "reveal_type(model.score({'source': 'a', 'target': 'b'}))\n"
        "reveal_type(llmctl.evaluate(run, data='d')['bleu'])\n"
        "model.generate('a', top_kk=3)\n"
        "llmctl.trian()\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", tmp_path / "cache", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=_path())
    revealed = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    one, several = "llmctl.types.Completion", "list[llmctl.types.Completion]"
    assert [each.replace("builtins.", "") for each in revealed] == [
        *(one, several, several, several),
        *("llmctl.api.results.ScoredRecord", "float"),
    ], done.stdout
    wrong = {line.partition(": error:")[0] for line in done.stdout.splitlines() if ": error:" in line}
    assert wrong == {"script.py:11", "script.py:12"}, done.stdout


def _path() -> dict[str, str]:
    """An environment in which this llmctl is found, whatever else is."""
    import os

    place = str(Path(llmctl.__file__).parent.parent)
    return os.environ | {"PYTHONPATH": place, "MYPYPATH": place}
