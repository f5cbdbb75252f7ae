"""Whether a run was asked for more than the server can do: its queue grew all through the window.

A least-squares line through the means of 10 s blocks; OVERLOADED if the slope's interval lies above zero and the line
rises by more than a fifth of the mean. The latency quantiles of such a run depend on how long it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.stats.student import t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 10_000_000
"""Microseconds."""
_RISE = 0.2
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Trend:
    """`slope`, `low`, `high`: a second. `rise`: of the line from the window's beginning to its end."""

    slope: float
    low: float
    high: float
    rise: float
    mean: float

    @property
    def grows(self) -> bool:
        """The rule above."""
        return self.low > 0 and self.rise > _RISE * self.mean


def trend(blocks: NDArray[np.float64], seconds: float, confidence: float = 0.95) -> Trend | None:
    """Line through block means, f64[n], each of so many seconds; NaN where a block has none. `None` below 3 blocks."""
    held = np.flatnonzero(~np.isnan(blocks))
    if len(held) < _FEWEST:
        return None
    at, values = (held + 0.5) * seconds, blocks[held]
    centre, mean = at.mean(), float(values.mean())
    spread = float(((at - centre) ** 2).sum())
    slope = float(((at - centre) * (values - mean)).sum() / spread)
    off = values - mean - slope * (at - centre)
    error = math.sqrt(float(off @ off) / (len(held) - 2) / spread)
    half = t_quantile((1 + confidence) / 2, len(held) - 2) * error
    return Trend(slope, slope - half, slope + half, slope * seconds * len(blocks), mean)


def block_count(window: tuple[float, float], block: float = BLOCK) -> int:
    """Whole blocks in a window, both in microseconds."""
    return int((window[1] - window[0]) // block)


def in_flight(
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    window: tuple[float, float],
    block: float = BLOCK,
) -> NDArray[np.float64]:
    """Mean number open in each whole block of the window, f64[blocks].

    `starts`, `ends`: f64[n] microseconds; an end that is NaN is after the window. Times before the window count: what
    was begun earlier and is still open is in flight.
    """
    edges = window[0] + block * np.arange(block_count(window, block) + 1, dtype=np.float64)
    ends = np.where(np.isnan(ends), np.inf, ends)
    return np.diff(_area(starts, edges) - _area(ends, edges)) / block


def block_means(
    times: NDArray[np.float64],
    values: NDArray[np.float64],
    window: tuple[float, float],
    block: float = BLOCK,
) -> NDArray[np.float64]:
    """Mean of the values in each whole block of the window, f64[blocks]; NaN where a block has none."""
    count = block_count(window, block)
    place = np.floor((times - window[0]) / block).astype(np.int64)
    inside = (place >= 0) & (place < count) & ~np.isnan(values)
    numbers = np.bincount(place[inside], minlength=count)
    sums = np.bincount(place[inside], weights=values[inside], minlength=count)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)


def _area(moments: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral up to each edge of the number of moments passed."""
    ordered = np.sort(moments[np.isfinite(moments)])
    passed = np.searchsorted(ordered, edges, side="right")
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    area: NDArray[np.float64] = passed * edges - sums[passed]
    return area
