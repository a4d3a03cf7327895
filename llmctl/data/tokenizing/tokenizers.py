"""Trains tokenizers, and opens tokenizer folders of any origin.

Every kind is lossless: encoded text decodes to itself, except for characters that `char` and words that `word` did not
see in training. `bpe`, `unigram`, `wordpiece` and `byte` are based on the 256 bytes, so they can encode any text.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from llmctl.data.spec import TOKENIZERS
from llmctl.data.tokenizing import ctc_tokenizer
from llmctl.data.tokenizing.alphabet import BYTES, EVERY_CHARACTER
from llmctl.data.tokenizing.plain import settle
from llmctl.data.tokenizing.pretokens import pieces
from llmctl.errors import ConfigError, DataError, Fault, IntegrityError, UsageError
from llmctl.store import atomic
from llmctl.store.border import border, quiet
from llmctl.store.safety import read_json
from llmctl.store.tokenizers import check_tokenizer, copy_tokenizer, settings_of

CONTROL: Final = (
    "<|pad|>",
    "<|bos|>",
    "<|eos|>",
    "<|unk|>",
    "<|sep|>",
    "<|mask|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
"""Control tokens; their positions are their ids in every tokenizer trained here."""
NAMES: Final = {"pad_token": 0, "bos_token": 1, "eos_token": 2, "unk_token": 3, "sep_token": 4, "mask_token": 5}
UNKNOWN: Final = CONTROL[3]

CHARACTERS_PER_ENTRY: Final = 384
"""Characters of training text for each vocabulary entry. For 8,000 entries and 10.8 MB of speeches, this sample is 28 % of
the text, and the resulting tokenizer needs 0.5 % more tokens than one trained on all of it."""
LEAST_SAMPLE: Final = 2 << 20
PIECE_CHARACTERS: Final = 1 << 16
LONGEST_WORD: Final = 2_000
"""Characters; no language with blanks between words has such words."""
MOST_WINDOWS: Final = {"unigram": 16}
"""Windows inside longer words that a kind is trained on; others on all. Unigram's trainer takes a second for a few of them."""
LARGEST_ALPHABET: Final = 128
"""Different characters. A window with more is Chinese or Japanese without punctuation: text of many words, all trained on."""

# A word with the blank before it, as in GPT-2, so that blanks need no separate tokens; runs are limited to 32 characters
# because WordPiece's search is quadratic in the length of a word.
SHORT_WORDS: Final = r" ?\p{L}{1,32}| ?\p{N}{1,32}| ?[^\s\p{L}\p{N}]{1,32}|\s{1,32}"
# Chinese and Japanese have no blanks between words, so every character is a token. Other scripts: a word with the blank
# before it and any apostrophes or hyphens inside it; each punctuation mark is a token.
WORDS: Final = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}]"
    r"| ?[[\p{L}\p{M}\p{N}_]&&[^\p{Han}\p{Hiragana}\p{Katakana}]]+"
    r"(?:['’\-][[\p{L}\p{M}\p{N}]&&[^\p{Han}\p{Hiragana}\p{Katakana}]]+)*"
    r"| ?[^\s\p{L}\p{M}\p{N}_]|\s"
)
# Text that is cut into words has blanks between those of Chinese and Japanese too.
WORDS_BY_BLANKS: Final = (
    r" ?[\p{L}\p{M}\p{N}_]+(?:['’\-][\p{L}\p{M}\p{N}]+)*"
    r"| ?[^\s\p{L}\p{M}\p{N}_]|\s"
)
CONTINUED: Final = "\u2581\u2581"
"""WordPiece's prefix of a piece inside a word. It is not among the 256 characters that represent bytes, so text cannot be
mistaken for it, as it could be for BERT's ##."""


def smallest_vocabulary(kind: str) -> int:
    """Smallest vocabulary of a kind: the control tokens and, for kinds based on bytes, the byte alphabet."""
    alphabet = {"char": 1, "word": 1, "wordpiece": 2 * len(BYTES)}.get(kind, len(BYTES))
    return len(CONTROL) + alphabet


