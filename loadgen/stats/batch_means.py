"""Intervals from within one run: the window is cut into ten batches of time, whose means are nearly independent.

A bootstrap over blocks covers less (see the design page's section 6). No interval of p99 comes from one run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.stats.student import t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCHES = 10


@dataclass(frozen=True, slots=True)
class Interval:
    """`low` and `high` are `None` where `count`, the batches or runs, is too small for an interval."""

    value: float
    low: float | None
    high: float | None
    count: int


def t_interval(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Mean of independent values, f64[n] with n >= 1, and its t interval from two values on."""
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Interval(mean, None, None, count)
    half = t_quantile((1 + confidence) / 2, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def mean_interval(
    times: NDArray[np.float64],
    values: NDArray[np.float64],
    window: tuple[float, float],
    batches: int = BATCHES,
    confidence: float = 0.95,
) -> Interval | None:
    """Mean of `values`, f64[n], that belong to `times`, f64[n] in the unit of `window`; `None` without any.

    Batches hold unequal numbers of requests, so the mean is a ratio of sums and its spread that of
    `sum - mean x number` over batches: the value is exactly the mean over all requests. Values may be 0 and 1, which
    makes this the interval of a share.
    """
    inside = (times >= window[0]) & (times <= window[1])
    times, values = times[inside], values[inside]
    if not len(values):
        return None
    place = batch_of(times, window, batches)
    sums = np.bincount(place, weights=values, minlength=batches)
    numbers = np.bincount(place, minlength=batches)
    mean = float(sums.sum() / numbers.sum())
    filled = int(np.count_nonzero(numbers))
    if filled < batches:
        # Fewer full batches than asked for: the run is too short or too thin for an interval.
        return Interval(mean, None, None, filled)
    off = (sums - mean * numbers) / numbers.mean()
    half = t_quantile((1 + confidence) / 2, batches - 1) * float(np.sqrt((off @ off) / (batches * (batches - 1))))
    return Interval(mean, mean - half, mean + half, batches)


def rate_interval(
    times: NDArray[np.float64],
    amounts: NDArray[np.float64],
    window: tuple[float, float],
    batches: int = BATCHES,
    confidence: float = 0.95,
) -> Interval | None:
    """Amount a second over the window; times and window in microseconds. `None` for a window of no length."""
    length = (window[1] - window[0]) / 1e6
    if length <= 0:
        return None
    inside = (times >= window[0]) & (times <= window[1])
    place = batch_of(times[inside], window, batches)
    sums = np.bincount(place, weights=amounts[inside], minlength=batches)
    return t_interval(sums / (length / batches), confidence)


def batch_of(times: NDArray[np.float64], window: tuple[float, float], batches: int) -> NDArray[np.int64]:
    """Which of the window's equal parts each time lies in, i64[n]; the window's last moment is of the last part."""
    length = max(window[1] - window[0], 1e-9)
    return np.clip(((times - window[0]) / length * batches).astype(np.int64), 0, batches - 1)
