"""Adapters opened on their base."""

from __future__ import annotations

from typing import Any

from llmctl.models import adapters, families, pretrained
from llmctl.store.models import ModelFolder


def with_adapter(folder: ModelFolder) -> Any:
    """The base of an adapter with the adapter merged into it, in float32: as fast as any model of its size.

    Where the base lacks the head that was learned, it is made: `adapters.merged` refuses an adapter that does not hold
    all of it.
    """
    assert folder.adapter is not None
    assert folder.base is not None
    labels = folder.card.labels if folder.card else ()
    masked = not labels and (folder.card is not None or families.fills_masks(folder.config))
    family = families.family_of(folder.config)
    base = pretrained.load(folder.base, family, labels=labels or None, masked=masked)
    return adapters.merged(base, folder.adapter, folder.path)