def check_vocabulary(kind: str, size: int, alphabet: int | None = None) -> None:
    """Raise `ConfigError` with both numbers if a vocabulary of `size` entries cannot hold the alphabet."""
    least = smallest_vocabulary(kind) if alphabet is None else len(CONTROL) + alphabet
    if kind != "byte" and size < least:
        raise ConfigError(
            [
                Fault(
                    "vocab_size",
                    f"is {size:,}, but a {kind} tokenizer of this text needs {least:,}: {least - len(CONTROL):,} for the "
                    f"alphabet and {len(CONTROL)} control tokens",
                    f"--vocab-size {least} or more",
                )
            ]
        )


def sample_size(kind: str, vocab_size: int) -> int:
    """Most characters to train a kind on: all for `char`, which needs the full alphabet; none for `byte`."""
    if kind in ("char", "byte"):
        return sys.maxsize if kind == "char" else 0
    return max(LEAST_SAMPLE, CHARACTERS_PER_ENTRY * vocab_size)


def sample(texts: Iterable[str], total: int, limit: int) -> Iterator[str]:
    """Sample about `limit` of `total` characters, spread evenly over the texts; deterministic."""
    wanted = taken = 0.0
    share = min(1.0, limit / max(total, 1))
    for text in texts:
        wanted += len(text) * share
        if taken < wanted:
            part = text[:limit]
            taken += len(part)
            yield part


def cut_words(text: str, windows: Iterator[int] | None = None) -> Iterator[str]:
    """The text cut inside words of more than `LONGEST_WORD` characters, because training takes quadratic time in the
    length of a word. A word of twice that length fills a whole window; all other text stays in one piece. `windows`
    yields once for each window to keep, default: all; those with more different characters than an alphabet are always kept."""
    start = 0
    for end in range(LONGEST_WORD, len(text), LONGEST_WORD):
        window = text[end - LONGEST_WORD : end]
        other = not window[0].isalnum() and not any(each.isalnum() or each.isspace() for each in window)
        if other or window.isalpha() or window.isnumeric():
            stays = windows is None or len(set(window)) > LARGEST_ALPHABET or next(windows, None) is not None
            yield text[start : end if stays else end - LONGEST_WORD]
            start = end
    yield text[start:]


def train(
    kind: str, texts: Callable[[], Iterable[str]], characters: int, vocab_size: int, *, segmented: bool = False
) -> Any:
    """Train a `tokenizers.Tokenizer` of a kind on texts with `characters` characters in total. `segmented`: blanks separate
    the words of every script.

    Raises `ConfigError` if `vocab_size` cannot hold the alphabet, `DataError` if there is too little text.
    """
    check_vocabulary(kind, vocab_size)
    if kind == "byte":
        return _bytes()
    chosen = sample(texts(), characters, sample_size(kind, vocab_size))
    if kind == "char":
        return _characters(chosen, vocab_size)
    tokenizer, trainer = _untrained(kind, vocab_size, segmented=segmented)
    with _one_thread() if kind == "unigram" else contextlib.nullcontext():
        try:
            windows = iter(range(MOST_WINDOWS[kind])) if kind in MOST_WINDOWS else None
            parts = (part for text in chosen for part in pieces(text, PIECE_CHARACTERS))
            tokenizer.train_from_iterator((word for part in parts for word in cut_words(part, windows)), trainer)
        except Exception as error:
            # tokenizers raises a bare `Exception`; here its meaning is known.
            if type(error) is not Exception:
                raise
            raise DataError(
                f"a {kind} tokenizer cannot be trained on this text: {error}",
                hint="use more text, a smaller --vocab-size, or --tokenizer bpe",
            ) from error
    if kind == "wordpiece":
        return _with_bytes_as_text(tokenizer)
    if kind == "unigram":
        _make_deterministic(tokenizer)
    _check_control(tokenizer)
    return tokenizer


