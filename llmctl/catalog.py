"""Every built-in name, a line each: verbs, and parts by kind; where it lives, what it is. Nothing here imports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple


class CatalogRow(NamedTuple):
    """`target` is `module:attribute`."""

    name: str
    target: str
    summary: str
    aliases: tuple[str, ...] = ()


class VerbRow(NamedTuple):
    """`target` is `module:attribute`: a `Verb` of `workflows/`, or a page of `cli/` where there is more to it than settings.

    `recipe`: whether it reads a block of a recipe with its own name, and whether it is a stage that `run` runs.
    """

    name: str
    target: str
    summary: str
    panel: str
    recipe: Literal["no", "block", "stage"] = "no"


WORK, SEE, HOUSE, ADDED = "The lifecycle", "What there is", "This installation", "From other packages"
_VERBS: Final = "llmctl.workflows"
_PAGES: Final = "llmctl.cli"

VERBS: Final = (
    VerbRow(
        "quickstart",
        f"{_VERBS}.quickstart.stage:Quickstart",
        "The whole lifecycle in a minute, on data that ships with llmctl.",
        WORK,
        "block",
    ),
    VerbRow(
        "preprocess",
        f"{_VERBS}.preprocess.stage:Preprocess",
        "Read, clean, split, train or load a tokenizer, encode.",
        WORK,
        "stage",
    ),
    VerbRow(
        "train",
        f"{_VERBS}.train.stage:Train",
        "Train on prepared data, from random or pretrained weights.",
        WORK,
        "stage",
    ),
    VerbRow("generate", f"{_VERBS}.generate.stage:Generate", "Generate text with a model.", WORK, "stage"),
    VerbRow("chat", f"{_PAGES}.chat:PAGE", "Chat with a model; piped lines are answered one by one.", WORK, "block"),
    VerbRow(
        "eval",
        f"{_VERBS}.evaluate.stage:Evaluate",
        "Score a model or a file of predictions; gate on the score.",
        WORK,
        "stage",
    ),
    VerbRow(
        "merge",
        f"{_VERBS}.export.stage:Merge",
        "Merge an adapter into its base, or convert a GGUF file.",
        WORK,
        "block",
    ),
    VerbRow(
        "compare",
        f"{_VERBS}.compare.stage:Compare",
        "Train and score several models alike; one table with the best marked.",
        WORK,
        "block",
    ),
    VerbRow("run", f"{_PAGES}.run:PAGE", "Run the stages of a recipe in order; skip unchanged ones.", WORK),
    VerbRow("list", f"{_PAGES}.catalog:LIST", "List models, tasks, metrics, datasets and engines.", SEE),
    VerbRow("show", f"{_PAGES}.catalog:SHOW", "Describe one entry of the registry, a run or a record.", SEE),
    VerbRow(
        "suggest",
        f"{_VERBS}.suggest.stage:Suggest",
        "Rank the models for a task on this machine, with the reasons.",
        SEE,
        "block",
    ),
    VerbRow("runs", f"{_PAGES}.runs:PAGE", "List, show and compare the runs under a folder.", SEE),
    VerbRow(
        "doctor", f"{_PAGES}.doctor:PAGE", "Check this machine and installation, with a fix for each problem.", HOUSE
    ),
    VerbRow("completions", f"{_PAGES}.completions:PAGE", "Print the completion script of a shell.", HOUSE),
)

_MODELS: Final = "llmctl.models.spec"
_METRICS: Final = "llmctl.metrics.spec"
_SETS: Final = "llmctl.data.sets.spec"

ROWS: Final[Mapping[str, tuple[CatalogRow, ...]]] = {
    "models": (
        CatalogRow(
            "rnn", f"{_MODELS}:RNN", "Elman recurrence h_t = σ(W x_t + U h_{t-1} + b), softmax over the vocabulary"
        ),
        CatalogRow("lstm", f"{_MODELS}:LSTM", "embedding, stacked LSTM, softmax over the vocabulary"),
        CatalogRow(
            "attention", f"{_MODELS}:ATTENTION", "multi-head scaled dot-product self-attention, written out to be read"
        ),
        CatalogRow("gpt2", f"{_MODELS}:GPT2", "GPT-2, the transformers library's own"),
        CatalogRow(
            "llama", f"{_MODELS}:LLAMA", "Llama (rotary positions, RMS norm, gated MLP), the transformers library's own"
        ),
        CatalogRow(
            "lstm-seq2seq", f"{_MODELS}:LSTM_SEQ2SEQ", "LSTM encoder, LSTM decoder with attention over the source"
        ),
        CatalogRow("lstm-classifier", f"{_MODELS}:LSTM_CLASSIFIER", "embedding, LSTM, linear over the labels"),
        CatalogRow("t5", f"{_MODELS}:T5", "T5 (relative positions, RMS norm), the transformers library's own"),
        CatalogRow(
            "marian",
            f"{_MODELS}:MARIAN",
            "Marian (sinusoidal positions, as the opus-mt translators), the transformers library's own",
        ),
        CatalogRow("bart", f"{_MODELS}:BART", "BART (learned positions), the transformers library's own"),
        CatalogRow(
            "bert", f"{_MODELS}:BERT", "BERT, the transformers library's own; masked language modelling, classification"
        ),
    ),
    "tasks": (
        CatalogRow(
            "language-modeling",
            "llmctl.tasks.language_modeling:LanguageModeling",
            "learn a text: {text}",
            ("lm",),
        ),
        CatalogRow("translation", "llmctl.tasks.translation:Translation", "turn a text into another: {source, target}"),
        CatalogRow(
            "summarization",
            "llmctl.tasks.summarization:Summarization",
            "say a text in short: {document, summary}",
        ),
        CatalogRow(
            "question-answering",
            "llmctl.tasks.question_answering:QuestionAnswering",
            "answer from memory or a context: {question, answers, context?}",
            ("qa",),
        ),
        CatalogRow(
            "classification", "llmctl.tasks.classification:Classification", "name a text's label: {text, label}"
        ),
        CatalogRow("chat", "llmctl.tasks.chat:Chat", "answer as the assistant: {messages: [{role, content}]}"),
    ),
    "metrics": (
        CatalogRow("bleu", f"{_METRICS}:BLEU", "n-gram precision with brevity penalty, by sacrebleu, 0-100"),
        CatalogRow("chrf", f"{_METRICS}:CHRF", "character n-gram F-score, by sacrebleu, 0-100"),
        CatalogRow("ter", f"{_METRICS}:TER", "translation edit rate, by sacrebleu, lower is better"),
        CatalogRow("rouge", f"{_METRICS}:ROUGE", "ROUGE-1, -2, -L, -Lsum F-measure, by rouge-score, 0-1"),
        CatalogRow(
            "perplexity", f"{_METRICS}:PERPLEXITY", "exp of the mean negative log-likelihood a token, lower is better"
        ),
        CatalogRow(
            "bits_per_byte", f"{_METRICS}:BITS_PER_BYTE", "negative log2-likelihood a UTF-8 byte, lower is better"
        ),
        CatalogRow("accuracy", f"{_METRICS}:ACCURACY", "share of labels named right, 0-1"),
        CatalogRow("macro_f1", f"{_METRICS}:MACRO_F1", "mean over the labels of each one's F1, 0-1"),
        CatalogRow(
            "exact_match", f"{_METRICS}:EXACT_MATCH", "share of answers equal to a reference after normalisation, 0-1"
        ),
        CatalogRow("f1", f"{_METRICS}:F1", "token overlap with the best reference (SQuAD), 0-1"),
    ),
    "datasets": (
        CatalogRow("sonnets", f"{_SETS}:SONNETS", "Shakespeare's 154 sonnets, language modelling, English"),
        CatalogRow("tang-poems", f"{_SETS}:TANG_POEMS", "Tang poems, language modelling, Chinese"),
        CatalogRow(
            "dates-en-zh", f"{_SETS}:DATES_EN_ZH", "dates and times written out, translation, English to Chinese"
        ),
        CatalogRow(
            "udhr-en-zh",
            f"{_SETS}:UDHR_EN_ZH",
            "Universal Declaration of Human Rights, translation, English to Chinese",
        ),
        CatalogRow(
            "udhr-en-de",
            f"{_SETS}:UDHR_EN_DE",
            "Universal Declaration of Human Rights, translation, English to German",
        ),
        CatalogRow(
            "udhr-en-fr",
            f"{_SETS}:UDHR_EN_FR",
            "Universal Declaration of Human Rights, translation, English to French",
        ),
        CatalogRow("reviews", f"{_SETS}:REVIEWS", "3,000 review sentences, classification (sentiment), English"),
        CatalogRow("trivia", f"{_SETS}:TRIVIA", "234 questions of general knowledge, question answering, English"),
        CatalogRow("smalltalk-en", f"{_SETS}:SMALLTALK_EN", "557 short exchanges with an assistant, chat, English"),
        CatalogRow("smalltalk-zh", f"{_SETS}:SMALLTALK_ZH", "284 short exchanges with an assistant, chat, Chinese"),
        CatalogRow(
            "abstracts", f"{_SETS}:ABSTRACTS", "62 passages with a sentence that sums each up, summarization, English"
        ),
    ),
    "engines": (
        CatalogRow("torch", "llmctl.engines.spec:TORCH", "runs a model folder with torch and transformers"),
        CatalogRow(
            "echo",
            "llmctl.engines.spec:ECHO",
            "answers with the prompt: a model's place taken by a known answer, for tests",
        ),
    ),
}
