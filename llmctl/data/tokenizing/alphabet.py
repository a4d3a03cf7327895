"""The byte alphabet and the single-character pattern, shared by tokenizers and encoding."""

from __future__ import annotations

from typing import Final


def _bytes() -> tuple[str, ...]:
    """One visible character for each of the 256 bytes, as in GPT-2's encoder.py (Radford et al. 2019)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    characters = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + len(characters) - len(visible))
    return tuple(characters[byte] for byte in range(256))


BYTES: Final = _bytes()
EVERY_CHARACTER: Final = r"[\s\S]"
"""Pre-tokenizer pattern that splits text into single characters."""
