"""The view of a tokenizer that encoding needs: its backend and the ids of its control tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmctl.data.tokenizing.chat_template import ChatTemplate, open_chat_template
from llmctl.data.tokenizing.plain import control_tokens, settle
from llmctl.errors import IntegrityError, UsageError
from llmctl.store.border import border
from llmctl.store.tokenizer_file import check_tokenizer_file
from llmctl.store.tokenizers import settings_of


@dataclass(frozen=True, slots=True)
class Codes:
    """A tokenizer as encoding needs it. `bos` and `eos` are token ids; `bos` is None if the tokenizer has none."""

    tokenizer: Any
    """A `tokenizers.Tokenizer` that encodes the names of control tokens as plain text."""
    bos: int | None
    eos: int
    size: int
    """The largest id plus one."""
    control: frozenset[int] = frozenset()
    """Ids that text must never be encoded to."""
    chat_template: Callable[[], ChatTemplate] | None = None
    """Opens the chat template, if there is one."""

    @property
    def kind(self) -> Any:
        return np.uint16 if self.size < 65536 else np.uint32

    @property
    def lead(self) -> int | None:
        """In packed tasks, the token before the first document if one token both starts and ends documents."""
        return self.eos if self.bos is None or self.bos == self.eos else None


def codes_of(tokenizer: Any) -> Codes:
    """Make `Codes` from an opened tokenizer. Raises `UsageError` if it has neither an eos_token nor a sep_token."""
    ends = [each for each in (tokenizer.eos_token_id, tokenizer.sep_token_id) if each is not None]
    if not ends:
        raise UsageError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-text token (eos_token or sep_token)",
            hint="add one to its tokenizer_config.json",
        )
    begins = [each for each in (tokenizer.bos_token_id, tokenizer.cls_token_id) if each is not None]
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    found = _codes(tokenizer.backend_tokenizer, begins[0] if begins else None, ends[0], template)
    return replace(found, chat_template=lambda: ChatTemplate(tokenizer)) if tokenizer.chat_template else found


def open_codes(folder: Path) -> Codes:
    """Make `Codes` from a folder that `save` or `copy_tokenizer` wrote, without importing transformers."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    check_tokenizer_file(path)
    with border("the tokenizer cannot be opened", path, silent=True):
        backend = Tokenizer.from_file(str(path))
    settings, _ = settings_of(folder)

    def number(name: str) -> int | None:
        token = settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        found: int | None = backend.token_to_id(content) if isinstance(content, str) else None
        return found

    begin, end = number("bos_token"), number("eos_token")
    if end is None:
        raise IntegrityError("the eos_token is not in tokenizer.json", where=str(folder / "tokenizer_config.json"))
    stored = folder / "chat_template.jinja"
    template = stored.read_text(encoding="utf-8") if stored.is_file() else settings.get("chat_template")
    found = _codes(backend, begin, end, template if isinstance(template, str) else "")
    return replace(found, chat_template=functools.partial(open_chat_template, folder)) if template else found


def _codes(backend: Any, bos: int | None, eos: int, template: str) -> Codes:
    settle(backend)
    size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
    return Codes(backend, bos, eos, size, frozenset(control_tokens(backend, template)))
