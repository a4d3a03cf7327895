"""Texts on which two tokenizers that differ are likely to give different ids."""

from __future__ import annotations

from typing import Final

TEXTS: Final = (
    "The quick brown fox jumps over the lazy dog.",
    "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n",
    "  two  blanks,\ta tab\t\tand \n\n\nthree lines \r\n and a last one   ",
    "I'll say we've won; they're LATE, DON'T wait: she'D go, 'tis 'VE",
    "1 22 333 4444 55555 1,234.56 2026-11-29T12:00:00Z 3.14e-10 x2y3 ½ ²",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "今天是2026年11月29日，星期日。Python 3.11 和 GPT-2 模型！",
    "日本語とカタカナ、한국어 문장, العربية, עברית, हिन्दी, ไทย, Ελληνικά, русский язык",
    "naïve café Straße œuvre İstanbul ñandú ﬁ",
    "🦙 and 👩‍👩‍👧 and 🇨🇳, ✅ ✓ → ∑ √2 ≤ π",
    "def f(x: int) -> dict:\n    return {'a': [1, 2], \"b\": x**2}  # note\n\n\tpass\n",
    "https://example.org/a_b/c-d?e=f&g=%20#h user.name@example.com C:\\dir\\file.txt",
    "!!! ??? ... --- === ((())) [[]] {{}} $100 50% #1 @you ~/x `code` ''quoted''",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    " ",
    "\n",
    "a\u3000b\u00a0c\u200bd",
)
