"""Where an encoder-decoder looks: the numbers behind the picture, its labels, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmctl import registry
from llmctl.data.tokenizing.tokenizers import load_tokenizer
from llmctl.models.spec import ModelSpec, Shape, Vocabulary
from llmctl.training.plots import fonts
from llmctl.workflows.generate.attention_plot import cross_attention, groups

Inside = Callable[..., dict[str, Any]]
ZH = "2031年7月4日星期五"


@pytest.fixture(scope="module")
def translator(inside: Inside, dates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("explain") / "run"
    small = ("--set=model.hidden=24", "--set=model.embedding=16", "--set=max_steps=3")
    inside("train", "--data", dates, "--model", "lstm-seq2seq", "--out", run, *small)
    return run


@pytest.mark.parametrize("name", ["lstm-seq2seq", "t5", "marian", "bart"])
def test_every_token_of_an_answer_shares_out_its_whole_attention(name: str) -> None:
    spec: ModelSpec = registry.load("models", name)
    model = spec.build(spec.shape("nano", Shape(hidden=16)), Vocabulary(60, 0, 1, 2)).eval()
    kind = model.config._attn_implementation
    source, answer = (7, 8, 9, 10, 2), (11, 12, 2)
    weights = cross_attention(model, source, answer)
    assert weights.shape == (3, 5)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert len({tuple(row) for row in weights.round(6).tolist()}) == 3
    assert model.config._attn_implementation == kind
    # The first token is said before any other is read.
    np.testing.assert_allclose(cross_attention(model, source, (13, 2))[0], weights[0], atol=1e-6)


def test_of_lstm_seq2seq_it_is_what_generate_says() -> None:
    spec: ModelSpec = registry.load("models", "lstm-seq2seq")
    torch.manual_seed(0)
    model = spec.build(spec.shape("nano", Shape(hidden=16)), Vocabulary(60, 0, 1, 2)).eval()
    source = (7, 8, 9, 2)
    ways: dict[str, Any] = {"output_attentions": True, "return_dict_in_generate": True, "max_new_tokens": 4}
    out = model.generate(torch.tensor([source]), do_sample=False, min_new_tokens=4, **ways)
    said = torch.cat([step[0] for step in out.cross_attentions], 2)[0, 0].numpy()
    np.testing.assert_allclose(cross_attention(model, source, out.sequences[0, 1:].tolist()), said, atol=1e-6)


def test_parts_of_one_character_belong_together(dates: Path) -> None:
    tokenizer = load_tokenizer(dates / "tokenizer")
    ids = tokenizer.backend_tokenizer.encode("龘a 龘", add_special_tokens=False).ids
    found = groups(tokenizer, ids)
    assert "".join(text for _, text in found) == "龘a 龘"
    assert len(found) < len(ids)
    assert all(text for _, text in found)
    assert [text for _, text in groups(tokenizer, ids[:1])] == ["\N{REPLACEMENT CHARACTER}"]


def test_an_svg_holds_the_tokens_as_text_and_the_same_command_gives_the_same_bytes(
    inside: Inside, translator: Path, tmp_path: Path
) -> None:
    words = ("generate", "--model", translator, "--prompt", ZH, "--max-new-tokens", "5")
    for name in ("one", "two"):
        document = inside(*words, "--explain", tmp_path / f"{name}.svg")
        assert document["explained"] == str(tmp_path / f"{name}.svg")
    svg = (tmp_path / "one.svg").read_text(encoding="utf-8")
    labels = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert set(ZH) <= set(labels)
    assert svg == (tmp_path / "two.svg").read_text(encoding="utf-8")


def test_a_png_spells_what_no_font_has_and_says_so(llmctl: Any, translator: Path, tmp_path: Path) -> None:
    picture = tmp_path / "attention.PNG"
    odd = "\U0010fffd"  # the last place of private use: no font has it
    words = ("--prompt", f"{odd} 4", "--max-new-tokens", "3", "--explain", picture)
    done = llmctl("generate", "--model", translator, *words)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "shown as code points" in done.stderr
    assert f"attention plot: {picture}" in done.stderr


def test_chinese_is_drawn_with_the_glyphs_of_a_font_that_has_them(tmp_path: Path) -> None:
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from matplotlib import font_manager

    pen = TTGlyphPen(None)
    for place in ((0, 0), (0, 900), (900, 0)):
        (pen.moveTo if place == (0, 0) else pen.lineTo)(place)
    pen.closePath()
    drawn = pen.glyph()
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder([".notdef", "year"])
    made.setupCharacterMap({0x9FA6: "year"})
    made.setupGlyf({".notdef": drawn, "year": drawn})
    made.setupHorizontalMetrics({".notdef": (1000, 0), "year": (1000, 0)})
    made.setupHorizontalHeader(ascent=900, descent=-100)
    made.setupNameTable({"familyName": "Triangles", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(tmp_path / "triangles.ttf")
    rare = "\u9fa6"
    before = list(font_manager.fontManager.ttflist)
    if rare not in fonts(rare)[1]:
        pytest.skip("a font installed here has even this character")
    try:
        font_manager.fontManager.addfont(tmp_path / "triangles.ttf")
        assert fonts(f"7{rare}") == (["DejaVu Sans", "Triangles"], set())
    finally:
        font_manager.fontManager.ttflist[:] = before
        font_manager.fontManager._findfont_cached.cache_clear()


def test_an_answer_that_was_cut_has_no_end_in_the_picture(inside: Inside, translator: Path, tmp_path: Path) -> None:
    done = inside(
        "generate", "--model", translator, "--prompt", ZH, "--max-new-tokens", "2", "--explain", tmp_path / "a.svg"
    )
    assert done["completions"][0]["finish_reason"] == "length"
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg.count("&lt;|eos|&gt;</text>") == 1  # that of the source


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt", "a", "--explain", "a.pdf"), ".svg or .png"),
        (("--prompt", "a", "--prompt", "b", "--explain", "a.svg"), "one answer to one prompt"),
        (("--prompt", "a", "--num-beams", "2", "--num-samples", "2", "--explain", "a.svg"), "leave --num-samples out"),
        (("--prompt", "a", "--set=engine=echo", "--explain", "a.svg"), "has no model whose attention could be plotted"),
        (("--prompt", "a", "--explain", "there.svg"), "exists"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_asked(
    words: tuple[str, ...], said: str, inside: Inside, translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.svg").write_text("keep me")
    error = inside("generate", "--model", translator, *words, code=2)["error"]
    assert said in f"{error['message']}; {error['hint']}"
    assert (tmp_path / "there.svg").read_text() == "keep me"


def test_a_decoder_has_no_source_to_look_at(inside: Inside, sonnets: Path, tmp_path: Path) -> None:
    small = ("--set=model.hidden=24", "--set=model.embedding=16", "--set=max_steps=2")
    inside("train", "--data", sonnets, "--model", "lstm", "--out", tmp_path / "run", *small)
    words = ("--prompt", "a", "--explain", tmp_path / "a.svg")
    error = inside("generate", "--model", tmp_path / "run", *words, code=2)["error"]
    assert "is of the family decoder" in error["message"]
    assert error["hint"] == "models that can: lstm-seq2seq, t5, marian, bart"
