"""`llmctl show models RUN --nearest WORD`: what a model's embeddings hold to be similar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmctl import registry
from llmctl.cli.options import Option
from llmctl.cli.render import table
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import UsageError

PANEL: Final = "show models RUN"
OPTIONS: Final = (
    Option("--nearest", "the tokens whose embeddings are nearest to that of a word", PANEL, "WORD", text=True),
)


def requested(session: Session, kind: str) -> str | None:
    """The word of `--nearest`. Raises `UsageError` if something else than a model is shown."""
    word: str | None = session.extra["nearest"]
    if word is not None and (kind == "data" or registry.kind_named(kind) != "models"):
        raise UsageError("--nearest is only valid for: llmctl show models RUN --nearest WORD")
    return word


def run(session: Session, reference: str, word: str) -> None:
    from llmctl.workflows.inspect.nearest import nearest

    document = nearest(reference, word, offline=session.offline)
    session.finish(document, lambda: _show(document))


def _show(document: Mapping[str, Any]) -> None:
    tokens = document["tokens"]
    print(f"{plain(document['word'])}  in {plain(document['table'])} of {plain(document['name'])}")
    if len(tokens) > 1:
        print(f"the mean of its tokens: {plain(' · '.join(tokens))}")
    print()
    rows = [[plain(each["text"].strip()), f"{each['cosine']:.3f}"] for each in document["neighbours"]]
    table(("token", "cosine"), rows, right=(1,))
