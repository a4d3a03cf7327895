"""Find the page of a verb."""

from __future__ import annotations

from llmctl import registry
from llmctl.catalog import VerbRow
from llmctl.cli.options import Page
from llmctl.errors import EnvironmentFault


def page_of(row: VerbRow) -> Page:
    """Return the page of a row: the one it names, or the generic page of its `Verb`."""
    found = registry.load_verb(row)
    if isinstance(found, Page):
        return found
    from llmctl.cli.verb_page import page_for
    from llmctl.verbs import Verb

    if not isinstance(found, Verb):
        raise EnvironmentFault(
            f"{row.target} is not a verb", hint="entry points in llmctl.verbs must name a subclass of Verb"
        )
    return page_for(found)
