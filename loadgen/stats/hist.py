"""A log-linear histogram in HdrHistogram's layout: 3 digits, 1 us to 1 h.

Up to 2,047 every value has a bucket of its own; above, each doubling has 1,024 buckets, so that a bucket is never wider
than 0.1 % of its values. Histograms of the same layout merge by adding, which percentiles do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOWEST = 1
HIGHEST = 3_600_000_000
"""One hour in microseconds."""
DIGITS = 3
BUCKETS = 23_552
_HALF_BITS = 10


def bucket_of(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bucket of each value, i64[n] from i64[n]; values lie in 0..HIGHEST."""
    # frexp is exact where a logarithm in floating point is off by one just below a power of two: v = m * 2**x with
    # m in [0.5, 1), so floor(log2 v) = x - 1. Zero has x = 0 and lands in bucket 0 with the rest of the small ones.
    exponent = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    shift = np.maximum(exponent - _HALF_BITS, 0)
    return (shift << _HALF_BITS) + (values >> shift)


def lowest_of(bucket: int) -> int:
    """Least value of a bucket."""
    shift = max((bucket >> _HALF_BITS) - 1, 0)
    return (bucket - (shift << _HALF_BITS)) << shift


def highest_of(bucket: int) -> int:
    """Greatest value of a bucket."""
    return lowest_of(bucket + 1) - 1


def _no_counts() -> NDArray[np.int64]:
    return np.zeros(BUCKETS, dtype=np.int64)


@dataclass(eq=False, slots=True)
class Histogram:
    """`counts`: i64[BUCKETS]. `clipped`: values above HIGHEST, counted as HIGHEST."""

    counts: NDArray[np.int64] = field(default_factory=_no_counts)
    clipped: int = 0

    @property
    def total(self) -> int:
        """Values held."""
        return int(self.counts.sum())

    def record(self, values: NDArray[np.int64]) -> None:
        """Add values, i64[n] microseconds.

        Raises:
            ValueError: a value below zero: time has run backwards, which a histogram must not hide.
        """
        if not len(values):
            return
        if int(values.min()) < 0:
            raise ValueError("a histogram holds no values below zero")
        self.clipped += int(np.count_nonzero(values > HIGHEST))
        held = np.minimum(values, HIGHEST)
        self.counts += np.bincount(bucket_of(held), minlength=BUCKETS)

    def merged(self, other: Histogram) -> Histogram:
        """Both together, as if all values had been recorded in one."""
        return Histogram(self.counts + other.counts, self.clipped + other.clipped)

    def quantile(self, q: float) -> int | None:
        """Greatest value of the bucket that holds the order statistic ceil(q n); `None` if empty."""
        total = self.total
        if not total:
            return None
        # The small allowance keeps 0.07 * 100 = 7.000000000000001 at rank 7.
        rank = max(int(np.ceil(q * total - 1e-9 * max(1.0, q * total))), 1)
        return highest_of(int(np.searchsorted(np.cumsum(self.counts), rank)))

    def mean(self) -> float | None:
        """Mean with each value at the middle of its bucket; `None` if empty."""
        used = np.flatnonzero(self.counts)
        if not len(used):
            return None
        middles = [(lowest_of(int(each)) + highest_of(int(each))) / 2 for each in used]
        return float(np.average(middles, weights=self.counts[used]))
