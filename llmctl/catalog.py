"""The built-in verbs and parts: name, import path and summary of each. Nothing is imported from here."""

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
    """`target` is `module:attribute`: a `Verb` in `workflows/`, or a `Page` in `cli/` for verbs that need more than settings.

    `recipe`: whether the verb reads the recipe block of its name (`block`), and whether `run` also runs it (`stage`).
    """

    name: str
    target: str
    summary: str
    panel: str
    recipe: Literal["no", "block", "stage"] = "no"
    owner: str = "llmctl"
    """The package that it comes from."""


WORK, SEE, HOUSE, ADDED = "Lifecycle", "Look up", "Installation", "From other packages"
_VERBS: Final = "llmctl.workflows"
_PAGES: Final = "llmctl.cli"

VERBS: Final = (
    VerbRow(
        "quickstart",
        f"{_VERBS}.quickstart.stage:Quickstart",
        "Run the full lifecycle in a few minutes on built-in data.",
        WORK,
        "block",
    ),
    VerbRow(
        "preprocess",
        f"{_VERBS}.preprocess.stage:Preprocess",
        "Clean, split and tokenize a dataset.",
        WORK,
        "stage",
    ),
    VerbRow(
        "train",
        f"{_VERBS}.train.stage:Train",
        "Train or fine-tune a model on prepared data.",
        WORK,
        "stage",
    ),
    VerbRow("generate", f"{_VERBS}.generate.stage:Generate", "Generate text from prompts.", WORK, "stage"),
    VerbRow("chat", f"{_PAGES}.chat:PAGE", "Chat with a model; answers piped lines one by one.", WORK, "block"),
    VerbRow(
        "eval",
        f"{_VERBS}.evaluate.stage:Evaluate",
        "Score a model or a predictions file; optionally gate on the score.",
        WORK,
        "stage",
    ),
    VerbRow(
        "serve",
        f"{_VERBS}.serve.stage:Serve",
        "Serve a model over HTTP: OpenAI's interface, every task, a web page.",
        WORK,
        "block",
    ),
    VerbRow(
        "export",
        f"{_VERBS}.export.stage:ExportModel",
        "Convert a model for llama.cpp, CTranslate2 or ONNX Runtime, and verify its answers.",
        WORK,
        "stage",
    ),
    VerbRow(
        "merge",
        f"{_VERBS}.merge.stage:Merge",
        "Merge an adapter into its base, or convert a GGUF file.",
        WORK,
        "block",
    ),
    VerbRow(
        "compare",
        f"{_VERBS}.compare.stage:Compare",
        "Train and score several models under equal conditions; mark the best.",
        WORK,
        "block",
    ),
    VerbRow("run", f"{_PAGES}.run:PAGE", "Run the stages of a recipe in order; skip unchanged stages.", WORK),
    VerbRow("list", f"{_PAGES}.catalog:LIST", "List models, tasks, metrics, datasets and engines.", SEE),
    VerbRow("show", f"{_PAGES}.catalog:SHOW", "Describe a registry entry, a model folder or an encoded record.", SEE),
    VerbRow(
        "suggest",
        f"{_VERBS}.suggest.stage:Suggest",
        "Rank models for a task on this machine, with reasons.",
        SEE,
        "block",
    ),
    VerbRow("runs", f"{_PAGES}.runs:PAGE", "List, show and compare training runs.", SEE),
    VerbRow(
        "doctor", f"{_PAGES}.doctor:PAGE", "Check this machine and installation; suggest a fix for each problem.", HOUSE
    ),
    VerbRow("completions", f"{_PAGES}.completions:PAGE", "Print the completion script for a shell.", HOUSE),
)

_MODELS: Final = "llmctl.models.architectures"
_METRICS: Final = "llmctl.metrics.spec"
_SETS: Final = "llmctl.data.sets.spec"

TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "models": ("llmctl.models.spec:ModelSpec", "a ModelSpec"),
    "tasks": ("llmctl.tasks.spec:Task", "a subclass of Task"),
    "metrics": (f"{_METRICS}:MetricSpec", "a MetricSpec"),
    "datasets": (f"{_SETS}:DataSetSpec", "a DataSetSpec"),
    "engines": ("llmctl.engines.spec:EngineSpec", "an EngineSpec"),
}
"""What an entry point of each kind must name; of tasks the class, of the others an object."""

