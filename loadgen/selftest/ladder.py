"""Climbing to the highest rate that is clean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from loadgen.selftest.limits import Highest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.selftest.limits import LimitedBy

TRIES = 2
"""A step that somebody else disturbed deserves another."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one run at a rate showed. `units`: requests or chunks that came; CPU in seconds. `why` empty: all clean."""

    units: int
    cpu: float
    load_seconds: float
    all_seconds: float
    why: str = ""
    limited_by: LimitedBy = "gate"


class Try(Protocol):
    """Makes one run."""

    def __call__(self, rate: float) -> Step:
        """At `rate` a second."""


def climb(rates: Sequence[float], attempt: Try) -> Highest:
    """Up the ascending `rates` until one is not clean in any of its tries."""
    best: tuple[float, Step] | None = None
    for rate in rates:
        step = attempt(rate)
        for _ in range(TRIES - 1):
            if step.why:
                step = attempt(rate)
        if step.why:
            return _highest(best, step.limited_by, step.why)
        best = (rate, step)
    return _highest(best, "steps", "no higher rate was tried")


def _highest(best: tuple[float, Step] | None, limited_by: LimitedBy, reason: str) -> Highest:
    if best is None:
        return Highest(rate=0.0, cpu=0.0, micros=None, all_micros=None, limited_by=limited_by, reason=reason)
    rate, step = best
    return Highest(
        rate=rate,
        cpu=step.cpu,
        micros=step.load_seconds * 1e6 / step.units if step.units else None,
        all_micros=step.all_seconds * 1e6 / step.units if step.units else None,
        limited_by=limited_by,
        reason=reason,
    )
