"""`slackwater-loadgen experiment PLAN`: list it, say what it would take, or carry it out and write its tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import BadInput, ExitCode
from loadgen.experiment import host, load
from loadgen.experiment.armrun import RealServers
from loadgen.experiment.contract import real_runner
from loadgen.experiment.listing import dry_run, listing
from loadgen.experiment.plan_read import read_plan
from loadgen.experiment.runner import Context, Experiment
from loadgen.experiment.schedule import Selection, selected
from loadgen.experiment.state import write_atomic
from loadgen.experiment.virtual import Simulation
from loadgen.experiment.write import write_tables

if TYPE_CHECKING:
    from loadgen.experiment.plan import Plan
    from loadgen.options import ExperimentOptions


def main(options: ExperimentOptions) -> ExitCode:
    """Carry it out.

    Raises:
        BadInput, BadData: a plan or options that cannot be meant.
    """
    plan = read_plan(options.plan, options.set)
    chosen = Selection(options.runs, options.arms, options.windows, options.repeats, options.quick)
    selected(plan, chosen)
    if options.list:
        sys.stdout.write(listing(plan))
        return ExitCode.OK
    load.check_loads(plan, load.data_folder(options.data))
    if options.dry_run:
        sys.stdout.write(dry_run(plan, chosen))
        return ExitCode.OK
    return _carry_out(plan, chosen, options)


def _carry_out(plan: Plan, chosen: Selection, options: ExperimentOptions) -> ExitCode:
    folder = Path(options.out or "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput("--out", "", str(folder), f"cannot be made: {error.strerror or error}") from error
    folder = folder.resolve()
    data = load.data_folder(options.data).resolve()
    simulation = Simulation(data)
    context = Context(
        folder=folder,
        data=data,
        runner=simulation if options.virtual else real_runner(),
        servers=simulation if options.virtual else RealServers(),
        host=host.identity(),
        virtual=options.virtual,
        say=_say,
    )
    experiment = Experiment(plan, chosen, context, resume=options.resume)
    write_atomic(folder / "plan.toml", resolved_text(plan).encode())
    if not options.virtual:
        for warning in host.preflight(folder):
            _say(f"warning: {warning}")
            experiment.state.notes.append(f"before sitting {experiment.state.sittings + 1}: {warning}")
    code = ExitCode.OK
    try:
        experiment.run()
    except KeyboardInterrupt:
        _say("stopped; all runs that are done are kept, and --resume goes on")
        code = ExitCode.INTERRUPTED
    written = write_tables(plan, experiment.state, folder, chosen)
    for why in written.refused:
        _say(f"no tables: {why}")
    _say(f"{folder / 'summary.md'}")
    if code is ExitCode.OK and written.refused and not (options.quick or options.virtual):
        return ExitCode.INVALID
    return ExitCode.UNREACHABLE if code is ExitCode.OK and written.missing else code


def resolved_text(plan: Plan) -> str:
    """`plan.toml`: what was read, with `--set` and the arms."""
    from loadgen.experiment.resolved import to_toml

    return to_toml(plan)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
