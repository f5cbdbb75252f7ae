"""The largest rate at which a condition holds: bisection on the logarithm of the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Trial:
    """One run. `passed` is false for one that could not be judged too: nothing is claimed beyond it."""

    rate: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Bracket:
    """`low`: largest rate that passes below `high`, the smallest that fails; `None` where there is none."""

    low: float | None
    high: float | None

    def within(self, tolerance: float) -> bool:
        """Whether the two are as near as asked for, as a share of the lower."""
        return self.low is not None and self.high is not None and self.high / self.low - 1 <= tolerance


def bracket(trials: Iterable[Trial]) -> Bracket:
    """A rate passes if all its trials do. A pass above a failure was luck, and does not count."""
    verdicts: dict[float, bool] = {}
    for each in trials:
        verdicts[each.rate] = verdicts.get(each.rate, True) and each.passed
    high = min((rate for rate, passed in verdicts.items() if not passed), default=None)
    low = max((rate for rate, passed in verdicts.items() if passed and (high is None or rate < high)), default=None)
    return Bracket(low, high)


def next_rate(found: Bracket, tolerance: float) -> float | None:
    """Where to try next; `None` once the bracket is narrow enough or has one side only."""
    if found.low is None or found.high is None or found.within(tolerance):
        return None
    return math.sqrt(found.low * found.high)
