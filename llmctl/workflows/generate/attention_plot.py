"""`generate --explain FILE`: where in its source a model looks at each token of its answer, as a picture.

Rows are the answer, columns the source, each row sums to 1. A model with several attentions is shown by their mean over
heads and layers. Tokens that are parts of one character are drawn together: as sources their shares are added, as parts
of the answer they are averaged.

Letters: L layers, N heads, T tokens of the answer, S tokens of the source.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from llmctl.errors import UsageError
from llmctl.store import atomic
from llmctl.training.plots import drawing, without_missing_backend
from llmctl.types import Event, EventSink, Request
from llmctl.workflows.inference.session import Predictor

CELL_INCHES: Final = 0.3
LONGEST_INCHES: Final = 60.0
LAST_RESORT: Final = "Last Resort"
"""matplotlib's font of empty boxes, one for every character."""
CHINESE_FONT: Final = "such as Noto Sans CJK"
EAST_ASIAN: Final = re.compile("[\\u3000-\\u30ff\\u3400-\\u9fff\\uac00-\\ud7a3\\uff00-\\uffef]")


def draw(
    predictor: Predictor, request: Request, answer: str, path: Path, emit: EventSink, *, ended: bool = True, title: str
) -> None:
    """Write the picture, SVG or PNG by the ending of `path`. The answer is read again, token by token; `ended`: the
    model ended it, so that its end is drawn too.

    Raises `UsageError` where the model does not say where it looks.
    """
    layout, model = predictor.request_builder.layout, getattr(predictor.engine, "model", None)
    unended = () if ended else tuple(layout.encode(answer))
    answer_ids = unended or layout.answer(answer)
    weights = cross_attention(model, request.input_ids, answer_ids)
    columns, rows = groups(layout.tokenizer, request.input_ids), groups(layout.tokenizer, answer_ids)
    shares = np.add.reduceat(weights, [first for first, _ in columns], axis=1)
    shares = np.add.reduceat(shares, [first for first, _ in rows], axis=0)
    lengths = np.diff([*(first for first, _ in rows), len(answer_ids)])
    _picture(shares / lengths[:, None], [text for _, text in columns], [text for _, text in rows], path, title, emit)


@torch.inference_mode()
def cross_attention(model: Any, source: Sequence[int], answer: Sequence[int]) -> NDArray[np.float64]:
    """(T, S) how much of its attention the model gives to each source token when it says each token of the answer."""
    own = getattr(model.config, "_attn_implementation", None)
    if not model.config.model_type.startswith("llmctl-"):
        model.set_attn_implementation("eager")  # torch's own attention keeps no weights
    ids: dict[str, Any] = {"device": model.device, "dtype": torch.long}
    try:
        found = model(
            input_ids=torch.tensor([source], **ids),
            attention_mask=torch.ones((1, len(source)), **ids),
            decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id, *answer[:-1]]], **ids),
            output_attentions=True,
            use_cache=False,
        ).cross_attentions  # L of (1, N, T, S)
    finally:
        if own is not None and not model.config.model_type.startswith("llmctl-"):
            model.set_attn_implementation(own)
    if not found or any(each is None for each in found):
        raise UsageError(f"a model of type {model.config.model_type} does not say where it looks")
    mean: NDArray[np.float64] = torch.stack(list(found)).double().mean((0, 1, 2)).cpu().numpy()  # (T, S)
    return mean


def groups(tokenizer: Any, ids: Sequence[int]) -> list[tuple[int, str]]:
    """Where each group of tokens begins, and its text: one token, or as many as a character needs."""
    found: list[tuple[int, str]] = []
    first = 0
    for last in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[first:last]))
        if "\N{REPLACEMENT CHARACTER}" not in text:
            found.append((first, text))
            first = last
    # What never becomes a character is shown token by token as what it is: no text.
    return [*found, *((place, "\N{REPLACEMENT CHARACTER}") for place in range(first, len(ids)))]


def _picture(
    shares: NDArray[np.float64], columns: Sequence[str], rows: Sequence[str], path: Path, title: str, emit: EventSink
) -> None:
    kind = path.suffix.lower().removeprefix(".")
    families, missing = fonts("".join((*columns, *rows, title)))
    # Text stays text in an SVG: whoever shows it brings the fonts. In a PNG what no font here has is spelt by number.
    spelt = missing if kind == "png" else set()
    if spelt:
        shown = "".join(sorted(spelt))[:20]
        message = f"no font installed here has {len(spelt)} of the characters ({shown}): they are shown by number"
        cure = f"install one, {CHINESE_FONT}, or draw an .svg" if EAST_ASIAN.search(shown) else "an .svg shows them"
        emit(Event("warning", {"text": f"{message}; {cure}"}))
    height, width = (min(LONGEST_INCHES, 1.8 + CELL_INCHES * size) for size in shares.shape)
    settings: dict[str, Any] = {"svg.fonttype": "none", "font.family": families}
    with drawing(width + 0.6, height, font_size=9, **settings) as figure, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=max(float(shares.max()), 1e-9), aspect="auto")
        axes.set_xticks(range(len(columns)), [_label(each, spelt) for each in columns], rotation=90)
        axes.set_yticks(range(len(rows)), [_label(each, spelt) for each in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel("answer")
        axes.set_xlabel(_label(title, spelt))
        figure.colorbar(image, label="share of attention", shrink=0.8)
        with atomic.atomic_file(path) as file:
            figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
    emit(Event("note", {"text": f"where the answer looks: {path}"}))


def fonts(text: str) -> tuple[list[str], set[str]]:
    """matplotlib's own font and, for what it lacks, the first installed ones by name; and what none of them has."""
    with without_missing_backend():
        from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()
    chosen = ["DejaVu Sans"]
    visible = {each for each in text if each.isprintable() or unicodedata.category(each) == "Co"}  # Co: private use
    missing = {each for each in visible if ord(each) not in known}
    for font in sorted(font_manager.fontManager.ttflist, key=lambda each: (each.name, each.fname)):
        if not missing:
            break
        if font.name.startswith(LAST_RESORT) or font.style != "normal":
            continue
        known = FT2Font(font.fname).get_charmap()
        has = {each for each in missing if ord(each) in known}
        if has:
            chosen.append(font.name)
            missing -= has
    return chosen, missing


def _label(text: str, spelt: set[str]) -> str:
    """A token as a label: blanks are made visible, dollars do not begin a formula."""
    shown = "".join(f" U+{ord(each):04X} " if each in spelt else each for each in text)
    if text and shown != text:
        shown = " ".join(shown.split())
    if not shown.strip(" "):
        shown = "␣" * len(shown) if shown else "∅"
    printable = "".join(each if each.isprintable() else repr(each)[1:-1] for each in shown)
    return printable.replace("$", r"\$")
