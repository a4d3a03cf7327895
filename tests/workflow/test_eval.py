"""Scoring as its users see it: files and models, gates, baselines, reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sacrebleu
from rouge_score import rouge_scorer

Inside = Callable[..., dict[str, Any]]

ENGLISH = ["The cat sat on the mat.", "There is a dog in the garden.", "It rains.", "We shall see what comes of it."]
GUESSED = ["The cat sat on a mat.", "There is a dog in the yard.", "It is raining.", "We shall see what comes."]
CHINESE = ["人人生而自由，在尊严和权利上一律平等。", "人人有权享有生命、自由和人身安全。"]
GUESSED_CHINESE = ["人人生而自由，在尊严和权利上都平等。", "人人有权享有生命和自由。"]


def lines(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    guessed, right = lines(tmp_path / "hyp.txt", GUESSED), lines(tmp_path / "ref.txt", ENGLISH)
    return ("--predictions", str(guessed), "--references", str(right))


def values(document: dict[str, Any]) -> dict[str, float]:
    return {score["metric"]: score["value"] for score in document["scores"]}


def test_scores_are_the_reference_libraries_own(inside: Inside, files: tuple[str, ...]) -> None:
    document = inside("eval", *files, "--metric", "bleu", "--metric", "chrf", "--metric", "ter", "--metric", "rouge")
    found = values(document)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(GUESSED, [ENGLISH]).score, abs=1e-9)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(GUESSED, [ENGLISH]).score, abs=1e-9)
    assert found["ter"] == pytest.approx(sacrebleu.corpus_ter(GUESSED, [ENGLISH]).score, abs=1e-9)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        mean = sum(scorer.score(right, guess)[name].fmeasure for right, guess in zip(ENGLISH, GUESSED, strict=True)) / 4
        assert found[name] == pytest.approx(mean, abs=1e-9)
    bleu = document["scores"][0]
    assert bleu["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert bleu["ci"]["low"] <= bleu["value"] <= bleu["ci"]["high"]
    assert (bleu["n"], bleu["scale"]) == (4, "0-100")


def test_chinese_is_scored_by_characters_and_says_so(inside: Inside, tmp_path: Path) -> None:
    guessed, right = lines(tmp_path / "h.txt", GUESSED_CHINESE), lines(tmp_path / "r.txt", CHINESE)
    document = inside("eval", "--predictions", guessed, "--references", right, "--metric", "bleu", "--metric", "rouge")
    assert values(document)["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(GUESSED_CHINESE, [CHINESE], tokenize="zh").score, abs=1e-9
    )
    assert "tok:zh" in document["scores"][0]["signature"]
    assert values(document)["rouge1"] > 0.5
    same = inside("eval", "--predictions", right, "--references", right, "--metric", "rouge")
    assert values(same)["rougeL"] == 1.0


def test_a_gate_that_is_not_met_ends_with_10_and_still_gives_the_scores(inside: Inside, files: tuple[str, ...]) -> None:
    document = inside("eval", *files, "--metric", "bleu", "--require", "bleu>=99", code=10)
    assert document["status"] == "error"
    assert document["error"]["exit_code"] == 10
    assert document["gates"][0]["met"] is False
    assert values(document)["bleu"] > 0
    assert inside("eval", *files, "--metric", "bleu", "--require", "bleu>=1")["gates"][0]["met"] is True


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--metric", "blue"), 2),
        (("--metric", "bleu", "--require", "chrf>=1"), 2),
        (("--metric", "bleu", "--require", "bleu>>1"), 2),
        (("--metric", "perplexity"), 2),
        (("--metric", "bleu:tokenise=zh"), 2),
        ((), 2),
    ],
)
def test_what_cannot_be_scored_is_said_before(
    inside: Inside, files: tuple[str, ...], words: tuple[str, ...], code: int
) -> None:
    inside("eval", *files, *words, code=code)


def test_rows_that_do_not_match_are_never_scored(inside: Inside, tmp_path: Path) -> None:
    guessed, right = lines(tmp_path / "h.txt", GUESSED), lines(tmp_path / "r.txt", ENGLISH[:3])
    words = ("eval", "--predictions", guessed, "--references", right, "--metric", "bleu", "--require", "bleu>=0")
    message = inside(*words, code=3)["error"]["message"]
    assert "4 predictions" in message
    assert "3 references" in message
    lines(right, [])
    inside(*words, code=3)


def test_rows_are_matched_by_id_where_both_have_one(inside: Inside, tmp_path: Path) -> None:
    right = tmp_path / "r.jsonl"
    guessed = tmp_path / "h.jsonl"
    right.write_text("".join(json.dumps({"id": str(n), "target": text}) + "\n" for n, text in enumerate(ENGLISH)))
    rows = [{"id": str(n), "text": text} for n, text in enumerate(ENGLISH)]
    guessed.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    document = inside("eval", "--predictions", guessed, "--references", right, "--metric", "exact_match")
    assert values(document)["exact_match"] == 1.0
    guessed.write_text("".join(json.dumps(row | {"id": "x" + row["id"]}) + "\n" for row in rows))
    inside("eval", "--predictions", guessed, "--references", right, "--metric", "exact_match", code=3)


def test_several_references_a_line(inside: Inside, files: tuple[str, ...], tmp_path: Path) -> None:
    other = lines(tmp_path / "other.txt", GUESSED)
    document = inside("eval", *files, "--references", other, "--metric", "bleu")
    assert values(document)["bleu"] == pytest.approx(100.0)
    assert document["scores"][0]["signature"].startswith("nrefs:2")


def test_a_baseline_is_compared_in_pairs(inside: Inside, files: tuple[str, ...], tmp_path: Path) -> None:
    before = lines(tmp_path / "old.txt", ["x", "y", "z", "We shall see."])
    words = ("eval", *files, "--baseline", before, "--metric", "bleu")
    document = inside(*words, "--require", "bleu>=baseline+5")
    assert document["gates"][0]["met"] is True
    comparison = document["comparison"][0]
    assert comparison["difference"] > 0
    assert 0 <= comparison["p_bootstrap"] <= 1
    inside(*words, "--require", "bleu>=baseline+99", code=10)


def test_junit_markdown_and_github_say_the_same(
    inside: Inside, llmctl: Any, files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    junit, markdown = tmp_path / "scores.xml", tmp_path / "scores.md"
    words = ("eval", *files, "--metric", "bleu", "--require", "bleu>=99", "--junit", junit, "--markdown", markdown)
    done = llmctl(*words)
    assert done.returncode == 10
    assert "::error title=gate not met" in done.stderr + done.stdout
    suite = ElementTree.parse(junit).getroot()
    assert suite.get("failures") == "1"
    assert "bleu" in markdown.read_text()


def test_a_model_is_scored_on_a_split_and_its_predictions_kept(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    inside("train", "--data", sonnets, "--model", "lstm", "--max-steps", 20, "--out", run, "--set", "model.hidden=16")
    document = inside("eval", "--model", run, "--data", sonnets)
    assert set(values(document)) == {"perplexity", "bits_per_byte"}
    for score in document["scores"]:
        for part in ("tok:", "window:32", "stride:16", "precision:fp32"):
            assert part in score["signature"]
    rows = [json.loads(line) for line in Path(document["predictions"]).read_text().splitlines()]
    assert len(rows) == document["scores"][0]["n"]
    assert Path(document["predictions"]).is_relative_to(run / "evals")
    again = inside("eval", "--model", run, "--data", sonnets)
    assert values(again) == values(document)
    assert again["predictions"] != document["predictions"]
    inside("eval", "--model", run, "--data", sonnets, "--metric", "bleu", code=2)


def test_blanks_behind_a_text_leave_its_bits_per_byte(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    """Cleaning takes them away before anything is scored: 3,000 of them once made 0.02 of 1.97 bits."""
    run, file = tmp_path / "run", tmp_path / "mine.jsonl"
    inside("train", "--data", sonnets, "--model", "lstm", "--max-steps", 5, "--out", run, "--set", "model.hidden=16")
    found = []
    for text in ("Shall I compare thee to a summer's day?", "Shall I compare thee to a summer's day?" + " " * 3000):
        file.write_text(json.dumps({"text": text}) + "\n")
        found.append(values(inside("eval", "--model", run, "--data", file)))
    assert found[0] == found[1]


def test_a_calibrated_accuracy_says_so_and_others_of_two_families_agree(
    inside: Inside, reviews: Path, tmp_path: Path
) -> None:
    signatures = []
    for model, words in (("lstm-classifier", ()), ("lstm", ()), ("lstm", ("--set", "calibrate=true"))):
        run = tmp_path / model
        if not run.exists():
            small = ("--set", "model.hidden=16", "--set", "model.embedding=16")
            inside("train", "--data", reviews, "--model", model, "--max-steps", 5, "--out", run, *small)
        document = inside("eval", "--model", run, "--data", reviews, "--limit", 20, *words)
        signatures.append({score["metric"]: score["signature"] for score in document["scores"]})
    head, likeliest, calibrated = signatures
    assert head == likeliest
    assert head["accuracy"] == "nrefs:1|case:mixed"
    assert calibrated == {metric: f"{each}|choice:calibrated" for metric, each in head.items()}


def test_a_file_of_records_is_data_too(inside: Inside, reviews: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "mine.jsonl"
    small = ("--set", "model.hidden=16", "--set", "model.embedding=16")
    inside("train", "--data", reviews, "--model", "lstm-classifier", "--max-steps", 5, "--out", run, *small)
    file.write_text('{"text": "Lovely food", "label": "positive"}\n{"text": "Broken", "label": "negative"}\n')
    document = inside("eval", "--model", run, "--data", file, "--metric", "accuracy")
    assert document["scores"][0]["n"] == 2
    file.write_text('{"text": "Lovely food"}\n')
    assert "label" in inside("eval", "--model", run, "--data", file, code=3)["error"]["message"]
