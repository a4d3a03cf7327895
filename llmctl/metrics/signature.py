"""Signatures: two scores are comparable only if theirs are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Signature:
    """Ordered facts by name; as text `nrefs:1|case:mixed|tok:13a`, as in sacrebleu (Post 2018, arXiv:1804.08771)."""

    facts: Mapping[str, str]

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse a signature from its text."""
        pairs = (each.partition(":") for each in text.split("|"))
        return cls({name: value for name, _, value in pairs})

    def with_(self, **facts: str) -> Signature:
        """A copy with further facts appended; a fact that already exists is replaced in place."""
        return Signature({**self.facts, **facts})

    def __str__(self) -> str:
        return "|".join(f"{name}:{value}" for name, value in self.facts.items())
