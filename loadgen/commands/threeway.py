"""`slackwater-loadgen threeway`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from loadgen.campaign import ended_in_order, new_folder, own_tools, say_on_stderr
from loadgen.errors import ExitCode
from loadgen.threeway import PARTS, Threeway, text

if TYPE_CHECKING:
    from loadgen.campaign import Tools
    from loadgen.options import ThreewayOptions


def main(options: ThreewayOptions, tools: Tools | None = None) -> ExitCode:
    """Carry out the three runs, as often as `--repeat` says, and print what each kind costs the other.

    Raises:
        LoadgenError: bad input, or a run that could not be made.
    """
    scenario = options.run.scenario
    if options.run.dry_run:
        runs = len(PARTS) * scenario.repeat
        seconds = runs * (scenario.warmup_micros + scenario.duration) / 1e6
        sys.stdout.write(f"{runs} runs, at least {seconds:.0f} s without drains\n")
        return ExitCode.OK
    folder = new_folder(options.run.out, "threeway")
    threeway = Threeway(options.run, folder, tools or own_tools(say_on_stderr))
    try:
        with ended_in_order():
            return threeway.run()
    finally:
        sys.stdout.write(f"{text(threeway.record)}{folder / 'threeway.json'}\n")
