"""`llmctl list` and `llmctl show`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmctl import registry
from llmctl.cli.main import run


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run([*words, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_list_has_every_entry_with_the_contracts_fields(capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "list")
    assert document["schema"] == "llmctl.list/1"
    assert document["status"] == "ok"
    assert {(entry["kind"], entry["name"]) for entry in document["entries"]} == {
        (entry.kind, entry.name) for entry in registry.entries()
    }
    for entry in document["entries"]:
        more = {"installed"} | ({"install"} if not entry.get("installed", True) else set())
        assert set(entry) == {"kind", "name", "summary", "owner"} | (more if entry["kind"] == "engines" else set())


@pytest.mark.parametrize("word", ["metrics", "metric", "Metrics"])
def test_one_kind_in_singular_or_plural(capsys: pytest.CaptureFixture[str], word: str) -> None:
    names = [entry["name"] for entry in asked(capsys, "list", word)["entries"]]
    assert "bleu" in names
    assert "gpt2" not in names


def test_list_for_people_is_a_line_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "models"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "kind"
    assert [line.split()[1] for line in lines] == [entry.name for entry in registry.entries("models")]


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_entry_is_described(capsys: pytest.CaptureFixture[str], entry: registry.Entry) -> None:
    document = asked(capsys, "show", entry.kind, entry.name)
    assert document["schema"] == "llmctl.show/1"
    assert (document["kind"], document["name"], document["owner"]) == (entry.kind, entry.name, entry.owner)
    assert run(["show", entry.kind, entry.name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{entry.name}  {entry.summary}\n")
    for option in document.get("options", ()):
        assert option["description"]
        assert option["name"] in text


def test_a_model_says_its_sizes_settings_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "show", "models", "gpt2")
    assert document["family"] == "decoder"
    assert "Radford" in document["reference"]
    sizes = {size["size"]: size for size in document["sizes"]}
    assert list(sizes) == ["nano", "tiny", "small", "base"]
    assert sizes["base"]["settings"] == {
        "layers": 12,
        "hidden": 768,
        "heads": 12,
        "context": 1024,
        "inner": 3072,
        "dropout": 0.0,
    }
    # GPT-2 124M (Radford et al. 2019) has 124,439,808 weights at its own vocabulary of 50,257; 768 for each entry.
    assert sizes["base"]["parameters"] == 124_439_808 - 768 * (50_257 - 4096)
    options = {option["name"]: option for option in document["options"]}
    assert options["model.layers"]["default"] == 3
    assert options["model.layers"]["type"] == "integer"


def test_a_size_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "show", "model", "gpt2:tiny")
    assert [size["size"] for size in document["sizes"]] == ["tiny"]
    assert next(option["default"] for option in document["options"] if option["name"] == "model.layers") == 4


def test_an_alias_leads_to_the_entry(capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "show", "tasks", "lm")
    assert document["name"] == "language-modeling"
    assert document["aliases"] == ["lm"]
    assert document["columns"] == [{"name": "text", "type": "text", "required": True}]
    assert document["metrics"] == ["perplexity", "bits_per_byte"]
    assert document["families"] == ["decoder", "encoder-decoder", "encoder"]


def test_a_metric_says_its_scores_scale_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "show", "metrics", "rouge")
    assert document["scores"] == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert (document["scale"], document["higher_is_better"]) == ("0-1", True)
    stemmer = next(option for option in document["options"] if option["name"] == "stemmer")
    assert (stemmer["type"], stemmer["default"]) == ("true|false", False)


def test_a_data_set_says_its_licence_and_the_command_that_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    document = asked(capsys, "show", "datasets", "sonnets")
    assert document["licence"] == "public domain"
    assert document["records"] == 154
    assert document["task"] == "language-modeling"
    assert document["command"].startswith("llmctl preprocess sonnets --out ")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["list", "modle"], "error: no such kind 'modle'\n  did you mean 'models'?\n"),
        (["list", "xyzzy"], "error: no such kind 'xyzzy'\n  kinds: models, tasks, metrics, datasets, engines\n"),
        (["show", "metrics", "bleau"], "error: no metric named 'bleau'\n  did you mean 'bleu'?\n"),
        (["show", "metrics", "xyzzy"], "error: no metric named 'xyzzy'\n  see: llmctl list metrics\n"),
        (["show", "datasets", "sonets"], "error: no data set named 'sonets'\n  did you mean 'sonnets'?\n"),
        (["show", "models", "gpt2:tny"], "error: gpt2 has no size 'tny'\n  did you mean 'tiny'?\n"),
        (["show", "models", "gpt2:xyz"], "error: gpt2 has no size 'xyz'\n  sizes: nano, tiny, small, base\n"),
        (["show", "models"], "error: show needs a kind and a name\n  see: llmctl list models\n"),
    ],
)
def test_near_misses(capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    assert run(words) == 2
    assert capsys.readouterr() == ("", error)


@pytest.mark.parametrize("width", [30, 40, 60])
def test_no_name_is_cut_on_a_narrow_terminal(on_terminal: Any, width: int) -> None:
    seen = on_terminal(width, "list", "tasks")
    rows = [line.split() for line in seen.splitlines() if line.strip()]
    for name in ("question-answering", "language-modeling"):
        assert any(name in row for row in rows), seen
    assert ("owner" in rows[0]) == (width == 60)
    assert ("columns hidden on a narrow terminal: owner" in " ".join(seen.split())) == (width < 60)
    assert all(len(line) <= width for line in seen.splitlines() if "columns hidden" not in line)
