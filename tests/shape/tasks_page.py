"""docs/tasks.md, made by running the commands that it shows: `python -m tests.shape.tasks_page > docs/tasks.md`."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from typing import Final

HEAD: Final = """\
# What a model sees of each task

The same record is put to each family of models in its own way, once and for all: training, `generate` and `eval` share
it. This page shows it, on a record of each task, as `llmctl show data` prints it: `·` is a blank, `↵` the end of a line,
`<|…|>` a control token, and **[what stands in brackets] is learned**: the loss is taken there and nowhere else. A
bracket of the text itself is shown as `\\[` or `\\]`. The tokenizer is `word` for its readable tokens; with another one only
the cuts differ. Everything here is the output of the commands above it; `python -m tests.shape.tasks_page > docs/tasks.md`
makes the page anew.

| family | models | what it sees | what it learns |
|---|---|---|---|
| decoder | `rnn`, `lstm`, `attention`, `gpt2`, `llama` | one sequence: the question, then the answer | the answer |
| encoder-decoder | `lstm-seq2seq`, `t5`, `marian`, `bart` | the question as source | the answer as target |
| encoder | `lstm-classifier`, `bert` | the text | its label, in a head of its own |
"""

LANGUAGE_MODELING: Final = """\
## Language modelling

Documents stand one after the other, `<|bos|>` before and `<|eos|>` behind each, and are cut into blocks of `block_size`
tokens. A decoder learns to say every token from those before it. A poem in English, one in Chinese:
"""

PLAIN_TEXT: Final = """\
### Pre-training of encoders and encoder-decoders

They learn from the same plain text by mending it; what is taken away is drawn anew in every epoch. How much of it is as
published, or as `train --set noise_density=0.4` asks; validation always takes away as much as published, so that losses
compare. `bert` fills masked places in (15 %: most of them shown as `<|mask|>`, some as another token, some as they are;
`seen → said`), after Devlin et al. 2019:
"""

SPANS: Final = """\
`t5` says the spans that were cut out, 15 % of the text, each behind its mark (Raffel et al. 2020; a tokenizer trained
here has one mask for all spans, `<extra_id_0>`, … are used where a tokenizer has them):
"""

DENOISING: Final = """\
`bart`, `marian` and `lstm-seq2seq` say the whole text again: they see its sentences and lines in another order, and
masks over spans that are 30 % of it, after Lewis et al. 2020:
"""

TRANSLATION: Final = """\
## Translation

A decoder reads source, `<|sep|>`, target as one sequence. The answer's end is learned too: that is how it stops.
"""

SUMMARIZATION: Final = """\
## Summarization

As translation; where both do not fit the model's context, the passage loses its end, not the summary.
"""

QUESTION_ANSWERING: Final = """\
## Question answering

Where a record has a `context`, it stands before the question with `<|sep|>` between. Of several right answers the first is
learned, any of them counts in `eval`.
"""

CHAT: Final = """\
## Chat

Only decoders converse. Every turn of the assistant is learned, also in the middle of a conversation; those of the user
and of `system` are given. The same arrangement stands in the model folder as its chat template.
"""

CLASSIFICATION: Final = """\
## Classification

An encoder has a head over the labels. A decoder and an encoder-decoder learn the label's name as an answer; when asked
they choose the likeliest of the labels.
"""

GIVEN: Final = """\
## Given weights

