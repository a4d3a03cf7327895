"""From a row of the table of verbs to its page."""

from __future__ import annotations

from llmctl import registry
from llmctl.catalog import VerbRow
from llmctl.cli.options import Page
from llmctl.errors import EnvironmentFault


def page_of(row: VerbRow) -> Page:
    """The page of a row: its own, or the one that every `Verb` has."""
    found = registry.load_verb(row)
    if isinstance(found, Page):
        return found
    from llmctl.cli.verb_page import page_for
    from llmctl.verbs import Verb

    if not isinstance(found, Verb):
        raise EnvironmentFault(
            f"{row.target} is no verb", hint="an entry point of llmctl.verbs names a subclass of Verb"
        )
    return page_for(found)
