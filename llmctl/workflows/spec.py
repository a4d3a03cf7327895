"""What each verb can be asked: one `Spec` a verb. Flags, `--set` keys and recipe keys all come from here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from llmctl import registry
from llmctl.config import Document, Duration, Real, Size, Spec, Switch, UsageValueError, Whole, flag, key
from llmctl.data.spec import TOKENIZERS, Clean, Dedup, Splits
from llmctl.errors import ConfigError, UsageError
from llmctl.metrics import parse
from llmctl.metrics.spec import IntervalSpec
from llmctl.models.spec import Adapter, Shape
from llmctl.training.spec import Optimizer, Schedule

LOSS: Final = "loss"
"""What the best checkpoint is chosen by unless a metric is named."""
HUB: Final = "hf:"
"""The prefix that asks the Hugging Face hub."""
INSTRUCTION: Final = "what a decoder that is told in words shall do; what it learned, or the task's own when not given"


def registered(kind: str) -> Callable[[str], str]:
    """A validator: the canonical name of something in the registry."""

    def check(name: str) -> str:
        try:
            return registry.find(kind, name).name
        except UsageError as error:
            raise UsageValueError(error.message, error.hint) from error

    return check


def understood(read: Callable[[str], object]) -> Callable[[str], str]:
    """A validator: text that `read` understands; it is kept as it stands."""

    def check(text: str) -> str:
        try:
            read(text)
        except ConfigError as error:
            within = [replace(each, path=each.path.removeprefix("metric.")) for each in error.faults]
            raise UsageValueError(error.message, faults=within) from error
        except UsageError as error:
            raise UsageValueError(error.message, error.hint) from error
        return text

    return check


def _best_by(text: str) -> object:
    return None if text == LOSS else parse.parse_score(text)


def _model_reference(name: str) -> str:
    if registry.looks_like_path(name) or name.startswith(HUB):
        return name
    architecture, colon, size = name.partition(":")
    registered("models")(architecture)
    sizes = registry.load("models", architecture).sizes
    if colon and size not in sizes:
        raise UsageValueError(f"{architecture} has no size {size!r}", f"sizes: {', '.join(sizes)}")
    return name


def _tokenizer_reference(name: str) -> str:
    if name in TOKENIZERS or registry.looks_like_path(name) or name.startswith(HUB):
        return name
    hint = registry.near(name, TOKENIZERS) or f"kinds: {', '.join(TOKENIZERS)}; or a folder"
    raise UsageValueError(f"no tokenizer named {name!r}", hint)


def _column_map(value: str) -> str:
    for part in value.split(","):
        name, equals, column = part.partition("=")
        if not (equals and name.strip() and column.strip()):
            raise UsageValueError(f"{part!r} is not NAME=COLUMN", "write text=body,label=stars")
    return value


TaskName = Annotated[str, AfterValidator(registered("tasks"))]
EngineName = Annotated[str, AfterValidator(registered("engines"))]
ModelReference = Annotated[str, AfterValidator(_model_reference)]
TokenizerReference = Annotated[str, AfterValidator(_tokenizer_reference)]
ColumnMap = Annotated[str, AfterValidator(_column_map)]
MetricText = Annotated[str, AfterValidator(understood(parse.parse_metric))]
GateText = Annotated[str, AfterValidator(understood(parse.parse_gate))]
BestBy = Annotated[str, AfterValidator(understood(_best_by))]


class ModelSettings(Shape):
    """Which model: `NAME[:SIZE]` for random weights, a folder for its own, `hf:ID` for the hub's."""

    shorthand: ClassVar[str | None] = "name"
    name: ModelReference = key(..., "NAME[:SIZE], a folder, or hf:ID")