ROWS: Final[Mapping[str, tuple[CatalogRow, ...]]] = {
    "models": (
        CatalogRow(
            "rnn", f"{_MODELS}:RNN", "Elman recurrence h_t = σ(W x_t + U h_{t-1} + b), softmax over the vocabulary"
        ),
        CatalogRow("lstm", f"{_MODELS}:LSTM", "embedding, stacked LSTM, softmax over the vocabulary"),
        CatalogRow(
            "attention",
            f"{_MODELS}:ATTENTION",
            "multi-head scaled dot-product self-attention, a readable implementation",
        ),
        CatalogRow("gpt2", f"{_MODELS}:GPT2", "GPT-2 (transformers implementation)"),
        CatalogRow(
            "llama", f"{_MODELS}:LLAMA", "Llama: rotary positions, RMS norm, gated MLP (transformers implementation)"
        ),
        CatalogRow(
            "lstm-seq2seq", f"{_MODELS}:LSTM_SEQ2SEQ", "LSTM encoder, LSTM decoder with attention over the source"
        ),
        CatalogRow("lstm-classifier", f"{_MODELS}:LSTM_CLASSIFIER", "embedding, LSTM, linear layer over the labels"),
        CatalogRow("t5", f"{_MODELS}:T5", "T5: relative positions, RMS norm (transformers implementation)"),
        CatalogRow(
            "marian",
            f"{_MODELS}:MARIAN",
            "Marian: sinusoidal positions, as in the opus-mt models (transformers implementation)",
        ),
        CatalogRow("bart", f"{_MODELS}:BART", "BART: learned positions (transformers implementation)"),
        CatalogRow(
            "bert", f"{_MODELS}:BERT", "BERT: masked language modelling, classification (transformers implementation)"
        ),
        CatalogRow("ctc", f"{_MODELS}:CTC", "speech recognition: convolutions, bidirectional LSTM, CTC"),
        CatalogRow("whisper", f"{_MODELS}:WHISPER", "Whisper: speech recognition (transformers implementation)"),
    ),
    "tasks": (
        CatalogRow(
            "language-modeling",
            "llmctl.tasks.language_modeling:LanguageModeling",
            "model plain text: {text}",
            ("lm",),
        ),
        CatalogRow("translation", "llmctl.tasks.translation:Translation", "translate a text: {source, target}"),
        CatalogRow(
            "summarization",
            "llmctl.tasks.summarization:Summarization",
            "summarize a text: {document, summary}",
        ),
        CatalogRow(
            "question-answering",
            "llmctl.tasks.question_answering:QuestionAnswering",
            "answer with or without a context: {question, answers, context?}",
            ("qa",),
        ),
        CatalogRow(
            "classification", "llmctl.tasks.classification:Classification", "predict the label of a text: {text, label}"
        ),
        CatalogRow(
            "speech-recognition",
            "llmctl.tasks.speech_recognition:SpeechRecognition",
            "write what is said in a recording: {audio, text}",
            ("asr",),
        ),
        CatalogRow("chat", "llmctl.tasks.chat:Chat", "answer as the assistant: {messages: [{role, content}]}"),
        CatalogRow(
            "preference",
            "llmctl.tasks.preference:Preference",
            "prefer one of two answers: {prompt: [{role, content}], chosen, rejected}",
        ),
    ),
    "metrics": (
        CatalogRow("bleu", f"{_METRICS}:BLEU", "n-gram precision with brevity penalty (sacrebleu), 0-100"),
        CatalogRow("chrf", f"{_METRICS}:CHRF", "character n-gram F-score (sacrebleu), 0-100"),
        CatalogRow("ter", f"{_METRICS}:TER", "translation edit rate (sacrebleu), lower is better"),
        CatalogRow("rouge", f"{_METRICS}:ROUGE", "ROUGE-1, -2, -L, -Lsum F-measure (rouge-score), 0-1"),
        CatalogRow("wer", f"{_METRICS}:WER", "word error rate of transcripts, lower is better"),
        CatalogRow("cer", f"{_METRICS}:CER", "character error rate of transcripts, lower is better"),
        CatalogRow(
            "perplexity",
            f"{_METRICS}:PERPLEXITY",
            "exp of the mean negative log-likelihood per token, lower is better",
            aliases=("ppl",),
        ),
        CatalogRow(
            "bits_per_byte",
            f"{_METRICS}:BITS_PER_BYTE",
            "negative log2-likelihood per UTF-8 byte, lower is better",
            aliases=("bpb",),
        ),
        CatalogRow("accuracy", f"{_METRICS}:ACCURACY", "fraction of labels predicted correctly, 0-1", aliases=("acc",)),
        CatalogRow("macro_f1", f"{_METRICS}:MACRO_F1", "unweighted mean of the F1 of each label, 0-1"),
        CatalogRow(
            "exact_match",
            f"{_METRICS}:EXACT_MATCH",
            "fraction of answers equal to a reference after normalisation, 0-1",
            aliases=("em",),
        ),
        CatalogRow("f1", f"{_METRICS}:F1", "token-overlap F1 against the best reference (SQuAD), 0-1"),
        CatalogRow(
            "reward_accuracy",
            f"{_METRICS}:REWARD_ACCURACY",
            "share of preference pairs whose preferred answer has the larger reward, 0-1",
        ),
        CatalogRow(
            "reward_margin",
            f"{_METRICS}:REWARD_MARGIN",
            "mean difference of the rewards of preference pairs, in nats",
        ),
    ),
    "datasets": (
        CatalogRow("sonnets", f"{_SETS}:SONNETS", "Shakespeare's 154 sonnets, language modelling, English"),
        CatalogRow("tang-poems", f"{_SETS}:TANG_POEMS", "Tang poems, language modelling, Chinese"),
        CatalogRow("dates-en-zh", f"{_SETS}:DATES_EN_ZH", "dates and times in words, translation, English to Chinese"),
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
        CatalogRow("reviews-zh", f"{_SETS}:REVIEWS_ZH", "620 review sentences, classification (sentiment), Chinese"),
        CatalogRow("trivia", f"{_SETS}:TRIVIA", "234 general-knowledge questions, question answering, English"),
        CatalogRow("smalltalk-en", f"{_SETS}:SMALLTALK_EN", "557 short exchanges with an assistant, chat, English"),
        CatalogRow("smalltalk-zh", f"{_SETS}:SMALLTALK_ZH", "284 short exchanges with an assistant, chat, Chinese"),
        CatalogRow(
            "abstracts", f"{_SETS}:ABSTRACTS", "62 passages with one-sentence summaries, summarization, English"
        ),
        CatalogRow("preferences-en", f"{_SETS}:PREFERENCES_EN", "286 preference pairs, preference, English"),
        CatalogRow("preferences-zh", f"{_SETS}:PREFERENCES_ZH", "282 preference pairs, preference, Chinese"),
        CatalogRow("spoken-numbers-en", f"{_SETS}:SPOKEN_NUMBERS_EN", "spoken numbers, speech recognition, English"),
        CatalogRow(
            "spoken-numbers-en-voices",
            f"{_SETS}:SPOKEN_NUMBERS_EN_VOICES",
            "spoken numbers by other voices, speech recognition, English",
        ),
        CatalogRow("spoken-numbers-zh", f"{_SETS}:SPOKEN_NUMBERS_ZH", "spoken numbers, speech recognition, Chinese"),
        CatalogRow(
            "spoken-numbers-zh-voices",
            f"{_SETS}:SPOKEN_NUMBERS_ZH_VOICES",
            "spoken numbers by other voices, speech recognition, Chinese",
        ),
    ),
    "engines": (
        CatalogRow("torch", "llmctl.engines.spec:TORCH", "runs models with torch and transformers"),
        CatalogRow(
            "ctranslate2", "llmctl.engines.spec:CTRANSLATE2", "runs a folder exported for CTranslate2, fast on a CPU"
        ),
        CatalogRow("onnx", "llmctl.engines.spec:ONNX", "runs a folder exported to ONNX, in ONNX Runtime"),
        CatalogRow(
            "openai",
            "llmctl.engines.spec:OPENAI",
            "asks a server with the OpenAI API: vLLM, SGLang, Ollama, llama-server, llmctl serve",
        ),
        CatalogRow(
            "echo",
            "llmctl.engines.spec:ECHO",
            "returns the prompt as the answer, for tests",
        ),
    ),
}
