"""How long after a fault until users are served as before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BEFORE = 60_000_000
_WINDOW = 5_000_000
_WINDOWS = 3
_ALLOWED = 0.02


def recovery(
    at: int,
    due: NDArray[np.float64],
    shares: NDArray[np.float64],
    until: float,
) -> float | None:
    """Microseconds from the fault to the first of three successive 5 s windows of due time all as good as before.

    `shares`: f64[n], 1 good, 0 bad, NaN not counted, of requests due at `due`. As good: attainment at least that of the
    60 s before less 0.02. Infinite if never up to `until`; `None` if nothing was due before the fault.

    A window in which nothing was due proves nothing: it neither counts nor breaks the row.
    """
    counted = ~np.isnan(shares)
    due, shares = due[counted], shares[counted]
    before = shares[(due >= at - _BEFORE) & (due < at)]
    if not len(before):
        return None
    least = float(before.mean()) - _ALLOWED
    row: list[int] = []
    for number in range(max(math.floor((until - at) / _WINDOW), 0)):
        start = at + number * _WINDOW
        inside = shares[(due >= start) & (due < start + _WINDOW)]
        if not len(inside):
            continue
        # Shares of whole requests: 0.98 of 50 must count as 0.98.
        row = [*row, start] if float(inside.mean()) >= least - 1e-9 else []
        if len(row) == _WINDOWS:
            return float(row[0] - at)
    return math.inf
