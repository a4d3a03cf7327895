"""docs/tasks.md and docs/zh-CN/tasks.md, made by running the commands that they show.

`python -m tests.shape.tasks_page docs` writes both.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Final

HEAD: Final = """\
# What a model sees of each task

Training, `generate` and `eval` share one prompt format for each task and model family. This page shows it, on a record of
each task, as `llmctl show data` prints it: `·` is a blank, `↵` the end of a line, `<|…|>` a control token, and **[tokens in
brackets] are in the loss**, no others. A bracket of the text itself is printed as `\\[` or `\\]`. The tokenizer is `word`,
because its tokens are easy to read; another one only cuts the text differently. Everything here is the output of the
commands above it; `python -m tests.shape.tasks_page docs` generates the page.

| family | models | what it sees | what is in the loss |
|---|---|---|---|
| decoder | `rnn`, `lstm`, `attention`, `gpt2`, `llama` | one sequence: the prompt, then the answer | the answer |
| encoder-decoder | `lstm-seq2seq`, `t5`, `marian`, `bart` | the prompt as source | the answer as target |
| encoder | `lstm-classifier`, `bert` | the text | its label, through a classification head |
| speech-seq2seq | `whisper` | the recording, as log-mel features | the transcript as target |
| ctc | `ctc` | the recording, as log-mel features | the transcript, without an end token |
"""

LANGUAGE_MODELING: Final = """\
## Language modelling

Documents are concatenated, each between `<|bos|>` and `<|eos|>`, and cut into blocks of `block_size` tokens. A decoder
predicts every token from those before it. A poem in English, one in Chinese:
"""

PLAIN_TEXT: Final = """\
### Pre-training of encoders and encoder-decoders

On the same plain text, encoders and encoder-decoders are trained by denoising. The noise is drawn again in every epoch.
Its density is the published one unless `train --set noise_density=0.4` says otherwise; validation always uses the published
density, so that losses compare. `bert` predicts masked tokens (15 %: most replaced by `<|mask|>`, some by another token,
some unchanged; `seen → target`), after Devlin et al. 2019:
"""

SPANS: Final = """\
`t5` predicts the spans that were removed, 15 % of the text, each after its sentinel (Raffel et al. 2020). A tokenizer
trained here has one mask token for all spans; `<extra_id_0>`, … are used where a tokenizer has them:
"""

DENOISING: Final = """\
`bart`, `marian` and `lstm-seq2seq` predict the complete text. They see its sentences and lines in a different order, and
masks over spans that make up 30 % of it, after Lewis et al. 2020:
"""

TRANSLATION: Final = """\
## Translation

A decoder reads source, `<|sep|>` and target as one sequence. The end of the answer is in the loss too: that is how the model
learns to stop.
"""

SUMMARIZATION: Final = """\
## Summarization

As translation. Where the record does not fit into the model's context, the end of the passage is cut, not the summary.
"""

QUESTION_ANSWERING: Final = """\
## Question answering

The `context`, if there is one, precedes the question, with `<|sep|>` between. Of several correct answers the first is the
training target; any of them counts in `eval`.
"""

CHAT: Final = """\
## Chat

Only decoders chat. Every turn of the assistant is in the loss, also in the middle of a conversation; the turns of `user` and
`system` are not. The model folder holds the same format as its chat template.
"""

PREFERENCE: Final = """\
## Preference pairs

Preference tuning reads both answers, each after the same prompt, in the format of the model that it starts from.
"""

CLASSIFICATION: Final = """\
## Classification

An encoder has a classification head. A decoder and an encoder-decoder learn the name of the label as an answer; for a
prediction they choose the most likely of the labels.
"""

SPEECH: Final = """\
## Speech recognition

A model hears the recording; all of its text is in the loss. `whisper` writes it token by token up to the end token. `ctc`
assigns a token or a blank to every 20 ms, so its text needs no end. Details are in [Speech](speech.md):
"""

GIVEN: Final = """\
## Pretrained weights

