"""`slackwater-loadgen experiment PLAN`: list it, say what it would take, or carry it out and write its tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import BadInput, ExitCode
from loadgen.experiment import host, keep, load, room
from loadgen.experiment.armrun import RealServers
from loadgen.experiment.contract import real_runner
from loadgen.experiment.listing import dry_run, listing
from loadgen.experiment.plan_read import read_plan
from loadgen.experiment.runner import Context, Experiment, plan_hash
from loadgen.experiment.schedule import Selection, schedule
from loadgen.experiment.state import FILE, alone, write_atomic
from loadgen.experiment.virtual import Simulation
from loadgen.experiment.write import write_tables
from loadgen.report.html import INSTALL
from loadgen.selftest import limits

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
    # All that can be wrong with what was asked for is said now, and not after hours of calibration.
    schedule(plan, chosen, "", {}, {})
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
    try:
        with alone(folder):
            return _in_folder(plan, chosen, options, folder.resolve())
    except OSError as error:
        why = f"{error.filename or ''} {error.strerror or error}".strip()
        raise BadInput("--out", "", str(folder), f"cannot be written: {why}; --resume goes on") from error


def _in_folder(plan: Plan, chosen: Selection, options: ExperimentOptions, folder: Path) -> ExitCode:
    data = load.data_folder(options.data).resolve()
    simulation = Simulation(data)
    place = None if options.virtual or options.quick else keep.place_of(plan.keep, folder)
    if plan.keep:
        _say(f"finished blocks are kept in {place}" if place else f"nothing is kept in {plan.keep}")
    if place is not None and options.resume and keep.restore(place, folder, plan_hash(plan)):
        _say(f"goes on from {place}")
    known = None if options.virtual else limits.load(limits.path())
    context = Context(
        folder=folder,
        data=data,
        runner=simulation if options.virtual else real_runner(),
        servers=simulation if options.virtual else RealServers(),
        host=host.identity(),
        virtual=options.virtual,
        keep=place,
        limits=known,
        say=_say,
    )
    experiment = Experiment(plan, chosen, context, resume=options.resume)
    write_atomic(folder / "plan.toml", resolved_text(plan).encode())
    if not options.virtual:
        for warning in [*host.preflight(folder), *([] if known is not None else [room.UNKNOWN])]:
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
    if place is not None:
        _keep_tables(folder, place)
    _say(f"{folder / 'summary.md'}")
    if not written.page:
        _say(f"report.html is left out: it {INSTALL}")
    if code is ExitCode.OK and written.refused and not (options.quick or options.virtual):
        return ExitCode.INVALID
    return ExitCode.UNREACHABLE if code is ExitCode.OK and written.missing else code


def _keep_tables(folder: Path, place: Path) -> None:
    if not (place / FILE).is_file():
        return
    try:
        keep.keep_tables(folder, place)
    except OSError as error:
        _say(f"warning: the tables are not kept in {place}: {error.strerror or error}")


def resolved_text(plan: Plan) -> str:
    """`plan.toml`: what was read, with `--set` and the arms."""
    from loadgen.experiment.resolved import to_toml

    return to_toml(plan)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