class PreprocessConfig(Spec):
    """Read, clean, split, train or load a tokenizer, encode."""

    inputs: tuple[str, ...] = key((), "files, folders, globs, built-in data sets, or - for standard input")
    task: TaskName | None = flag(None, "what the records are for; a built-in data set knows its own", panel="Main")
    out: Path = flag(..., "the folder to make", panel="Main")
    columns: ColumnMap | None = flag(None, "your names of the fields: text=body,label=stars", panel="Input")
    document: Document = flag("file", "what one document of a plain text file is", panel="Input")
    source_file: Path | None = flag(None, "source lines, aligned with --target-file", panel="Input")
    target_file: Path | None = flag(None, "target lines, aligned with --source-file", panel="Input")
    encoding: str = flag("utf-8", "encoding of the input files", panel="Input")
    on_bad_record: Literal["fail", "skip", "reject"] = flag(
        "fail", "a bad record: stop; drop it; or keep it in rejects.jsonl and exit 10", panel="Input"
    )
    tokenizer: TokenizerReference = flag(
        "bpe", f"trained here: {', '.join(TOKENIZERS)}; or the folder of a tokenizer or model", panel="Tokens"
    )
    vocab_size: Size = flag(4096, "entries of a tokenizer trained here", panel="Tokens", ge=8)
    max_length: Size | None = flag(None, "drop records with a longer segment, in tokens", panel="Tokens", ge=1)
    block_size: Size = key(256, "tokens of a block in language modelling", ge=2)
    splits: Splits = key(Splits(), "fractions held out")
    clean: Clean = key(Clean(), "how text is cleaned")
    dedup: Dedup = key(Dedup(), "which duplicates are dropped")
    workers: Whole = flag(0, "processes that read and encode; 0 for one a core", panel="Run", ge=0)
    seed: Whole = flag(0, "fixes everything that is drawn", panel="Run", ge=0)


class TrainConfig(Spec):
    """Learn from prepared data."""

    moved: ClassVar[Mapping[str, str]] = {"lr": "optimizer.lr"}

    data: Path = flag(..., "a prepared folder", panel="Main")
    model: ModelSettings = flag(
        ..., "NAME[:SIZE] for random weights, a folder for its own, hf:ID for the hub's", panel="Main"
    )
    out: Path = flag(..., "the run folder to make", panel="Main")
    adapter: Adapter | None = flag(None, "lora: learn low-rank matrices beside given weights", panel="Learning")
    epochs: Real | None = flag(None, "stop after so many passes; 3 when no budget is given", panel="Budget", gt=0)
    max_steps: Size | None = flag(None, "stop after so many optimizer steps", panel="Budget", ge=1)
    max_tokens: Size | None = flag(None, "stop after so many tokens", panel="Budget", ge=1)
    max_time: Duration | None = flag(None, "stop after so long: 90s, 55m", panel="Budget", gt=0)
    batch_size: Whole = flag(32, "records (blocks) of one optimizer step over all processes", panel="Learning", ge=1)
    micro_batch_size: Whole | None = key(None, "records of one forward pass; all of a process's when not given", ge=1)
    optimizer: Optimizer = key(Optimizer(), "how weights move")
    schedule: Schedule = key(Schedule(), "how the learning rate moves")
    clip_norm: Real = key(1.0, "largest norm of the gradient; 0 for no clipping", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = flag(
        "auto", "auto: bf16 autocast where the processor has it", panel="Learning"
    )
    best_by: BestBy | None = flag(
        None, "loss, or a metric of the task, also one of its scores: rougeL", panel="Validation"
    )
    best_by_limit: Whole = key(200, "validation records answered for it, where it compares answers", ge=1)
    patience: Whole | None = flag(None, "stop after so many evaluations without a better one", panel="Validation", ge=1)
    eval_every: Size | None = key(None, "steps between evaluations; a tenth of the run when not given", ge=1)
    save_every: Size | None = key(None, "steps between checkpoints; as eval_every when not given", ge=1)
    keep_checkpoints: Whole = key(2, "newest checkpoints kept, beside the best", ge=1)
    log_every: Whole = key(10, "steps between lines of metrics.jsonl", ge=1)
    max_length: Size | None = key(None, "cut records to so many tokens; the model's context when not given", ge=2)
    corruption: Real | None = key(
        None,
        "share of a plain text that is taken away to be mended, by all but decoders; 0.15 when not given, 0.3 of models "
        "that say the whole text again (bart, marian, lstm-seq2seq)",
        gt=0,
        lt=1,
    )
    instruction: str | None = key(None, INSTRUCTION)
    compile: Switch = key(False, "torch.compile the model: slower to start, 3 to 27 % faster after")
    processes: Whole = flag(1, "processes on this machine", panel="Processes", ge=1)
    machines: Whole = flag(1, "machines of the run, this one included", panel="Processes", ge=1)
    machine_rank: Whole = flag(0, "which of them this one is, from 0", panel="Processes", ge=0)
    main_address: str = flag("127.0.0.1", "host[:port] of machine 0", panel="Processes")
    seed: Whole = flag(0, "fixes everything that is drawn", panel="Run", ge=0)


class GenerateConfig(Spec):
    """Text from a model."""

    model: ModelReference = flag(..., "a run, a model folder, or hf:ID", panel="Main")
    task: TaskName | None = flag(None, "how to put the prompt; the model folder knows", panel="Main")
    prompt: tuple[str, ...] = flag(
        (), "what to answer or continue; one prints its text, several (or a file, a pipe) JSON lines", panel="Main"
    )
    input: str | None = flag(None, "a file of prompts or records, - for standard input", panel="Main")
    output: Path | None = flag(None, "a JSONL file of answers, one row for every input row", panel="Main")
    explain: Path | None = flag(
        None, "draw where one answer looks in its source: an .svg or .png file; encoder-decoders", panel="Main"
    )
    max_new_tokens: Size = flag(128, "longest answer in tokens", panel="Length", ge=1)
    stop: tuple[str, ...] = flag((), "end an answer before this text; repeatable", panel="Length")
    temperature: Real | None = flag(None, "sample with this temperature; 0 is greedy", panel="Choice", ge=0)
    top_k: Whole | None = flag(None, "sample among the k likeliest tokens", panel="Choice", ge=1)
    top_p: Real | None = flag(None, "sample among the likeliest tokens of this mass", panel="Choice", gt=0, le=1)
    min_p: Real | None = key(None, "sample among tokens at least this share of the likeliest", ge=0, le=1)
    repetition_penalty: Real = key(1.0, "divide the scores of tokens already there", gt=0)
    num_beams: Whole = flag(1, "beams of a beam search", panel="Choice", ge=1)
    length_penalty: Real = key(1.0, "exponent of the length a beam's score is divided by")
    num_samples: Whole = flag(1, "answers to each prompt", panel="Choice", ge=1)
    labels: tuple[str, ...] = key((), "labels to choose among; a model trained to name labels knows its own")
    calibrate: Switch = key(False, "weigh a label by how much likelier the text makes it than an empty text does")
    instruction: str | None = key(None, INSTRUCTION)
    batch_size: Whole = flag(32, "prompts answered at once", panel="Run", ge=1)
    base: Path | None = key(None, "the base of an adapter, where it is no longer where it was")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "of the computation")
    engine: EngineName = key("torch", "what runs the model")
    seed: Whole = flag(0, "fixes everything that is drawn", panel="Run", ge=0)


