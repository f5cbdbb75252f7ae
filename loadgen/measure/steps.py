"""How fast offline work makes room when online load steps up, and fills the room when it steps down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure.recovery import recovery

if TYPE_CHECKING:
    from loadgen.measure.columns import Floats
    from loadgen.measure.facts import Curve, LoadStep

_SECOND = 1_000_000
_NEAR = 0.1
_SMOOTH = 3


@dataclass(frozen=True, slots=True)
class Response:
    """Microseconds from the step, infinite if never within it; `None` where nothing can be said.

    `yield_time` and `recovered` are of a step up, `fill_time` is of one down.
    """

    at: int
    before: float
    after: float
    yield_time: float | None
    recovered: float | None
    fill_time: float | None


def rates(curve: Curve, start: int, end: int) -> Floats:
    """Tokens of each second from start to end, f64[seconds], from a counter: linear between its readings."""
    edges = np.arange(start, end + 1, _SECOND, dtype=np.float64)
    counts = np.interp(edges, np.asarray(curve.times, dtype=np.float64), np.asarray(curve.counts, dtype=np.float64))
    return np.diff(counts)


def settling_time(per_second: Floats) -> float | None:
    """Microseconds until the rate, f64[seconds] from the step on, is within 10 % of its new level.

    The level is the mean of the later half; a second counts when the mean of it and the two after it is near, so
    that one lucky second does not.
    """
    count = len(per_second)
    if count < 2 * _SMOOTH:
        return None
    level = float(per_second[count // 2 :].mean())
    smooth = np.convolve(per_second, np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
    near = np.flatnonzero(np.abs(smooth - level) <= _NEAR * level + 1e-9)
    return float(near[0]) * _SECOND if len(near) else float("inf")


def response(step: LoadStep, curve: Curve | None, due: Floats, shares: Floats) -> Response:
    """`due`, `shares`: as in `recovery`, of the class whose load steps."""
    settled = None
    if curve is not None and len(curve.times) > 1:
        settled = settling_time(rates(curve, step.at, step.until))
    if step.after > step.before:
        return Response(step.at, step.before, step.after, settled, recovery(step.at, due, shares, step.until), None)
    return Response(step.at, step.before, step.after, None, None, settled)
