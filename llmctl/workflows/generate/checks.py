"""Everything about `generate` that can be checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmctl.compatibility import models_that_can, references_audio
from llmctl.data.reading.sources import STDIN, InputSource, find_sources
from llmctl.engines.spec import Sampling
from llmctl.errors import ErrorCollector, UsageError
from llmctl.models.resolve import is_costly
from llmctl.store import atomic
from llmctl.types import EventSink, Record, null_sink
from llmctl.workflows.generate.output import check_resume, key_of, partials
from llmctl.workflows.generate.prompts import prompt_records, recordings_of
from llmctl.workflows.generate.spec import GenerateConfig
from llmctl.workflows.inference.engines import engine_for
from llmctl.workflows.inference.model import ModelHandle, find_model

if TYPE_CHECKING:
    pass


OTHER_FORMATS: Final = (
    ".txt",
    ".text",
    ".vtt",
    ".csv",
    ".tsv",
    ".json",
    ".parquet",
    ".gz",
    ".zst",
    ".md",
    ".html",
    ".xlsx",
)
"""Endings of names that promise another format than JSON lines."""
SRT: Final = ".srt"
"""The ending of a file of subtitles (SubRip)."""
PLOT_SUFFIXES: Final = (".svg", ".png")


@dataclass(frozen=True, slots=True)
class GeneratePlan:
    """A configuration that passed all checks. `input` is None where the prompts come from the command line."""

    config: GenerateConfig
    model: ModelHandle
    sampling: Sampling
    prompts: tuple[Record, ...]
    input: str | None
    key: str
    """A hash of what decides the answers: two commands with the same key and input write the same file."""

    def to_dict(self) -> dict[str, Any]:
        """What `--dry-run` shows."""
        source = f"{len(self.prompts)} prompts" if self.input is None else self.input
        return {
            "model": str(self.model.folder.path),
            "task": self.model.task.name,
            "family": self.model.family,
            "asked": source,
            "chosen": "drawn" if self.sampling.samples else "greedy" if self.sampling.num_beams == 1 else "beam search",
        }


def preflight(
    config: GenerateConfig,
    *,
    force: bool,
    offline: bool,
    verify: bool = False,
    resume: bool = False,
    stdin_is_tty: bool = True,
    emit: EventSink = null_sink,
) -> GeneratePlan:
    """Check everything that needs no torch. Raises all faults at once: `UsageError`s and what `find_model` raises."""
    collector = ErrorCollector()
    sampling = Sampling(**{each.name: getattr(config, each.name) for each in fields(Sampling)})
    collector.check("", sampling.check)
    collector.check("prompt", _check_prompt, config, stdin_is_tty=stdin_is_tty)
    source = STDIN if not config.prompt and config.input is None else config.input
    heard = recordings_of(source) if source not in (None, STDIN) else []
    sources = collector.check("input", _sources, None if heard else source)
    look = collector.ok or not is_costly(config.model)
    model = collector.check("model", _model, config, offline=offline, verify=verify, emit=emit) if look else None
    if model is not None:
        collector.check("input", _check_recordings, heard, model)
        collector.check("timestamps", _check_timestamps, config, heard, model)
    if config.output is not None:
        inputs = [*(path for each in sources or () for path in each.paths), *(Path(each.id) for each in heard)]
        replaces = force or (resume and not partials(config.output))  # `check_resume` says that it is complete
        collector.check(
            "output", _check_output, config.output, [*inputs, *([model.folder.path] if model else [])], replaces
        )
    if config.explain is not None and model is not None:
        collector.check("explain", _check_plot, config, config.explain, model, force=force)
    key = key_of(config, model) if model is not None else ""
    if resume and model is not None:
        collector.check("output", check_resume, config.output, key)
    collector.raise_all()
    assert model is not None
    prompts = heard or prompt_records(config.prompt, model.task)
    return GeneratePlan(config, model, sampling, tuple(prompts), None if heard else source, key)


def _check_prompt(config: GenerateConfig, *, stdin_is_tty: bool) -> None:
    if config.prompt and config.input is not None:
        raise UsageError("give prompts or an input, not both", hint="--prompt TEXT, or --input FILE")
    if not config.prompt and config.input is None and stdin_is_tty:
        raise UsageError(
            "no prompt", hint="--prompt TEXT (an empty one starts from scratch), or --input FILE, or a pipe"
        )


def _model(config: GenerateConfig, *, offline: bool, verify: bool, emit: EventSink) -> ModelHandle:
    model = find_model(
        config.model,
        task=config.task,
        instruction=config.instruction,
        base=config.base,
        offline=offline,
        verify=verify,
        emit=emit,
    )
    model = model.choosing(config.labels, calibrate=config.calibrate)
    engine_for(model, config.engine)
    if config.system is not None and model.task.answer_role != "assistant":
        raise UsageError(
            f"a system message is for chat models; {config.model} answers {model.task.name}",
            hint="another instruction: --set instruction='...'; or --task chat",
        )
    if model.task.labelled and config.num_samples > 1:
        raise UsageError(f"{model.task.name} has one answer per prompt", hint="leave --num-samples out")
    return model


def _check_recordings(heard: Sequence[Record], model: ModelHandle) -> None:
    """Raise `UsageError` where a model that reads texts is given a recording."""
    if heard and model.task.modality == "text":
        raise UsageError(f"{heard[0].id} is a recording; {model.reference} answers {model.task.name}")
    references_audio(model.task)


def _check_timestamps(config: GenerateConfig, heard: Sequence[Record], model: ModelHandle) -> None:
    """Raise `UsageError` for times of a text, and for subtitles of more than one recording."""
    subtitles = config.output is not None and config.output.suffix.lower() == SRT
    if (subtitles or config.timestamps) and model.task.modality == "text":
        raise UsageError(f"{model.task.name} has no times: --timestamps and {SRT} are for recordings")
    if subtitles and len(heard) != 1 and len(config.prompt) != 1:
        raise UsageError(f"a {SRT} file holds the subtitles of one recording", hint="name a .jsonl file for several")


def _check_output(output: Path, inputs: Sequence[Path], force: bool) -> None:
    atomic.refuse_same(output, inputs)
    if str(output) == "-":
        raise UsageError("--output takes a file", hint="leave it out: answers go to standard output")
    if output.is_dir():
        raise UsageError(f"the output {output} is a folder", hint="name a .jsonl file")
    if output.suffix.lower() in OTHER_FORMATS:
        raise UsageError(
            f"the output holds JSON lines, which {output.name} does not say",
            hint=f"--output {output.with_suffix('.jsonl')}; its texts alone: jq .text",
        )
    atomic.refuse_existing(output, force=force)
    atomic.check_writable(output)


def _sources(source: str | None) -> list[InputSource]:
    """The input files. Raises `UsageError` where one is missing."""
    return [] if source is None else find_sources([source], unknown="text")


def _check_plot(config: GenerateConfig, path: Path, model: ModelHandle, *, force: bool) -> None:
    """Raise `UsageError` where there is not exactly one answer of a model with cross-attention."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"--explain writes {' or '.join(PLOT_SUFFIXES)}, not {path.name}", hint="name attention.svg")
    if len(config.prompt) != 1 or config.num_samples != 1:
        once = "give --prompt TEXT once" if len(config.prompt) != 1 else "leave --num-samples out"
        raise UsageError("--explain plots one answer to one prompt", hint=once)
    if model.family != "encoder-decoder":
        raise UsageError(
            f"--explain plots the cross-attention of an encoder-decoder, {config.model} is of the family {model.family}",
            hint=models_that_can(["encoder-decoder"]),
        )
    if not engine_for(model, config.engine).needs_weights:
        raise UsageError(
            f"the engine {config.engine} has no model whose attention could be plotted", hint="leave engine out"
        )
    if config.output is not None:
        atomic.refuse_same(path, [config.output])
    atomic.refuse_same(path, [model.folder.path])
    atomic.refuse_existing(path, force=force)
    atomic.check_writable(path)