A pretrained model keeps its own tokenizer and control tokens; `--model` takes its folder. A decoder whose tokenizer has a
chat template receives every task except language modelling as a conversation: instruction and inputs form one message of
the user, the answer is the assistant's (`style template`). Without a template and without the control tokens above,
inputs, instruction and answer follow each other with blank lines between them (`style plain`). The instruction is the
task's own unless `--set instruction=TEXT` replaces it in `train`, `generate` or `eval` (`--instruction` in `show data`);
a model keeps the instruction it was trained with. Here, a barely trained chat model stands for a downloaded one:
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
            "llmctl show data data/rights --model gpt2 --index 26",
            "llmctl show data data/rights --model lstm-seq2seq --index 26",
        ),
    ),
    (
        SUMMARIZATION,
        (
            f"llmctl preprocess abstracts {WORD} --out data/abstracts",
            "llmctl show data data/abstracts --model llama --index 30",
            "llmctl show data data/abstracts --model t5 --index 30",
        ),
    ),
    (
        QUESTION_ANSWERING,
        (
            f"llmctl preprocess trivia {WORD} --out data/trivia",
            "llmctl show data data/trivia --model attention --index 94",
            "llmctl show data data/trivia --model bart --index 94",
        ),
    ),
    (
        CHAT,
        (
            f"llmctl preprocess smalltalk-en {WORD} --out data/smalltalk-en",
            "llmctl show data data/smalltalk-en --model gpt2 --index 430",
        ),
    ),
    (
        "",
        (
            f"llmctl preprocess smalltalk-zh {WORD} --out data/smalltalk-zh",
            "llmctl show data data/smalltalk-zh --model gpt2 --index 14",
        ),
    ),
    (
        PREFERENCE,
        (
            f"llmctl preprocess preferences-en {WORD} --out data/preferences",
            "llmctl show data data/preferences --model gpt2 --index 4",
            "llmctl show data data/preferences --model t5 --index 4",
        ),
    ),
    (
        CLASSIFICATION,
        (
            f"llmctl preprocess reviews {WORD} --out data/reviews",
            "llmctl show data data/reviews --model bert --index 1261",
            "llmctl show data data/reviews --model lstm --index 1261",
            "llmctl show data data/reviews --model lstm-seq2seq --index 1261",
        ),
    ),
    (
        SPEECH,
        (
            "llmctl preprocess spoken-numbers-en --tokenizer char --out data/numbers",
            "llmctl show data data/numbers --model whisper --index 4",
            "llmctl show data data/numbers --model ctc --index 4",
        ),
    ),
    (
        GIVEN,
        (
            "llmctl preprocess smalltalk-en --out data/talk",
            "llmctl train --data data/talk --model gpt2 --set model.layers=1 --set model.hidden=32 --max-steps 1 --out runs/talk",
            "llmctl show data data/trivia --model runs/talk --index 94",
            "llmctl show data data/reviews --model runs/talk --index 1261",
        ),
    ),
)


def pages() -> tuple[str, str]:
    """The English and the Chinese page. The commands run in a folder of their own, offline.

    Raises `RuntimeError` where a command fails.
    """
    from tests.shape.tasks_page_zh import CHINESE

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shown = [(text, _shown(commands)) for text, commands in ((HEAD, ()), *PARTS)]
    english = (each for text, code in shown for each in (text, *code) if each)
    chinese = (each for text, code in shown for each in (text and CHINESE[text], *code) if each)
    return "\n".join(english), "\n".join(chinese)


def _shown(commands: tuple[str, ...]) -> list[str]:
    """The commands in blocks, each block with the output of its last command."""
    code: list[str] = []
    asked: list[str] = []
    for command in commands:
        asked.append(command)
        said = _output(command)
        if " show data " in command:
            code.append("```sh\n" + "\n".join(asked) + f"\n```\n\n```text\n{said}```\n")
            asked = []
    return code


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
    for place, page in zip(("tasks.md", "zh-CN/tasks.md"), pages(), strict=True):
        path = Path(sys.argv[1], place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page.encode())
