"""`generate --explain FILE`: plot the cross-attention from each token of an answer to the tokens of its source.

Rows are the answer, columns the source; each row sums to 1. Attention is averaged over heads and layers. Tokens that
together encode one character are merged: source columns are added, answer rows averaged.

Letters: L layers, N heads, T tokens of the answer, S tokens of the source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from llmctl.errors import UsageError
from llmctl.store import atomic
from llmctl.training.plots import drawing, fonts
from llmctl.types import Event, EventSink, Request
from llmctl.workflows.inference.session import Predictor

CELL_INCHES: Final = 0.3
LONGEST_INCHES: Final = 60.0
CHINESE_FONT: Final = "such as Noto Sans CJK"
EAST_ASIAN: Final = re.compile("[\\u3000-\\u30ff\\u3400-\\u9fff\\uac00-\\ud7a3\\uff00-\\uffef]")


def draw(
    predictor: Predictor, request: Request, answer: str, path: Path, emit: EventSink, *, ended: bool = True, title: str
) -> None:
    """Write the plot, SVG or PNG by the suffix of `path`. `answer` is encoded again; `ended`: the model generated its
    end token, which is plotted too.

    Raises `UsageError` where the model returns no cross-attention.
    """
    layout, model = predictor.request_builder.layout, getattr(predictor.engine, "model", None)
    unended = () if ended else tuple(layout.encode(answer))
    answer_ids = unended or layout.answer(answer)
    weights = cross_attention(model, request.input_ids, answer_ids)
    columns, rows = groups(layout.tokenizer, request.input_ids), groups(layout.tokenizer, answer_ids)
    shares = np.add.reduceat(weights, [first for first, _ in columns], axis=1)
    shares = np.add.reduceat(shares, [first for first, _ in rows], axis=0)
    lengths = np.diff([*(first for first, _ in rows), len(answer_ids)])
    _plot(shares / lengths[:, None], [text for _, text in columns], [text for _, text in rows], path, title, emit)


@torch.inference_mode()
def cross_attention(model: Any, source: Sequence[int], answer: Sequence[int]) -> NDArray[np.float64]:
    """(T, S) cross-attention from each token of the answer to each source token, mean over layers and heads."""
    own = getattr(model.config, "_attn_implementation", None)
    if not model.config.model_type.startswith("llmctl-"):
        model.set_attn_implementation("eager")  # SDPA returns no attention weights
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
        raise UsageError(f"a model of type {model.config.model_type} returns no cross-attention")
    mean: NDArray[np.float64] = torch.stack(list(found)).double().mean((0, 1, 2)).cpu().numpy()  # (T, S)
    return mean


def groups(tokenizer: Any, ids: Sequence[int]) -> list[tuple[int, str]]:
    """(first index, text) of each group: one token, or the tokens that together encode one character."""
    found: list[tuple[int, str]] = []
    first = 0
    for last in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[first:last]))
        if "\N{REPLACEMENT CHARACTER}" not in text:
            found.append((first, text))
            first = last
    # Trailing tokens that do not complete a character are shown one by one as the replacement character.
    return [*found, *((place, "\N{REPLACEMENT CHARACTER}") for place in range(first, len(ids)))]


def _plot(
    shares: NDArray[np.float64], columns: Sequence[str], rows: Sequence[str], path: Path, title: str, emit: EventSink
) -> None:
    kind = path.suffix.lower().removeprefix(".")
    families, missing = fonts("".join((*columns, *rows, title)))
    # An SVG keeps text as text, so the viewer needs the fonts. A PNG shows characters without a font as code points.
    unrenderable = missing if kind == "png" else set()
    if unrenderable:
        shown = "".join(sorted(unrenderable))[:20]
        message = (
            f"no installed font has {len(unrenderable)} of the characters ({shown}): they are shown as code points"
        )
        fix = f"install one, {CHINESE_FONT}, or write an .svg" if EAST_ASIAN.search(shown) else "write an .svg instead"
        emit(Event("warning", {"text": f"{message}; {fix}"}))
    height, width = (min(LONGEST_INCHES, 1.8 + CELL_INCHES * size) for size in shares.shape)
    settings: dict[str, Any] = {"svg.fonttype": "none", "font.family": families}
    with drawing(width + 0.6, height, font_size=9, **settings) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=max(float(shares.max()), 1e-9), aspect="auto")
        axes.set_xticks(range(len(columns)), [_label(each, unrenderable) for each in columns], rotation=90)
        axes.set_yticks(range(len(rows)), [_label(each, unrenderable) for each in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel("answer")
        axes.set_xlabel(_label(title, unrenderable))
        figure.colorbar(image, label="share of attention", shrink=0.8)
        with atomic.atomic_file(path) as file:
            figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
    emit(Event("note", {"text": f"attention plot: {path}"}))


def _label(text: str, unrenderable: set[str]) -> str:
    """A token as a label: whitespace is visible, dollar signs do not start a formula."""
    shown = "".join(f" U+{ord(each):04X} " if each in unrenderable else each for each in text)
    if text and shown != text:
        shown = " ".join(shown.split())
    if not shown.strip(" "):
        shown = "␣" * len(shown) if shown else "∅"
    printable = "".join(each if each.isprintable() else repr(each)[1:-1] for each in shown)
    return printable.replace("$", r"\$")
