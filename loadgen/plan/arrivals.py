"""When requests are due: renewal gaps of mean one, mapped through the cumulative rate.

Nothing is scaled afterwards to hit the asked rate or count: that would take out variance that a queue feels. The plan
reports the rate that came out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadInput
from loadgen.plan import rates
from loadgen.plan.streams import stream

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from loadgen.spec import Arrivals

_CHUNK = 4096


def due_times(arrivals: Arrivals, until: int, seed: int, cls: str, limit: int | None = None) -> NDArray[np.int64]:
    """Due times in microseconds, i64 ascending, in `[0, until)`; at most `limit`, the earliest.

    Raises:
        BadInput: a kind without times of its own (`trace`, `closed`), or a rate that is never above zero.
    """
    seconds = until / 1e6
    rate = _cumulative(arrivals, seconds, stream(seed, cls, "states"))
    end = rate.total(seconds)
    if end <= 0:
        raise BadInput("arrivals", arrivals.kind, "", "its rate is never above zero")
    marks = _renewals(arrivals, end, stream(seed, cls, "arrivals"), limit)
    times = np.floor(rate.inverse(marks) * 1e6 + 1e-6).astype(np.int64)
    return times[times < until][:limit]


def _cumulative(arrivals: Arrivals, seconds: float, states: Generator) -> rates.CumulativeRate:
    if arrivals.kind in ("const", "poisson", "gamma", "weibull"):
        return rates.Constant(arrivals.rate)
    if arrivals.kind == "ramp":
        return rates.Ramp(*arrivals.span, arrivals.period / 1e6)
    if arrivals.kind == "sine":
        return rates.Sine(*arrivals.span, arrivals.period / 1e6)
    if arrivals.kind in ("onoff", "step"):
        if not any(length > 0 for _, length in arrivals.levels):
            raise BadInput("arrivals", arrivals.kind, "", "its steps have no length")
        if arrivals.kind == "onoff":
            return rates.two_states(arrivals.levels, seconds, states)
        return rates.cycle(arrivals.levels, seconds)
    raise BadInput("arrivals", arrivals.kind, "", "it has no rate of its own")


def _renewals(arrivals: Arrivals, end: float, rng: Generator, limit: int | None) -> NDArray[np.float64]:
    """Sums of gaps of mean one below `end`. `const` begins at 0; all others after their first gap."""
    if arrivals.kind == "const":
        count = math.ceil(end - 1e-9)
        return np.arange(count if limit is None else min(count, limit), dtype=np.float64)
    found: list[NDArray[np.float64]] = []
    reached, drawn = 0.0, 0
    # Chunks of one size: a longer run of the same seed begins with the same arrivals.
    while reached < end and (limit is None or drawn < limit):
        sums = reached + np.cumsum(unit_gaps(arrivals, rng, _CHUNK))
        found.append(sums)
        reached, drawn = float(sums[-1]), drawn + _CHUNK
    marks = np.concatenate(found) if found else np.empty(0)
    return marks[marks < end]


def unit_gaps(arrivals: Arrivals, rng: Generator, count: int) -> NDArray[np.float64]:
    """`count` gaps of mean one, with the asked CV where the kind has one; else exponential."""
    if arrivals.kind == "gamma":
        shape = 1 / arrivals.cv**2
        return rng.gamma(shape, 1 / shape, count)
    if arrivals.kind == "weibull":
        shape = weibull_shape(arrivals.cv)
        return rng.weibull(shape, count) / math.gamma(1 + 1 / shape)
    return rng.exponential(1.0, count)


def weibull_shape(cv: float) -> float:
    """The shape of a Weibull distribution with this coefficient of variation.

    Raises:
        BadInput: outside 0.02 to 50, where the shape is no longer found.
    """
    if not 0.02 <= cv <= 50:
        raise BadInput("arrivals", "cv", str(cv), "a Weibull's CV lies between 0.02 and 50")
    low, high = math.log(0.05), math.log(100.0)
    for _ in range(100):
        middle = (low + high) / 2
        inverse = math.exp(-middle)
        spread = math.lgamma(1 + 2 * inverse) - 2 * math.lgamma(1 + inverse)
        # The CV falls as the shape grows.
        low, high = (middle, high) if spread > math.log1p(cv * cv) else (low, middle)
    return math.exp((low + high) / 2)