A pretrained model keeps its own tokenizer and its own control tokens; `--model` takes its folder. If its tokenizer has a
chat template, a decoder is put every task but language modelling as a conversation: instruction and question are one
message of the user, the answer is the assistant's (`style template`). If it has neither a template nor the control
tokens above, then question, instruction and answer follow each other, blank lines between (`style plain`). The
instruction is the task's own unless `--set instruction=TEXT` gives `train`, `generate` or `eval` another (`--instruction`
of `show data`); a model keeps the one that it was trained with. Here a chat model, hardly trained, stands for one that was
downloaded:
"""

WORD: Final = "--tokenizer word --vocab-size 8192"
SONNETS: Final = f"llmctl preprocess sonnets {WORD} --set block_size=24 --out data/sonnets"
POEMS: Final = f"llmctl preprocess tang-poems {WORD} --set block_size=32 --out data/tang-poems"

Part = tuple[str, tuple[str, ...]]
PARTS: Final[tuple[Part, ...]] = (
    (LANGUAGE_MODELING, (SONNETS, "llmctl show data data/sonnets --model gpt2 --index 1")),
    ("", (POEMS, "llmctl show data data/tang-poems --model gpt2")),
    (
        PLAIN_TEXT,
        (
            "llmctl show data data/sonnets --model bert --index 1",
            "llmctl show data data/tang-poems --model bert",
        ),
    ),
    (SPANS, ("llmctl show data data/sonnets --model t5 --index 1", "llmctl show data data/tang-poems --model t5")),
    (
        DENOISING,
        ("llmctl show data data/sonnets --model bart --index 2", "llmctl show data data/tang-poems --model bart"),
    ),
    (
        TRANSLATION,
        (
            f"llmctl preprocess udhr-en-zh {WORD} --out data/rights",
            "llmctl show data data/rights --model gpt2 --index 29",
            "llmctl show data data/rights --model lstm-seq2seq --index 29",
        ),
    ),
    (
        SUMMARIZATION,
        (
            f"llmctl preprocess abstracts {WORD} --out data/abstracts",
            "llmctl show data data/abstracts --model llama --index 47",
            "llmctl show data data/abstracts --model t5 --index 47",
        ),
    ),
    (
        QUESTION_ANSWERING,
        (
            f"llmctl preprocess trivia {WORD} --out data/trivia",
            "llmctl show data data/trivia --model attention --index 91",
            "llmctl show data data/trivia --model bart --index 91",
        ),
    ),
    (
        CHAT,
        (
            f"llmctl preprocess smalltalk-en {WORD} --out data/smalltalk-en",
            "llmctl show data data/smalltalk-en --model gpt2 --index 436",
        ),
    ),
    (
        "",
        (
            f"llmctl preprocess smalltalk-zh {WORD} --out data/smalltalk-zh",
            "llmctl show data data/smalltalk-zh --model gpt2 --index 23",
        ),
    ),
    (
        CLASSIFICATION,
        (
            f"llmctl preprocess reviews {WORD} --out data/reviews",
            "llmctl show data data/reviews --model bert --index 1282",
            "llmctl show data data/reviews --model lstm --index 1282",
            "llmctl show data data/reviews --model lstm-seq2seq --index 1282",
        ),
    ),
    (
        GIVEN,
        (
            "llmctl preprocess smalltalk-en --out data/talk",
            "llmctl train --data data/talk --model gpt2 --set model.layers=1 --set model.hidden=32 --max-steps 1 --out runs/talk",
            "llmctl show data data/trivia --model runs/talk --index 91",
            "llmctl show data data/reviews --model runs/talk --index 1282",
        ),
    ),
)


def page() -> str:
    """The whole page. The commands run in a folder of their own, offline; raises `RuntimeError` where one fails."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return "\n".join((HEAD, *(text for part in PARTS for text in _shown(*part))))


def _shown(text: str, commands: tuple[str, ...]) -> Iterator[str]:
    if text:
        yield text
    asked: list[str] = []
    for command in commands:
        asked.append(command)
        said = _output(command)
        if " show data " in command:
            yield "```sh\n" + "\n".join(asked) + f"\n```\n\n```text\n{said}```\n"
            asked = []


def _output(command: str) -> str:
    """What a command prints on standard output."""
    from llmctl.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.run(shlex.split(command)[1:])
    if code != 0:
        raise RuntimeError(f"{command}\n{err.getvalue()}")
    return out.getvalue()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    # As bytes: the locale of a machine is not the page's.
    sys.stdout.buffer.write(page().encode())