def _untrained(kind: str, vocab_size: int, *, segmented: bool = False) -> tuple[Any, Any]:
    """An untrained tokenizer and its trainer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    shared: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": list(CONTROL), "show_progress": False}
    shared_bytes: dict[str, Any] = {**shared, "initial_alphabet": list(BYTES)}
    if kind in ("bpe", "unigram"):
        tokenizer = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        if kind == "bpe":
            return tokenizer, trainers.BpeTrainer(**shared_bytes)
        return tokenizer, trainers.UnigramTrainer(**shared_bytes, unk_token=UNKNOWN)
    if kind == "wordpiece":
        tokenizer = Tokenizer(_wordpiece(None))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SHORT_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace(CONTINUED, ""), decoders.ByteLevel()])
        shared["special_tokens"] += [*BYTES, *(CONTINUED + each for each in BYTES)]
        return tokenizer, trainers.WordPieceTrainer(**shared, continuing_subword_prefix=CONTINUED)
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS_BY_BLANKS if segmented else WORDS), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return tokenizer, trainers.WordLevelTrainer(**shared)
    raise UsageError(f"no kind of tokenizer has the name {kind!r}", hint=f"kinds: {', '.join(TOKENIZERS)}")


def _wordpiece(vocabulary: dict[str, int] | None) -> Any:
    from tokenizers import models

    # A word has at most 32 characters, or 128 bytes, and a blank, so none is too long.
    settings: dict[str, Any] = {"continuing_subword_prefix": CONTINUED, "max_input_chars_per_word": 200}
    return models.WordPiece(**({} if vocabulary is None else {"vocab": vocabulary}), unk_token=UNKNOWN, **settings)


def _with_bytes_as_text(tokenizer: Any) -> Any:
    """The trained WordPiece tokenizer, with only the control tokens registered as special tokens.

    For training, every byte is passed as a special token too, both at the start of a word and inside it, so that the
    vocabulary has all of them in a fixed order. The trainer alone keeps only bytes it saw, in an order that varies.
    """
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    model = _wordpiece({token: number for number, token in enumerate(vocabulary)})
    rebuilt = type(tokenizer)(model)
    rebuilt.pre_tokenizer, rebuilt.decoder = tokenizer.pre_tokenizer, tokenizer.decoder
    return _with_control(rebuilt)


def _make_deterministic(tokenizer: Any) -> None:
    """Make a Unigram vocabulary the same in every run.

    The trainer assigns scores to the bytes it did not keep, rising from the lowest score in steps of 0.0001, in the order
    of a hash table with a random seed. This function assigns the same scores in the order of the bytes.
    """
    from tokenizers import models

    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    scores = {piece: round(score, 9) for piece, score in vocabulary[len(CONTROL) :]}
    least = min(scores.values())
    added = [each for each in BYTES if scores[each] <= least + 0.0001 * (len(BYTES) + 1)]
    scores |= dict(zip(added, sorted(scores[each] for each in added), strict=True))
    pieces_in_order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    tokenizer.model = models.Unigram([*((token, 0.0) for token in CONTROL), *pieces_in_order], CONTROL.index(UNKNOWN))


def _bytes() -> Any:
    """The `byte` tokenizer, which needs no training: the control tokens, then the 256 bytes in order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate((*CONTROL, *BYTES))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_control(tokenizer)


