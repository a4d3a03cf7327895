"""Speech models of random weights in small folders, as others write them, and recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from llmctl import registry
from llmctl.data.tokenizing import tokenizers
from llmctl.models import pretrained
from llmctl.models.spec import Shape, Vocabulary
from llmctl.store.models import Card, write_card

TEXT = "one two three four five six seven eight nine ten eleven twelve twenty thirty 一二三四五六七八九十"
LANGUAGES = ("en", "zh", "de")
LETTERS = "ETAONIHSRDLUMWCFGYPBVKXJQZ"


def clips(folder: Path, number: int = 6) -> list[Path]:
    """Recordings of spoken numbers as FLAC files."""
    with registry.load("datasets", "spoken-numbers-en-voices").path() as path:
        rows = pq.read_table(path).to_pylist()[:number]
    found = [folder / f"{number}.flac" for number in range(len(rows))]
    for place, row in zip(found, rows, strict=True):
        place.write_bytes(row["audio"]["bytes"])
    return found


def ctc(folder: Path) -> Path:
    """A `ctc` folder as training leaves it. Weights are spread wide, so that it writes something."""
    spec = registry.load("models", "ctc")
    torch.manual_seed(1)
    tokenizer = tokenizers.train("char", lambda: [TEXT] * 4, 4 * len(TEXT), 100)
    vocabulary = Vocabulary(tokenizer.get_vocab_size(), 0, 1, 2)
    model = spec.build(spec.shape("nano", Shape(layers=1, hidden=32, embedding=32)), vocabulary, ())
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0.0, 0.4)
    pretrained.save(model, folder)
    tokenizers.save(tokenizer, folder)
    write_card(folder, Card(task="speech-recognition", family="ctc", style="pair"))
    return folder


def whisper(folder: Path, *, multilingual: bool, layers: int = 1) -> Path:
    """A Whisper folder of OpenAI's layout: its control tokens in their order, and a generation_config.json that says
    whether it knows several languages."""
    control = ["<|endoftext|>", "<|startoftranscript|>"]
    control += [f"<|{code}|>" for code in (LANGUAGES if multilingual else ("en",))]
    control += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    control += ["<|notimestamps|>", *(f"<|{number / 50:.2f}|>" for number in range(1501))]
    tokenizer = tokenizers.train("bpe", lambda: [TEXT] * 4, 4 * len(TEXT), 330)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in control])
    tokenizers.save(tokenizer, folder)
    ids = {each: tokenizer.token_to_id(each) for each in control}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    known = {"eos_token_id": end, "pad_token_id": end, "bos_token_id": end, "decoder_start_token_id": start}
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=32,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_target_positions=64,
        init_std=0.4,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **known,
    )
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **known,
        is_multilingual=multilingual,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        begin_suppress_tokens=[end],
        suppress_tokens=[start],
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES} if multilingual else {},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    return folder


def wav2vec2(folder: Path) -> Path:
    """A folder as transformers writes it: weights, vocab.json, preprocessor_config.json."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    config = Wav2Vec2Config(vocab_size=len(tokens), pad_token_id=0, **shape, **convolutions)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder
