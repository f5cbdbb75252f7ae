"""Claims: what several runs say together, and what pairs of runs say of a difference.

Ratios are compared on logarithms, so that A over B and B over A say the same. The permutation test assumes nothing of
the distribution: were there no difference, each pair's sign could as well have been the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.stats.batch_means import Interval, t_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_RUNS = 6
"""Fewer runs carry no interval: lowest, median and highest are all that is said of them."""
_EXACT = 16
_DRAWS = 65_536


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several runs. `interval` is `None` below FEWEST_RUNS."""

    lowest: float
    median: float
    highest: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Paired:
    """Of pairs of runs: `ratios`, their geometric mean with its t interval (from two pairs on), the test's p.

    `exact`: all 2^k signs were tried, else 65,536 drawn ones. The smallest p of k pairs is 2 / 2^k.
    """

    ratios: tuple[float, ...]
    mean: Interval
    p: float
    exact: bool


def over_runs(values: NDArray[np.float64], *, logarithm: bool = False, confidence: float = 0.95) -> Spread:
    """Of f64[n], n >= 1 independent runs; `logarithm` for ratios, which must be above zero.

    Raises:
        ValueError: no run, a value that is not finite, or with `logarithm` one that is not above zero.
    """
    _check(values, positive=logarithm)
    interval = None
    if len(values) >= FEWEST_RUNS:
        interval = _back(t_interval(np.log(values), confidence)) if logarithm else t_interval(values, confidence)
    return Spread(float(values.min()), float(np.median(values)), float(values.max()), interval)


def compare(a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0, confidence: float = 0.95) -> Paired:
    """Ratio b over a of pairs, f64[k] each and above zero. `seed` is used above 16 pairs only.

    Raises:
        ValueError: unequal numbers, none, or values that are not finite and above zero.
    """
    if len(a) != len(b):
        raise ValueError("pairs want as many of one side as of the other")
    _check(a, positive=True)
    _check(b, positive=True)
    logs = np.log(b) - np.log(a)
    p, exact = sign_flip(logs, seed)
    return Paired(tuple(float(each) for each in np.exp(logs)), _back(t_interval(logs, confidence)), p, exact)


def subtract(a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0, confidence: float = 0.95) -> Paired:
    """Differences b - a of pairs, f64[k] each, where zeros allow no ratio; `ratios` of the answer are differences.

    Raises:
        ValueError: unequal numbers, none, or values that are not finite.
    """
    if len(a) != len(b):
        raise ValueError("pairs want as many of one side as of the other")
    _check(a, positive=False)
    _check(b, positive=False)
    p, exact = sign_flip(b - a, seed)
    return Paired(tuple(float(each) for each in b - a), t_interval(b - a, confidence), p, exact)


def sign_flip(differences: NDArray[np.float64], seed: int = 0) -> tuple[float, bool]:
    """Two-sided p of the mean of differences, f64[k], and whether all 2^k signs were tried."""
    count = len(differences)
    observed = abs(float(differences.sum()))
    # Sums of the same numbers in another order differ in their last bits, and must count as equal.
    least = observed - 1e-12 * float(np.abs(differences).sum())
    if count <= _EXACT:
        sums = np.zeros(1)
        for each in differences:
            sums = np.concatenate((sums + each, sums - each))
        return float(np.mean(np.abs(sums) >= least)), True
    rng = np.random.Generator(np.random.Philox(seed))
    signs = rng.integers(0, 2, size=(_DRAWS, count), dtype=np.int8) * 2 - 1
    # The signs as they are count as one draw, else p could be zero.
    return float((1 + np.count_nonzero(np.abs(signs @ differences) >= least)) / (1 + _DRAWS)), False


def _back(interval: Interval) -> Interval:
    low = None if interval.low is None else float(np.exp(interval.low))
    high = None if interval.high is None else float(np.exp(interval.high))
    return Interval(float(np.exp(interval.value)), low, high, interval.count)


def _check(values: NDArray[np.float64], *, positive: bool) -> None:
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("runs are compared by finite numbers, and there must be at least one")
    if positive and not (values > 0).all():
        raise ValueError("a ratio wants numbers above zero")
