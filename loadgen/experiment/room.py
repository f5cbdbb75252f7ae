"""Whether this host can send what a plan asks for, with room: by what `selftest` found of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadgen.faults.flood import with_floods
from loadgen.plan import build
from loadgen.run.processes import processes
from loadgen.selftest import limits

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.selftest.limits import Limits
    from loadgen.spec import Scenario

FACTOR: Final = 4.0
"""Times the planned rate that a host should be able to send: bursts, and whatever else wants the processor then."""
UNKNOWN: Final = (
    "nobody knows how much this host can send: slackwater-loadgen selftest finds out, and should be run first"
)


def too_much(known: Limits, scenario: Scenario, data: Path) -> list[str]:
    """Why a load is beyond this host, a sentence each.

    Raises:
        BadInput, BadData: it cannot be planned.
    """
    plan = with_floods(build.build(scenario, data), scenario)
    return limits.exceeded(known, processes(scenario.procs), *limits.planned_rates(plan), factor=FACTOR)
