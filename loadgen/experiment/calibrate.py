"""How fast this machine is: `c_off`, tokens a second of offline alone, and `r_sat`, the largest rate of online alone.

Pure: which rate is tried next follows from what was found, so that a calibration goes on where it was broken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.experiment.plan import Calibrate
    from loadgen.experiment.scale import TraceFacts

CLOSE: Final = 1.05
"""Rates nearer than this are not told apart."""
QUICK_SHARE: Final = 0.6
"""Of the rate at which online tokens would fill `c_off`, where nothing is measured: short of what a queue still
takes.
"""


@dataclass(frozen=True, slots=True)
class RateProbe:
    """`p99`: of TTFT, microseconds, None with too few requests. `overloaded`: the backlog grew."""

    rate: float
    p99: float | None
    overloaded: bool


def passes(probe: RateProbe, unloaded: float, factor: float) -> bool:
    """p99 TTFT within `factor` of the unloaded one, and no growing backlog. Without a p99 nothing is claimed."""
    return not probe.overloaded and probe.p99 is not None and probe.p99 <= factor * unloaded


def next_rate(asked: Calibrate, probes: Sequence[RateProbe]) -> float | None:
    """The first is unloaded. Then doubled until one fails, then halved on a log scale; None when it is known or all
    probes are used.
    """
    if not probes:
        return asked.start
    if len(probes) > asked.probes or probes[0].p99 is None:
        return None
    low, high = _between(asked, probes)
    if high is None:
        return min(low * 2, asked.highest) if low < asked.highest else None
    return math.sqrt(low * high) if high / low > CLOSE else None


def saturation(asked: Calibrate, probes: Sequence[RateProbe]) -> float | None:
    """`r_sat`: the largest rate that passed; None where not even the unloaded one did."""
    if not probes or probes[0].p99 is None or probes[0].overloaded:
        return None
    return _between(asked, probes)[0]


def _between(asked: Calibrate, probes: Sequence[RateProbe]) -> tuple[float, float | None]:
    unloaded = probes[0].p99 or math.inf
    failed = [probe.rate for probe in probes[1:] if not passes(probe, unloaded, asked.factor)]
    high = min(failed) if failed else None
    # A rate that passed above one that failed was luck.
    held = [probe.rate for probe in probes if passes(probe, unloaded, asked.factor)]
    return max([rate for rate in held if high is None or rate < high], default=probes[0].rate), high


def estimated(c_off: float, facts: TraceFacts) -> float:
    """`r_sat` where none was measured (`--quick`): by tokens alone."""
    return QUICK_SHARE * c_off / facts.tokens
