"""`slackwater-loadgen sweep`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from loadgen.campaign import ended_in_order, new_folder, own_tools, say_on_stderr
from loadgen.errors import ExitCode
from loadgen.sweep.driver import Sweep, planned
from loadgen.sweep.table import text

if TYPE_CHECKING:
    from loadgen.campaign import Tools
    from loadgen.options import SweepOptions


def main(options: SweepOptions, tools: Tools | None = None) -> ExitCode:
    """Carry out the sweep and print its table.

    Raises:
        LoadgenError: bad input, or a run that could not be made.
    """
    if options.run.dry_run:
        sys.stdout.write(planned(options))
        return ExitCode.OK
    natural = _natural_rate(options)
    folder = new_folder(options.run.out, "sweep")
    sweep = Sweep(options, folder, tools or own_tools(say_on_stderr), natural)
    try:
        with ended_in_order():
            return sweep.run()
    finally:
        sys.stdout.write(text(sweep.record))
        sys.stdout.write(f"{folder / 'sweep.json'}\n")


def _natural_rate(options: SweepOptions) -> float | None:
    """Of a class that follows a trace: what its plan comes out as."""
    from dataclasses import replace

    spec = next(each for each in options.run.scenario.online if each.name == options.vary.cls)
    if spec.arrivals.kind != "trace":
        return None
    from loadgen.plan.build import build
    from loadgen.run.prepare import data_folder

    scenario = replace(options.run.scenario, online=(spec,), offline=(), probe=None)
    return build(scenario, data_folder(scenario)).realised.get(f"{spec.name}.rate")
