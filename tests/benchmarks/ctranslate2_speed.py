"""Answers a second of an encoder-decoder: `python -m tests.benchmarks.ctranslate2_speed llmctl|bare|torch MODEL EXPORT BATCH ROWS`.

MODEL is a run or folder, EXPORT its export to CTranslate2; `bare` calls CTranslate2 without llmctl, `torch` runs MODEL in
the torch engine. All sides answer the same records of the built-in dates, greedily, at most 32 tokens. The number is
printed last; with one thread (`OMP_NUM_THREADS=1`) it is per second of processor time. Wanted, in int8: llmctl at least
0.9 times bare, and 2 times torch.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import torch

from llmctl.data.reading.read import read_records
from llmctl.engines.ctranslate2 import CTranslate2Engine
from llmctl.engines.spec import Sampling
from llmctl.types import Request
from llmctl.workflows.inference.session import Predictor, open_predictor

MOST = 32


def main() -> None:
    side, model, export, batch, rows = sys.argv[1:]
    predictor = open_predictor(model if side == "torch" else export, task="translation")
    records = itertools.islice(itertools.cycle(read_records(["dates-en-zh"])), int(rows))
    requests = [predictor.request_builder.generation_request(record) for record in records]
    answer = bare(predictor) if side == "bare" else ours(predictor)
    answer(requests[:2], 2)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    answer(requests, int(batch))
    print(f"{len(requests) / (clock() - began):.2f}")


def ours(predictor: Predictor) -> Callable[[list[Request], int], None]:
    def answer(requests: list[Request], size: int) -> None:
        list(predictor.complete(requests, Sampling(max_new_tokens=MOST, batch_size=size)))

    return answer


def bare(predictor: Predictor) -> Callable[[list[Request], int], None]:
    """CTranslate2 sorts by length itself; the texts are decoded, as ours are."""
    engine = predictor.engine
    assert isinstance(engine, CTranslate2Engine)
    tokenizer = predictor.request_builder.layout.tokenizer

    def answer(requests: list[Request], size: int) -> None:
        sources = [engine.named(each.input_ids) for each in requests]
        options = {"beam_size": 1, "max_decoding_length": MOST, "min_decoding_length": 0, "max_input_length": 0}
        found = engine.runner.translate_batch(sources, max_batch_size=size, **options)
        for each in found:
            tokenizer.convert_tokens_to_string(each.hypotheses[0])

    return answer


if __name__ == "__main__":
    main()
