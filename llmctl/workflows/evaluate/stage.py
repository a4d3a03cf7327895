"""The verb `eval`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl.errors import Failure
from llmctl.readable import from_here, number
from llmctl.settings import VERIFY, VERIFY_HELP, places
from llmctl.verbs import LOADING, Context, Output, Table, Verb
from llmctl.workflows.evaluate.spec import EvalConfig

if TYPE_CHECKING:
    from llmctl.workflows.evaluate.run import EvalResult


class Evaluate(Verb[EvalConfig]):
    name = "eval"
    spec = EvalConfig
    switches = {VERIFY: VERIFY_HELP}
    examples = (
        "llmctl eval --model runs/en-zh --data data/en-zh --metric bleu --metric chrf",
        "llmctl eval --predictions out.txt --references ref.txt --metric bleu:tokenize=zh --require 'bleu>=20'",
        "llmctl eval --model runs/new --data data/en-zh --baseline old.jsonl --require 'bleu>=baseline-0.5'",
    )

    def starts(self, config: EvalConfig) -> str | None:
        return LOADING if config.predictions is None else "loading the metrics"

    def reads(self, config: EvalConfig) -> list[Path]:
        return places(config.model, config.data, config.predictions, config.baseline, *config.references)

    def placed(self, config: EvalConfig, recipe: str, runs_made: Sequence[Path]) -> EvalConfig:
        """Keep the scores of a run's model in the run, under a fixed name per recipe, so that the stage can be skipped."""
        from llmctl.store import runs

        if config.out is not None or config.model is None:
            return config
        model = Path(config.model)
        made_here = any(os.path.abspath(each) == os.path.abspath(model) for each in runs_made)
        if not made_here and not (model / runs.RUN).is_file():
            return config
        return config.replace(out=model / "evals" / f"{recipe}-{config.split}")

    def check_early(self, config: EvalConfig) -> None:
        from llmctl.store import atomic
        from llmctl.workflows.evaluate import checks

        if config.metric:
            checks.metrics_of(config, None)
        if config.out is not None:
            atomic.refuse_same(config.out, places(config.data, config.predictions, config.baseline, *config.references))

    def summary(self, document: Mapping[str, Any]) -> list[str]:
        return [f"{score['metric']} {number(score['value'])}  ({score['signature']})" for score in document["scores"]]

    def check(self, config: EvalConfig, context: Context) -> Any:
        from llmctl.workflows.evaluate import checks

        return checks.preflight(
            config, force=context.force, offline=context.offline, verify=context.verify, emit=context.emit
        )

    def run(self, plan: Any, context: Context) -> Output:
        from llmctl.workflows.evaluate import reports, run

        result = run.evaluate(plan, context.emit, force=context.force)
        return Output(result.document(), lambda: _lines(result), reports.finish(result, context.emit))

    def failed(self, settings: Mapping[str, Any], failure: Failure, context: Context) -> None:
        from llmctl.workflows.evaluate import reports

        reports.failed(settings, failure, context.emit, force=context.force)


def _lines(result: EvalResult) -> list[str | Table]:
    from llmctl.metrics.report import shown

    level = result.scores[0].ci.level if result.scores and result.scores[0].ci else None
    rows = [
        (
            score.metric,
            shown(score),
            f"{number(score.ci.low)} – {number(score.ci.high)}" if score.ci else "",
            score.n,
            score.signature,
        )
        for score in result.scores
    ]
    found: list[str | Table] = [
        Table(("metric", "value", "95 % interval" if level == 0.95 else "interval", "n", "signature"), rows, (1, 3))
    ]
    found += [_compared(each) for each in result.comparison]
    found += [f"{'met' if gate.met else 'NOT MET'}: {gate.require}" for gate in result.gates]
    found += [f"predictions: {from_here(result.predictions)}"] if result.predictions else []
    return found


def _compared(test: Mapping[str, Any]) -> str:
    text = f"{test['metric']}: {number(test['difference'])} against the baseline"
    if test["p_bootstrap"] is None or math.isnan(test["p_bootstrap"]):
        return f"{text}, no p: {test.get('why', 'the rows do not give one')}"
    return f"{text}, p {number(test['p_bootstrap'])} (bootstrap), {number(test['p_randomization'])} (randomisation)"
