"""The rates of a sweep, and a scenario at one of them. Only the rate changes: lengths, shape and jobs stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadInput

if TYPE_CHECKING:
    from loadgen.options import Vary
    from loadgen.spec import Arrivals, OnlineSpec, Scenario

_ONE_RATE = ("const", "poisson", "gamma", "weibull")


def rates(vary: Vary, points: int) -> tuple[float, ...]:
    """Requests a second, ascending: as listed, or `points` of them evenly on a log scale with both ends."""
    if vary.values:
        return tuple(sorted(set(vary.values)))
    return tuple(float(each) for each in np.geomspace(vary.low, vary.high, points))


def mean_rate(arrivals: Arrivals) -> float | None:
    """Requests a second over the whole pattern; `None` where only the trace knows."""
    if arrivals.kind in _ONE_RATE:
        return arrivals.rate
    if arrivals.kind in ("onoff", "step"):
        length = sum(each for _, each in arrivals.levels)
        return sum(rate * each for rate, each in arrivals.levels) / length if length else None
    if arrivals.kind in ("sine", "ramp"):
        return sum(arrivals.span) / 2
    return None


def at_rate(scenario: Scenario, cls: str, rate: float, natural: float | None = None) -> Scenario:
    """The scenario with online class `cls` at `rate` requests a second on the mean.

    A pattern keeps its shape: all its levels are scaled. A trace is stretched in time, for which `natural`, its rate
    as the scenario has it, must be known.

    Raises:
        BadInput: no such class, a closed loop, or a rate of zero to scale from.
    """
    online = tuple(_at_rate(spec, rate, natural) if spec.name == cls else spec for spec in scenario.online)
    if all(spec.name != cls for spec in scenario.online):
        raise BadInput("--vary", "", cls, "no such online class", [spec.name for spec in scenario.online])
    return replace(scenario, online=online)


def _at_rate(spec: OnlineSpec, rate: float, natural: float | None) -> OnlineSpec:
    arrivals = spec.arrivals
    if arrivals.kind in _ONE_RATE:
        return replace(spec, arrivals=replace(arrivals, rate=rate))
    if arrivals.kind == "closed":
        raise BadInput("--vary", "", spec.name, "a closed loop has no rate")
    base = natural if arrivals.kind == "trace" else mean_rate(arrivals)
    if not base:
        raise BadInput("--vary", "", spec.name, "its rate as written is not known, or zero")
    factor = rate / base
    if arrivals.kind == "trace":
        return replace(spec, transforms=replace(spec.transforms, scale=spec.transforms.scale * factor))
    levels = tuple((each * factor, length) for each, length in arrivals.levels)
    return replace(
        spec, arrivals=replace(arrivals, levels=levels, span=(arrivals.span[0] * factor, arrivals.span[1] * factor))
    )


def without_jobs(scenario: Scenario) -> Scenario:
    """The online classes alone."""
    return replace(scenario, offline=())


def jobs_alone(scenario: Scenario) -> Scenario:
    """The jobs alone: no online class, no probe, and nothing that belongs to them."""
    return replace(scenario, online=(), probe=None, faults=(), asserts=(), aborts=())