def _characters(texts: Iterable[str], vocab_size: int) -> Any:
    """The `char` tokenizer: the control tokens, then every character of the texts in Unicode order."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(text)
    check_vocabulary("char", vocab_size, len(alphabet))
    vocabulary = {token: number for number, token in enumerate((*CONTROL, *sorted(alphabet)))}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(EVERY_CHARACTER), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _with_control(tokenizer)


def _with_control(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens(list(CONTROL))
    _check_control(tokenizer)
    return tokenizer


def _check_control(tokenizer: Any) -> None:
    tokenizer.encode_special_tokens = True
    if [tokenizer.token_to_id(token) for token in CONTROL] != list(range(len(CONTROL))):
        raise AssertionError("control tokens are not the first of the vocabulary")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread: with several, floating-point sums, and so Unigram's scores, vary from run to run."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# ---------------------------------------------------------------------------------------------------------------
# Folders


def save(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer trained here as a folder that `AutoTokenizer` opens."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    atomic.write_json(
        folder / "tokenizer_config.json",
        {
            "backend": "tokenizers",
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": list(CONTROL[len(NAMES) :]),
            # The value that transformers uses for "no limit".
            "model_max_length": int(1e30),
            **{name: CONTROL[number] for name, number in NAMES.items()},
            # The name of a control token in a text is plain text.
            "split_special_tokens": True,
            "tokenizer_class": "TokenizersBackend",
        },
    )


def add_chat_template(folder: Path, template: str) -> None:
    """Add a chat template to a tokenizer folder.

    Other tools encode the rendered template as one text, in which control tokens must be recognised, so the folder's
    setting allows it. `load_tokenizer` still encodes their names in text as plain text.
    """
    atomic.write_text(folder / "chat_template.jinja", template)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    atomic.write_json(path, settings | {"split_special_tokens": False})


def load_tokenizer(folder: Path) -> Any:
    """Open the `transformers.PreTrainedTokenizerFast` of a folder; it encodes names of control tokens as plain text.

    Raises `UsageError` if there is no tokenizer, `IntegrityError` if opening it would run code, or fails.
    """
    check_tokenizer(folder)
    own = folder / "tokenizer.json"
    place = own if own.is_file() else folder
    if not own.is_file() and _class_of(folder) == ctc_tokenizer.CLASS:
        with border("the tokenizer cannot be opened", folder / "vocab.json", silent=True):
            found = ctc_tokenizer.open_ctc_tokenizer(folder)
            settle(found.backend_tokenizer)
        return found
    try:
        with border("the tokenizer cannot be opened", place, silent=True), quiet():
            tokenizer = _opener_of(folder).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except IntegrityError as error:
        if error.where == str(own) and _opens_alone(own):  # the fault is in the settings beside it
            raise IntegrityError(error.message, where=str(folder / "tokenizer_config.json"), hint=error.hint) from error
        raise
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(
            f"the tokenizer of {folder} is not a fast tokenizer",
            hint="convert it: save_pretrained of transformers writes a tokenizer.json",
        )
    with border("the tokenizer cannot be used", place, silent=True):
        settle(backend)
    return tokenizer


def _opens_alone(path: Path) -> bool:
    from tokenizers import Tokenizer

    try:
        with border("", path, silent=True):
            Tokenizer.from_file(str(path))
    except IntegrityError:
        return False
    return True


def _opener_of(folder: Path) -> Any:
    """The class that opens a tokenizer. Where its settings leave no choice, the class itself: `AutoTokenizer` imports torch."""
    if (
        (folder / "tokenizer.json").is_file()
        and not (folder / "config.json").is_file()
        and _class_of(folder) in ("TokenizersBackend", "PreTrainedTokenizerFast")
    ):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def _class_of(folder: Path) -> str:
    path = folder / "tokenizer_config.json"
    return str(read_json(path).get("tokenizer_class")) if path.is_file() else ""


def import_tokenizer(folder: Path, out: Path) -> None:
    """Copy a checked tokenizer to `out`, converted to tokenizer.json and with complete settings."""
    out.mkdir(parents=True, exist_ok=True)
    if (folder / "tokenizer.json").is_file():
        copy_tokenizer(folder, out)
    else:
        # Only older formats (merges, sentencepiece), which transformers converts to tokenizer.json.
        load_tokenizer(folder).save_pretrained(str(out))
    settings, _ = settings_of(out)
    atomic.write_json(out / "tokenizer_config.json", settings)
