"""Tokenizers and chat templates that kill, never end, or give another answer each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conftest import Strike, edit
from tests.attacks.mutations import VALUES

Copy = Callable[[str], Path]
ASK = ("--max-new-tokens", "2", "--prompt")
QUICK = {"text", "huge", "null", "nested list", "object"}

KEYS = [
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
    "model.type",
    "model.vocab",
    "model.merges",
    "model.dropout",
    "model.unk_token",
    "model.continuing_subword_prefix",
    "model.fuse_unk",
    "model.byte_fallback",
]
SETTINGS = [
    "tokenizer_class",
    "pad_token",
    "bos_token",
    "eos_token",
    "unk_token",
    "extra_special_tokens",
    "model_max_length",
    "chat_template",
    "added_tokens_decoder",
    "padding_side",
    "split_special_tokens",
]


def table(keys: list[str]) -> list[Any]:
    return [
        pytest.param(key, value, id=f"{key} {kind}", marks=[] if kind in QUICK else [pytest.mark.slow])
        for key in keys
        for kind, value in VALUES.items()
    ]


@pytest.mark.parametrize(("key", "value"), table(KEYS))
def test_a_tokenizer_with_a_wrong_part(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("llama")
    edit(folder / "tokenizer.json", key, value)
    strike("generate", "--model", folder, *ASK, "hello")


@pytest.mark.parametrize(("key", "value"), table(SETTINGS))
def test_wrong_settings_of_a_tokenizer(strike: Strike, copy: Copy, key: str, value: Any) -> None:
    folder = copy("llama")
    edit(folder / "tokenizer_config.json", key, value)
    strike("generate", "--model", folder, *ASK, "hello")


def replacing(pattern: Any, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


BAD_NORMALIZERS: dict[str, Any] = {
    "grows": sequence(*[replacing({"String": "a"}, "a" * 10)] * 9),
    "grows by prepending": sequence(*[{"type": "Prepend", "prepend": "a" * 50}] * 9),
    "one long replacement": replacing({"String": "a"}, "a" * 1_000_000),
    "grows in a sequence of sequences": sequence(sequence(*[replacing({"Regex": "a"}, "aa")] * 4), *[replacing({"String": "a"}, "aaaa")] * 2),
    "an empty text": replacing({"String": ""}, "x"),
    "charsmap too large": {"type": "Precompiled", "precompiled_charsmap": "////" * 100},
    "charsmap too short": {"type": "Precompiled", "precompiled_charsmap": "AA=="},
    "charsmap not base64": {"type": "Precompiled", "precompiled_charsmap": "?"},
    "charsmap of zeros": {"type": "Precompiled", "precompiled_charsmap": "AAQAAA==" + "AAAA" * 400},
    "unknown type": {"type": "Evil"},
    "a broken pattern": replacing({"Regex": "("}, "x"),
    "no pattern": {"type": "Replace", "content": "x"},
    "deep": json.loads('{"type": "Sequence", "normalizers": [' * 200 + '{"type": "NFC"}' + "]}" * 200),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NORMALIZERS)
def test_a_normalizer_that_must_not_run(strike: Strike, copy: Copy, name: str) -> None:
    folder = copy("llama")
    edit(folder / "tokenizer.json", "normalizer", BAD_NORMALIZERS[name])
    said = strike("generate", "--model", folder, *ASK, "aaa", codes={5})
    assert "tokenizer.json" in said


GOOD_NORMALIZERS: dict[str, Any] = {
    "llama": sequence({"type": "Prepend", "prepend": "▁"}, replacing({"String": " "}, "▁")),
    "quotes": sequence(replacing({"String": "``"}, '"'), replacing({"String": "''"}, '"')),
    "blanks": replacing({"Regex": " {2,}"}, " "),
    "bert": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
    "albert": sequence({"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
    "ellipsis": replacing({"String": "…"}, "..."),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NORMALIZERS)
def test_a_published_normalizer_runs(strike: Strike, copy: Copy, name: str) -> None:
    folder = copy("llama")
    edit(folder / "tokenizer.json", "normalizer", GOOD_NORMALIZERS[name])
    strike("generate", "--model", folder, *ASK, "hello", codes={0})


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a+)+$", "a" * 3000 + "!"),
        ("(a|a)*$", "a" * 3000 + "!"),
        ("(a*)*b", "a" * 3000),
        (r"(\w+\s?)+$", "word " * 600 + "!"),
        ("(?:a?){25}a{25}", "a" * 24 + "b" + "a" * 24),
        ("(a?){30}a{30}b", ("a" * 37 + "c" + "a" * 25 + "b") * 30),
        ("(x+x+)+y", "x" * 2000),
        ("(", "hello"),
        ("[", "hello"),
        ("(?<name", "hello"),
        ("", "hello"),
        ("^", "hello"),
        ("a{100000}{100000}", "hello"),
        ("\\", "hello"),
        (r"\p{Nothing}", "hello"),
        ("(?=a)*", "aaa"),
    ],
)
def test_a_pattern_that_backtracks_or_is_broken(strike: Strike, copy: Copy, pattern: str, text: str) -> None:
    folder = copy("llama")
    own = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["pre_tokenizer"]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    edit(folder / "tokenizer.json", "pre_tokenizer", {"type": "Sequence", "pretokenizers": [split, own]})
    strike("generate", "--model", folder, *ASK, text)


@pytest.mark.parametrize("step", ["pre_tokenizer", "normalizer"])
@pytest.mark.parametrize(
    "pattern",
    [
        "(a|aa)+$",
        "(x+x+)+y",
        r"([a-z]+\s?)+[0-9]",
        "(.*)*x",
        r"\s*\s*\s*x",
        "(?:foo|foofoo)+!",
        r"(?:\d+\.?)+-",
        r"(?i)b|(?=([^x]+)+y)",
        "(?:中国|中|国)+文",
        r"(.+)\1\1x",
        "(?:a+){100,}",
    ],
)
def test_a_pattern_of_exponential_time_is_refused_before_any_text_is_read(
    strike: Strike, copy: Copy, pattern: str, step: str
) -> None:
    folder = copy("llama")
    parts = {
        "pre_tokenizer": {"type": "Split", "behavior": "Isolated", "invert": False},
        "normalizer": {"type": "Replace", "content": "b"},
    }
    edit(folder / "tokenizer.json", step, parts[step] | {"pattern": {"Regex": pattern}})
    assert f"tokenizer.json:{step}.pattern" in strike("generate", "--model", folder, *ASK, "hello", codes={5})


PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "gpt-oss": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "GPT-4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s",
    "DeepSeek": r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "Qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "Falcon": r"[0-9][0-9][0-9]",
    "DeepSeek LLM": r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "Kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "digits from the right": r"(?=(\d{3})+(?!\d))",
    "line breaks": r"(?:\r?\n)+",
    "words and numbers": r"[A-Z]?[a-z]+(?:-[a-z]+)*|\d+(?:\.\d+)?|\S",
    "CLIP": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_patterns_of_published_tokenizers_are_taken(name: str, tmp_path: Path) -> None:
    from llmctl.store.patterns import check_pattern

    check_pattern(PUBLISHED[name], name, tmp_path)


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("(.*)*x", [".*", "(.*)*"]),
        ("(?i)a*b|c*d", ["(?i)a*", "(?i)c*"]),
        (r"a*b|(?:cd?)+|\p{N}{1,3}+", ["a*", "d?"]),
        ("(?:a+){2,}", ["a+", "(?:a+){2,}"]),
        ("[]a]*[^]b]+x", ["[]a]*[^]b]+", "[^]b]+"]),
        ("foo(?i:ab*|c)?x", ["(?i)b*", "(?i:ab*|c)?"]),
        (r"\[a*\](?#a*)[[:alpha:]b]", ["a*"]),
        ("plain|words", []),
    ],
)
def test_a_pattern_is_cut_at_its_repetitions(pattern: str, parts: list[str]) -> None:
    from llmctl.store.pattern_parts import repeated_parts

    assert repeated_parts(pattern) == parts


def test_bpe_dropout_of_a_published_tokenizer_is_off(strike: Strike, copy: Copy, tmp_path: Path) -> None:
    from llmctl.data.tokenizing.codes import open_codes
    from llmctl.data.tokenizing.tokenizers import load_tokenizer

    folder = copy("llama")
    text = "Shall I compare thee to a summer's day?"
    whole = load_tokenizer(folder).backend_tokenizer.encode(text).ids
    edit(folder / "tokenizer.json", "model.dropout", 0.9)
    for backend in (load_tokenizer(folder).backend_tokenizer, open_codes(folder).tokenizer):
        assert [backend.encode(text).ids for _ in range(5)] == [whole] * 5


VOCABULARIES: dict[str, Callable[[int], int]] = {
    "the same id": lambda number: 7,
    "ids beyond the model's": lambda number: number + 10**6,
    "ids of 2^32": lambda number: 2**32 - 1 - number,
    "gaps": lambda number: number * 3,
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_that_are_not_those_of_the_model(strike: Strike, copy: Copy, name: str) -> None:
    folder = copy("llama")
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    changed = {token: VOCABULARIES[name](number) for token, number in vocabulary.items()}
    edit(folder / "tokenizer.json", "model.vocab", changed)
    said = strike("generate", "--model", folder, *ASK, "hello", codes={2, 5})
    assert "tokenizer" in said
    assert "config.json" not in said


def test_a_tokenizer_that_drops_all_text(strike: Strike, copy: Copy) -> None:
    folder = copy("llama")
    nothing = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    edit(folder / "tokenizer.json", "post_processor", nothing)
    assert "the prompt has no tokens" in strike("generate", "--model", folder, *ASK, "hello", codes={3})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("tokenizer_config.json", "padding_side", "up"),
        ("tokenizer_config.json", "truncation_side", 5),
        ("tokenizer_config.json", "added_tokens_decoder", {"x": {"content": "a"}}),
        ("tokenizer_config.json", "extra_special_tokens", {"x": 5}),
        ("special_tokens_map.json", "", b"\x80"),
        ("added_tokens.json", "", b"\x80"),
        ("chat_template.jinja", "", b"\xff"),
    ],
)
def test_the_file_at_fault_is_named(strike: Strike, copy: Copy, name: str, key: str, value: Any) -> None:
    folder = copy("llama")
    if key:
        edit(folder / name, key, value)
    else:
        (folder / name).write_bytes(value)
    assert f"{folder / name}: " in strike("generate", "--model", folder, *ASK, "hello", codes={5})


def test_a_panic_that_no_border_caught_is_no_bug() -> None:
    from llmctl.errors import IntegrityError, untranslated

    class PanicException(BaseException):
        """As pyo3 names its own."""

    assert isinstance(untranslated(PanicException("index out of range")), IntegrityError)


@pytest.mark.parametrize("verb", ["generate", "preprocess"])
def test_a_tokenizer_fails_alike_in_every_verb(strike: Strike, copy: Copy, tmp_path: Path, verb: str) -> None:
    folder = copy("llama")
    edit(folder / "tokenizer.json", "normalizer", BAD_NORMALIZERS["grows"])
    (tmp_path / "a.txt").write_text("hello\n" * 50)
    words = {
        "generate": ("--model", folder, "--prompt", "aaa"),
        "preprocess": (tmp_path / "a.txt", "--task", "lm", "--tokenizer", folder, "--out", tmp_path / "out"),
    }
    assert "tokenizer.json:normalizer" in strike(verb, *words[verb], codes={5})
    assert not (tmp_path / "out").exists()


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
BAD_TEMPLATES: dict[str, tuple[str, str]] = {
    "doubles": ("{% set n=namespace(x='aa') %}{% for i in range(40) %}{% set n.x=n.x~n.x %}{% endfor %}{{ n.x|length }}", "MB of memory"),
    "adds": ("{% set n=namespace(x='aa') %}{% for i in range(40) %}{% set n.x=n.x+n.x %}{% endfor %}{{ n.x|length }}", "MB of memory"),
    "lists": ("{% set n=namespace(x=[1]) %}{% for i in range(40) %}{% set n.x=n.x+n.x %}{% endfor %}", ""),
    "multiplies": ("{{ 'a'*10**10 }}", "MB of memory"),
    "centres": ("{{ 'a'|center(10**10) }}", "MB of memory"),
    "indents": ("{{ 'a\\nb'|indent(10**10) }}", ""),
    "fills": ("{{ 'a'.zfill(10**10) }}", "MB of memory"),
    "formats": ("{{ '%10000000000d'|format(1) }}", ""),
    "loops": (LOOP, "more than 0.5 s"),
    "powers": ("{% set n=namespace(x=3) %}{% for i in range(60) %}{% set n.x=n.x*n.x %}{% endfor %}", ""),
    "a tower": ("{% if 10**(10**8) > 1 %}{% endif %}", ""),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ""),
    "raises": ("{{ raise_exception('no') }}", "no"),
    "raises a long text": ("{{ raise_exception('x'*100000) }}", ""),
    "raises nothing": ("{{ raise_exception('') }}", "TemplateError"),
    "raises escapes": ("{{ raise_exception('\x1b[2J') }}", ""),
    "unknown filter": ("{{ 1|evil }}", "evil"),
    "syntax": ("{% for %}", ""),
    "unclosed": ("{% if 1 %}", ""),
    "python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", ""),
    "imports": ("{% import 'os' as os %}", ""),
    "includes": ("{% include '/etc/passwd' %}", ""),
    "no messages": ("hello", "does not render message 1"),
    "twice": ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "does not render message 1"),
    "long": ("{{ 'a'*10**7 }}{% for m in messages %}{{ m.content }}{% endfor %}", "characters"),
    "divides": ("{{ 1/0 }}", "ZeroDivisionError"),
    "attribute": ("{{ messages.x.y }}", ""),
    "changes": ("{% set _ = messages.append(1) %}", ""),
    "empty": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_a_template_that_loops_grows_or_fails(strike: Strike, copy: Copy, name: str) -> None:
    folder = copy("llama")
    template, said = BAD_TEMPLATES[name]
    (folder / "chat_template.jinja").write_text(template)
    shown = strike("generate", "--model", folder, *ASK, "hello", codes={0, 5} if name == "empty" else {5})
    assert said in shown
    assert len(shown) < 3000


def test_a_template_that_draws_asks_the_same_each_time(strike: Strike, copy: Copy) -> None:
    folder = copy("llama")
    template = "{{ range(100000)|random }}{% for m in messages %}{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    first, second = (strike("generate", "--model", folder, *ASK, "hello", codes={0}) for _ in range(2))
    answers = [json.JSONDecoder().raw_decode(each)[0]["completions"] for each in (first, second)]
    assert answers[0] == answers[1]
