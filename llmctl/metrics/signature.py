"""What two comparable scores must share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Signature:
    """Facts by name, in order; as text `nrefs:1|case:mixed|tok:13a`, after sacrebleu (Post 2018, arXiv:1804.08771)."""

    facts: Mapping[str, str]

    @classmethod
    def read(cls, text: str) -> Self:
        """The signature of its text."""
        pairs = (each.partition(":") for each in text.split("|"))
        return cls({name: value for name, _, value in pairs})

    def with_(self, **facts: str) -> Signature:
        """With further facts at its end; one that it has already is replaced where it stands."""
        return Signature({**self.facts, **facts})

    def __str__(self) -> str:
        return "|".join(f"{name}:{value}" for name, value in self.facts.items())
