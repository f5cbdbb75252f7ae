"""`slackwater-loadgen compare`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from loadgen.campaign import QUIET, ended_in_order, new_folder, say_on_stderr
from loadgen.compare.client import one_client
from loadgen.compare.driver import Compare
from loadgen.compare.record import text
from loadgen.compare.sides import Commanded, Remote
from loadgen.errors import BadInput, ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.campaign import Tools
    from loadgen.compare.blocks import Side
    from loadgen.compare.sides import SideControl
    from loadgen.options import CompareOptions


def main(options: CompareOptions, tools: Tools | None = None) -> ExitCode:
    """Carry out the comparison and print its table.

    Raises:
        LoadgenError: bad input, or a block that could not be made.
    """
    if options.idle == "freeze" and not (options.a_up and options.b_up):
        raise BadInput("--idle", "", "freeze", "needs --a-up and --b-up: only what they start is ever stopped")
    scenario = options.run.scenario
    if options.run.dry_run:
        seconds = 2 * options.pairs * (scenario.warmup_micros + options.block) / 1e6
        sys.stdout.write(f"{2 * options.pairs} blocks, at least {seconds:.0f} s without drains\n")
        return ExitCode.OK
    folder = new_folder(options.run.out, "compare")
    with nullcontext((tools, QUIET)) if tools else one_client(scenario.procs, say_on_stderr) as (used, stage):
        compare = Compare(options, folder, used, _sides(options, folder), stage)
        try:
            with ended_in_order():
                return compare.run()
        finally:
            sys.stdout.write(text(compare.record, folder))


def _sides(options: CompareOptions, folder: Path) -> dict[Side, SideControl]:
    def side(name: Side, url: str, up: str | None, down: str | None) -> SideControl:
        return Remote() if up is None else Commanded(name, url, up, down, options.idle, folder / f"{name}.log")

    return {
        "a": side("a", options.a, options.a_up, options.a_down),
        "b": side("b", options.b, options.b_up, options.b_down),
    }
