"""The usual script: train a tokenizer, `datasets.map` it over the text, group into blocks, save."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BLOCK = 128


def main(source: str, out: str) -> None:
    datasets.disable_progress_bars()
    datasets.disable_caching()
    data = datasets.load_dataset("json", data_files=source, split="train", cache_dir=out + "-cache")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((row["text"] for row in data), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>")

    def encode(rows: dict[str, Any]) -> dict[str, Any]:
        return {"input_ids": [[*ids, fast.eos_token_id] for ids in fast(rows["text"])["input_ids"]]}

    def group(rows: dict[str, Any]) -> dict[str, Any]:
        joined = [number for ids in rows["input_ids"] for number in ids]
        return {"input_ids": [joined[start : start + BLOCK] for start in range(0, len(joined) - BLOCK + 1, BLOCK)]}

    encoded = data.map(encode, batched=True, remove_columns=data.column_names)
    encoded.map(group, batched=True).save_to_disk(out)
    fast.save_pretrained(Path(out) / "tokenizer")


if __name__ == "__main__":
    main(*sys.argv[1:])