class ChatConfig(Spec):
    """A conversation with a chat model."""

    model: ModelReference = flag(..., "a run, a model folder, or hf:ID", panel="Main")
    system: str | None = flag(None, "what the assistant is told before the conversation", panel="Main")
    max_new_tokens: Size = flag(512, "longest answer in tokens", panel="Length", ge=1)
    stop: tuple[str, ...] = flag((), "end an answer before this text; repeatable", panel="Length")
    temperature: Real | None = flag(None, "sample with this temperature; 0 is greedy", panel="Choice", ge=0)
    top_k: Whole | None = flag(None, "sample among the k likeliest tokens", panel="Choice", ge=1)
    top_p: Real | None = flag(None, "sample among the likeliest tokens of this mass", panel="Choice", gt=0, le=1)
    min_p: Real | None = key(None, "sample among tokens at least this share of the likeliest", ge=0, le=1)
    repetition_penalty: Real = key(1.0, "divide the scores of tokens already there", gt=0)
    base: Path | None = key(None, "the base of an adapter, where it is no longer where it was")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "of the computation")
    engine: EngineName = key("torch", "what runs the model")
    seed: Whole = flag(0, "fixes everything that is drawn", panel="Run", ge=0)


class EvalConfig(Spec):
    """Score a model on data, or predictions against references."""

    model: ModelReference | None = flag(None, "a run or model folder", panel="A model")
    data: Path | None = flag(None, "a prepared folder, or a file of records", panel="A model")
    split: Literal["train", "validation", "test"] = flag("test", "of a prepared folder", panel="A model")
    task: TaskName | None = key(None, "how to put the records; the model folder knows")
    predictions: Path | None = flag(None, ".txt (one a line) or .jsonl", panel="Files")
    references: tuple[Path, ...] = flag((), ".txt or .jsonl; repeat for several right answers", panel="Files")
    metric: tuple[MetricText, ...] = flag((), "bleu, or with options bleu:tokenize=zh; repeatable", panel="Score")
    require: tuple[GateText, ...] = flag((), "a gate: 'bleu>=20'; not met is exit 10; repeatable", panel="Score")
    baseline: Path | None = flag(None, "other predictions, compared in pairs: 'bleu>=baseline-0.5'", panel="Score")
    junit: Path | None = flag(None, "write scores and gates as JUnit XML", panel="Report")
    markdown: Path | None = flag(None, "write scores and gates as a Markdown table", panel="Report")
    interval: IntervalSpec = key(IntervalSpec(), "confidence interval")
    limit: Whole | None = flag(None, "score the first so many records", panel="Score", ge=1)
    out: Path | None = flag(None, "folder for scores.json and predictions.jsonl", panel="Score")
    max_new_tokens: Size = key(256, "longest answer in tokens", ge=1)
    num_beams: Whole = key(1, "beams of a beam search", ge=1)
    labels: tuple[str, ...] = key((), "labels to choose among; the model's or those of the data when not given")
    calibrate: Switch = key(False, "weigh a label by how much likelier the text makes it than an empty text does")
    instruction: str | None = key(None, INSTRUCTION)
    window: Size | None = key(
        None, "tokens seen at once in likelihoods; as long as the blocks learned when not given", ge=2
    )
    batch_size: Whole = flag(32, "records at once", panel="Run", ge=1)
    base: Path | None = key(None, "the base of an adapter, where it is no longer where it was")
    precision: Literal["auto", "fp32", "bf16"] = key("fp32", "of the computation; published figures use fp32")
    engine: EngineName = key("torch", "what runs the model")
    seed: Whole = flag(0, "fixes everything that is drawn", panel="Run", ge=0)


