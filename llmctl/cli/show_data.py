"""`llmctl show data`: show a prepared record as a model sees it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmctl.cli.options import Option
from llmctl.cli.render import marked
from llmctl.cli.session import Session
from llmctl.cli.terminal import fancy, plain
from llmctl.errors import UsageError
from llmctl.registry import near

PANEL: Final = "show data PREPARED"
OPTIONS: Final = (
    Option("--index", "index of the record (or block), from 0", PANEL, "N", text=True),
    Option(
        "--split",
        "split: train, validation or test",
        PANEL,
        "SPLIT",
        choices=("train", "validation", "test"),
        text=True,
    ),
    Option(
        "--model",
        "model whose format is shown: a run, a folder or NAME[:SIZE] (default: the task's preferred family)",
        PANEL,
        "MODEL",
        is_path=True,
        text=True,
    ),
    Option(
        "--instruction",
        "instruction prompt for decoders (default: the model's, else the task's)",
        PANEL,
        "TEXT",
        text=True,
    ),
    Option("--picture", "draw the features of a recording as .svg or .png", PANEL, "FILE", is_path=True, text=True),
)
FACTS: Final = ("task", "model", "family", "style", "record")
SPLITS: Final = ("train", "validation", "test")


def requested(session: Session) -> dict[str, Any]:
    """The options that were given. Raises `UsageError` for an index that is not a number and for an unknown split."""
    given = {option.parameter: session.extra[option.parameter] for option in OPTIONS}
    if (index := given["index"]) is not None:
        if not index.isdecimal():
            raise UsageError(f"--index {index} is not an integer", hint="the first record is --index 0")
        given["index"] = int(index)
    if given["split"] is not None and given["split"] not in SPLITS:
        hint = near(given["split"], SPLITS) or f"splits: {', '.join(SPLITS)}"
        raise UsageError(f"no such split: {given['split']}", hint=hint)
    return {name: value for name, value in given.items() if value is not None}


def run(session: Session, place: str) -> None:
    options = requested(session)
    from llmctl.workflows.inspect.data import show_data

    if "picture" in options:
        options["picture"] = Path(options["picture"]).expanduser()
        if options["picture"].suffix.lower() not in (".svg", ".png"):
            raise UsageError(f"--picture writes .svg or .png, not {options['picture'].name}", hint="name features.svg")
    document = show_data(Path(place).expanduser(), **options)
    session.finish(document, lambda: _show(document))


def _show(document: Mapping[str, Any]) -> None:
    rows: Sequence[Mapping[str, Any]] = document["tokens"]
    facts = {name: document[name] for name in FACTS if document.get(name) is not None}
    if "seconds" in document:
        unit = "mel bands x frames" if len(document["features"]) == 2 else "samples"
        facts["recording"] = f"{document['seconds']:.2f} s, {' x '.join(map(str, document['features']))} {unit}"
    facts["example"] = f"{document['index']:,} of {document['examples']:,} in {document['split']}"
    facts["in loss"] = "the label" if "label" in document else f"{document['learned']:,} of {len(rows):,} tokens"
    if "truncated_from" in document:
        facts["truncated"] = f"from {document['truncated_from']:,} tokens to the context"
    if "turns_left_out" in document:
        facts["left out"] = f"{document['turns_left_out']:,} turns at the end"
    if "left_out" in document:
        facts["left out"] = document["left_out"]
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {plain(str(value))}")
    for part in dict.fromkeys(row.get("part") for row in rows):
        print(f"\n{part}:" if part else "")
        cells = [(_cell(row), bool(row["learned"])) for row in rows if row.get("part") == part]
        print(marked(cells, colour=fancy(sys.stdout)))
    if "label" in document:
        print(f"\nlabel:\n{marked([(document['label'], True)], colour=fancy(sys.stdout))}")


def _cell(row: Mapping[str, Any]) -> str:
    """A token with visible whitespace; a corrupted one also with its target."""
    text = _visible(row["text"])
    return f"{text} → {_visible(row['target'])}" if "target" in row else text


def _visible(text: str) -> str:
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
