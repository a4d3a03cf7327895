"""The verb `train`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import IntegrityError, LlmctlError, UsageError
from llmctl.readable import number
from llmctl.settings import VERIFY, VERIFY_HELP, places
from llmctl.types import null_sink
from llmctl.verbs import LOADING, Context, DryRun, Output, Verb
from llmctl.workflows.train.spec import TrainConfig


class Train(Verb[TrainConfig]):
    name = "train"
    spec = TrainConfig
    positional = "out"
    switches = {
        "resume": "resume the run: llmctl train --resume RUN, or repeat the original command",
        "measure": "with --dry-run: run a few steps, then discard them, to measure speed and memory",
        VERIFY: VERIFY_HELP,
    }
    resumes = "run"
    trains = True
    examples = (
        "llmctl train --data data/poems --model gpt2:tiny --out runs/poems --max-time 10m",
        "llmctl train --data data/chat --model hf:Qwen/Qwen2.5-0.5B-Instruct --adapter lora --out runs/chat",
        "llmctl train --resume runs/poems",
    )

    def starts(self, config: TrainConfig) -> str | None:
        return None if _follows() else LOADING

    def reads(self, config: TrainConfig) -> list[Path]:
        return places(config.data, config.model.name)

    def interrupted(self, config: TrainConfig) -> str | None:
        """Why the run can be resumed: it did not finish, and its data has not changed."""
        from llmctl.store import runs
        from llmctl.store.prepared import is_prepared, open_prepared

        if not (config.out / runs.CONFIG).is_file():
            return None
        status = "its record is lost"
        with contextlib.suppress(UsageError, IntegrityError):  # the run can be resumed without its record
            record = runs.read(config.out)
            if record.status == "finished" or record.verb != "train":
                return None
            status = "died" if record.status == "running" else record.status
        parents = runs.origin(config.out).parents
        if not is_prepared(config.data) or parents.get("data") != open_prepared(config.data).content:
            return None
        return f"it was interrupted ({status})"

    def check_early(self, config: TrainConfig) -> None:
        from llmctl.store import atomic
        from llmctl.store.adapters import check_installed
        from llmctl.workflows.train import checks

        if config.adapter is not None:
            check_installed()
        checks.refuse_inside_run(config.out)
        atomic.refuse_same(config.out, self.reads(config))

    def recorded(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"long_answers": "question", **settings}

    def check_same(self, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        from llmctl.workflows.train import resume

        resume.check_same(recorded, wanted)

    def check_recorded(self, out: Path, recorded: Mapping[str, Any]) -> None:
        from llmctl.workflows.train import resume

        resume.check_recorded(out, recorded)

    def summary(self, document: Mapping[str, Any]) -> list[str]:
        scores = ", ".join(f"{name} {number(value)}" for name, value in (document.get("validation") or {}).items())
        return [f"{number(document['steps'])} steps, validation {scores or '-'}: {document['run']}"]

    def check(self, config: TrainConfig, context: Context) -> Any:
        from llmctl.workflows.train import checks, consistency

        if "measure" in context.switches:
            if "dry-run" not in context.switches:
                raise UsageError("--measure goes with --dry-run", hint="add --dry-run")
            consistency.check_measurable(config)
        if "dry-run" not in context.switches:
            from llmctl.workflows.train import run

            run.call_leader(config)
        try:
            return checks.preflight(
                config,
                force=context.force,
                offline=context.offline,
                resume=context.resume,
                verify=context.verify,
                emit=null_sink if _follows() else context.emit,
            )
        except LlmctlError as error:
            if "dry-run" not in context.switches:
                run.send_refusal(config, error, context.emit)
            raise

    def dry_run(self, plan: Any, context: Context) -> DryRun:
        """Reject a run that does not fit in memory and suggest what would make it fit."""
        from llmctl.workflows.train.fitting import cost_of

        cost = cost_of(plan, context.emit, measure="measure" in context.switches)
        facts = plan.to_dict() | {"forecast": cost.facts}
        return DryRun(plan.recorded, facts, {"forecast": cost.summary}, cost.refusal)

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.train import run

        document = run.train(plan, context.emit, force=context.force).document()
        return Output(document, lambda: _lines(document), silent=_follows())


def _follows() -> bool:
    """Whether another process of the same run reports for this one."""
    from llmctl.training import world

    found = world.find()
    return found is not None and found.follows


def _lines(document: Mapping[str, Any]) -> list[str]:
    scores = ", ".join(f"{name} {number(value)}" for name, value in (document["validation"] or {}).items())
    best, of = document["best"], ""
    if best and best["step"] != document["steps"]:
        of = f", from step {number(best['step'])}: best {best['metric']} {number(best['value'])}"
    return [
        f"{number(document['steps'])} steps, {number(document['tokens'])} tokens in {number(document['seconds'])} s "
        f"({number(document['tokens_per_second'])} tokens/s), {number(document['parameters'])} parameters",
        f"training loss {number(document['train_loss'])}" + (f", validation {scores}" if scores else ""),
        f"model: {document['model']}{of}",
    ]
