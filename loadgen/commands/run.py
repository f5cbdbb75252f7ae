"""`slackwater-loadgen run`: drive the classes of a scenario at one server, and print what was found."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import ExitCode, first_of
from loadgen.plan.build import build
from loadgen.plan.workload import plan_hash
from loadgen.report.text import plan_summary, summary
from loadgen.run.execute import execute, new_folder
from loadgen.run.prepare import BLOCK, data_folder
from loadgen.run.stage import Stage

if TYPE_CHECKING:
    from loadgen.options import RunOptions
    from loadgen.run.stage import RunOutcome


def main(options: RunOptions) -> ExitCode:
    """Run it as often as `--repeat` says; the exit code is the worst."""
    if options.dry_run:
        plan = build(options.scenario, data_folder(options.scenario), BLOCK)
        sys.stdout.write(plan_summary(plan, plan_hash(plan)))
        return ExitCode.OK
    if options.scenario.repeat == 1:
        return _once(options).code
    out = Path(options.out) if options.out else new_folder()
    codes: list[ExitCode] = []
    for number in range(options.scenario.repeat):
        outcome = _once(replace(options, out=str(out / str(number + 1))))
        codes.append(outcome.code)
        if outcome.code is ExitCode.INTERRUPTED:
            break
    return first_of(codes)


def _once(options: RunOptions) -> RunOutcome:
    outcome = execute(options, Stage(say=_say, within_limits=True))
    colour = sys.stdout.isatty()
    if options.ui != "json":
        sys.stdout.write(summary(outcome.result, folder=str(outcome.folder), checks=outcome.checks, colour=colour))
    return outcome


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
