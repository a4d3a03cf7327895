"""Personal data and secrets: e-mail addresses, phone numbers, Chinese resident IDs, cards, IBANs, IP addresses, keys.

A pattern proposes, a check decides: check digits, Luhn, lengths by country, ranges. What only looks alike stays.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import Final, NamedTuple

from llmctl.data.cleaning.filters.spec import Filter, Reading, Verdict

_DIGIT_BEFORE: Final = r"(?<![0-9A-Za-z_.\-+])"
_DIGIT_AFTER: Final = r"(?![0-9A-Za-z_]|[.\-]\d)"
_NUMBERED: Final = re.compile(
    r"(?:订单|单号|编号|流水号?|序列号|批号|型号|条码|货号|order|invoice|ticket|tracking|serial|part|item|sku|isbn|issn|doi"
    r"|ref(?:erence)?|case|model|version|release|build|\bver|\bv|版本|\bno|number)[ .:#：号为是]*$",
    re.IGNORECASE,
)
"""What stands before a number that is not of a person."""
_FILE_ENDINGS: Final = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "bmp",
        "ico",
        "css",
        "js",
        "ts",
        "json",
        "html",
        "htm",
        "php",
        "pdf",
        "txt",
        "zip",
        "gz",
    ]
)

# ISO 3166 codes and lengths from the IBAN registry (ISO 13616), release 99.
_IBAN_LENGTHS: Final = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_PROVINCES: Final = frozenset(
    [
        "11",
        "12",
        "13",
        "14",
        "15",
        "21",
        "22",
        "23",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "37",
        "41",
        "42",
        "43",
        "44",
        "45",
        "46",
        "50",
        "51",
        "52",
        "53",
        "54",
        "61",
        "62",
        "63",
        "64",
        "65",
        "71",
        "81",
        "82",
        "83",
    ]
)
"""First two digits of a resident ID (GB/T 2260)."""
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_DIGITS: Final = "10X98765432"
_CARDS: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
"""Lengths and first digits of Visa, Mastercard, American Express, Diners Club, Discover, JCB and UnionPay."""
BEFORE: Final = 24
"""Characters before a match that are looked at."""
_SECRET_BITS: Final = 3.0
"""Least entropy in bits per character of a secret; words and repeated characters have less."""

Accepts = Callable[[str, str], bool]
"""Whether a match is one, and the text before it."""


class Kind(NamedTuple):
    """One kind of personal data."""

    name: str
    needs: Callable[[str], bool]
    """A quick look whether a text can have any."""
    pattern: re.Pattern[str]
    accepts: Accepts

    @property
    def mask(self) -> str:
        return f"<{self.name.upper()}>"


class PiiFilter(Filter):
    """Counts personal data (`keep`), replaces it by masks (`mask`) or drops the record (`drop`)."""

    def __init__(self, setting: str) -> None:
        self._drops = setting == "drop"
        self.rewrites = setting == "mask"

    def judge(self, reading: Reading) -> Verdict | None:
        found: Counter[str] = Counter()
        for passage in reading.passages:
            masked(passage.text, found)
        if not found:
            return None
        why = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
        return Verdict("pii", why, self._drops, {f"pii.{name}": count for name, count in found.items()})

    def rewrite(self, text: str) -> str:
        return masked(text, Counter())


def masked(text: str, found: Counter[str]) -> str:
    """The text with a mask for each piece of personal data; `found` counts them by kind."""
    kinds = WITHOUT_DIGITS if not _DIGIT.search(text) else KINDS if _NUMBER.search(text) else WITHOUT_NUMBERS
    for kind in kinds:
        if kind.needs(text):
            text = _masked(text, kind, found)
    return text


def _masked(text: str, kind: Kind, found: Counter[str]) -> str:
    pieces, end = [], 0
    for match in kind.pattern.finditer(text):
        span = "value" if match.groupdict().get("value") else 0
        start, stop = match.span(span)
        if kind.accepts(match[span], text[max(0, start - BEFORE) : start]):
            found[kind.name] += 1
            pieces += [text[end:start], kind.mask]
            end = stop
    return "".join([*pieces, text[end:]]) if pieces else text


# ---------------------------------------------------------------------------------------------------------------
# Checks


def _is_email(text: str, before: str) -> bool:
    name, _, domain = text.partition("@")
    return ".." not in text and not name.startswith(".") and domain.rpartition(".")[2].lower() not in _FILE_ENDINGS


def is_resident_id(text: str) -> bool:
    """GB 11643-1999: province, a date of birth, and the check digit of ISO 7064, MOD 11-2."""
    digits = re.sub("[ -]", "", text).upper()
    if digits[:2] not in _PROVINCES:
        return False
    try:
        born = date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, digits, strict=False))
    return born.year >= 1900 and _ID_DIGITS[total % 11] == digits[17]


def is_card(text: str) -> bool:
    """Length and first digits of an issuer, and the check digit of Luhn (ISO/IEC 7812-1)."""
    digits = re.sub("[ -]", "", text)
    if not _CARDS.fullmatch(digits) or len(set(digits)) == 1:
        return False
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    total = sum(map(int, digits[::-2])) + sum(each - 9 if each > 9 else each for each in doubled)
    return total % 10 == 0


def is_iban(text: str) -> bool:
    """ISO 13616: the length of the country, and the remainder 1 modulo 97."""
    code = text.replace(" ", "")
    if _IBAN_LENGTHS.get(code[:2]) != len(code):
        return False
    return int("".join(str(int(each, 36)) for each in code[4:] + code[:4])) % 97 == 1


def _is_phone(text: str, before: str) -> bool:
    digits = re.sub(r"\D", "", text)
    if text.startswith(("+", "00")):
        return 8 <= len(digits) <= 17 and (len(digits) >= 10 or len(digits) != len(text) - 1)
    return not _NUMBERED.search(before)


def _is_ip(text: str, before: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6:
        return text.count(":") >= 3 and any(map(str.isdigit, text)) and not address.is_loopback
    # Net masks, and addresses of no machine or of this one.
    plain = address.is_loopback or address.is_unspecified or int(address) >> 24 in (0, 255)
    return not plain and not _NUMBERED.search(before)


def _bits(text: str) -> float:
    """Entropy per character, in bits."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def _is_key(text: str, before: str) -> bool:
    return text.startswith("-----") or (any(map(str.isdigit, text)) and _bits(text) >= _SECRET_BITS)


