"""`llmctl doctor`: check this machine and installation."""

from __future__ import annotations

from llmctl.cli import options
from llmctl.cli.session import Session
from llmctl.cli.terminal import plain
from llmctl.errors import EnvironmentFault

QUIET = options.Option("--quiet", "show only warnings and problems", options.OUTPUT_PANEL)


def run(session: Session) -> None:
    from llmctl.workflows.inspect import doctor as workflow

    findings = workflow.examine()

    def show() -> None:
        shown = [finding for finding in findings if not session.quiet or finding.status != "ok"]
        width = max((len(finding.check) for finding in shown), default=0)
        for finding in shown:
            print(f"{finding.status:<7}  {finding.check:<{width}}  {plain(finding.message)}")
            if finding.cure:
                print(f"{'':<7}  {'':<{width}}  -> {plain(finding.cure)}")

    problems = [finding for finding in findings if finding.status == "problem"]
    if not problems:
        session.finish(workflow.document(findings), show)
        return
    named = ", ".join(finding.check for finding in problems)
    fault = EnvironmentFault(f"problems found: {named}", hint="each is listed with a fix")
    session.fail(fault, workflow.document(findings), show)


PAGE = options.Page(run, shared=(QUIET, *options.OUTPUT), examples=("llmctl doctor", "llmctl doctor --quiet --json"))