class RateSearch(Spec):
    """How a model's learning rate is found where none is given."""

    rates: Whole = key(3, "how many are tried, a factor of 3 apart around the model's own; 1: no search", ge=1)
    share: Real = key(0.1, "share of the budget that each is tried for", gt=0, le=1)

    @model_validator(mode="after")
    def _has_a_middle(self) -> RateSearch:
        if self.rates % 2 == 0:
            raise UsageValueError(
                f"{self.rates} rates have no middle, which is the model's own", f"{self.rates + 1} or {self.rates - 1}"
            )
        return self


_OF_COMPARE: Final = frozenset(
    [
        *("data", "out", "epochs", "max_steps", "max_tokens", "max_time", "batch_size", "precision", "seed"),
        "corruption",
        *("machines", "machine_rank", "main_address"),
    ]
)
"""Settings of `train` that are `compare`'s own, or that a comparison on one machine has no use for."""


class _FurtherSettings(Spec):
    """What else every model of a comparison is trained with."""

    model: Shape = key(Shape(), "settings of every model, random weights alone have them")

    @model_validator(mode="before")
    @classmethod
    def _leave_to_compare(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        named = [name for name in value if name in (*_OF_COMPARE, "lr")]
        for block, inner in (("optimizer", "lr"), ("model", "name")):
            if isinstance(value.get(block), Mapping) and value[block].get(inner) is not None:
                named.append(f"{block}.{inner}")
        if named:
            raise UsageValueError(
                f"not for a comparison: {', '.join(named)}", "it has data, models, budgets and lr itself"
            )
        return value


TrainSettings: Any = create_model(
    "TrainSettings",
    __base__=_FurtherSettings,
    __doc__=_FurtherSettings.__doc__,
    **{
        name: (info.annotation, info)
        for name, info in TrainConfig.model_fields.items()
        if name not in _OF_COMPARE and name != "model"
    },  # type: ignore[call-overload]
)


def _model_list(value: Any) -> Any:
    """`rnn,lstm` is two models; what is a folder whole is one."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return value
    found: list[Any] = []
    for each in given:
        several = isinstance(each, str) and not os.path.exists(os.path.expanduser(each))
        found += [part.strip() for part in each.split(",") if part.strip()] if several else [each]
    return tuple(found)


def same_model(name: str) -> str:
    """One spelling for all that mean the same model: `gpt2` is `gpt2:nano`, a folder is its absolute path."""
    if name.startswith(HUB):
        return name
    if registry.looks_like_path(name):
        return os.path.realpath(os.path.expanduser(name))
    architecture, _, size = name.partition(":")
    return f"{registry.find('models', architecture).name}:{size or registry.load('models', architecture).default_size}"


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for name in names:
        if (same := same_model(name)) in seen:
            raise UsageValueError(f"{name} and {seen[same]} are the same model", "name each once")
        seen[same] = name
    return names


ModelList = Annotated[tuple[ModelReference, ...], BeforeValidator(_model_list), AfterValidator(_each_once)]
Rate = Annotated[Real, Field(gt=0)]


class CompareConfig(Spec):
    """Models trained and scored alike."""

    data: Path = flag(..., "a prepared folder", panel="Main")
    models: ModelList = flag(
        ..., "NAME[:SIZE], a folder or hf:ID; several with commas between, or repeated", panel="Main", min_length=1
    )
    out: Path = flag(..., "the folder to make", panel="Main")
    epochs: Real | None = flag(None, "stop after so many passes; 3 when no budget is given", panel="Budget", gt=0)
    max_steps: Size | None = flag(None, "stop after so many optimizer steps", panel="Budget", ge=1)
    max_tokens: Size | None = flag(None, "stop after so many tokens", panel="Budget", ge=1)
    max_time: Duration | None = flag(None, "stop after so long: 90s, 55m", panel="Budget", gt=0)
    batch_size: Whole = flag(32, "records (blocks) of one optimizer step", panel="Learning", ge=1)
    lr: Rate | None = flag(
        None, "one peak learning rate for all models; found for each by a short search when not given", panel="Learning"
    )
    lrs: dict[str, Rate] = key({}, "learning rates of chosen models: {gpt2: 1e-3}")
    search: RateSearch = key(RateSearch(), "how learning rates are found")
    precision: Literal["auto", "fp32", "bf16"] = flag(
        "auto", "of training; auto: bf16 autocast where the processor has it", panel="Learning"
    )
    train: TrainSettings = key(TrainSettings(), "further settings of train for every model")
    metric: tuple[MetricText, ...] = flag(
        (), "of the test split, the task's own when not given; repeatable", panel="Score"
    )
    limit: Whole | None = flag(None, "score the first so many records", panel="Score", ge=1)
    max_new_tokens: Size = key(256, "longest answer in tokens", ge=1)
    interval: IntervalSpec = key(IntervalSpec(), "confidence interval")
    seed: Whole = flag(0, "fixes everything that is drawn", panel="Run", ge=0)


class MergeConfig(Spec):
    """Plain weights of an adapter on its base, or of a GGUF file."""

    model: ModelReference = flag(..., "a run or folder that holds an adapter, or a GGUF file", panel="Main")
    out: Path = flag(..., "the model folder to make", panel="Main")
    base: Path | None = flag(None, "the adapter's base, where it is no longer where it was", panel="Main")


class SuggestConfig(Spec):
    """Which models could learn a task here."""

    task: TaskName | None = flag(None, "what shall be learned; prepared data knows its own", panel="Main")
    data: Path | None = flag(None, "a prepared folder: its size decides with", panel="Main")
    memory: Size | None = flag(None, "memory there is, 8GiB; what is free here when not given", panel="Main", ge=1)
    batch_size: Whole = flag(32, "records (blocks) of one step", panel="Main", ge=1)


class QuickstartConfig(Spec):
    """The whole lifecycle on data that ships with the package."""

    out: Path | None = flag(None, "the folder to make; quickstart, quickstart-2, … when not given", panel="Main")
    seed: Whole = flag(0, "fixes everything that is drawn", panel="Run", ge=0)


SPECS: Final[Mapping[str, type[Spec]]] = {
    "quickstart": QuickstartConfig,
    "preprocess": PreprocessConfig,
    "train": TrainConfig,
    "generate": GenerateConfig,
    "eval": EvalConfig,
    "chat": ChatConfig,
    "compare": CompareConfig,
}
"""The spec of each verb that reads a block of a recipe."""
