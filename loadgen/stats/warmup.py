"""Where the steady part of a run begins: MSER-5 (White, 1997).

The cut d minimises sum_{i>d} (x_i - mean_d)^2 / (n-d)^2 over batches of five, over d <= n/2. A minimum at n/2 says that
the series has not settled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 5


@dataclass(frozen=True, slots=True)
class Cut:
    """`seconds` of the series to leave out at its beginning; not `steady`: no cut makes the rest level."""

    seconds: int
    steady: bool


def mser5(series: NDArray[np.float64]) -> Cut | None:
    """Cut of a series of one value a second, f64[n]; NaN where a second has none. `None` below four batches."""
    whole = len(series) // _BATCH * _BATCH
    parts = series[:whole].reshape(-1, _BATCH)
    held = ~np.isnan(parts)
    used = np.flatnonzero(held.any(axis=1))
    if len(used) < 4:
        return None
    means = np.where(held, parts, 0.0)[used].sum(axis=1) / held[used].sum(axis=1)
    scores = _scores(means)
    # Of cuts that are equal but for rounding, the first: a level series would else be cut anywhere.
    cut = int(np.flatnonzero(scores <= scores.min() + 1e-12 * scores[0])[0])
    return Cut(int(used[cut]) * _BATCH if cut else 0, cut < len(means) // 2)


def _scores(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """One a cut d = 0..n/2. Sums from the end, of values less their overall mean, so that nothing cancels."""
    count = len(means)
    centred = means - means.mean()
    sums = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum(centred[::-1] ** 2)[::-1]
    left = count - np.arange(count)
    scores = (squares - sums**2 / left) / left.astype(np.float64) ** 2
    return scores[: count // 2 + 1]


def per_second(
    times: NDArray[np.float64], values: NDArray[np.float64], start: float, end: float
) -> NDArray[np.float64]:
    """Mean of the values of each second from start to end (microseconds), f64[seconds], NaN where there are none."""
    seconds = max(int((end - start) // 1_000_000), 0)
    place = ((times - start) // 1_000_000).astype(np.int64)
    inside = (place >= 0) & (place < seconds) & ~np.isnan(values)
    numbers = np.bincount(place[inside], minlength=seconds)
    sums = np.bincount(place[inside], weights=values[inside], minlength=seconds)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
