"""The tokenizer of wav2vec 2.0 folders, a vocabulary of letters, as a fast tokenizer.

A text is spelled letter by letter, with a delimiter (`|`) for the space between words. transformers has it in Python only.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from llmctl.errors import IntegrityError
from llmctl.store.safety import read_json

CLASS = "Wav2Vec2CTCTokenizer"


def open_ctc_tokenizer(folder: Path) -> Any:
    """The `PreTrainedTokenizerFast` of a folder with `vocab.json`. Raises `IntegrityError` for a vocabulary without its
    control tokens. Letters are made upper case where the vocabulary has no other."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    vocabulary = read_json(folder / "vocab.json")
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    control = {name: _text(settings.get(name) or usual) for name, usual in names.items()}
    delimiter = _text(settings.get("word_delimiter_token") or "|")
    sound = all(isinstance(number, int) for number in vocabulary.values())
    absent = [each for each in (control["pad_token"], control["unk_token"], delimiter) if each not in vocabulary]
    if absent or not sound:
        problem = f"the vocabulary lacks {', '.join(absent)}" if absent else "a token has no number"
        raise IntegrityError(problem, where=str(folder / "vocab.json"), hint="restore the file")
    known = {name: token for name, token in control.items() if token in vocabulary}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=control["unk_token"]))
    rules: list[Any] = [normalizers.Replace(" ", delimiter)]
    if settings.get("do_lower_case"):
        rules.append(normalizers.Lowercase())
    elif not set(string.ascii_lowercase) & vocabulary.keys():
        rules += [normalizers.Replace(each, each.upper()) for each in string.ascii_lowercase]
    tokenizer.normalizer = normalizers.Sequence(rules)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(delimiter, " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **known)


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
