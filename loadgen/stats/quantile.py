"""Quantiles as order statistics, with distribution-free intervals, and the rule of how many samples one needs.

The interval of quantile q lies between the order statistics of the ranks that a binomial count of (n, q) stays within:
exact for any continuous distribution, if the values are independent, which those of one run are not. Labels say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALL_COUNTS = 5_000
"""Up to so many samples the whole binomial distribution is summed; above, what is within 40 deviations."""


def samples_needed(q: float, confidence: float = 0.95) -> int:
    """Fewest samples of which the greatest is an upper bound of quantile q with this confidence; 0 < q < 1.

    59 for p95, 299 for p99, 2,995 for p99.9. Quantiles below the median want what their mirror wants.
    """
    return math.ceil(math.log(1 - confidence) / math.log(max(q, 1 - q)))


@dataclass(frozen=True, slots=True)
class Quantile:
    """`value` is `None` below `needed` samples; `low` and `high` are `None` where that side is open."""

    q: float
    value: float | None
    low: float | None
    high: float | None
    count: int
    needed: int


def rank_of(q: float, count: int) -> int:
    """1-based rank of the order statistic that is quantile q: ceil(q n), at least 1."""
    # 0.07 * 100 is 7.000000000000001 in floating point; rank 7 is meant.
    return min(max(math.ceil(q * count - 1e-9 * max(1.0, q * count)), 1), count)


def interval_ranks(q: float, count: int, confidence: float = 0.95) -> tuple[int, int]:
    """1-based ranks (low, high) of the interval; low 0 and high `count + 1` mean that the side is open."""
    first, cumulative = _binomial(count, q)
    tail = (1 - confidence) / 2
    low = first + int(np.searchsorted(cumulative, tail))
    high = first + int(np.searchsorted(cumulative, 1 - tail))
    return low, high + 1


def estimate(values: NDArray[np.float64], q: float, confidence: float = 0.95) -> Quantile:
    """Quantile q of values, f64[n] in any order; infinite ones are taken as greatest, none may be NaN."""
    return estimate_sorted(np.sort(values), q, confidence)


def estimate_sorted(ordered: NDArray[np.float64], q: float, confidence: float = 0.95) -> Quantile:
    """The same of values that are sorted already."""
    count, needed = len(ordered), samples_needed(q, confidence)
    if count < needed:
        return Quantile(q, None, None, None, count, needed)
    low, high = interval_ranks(q, count, confidence)
    return Quantile(
        q,
        float(ordered[rank_of(q, count) - 1]),
        float(ordered[low - 1]) if low >= 1 else None,
        float(ordered[high - 1]) if high <= count else None,
        count,
        needed,
    )


def _binomial(count: int, p: float) -> tuple[int, NDArray[np.float64]]:
    """First count, and P(X <= each) from there on."""
    if count <= _ALL_COUNTS:
        first, last = 0, count
    else:
        spread = math.ceil(40 * math.sqrt(count * p * (1 - p)) + 40)
        first, last = max(0, int(count * p) - spread), min(count, int(count * p) + spread)
    hits = np.arange(first, last + 1)
    steps = np.log(count - hits[:-1]) - np.log(hits[:-1] + 1) + (math.log(p) - math.log1p(-p))
    start = math.lgamma(count + 1) - math.lgamma(first + 1) - math.lgamma(count - first + 1)
    logs = np.concatenate(([0.0], np.cumsum(steps))) + start + first * math.log(p) + (count - first) * math.log1p(-p)
    mass = np.exp(logs - logs.max())
    return first, np.cumsum(mass) / mass.sum()
