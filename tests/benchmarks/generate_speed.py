"""Tokens a second of greedy answers: `generate_speed.py llmctl|transformers smollm2|marian bf16|fp32 BATCH ROWS [FOLDER]`.

Both sides answer the same prompts of random tokens with answers of the same unequal lengths (8 to 128 tokens); of 8 rows
or fewer all have 64. transformers pads each batch to its longest answer; only tokens that were asked for are counted.
The weights are random, unless FOLDER holds a model. The number is printed last. With one thread (`OMP_NUM_THREADS=1`) it is
per second of processor time, which a busy machine does not change much.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MarianConfig, MarianMTModel

SHORTEST, LONGEST, EQUAL = 8, 128, 64


class Letters:
    """A tokenizer of one letter for every id, so that decoding costs next to nothing on both sides."""

    pad_token_id, eos_token_id, bos_token_id, name_or_path = 0, None, None, ""

    def decode(self, ids: list[int], **settings: Any) -> str:
        return "x" * len(ids)


def build(name: str) -> Any:
    """SmolLM2-135M's shape, or Marian's of opus-mt."""
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}
    if name == "marian":
        shape = {"d_model": 512, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "vocab_size": 32000}
        heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_layers": 6, "decoder_layers": 6}
        return MarianMTModel(MarianConfig(**shape, **heads, **(ids | {"eos_token_id": 0}), decoder_start_token_id=0))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            **ids,
        )
    )


def main() -> None:
    side, name, precision, batch, rows, *folder = sys.argv[1:]
    model = build(name)
    if folder:
        model = type(model).from_pretrained(folder[0])
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32).eval().requires_grad_(False)
    drawn = torch.Generator().manual_seed(1)
    size, count = int(batch), int(rows)
    lengths = torch.exp(torch.empty(count).uniform_(*torch.tensor([SHORTEST, LONGEST]).log().tolist(), generator=drawn))
    limits = [EQUAL] * count if count <= 8 else lengths.int().tolist()
    prompts = [
        tuple(torch.randint(5, 30000, (int(torch.randint(10, 60, (1,), generator=drawn)),), generator=drawn).tolist())
        for _ in limits
    ]
    answer(side, name, model, precision, 1, prompts[:1], [4])
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    answer(side, name, model, precision, size, prompts, limits)
    print(f"{sum(limits) / (clock() - began):.2f}")


def answer(
    side: str, name: str, model: Any, precision: Any, size: int, prompts: list[tuple[int, ...]], limits: list[int]
) -> None:
    if side == "llmctl":
        from llmctl.engines.local import TorchEngine
        from llmctl.engines.spec import Sampling
        from llmctl.types import Request

        family: Any = "encoder-decoder" if name == "marian" else "decoder"
        session = TorchEngine(model, Letters(), family, precision=precision).session(rows=size)
        for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
            session.submit(Request(str(number), prompt), Sampling(max_new_tokens=limit))
        while session.pending:
            session.step()
        return
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        longest = max(map(len, part))
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(part):
            span = slice(0, len(prompt)) if name == "marian" else slice(longest - len(prompt), None)
            ids[row, span], mask[row, span] = torch.tensor(prompt), 1
        limit = max(limits[start : start + size])
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, num_beams=1, pad_token_id=0
            )


if __name__ == "__main__":
    main()
