"""The nearest neighbours of a word in the embedding table of a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llmctl.data.cleaning.clean import Cleaner
from llmctl.data.spec import Clean, CleanRules
from llmctl.data.tokenizing.codes import Codes, open_codes
from llmctl.data.tokenizing.plain import encoded, plain_ids, unknown_id
from llmctl.errors import IntegrityError, UsageError
from llmctl.models.resolve import open_weights
from llmctl.store.border import border
from llmctl.store.models import ModelFolder
from llmctl.store.weights import shapes

if TYPE_CHECKING:
    import torch

NEIGHBOURS: Final = 10
TABLES: Final = (
    "shared.weight",
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tokens.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "embeddings.weight",
    "embedding.weight",
)
"""Endings of the names of embedding tables; the first that a model has is its table of input tokens."""
_BROKEN: Final = "\N{REPLACEMENT CHARACTER}"


def nearest(reference: str, word: str, *, offline: bool = False) -> dict[str, Any]:
    """The document of `show models RUN --nearest WORD`.

    `neighbours` are the tokens whose rows of the table have the highest cosine with that of the word: `text`, `id`,
    `cosine`. Control tokens, incomplete characters and the word itself are left out. `tokens` are those of the word; if
    there are several, their mean is compared. Raises `UsageError` for an untrained architecture, a folder without a
    tokenizer or an unknown word.
    """
    folder = open_weights(reference, offline=offline)
    if not folder.has_tokenizer:
        raise UsageError(f"{folder.path} has no tokenizer, so its embeddings have no words")
    codes = open_codes(folder.path)
    rules = CleanRules.recorded(folder.card.clean) if folder.card and folder.card.clean else Clean()
    cleaned = Cleaner(rules).text(word).strip()
    ids = _ids(codes, cleaned)
    name = _table(folder)
    found = _neighbours(_rows(folder, name), ids, codes, cleaned)
    return {
        "kind": "models",
        "name": reference,
        "word": cleaned,
        "tokens": [_text(codes, each) for each in ids],
        "table": name,
        "neighbours": found,
    }


def _ids(codes: Codes, word: str) -> list[int]:
    """The fewest tokens that the word has, alone or after a space."""
    if not word:
        raise UsageError("--nearest needs a word")
    spellings = [plain_ids(codes.tokenizer, text, codes.control) for text in (f" {word}", word)]
    blank = encoded(codes.tokenizer, " ").ids
    if blank and spellings[0] == [*blank, *spellings[1]]:
        del spellings[0]
    ids = min(spellings, key=len)
    if not ids or unknown_id(codes.tokenizer) in ids:
        raise UsageError(
            f"{word!r} is not in the vocabulary of the model", hint="it learned other words, or spells them otherwise"
        )
    return ids


def _table(folder: ModelFolder) -> str:
    names = [name for name, shape in shapes(folder.architecture).items() if len(shape) == 2]
    for ending in TABLES:
        for name in sorted(names):
            if name == ending or name.endswith(f".{ending}"):
                return name
    raise UsageError(
        f"no table of token embeddings found in {folder.architecture}",
        hint="a model that only reads recordings, such as ctc, has none: name one that reads or writes words by embeddings",
    )


def _rows(folder: ModelFolder, name: str) -> torch.Tensor:
    """(V, E) the table, in float32."""
    import torch
    from safetensors import safe_open

    for path in sorted(folder.architecture.glob("*.safetensors")):
        with border("cannot be read", path), safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118, it is no mapping
                rows: torch.Tensor = file.get_tensor(name).to(torch.float32)
                return rows
    raise IntegrityError(f"the weight {name} is missing", where=str(folder.architecture))


def _neighbours(rows: torch.Tensor, ids: list[int], codes: Codes, word: str) -> list[dict[str, Any]]:
    import torch

    if max(ids) >= len(rows):
        raise IntegrityError(f"the tokenizer has more than the {len(rows):,} entries of the embedding table")
    unwanted = {*ids, *codes.control, unknown_id(codes.tokenizer)}
    unit = torch.nn.functional.normalize(rows, dim=1)
    similarity = unit @ torch.nn.functional.normalize(rows[ids].mean(0), dim=0)  # (V,)
    found: list[dict[str, Any]] = []
    for each in torch.argsort(similarity, descending=True, stable=True).tolist():
        text = _text(codes, each)
        if each in unwanted or _BROKEN in text or text.strip() in ("", word):
            continue
        found.append({"text": text, "id": each, "cosine": round(float(similarity[each]), 4)})
        if len(found) == NEIGHBOURS:
            break
    return found


def _text(codes: Codes, number: int) -> str:
    """The text of a token; empty for a row of the table that the tokenizer has no entry for."""
    if number >= codes.size:
        return ""
    text: str = codes.tokenizer.decode([number], skip_special_tokens=False)
    return text