_KEY_STARTS: Final = (
    ("", ("AKIA", "ASIA", "LTAI", "AKID", "AIza", "eyJ", "PRIVATE KEY", "xox")),
    ("_", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "k_live_", "k_test_", "hf_", "npm_")),
    ("-", ("glpat-", "sk-", "pypi-")),
)
"""What keys start with, after a character that all of a row have and few texts do."""
_KEY_NAMES: Final = ("key", "secret", "token", "passw")
"""What a key is assigned to, in lower case."""


def _may_have_key(text: str) -> bool:
    if any(rare in text and any(start in text for start in starts) for rare, starts in _KEY_STARTS):
        return True
    if "=" not in text and ":" not in text:
        return False
    low = text.lower()
    return any(name in low for name in _KEY_NAMES)


_DIGIT: Final = re.compile("[0-9:]")
_LONG: Final = re.compile(r"\d[\d -]{11}", re.ASCII)
_NUMBER: Final = re.compile(r"\d[\d .()\-]{5}", re.ASCII)
_COUNTRY: Final = re.compile(r"\d\d(?<=[A-Z]{2}\d\d)", re.ASCII)
_DOTTED: Final = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d", re.ASCII)

KINDS: Final = (
    Kind(
        "key",
        _may_have_key,
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]{1,8000}?-----END [A-Z ]*PRIVATE KEY-----"
            r"|(?<![\w-])(?:(?:AKIA|ASIA)[0-9A-Z]{16}|LTAI[0-9A-Za-z]{12,24}|AKID[0-9A-Za-z]{32,}|gh[pousr]_[0-9A-Za-z]{36,}"
            r"|github_pat_\w{22,}|glpat-[\w-]{20,}|sk-(?:[a-z]+-)?[\w-]{20,}|[sr]k_(?:live|test)_[0-9A-Za-z]{16,}"
            r"|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35}|hf_[0-9A-Za-z]{30,}|npm_[0-9A-Za-z]{36}|pypi-[\w-]{40,}"
            r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})(?![\w-])"
            r"|(?i:api[_-]?key|access[_-]?key|secret|token|passwd|password)[\"']?\s*[=:]\s*[\"']?(?P<value>[0-9A-Za-z+/_\-.]{16,}={0,2})",
            re.ASCII,
        ),
        _is_key,
    ),
    Kind(
        "email",
        lambda text: "@" in text,
        re.compile(
            r"(?<![A-Za-z0-9._%+\-/@])[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"
            r"(?![A-Za-z0-9\-@]|:\w|\.[A-Za-z0-9])",
            re.ASCII,
        ),
        _is_email,
    ),
    Kind(
        "iban",
        lambda text: _COUNTRY.search(text) is not None,
        re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.ASCII),
        lambda text, before: is_iban(text),
    ),
    Kind(
        "id",
        lambda text: _LONG.search(text) is not None,
        re.compile(r"(?<![0-9A-Za-z.])[1-8]\d{5}[ -]?(?:19|20)\d{6}[ -]?\d{3}[\dXx](?![0-9A-Za-z])"),
        lambda text, before: is_resident_id(text),
    ),
    Kind(
        "card",
        lambda text: _LONG.search(text) is not None,
        re.compile(
            rf"{_DIGIT_BEFORE}(?:\d{{13,19}}|\d{{4}}([ -])\d{{4}}\1\d{{4}}\1\d{{1,4}}(?:\1\d{{1,3}})?|\d{{4}}([ -])\d{{6}}\2\d{{4,5}}"
            rf"|\d{{6}}([ -])\d{{13}}){_DIGIT_AFTER}",
            re.ASCII,
        ),
        lambda text, before: is_card(text) and not _NUMBERED.search(before),
    ),
    Kind(
        "phone",
        lambda text: True,
        re.compile(
            rf"(?<![0-9A-Za-z_.\-+)])(?:(?:\+|00)[1-9]\d{{0,2}}[ .\-]?(?:\(\d{{1,4}}\)|\d{{1,5}})(?:[ .\-]?\d{{2,5}}){{1,5}}"
            r"|(?:86[ -]?)?1[3-9]\d(?:\d{8}|([ -])\d{4}\1\d{4})"  # mobile, China
            r"|\(0\d{2,3}\) ?\d{7,8}|0(?:10|2\d|[3-9]\d\d)[ -]\d{7,8}|[48]00-\d{3}-\d{4}|[48]00-\d{4}-\d{3}"  # China
            r"|(?:1[ .\-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([ .\-]))[2-9]\d\d[ .\-]\d{4}"  # North America
            rf"|07\d{{3}} ?\d{{6}}|020 \d{{4}} \d{{4}}){_DIGIT_AFTER}",  # United Kingdom
            re.ASCII,
        ),
        _is_phone,
    ),
    Kind(
        "ip",
        lambda text: _DOTTED.search(text) is not None or "::" in text or text.count(":") >= 7,
        re.compile(
            r"(?<![0-9A-Za-z_.:\-])(?:\d{1,3}(?:\.\d{1,3}){3}(?![0-9A-Za-z_]|\.\d|-\d)"
            r"|(?:[0-9A-Fa-f]{1,4}:){2,7}:?(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})?(?![0-9A-Za-z_:]))",
            re.ASCII,
        ),
        _is_ip,
    ),
)  # fmt: skip
"""All kinds, in the order in which they are looked for: what one has masked, no later one sees."""
WITHOUT_DIGITS: Final = tuple(kind for kind in KINDS if kind.name in ("email", "key"))
"""Kinds that a text without digits and colons can have."""
WITHOUT_NUMBERS: Final = tuple(kind for kind in KINDS if kind.name not in ("id", "card", "phone"))
"""Kinds that a text without a number of six digits, blanks and dashes can have."""
