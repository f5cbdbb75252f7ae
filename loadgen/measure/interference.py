"""What one kind of load costs the other: the same plan alone and beside, request by request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure import metrics
from loadgen.measure.slo import judge, value_of
from loadgen.stats import paired
from loadgen.stats.batch_means import Interval, mean_interval
from loadgen.stats.quantile import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.measure.columns import Columns, Floats
    from loadgen.measure.facts import ClassFacts
    from loadgen.stats.paired import Spread

_METRICS = ("ttft", "tpot", "tbt")
_QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Change:
    """A figure alone and beside, in the metric's unit; `None` where there are too few samples."""

    metric: str
    statistic: str
    alone: float | None
    beside: float | None

    @property
    def ratio(self) -> float | None:
        """Beside over alone."""
        if self.alone is None or self.beside is None or self.alone <= 0:
            return None
        return self.beside / self.alone


@dataclass(frozen=True, slots=True)
class Interference:
    """`pairs`: requests that were counted in both runs. `attainment`: beside less alone, over pairs."""

    pairs: int
    attainment: Interval | None
    differences: dict[str, Interval | None]
    """Mean of the paired difference of `ttft` and `tpot`, microseconds."""
    changes: tuple[Change, ...]


def interference(
    alone: Columns,
    beside: Columns,
    facts: ClassFacts,
    window: tuple[int, int],
    horizons: tuple[int, int],
) -> Interference:
    """Of one class; both runs are of one plan, so ids say which requests are the same.

    Raises:
        ValueError: the runs do not have the same requests due at the same times: they are of different plans.
    """
    alone, beside = (_paired(one, other) for one, other in ((alone, beside), (beside, alone)))
    # What waits for an answer is due when that answer was there, which is another time in each run.
    waits = facts.closed or facts.live
    if not np.array_equal(alone.id, beside.id) or (not waits and not np.array_equal(alone.due, beside.due)):
        raise ValueError("the two runs are of different plans")
    shares = [
        judge(each, facts.slo, horizon, exact=facts.exact).shares()
        for each, horizon in zip((alone, beside), horizons, strict=True)
    ]
    has_slo = bool(facts.slo.per_request)
    return Interference(
        pairs=int(np.count_nonzero(~np.isnan(shares[1] - shares[0]))),
        attainment=_difference(alone.due, shares[1] - shares[0], window) if has_slo else None,
        differences={
            name: _difference(alone.due, value_of(beside, name, facts.slo) - value_of(alone, name, facts.slo), window)
            for name in ("ttft", "tpot")
        },
        changes=tuple(each for name in _METRICS for each in _changes(name, alone, beside)),
    )


@dataclass(frozen=True, slots=True)
class OverRuns:
    """Of several pairs of runs. `loss`: attainment alone less beside; `ratios`: beside over alone, by `ttft p99` and
    the like. `None` where a pair does not have it.
    """

    pairs: int
    loss: Spread | None
    ratios: dict[str, Spread | None]


def over_runs(found: Sequence[Interference]) -> OverRuns:
    """What pairs of runs, each with a plan of its own, say together; at least one.

    Within one pair intervals carry no claim about another; from six pairs on these do.
    """
    losses = [None if each.attainment is None else -each.attainment.value for each in found]
    ratios: dict[str, list[float | None]] = {}
    for each in found:
        for change in each.changes:
            ratios.setdefault(f"{change.metric} {change.statistic}", []).append(change.ratio)
    return OverRuns(
        pairs=len(found),
        loss=_spread(losses, logarithm=False),
        ratios={name: _spread(values, logarithm=True) for name, values in ratios.items()},
    )


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Over runs, of ratios such as harvest; `None` where one is missing or zero."""
    return _spread(values, logarithm=True)


def _spread(values: Sequence[float | None], *, logarithm: bool) -> Spread | None:
    known = [each for each in values if each is not None]
    if len(known) < len(values) or not known or (logarithm and min(known) <= 0):
        return None
    return paired.over_runs(np.array(known, dtype=np.float64), logarithm=logarithm)


def harvest(beside: float | None, alone: float | None) -> float | None:
    """Offline tokens/s beside the stream over offline alone."""
    return beside / alone if beside is not None and alone else None


def _paired(one: Columns, other: Columns) -> Columns:
    kept = one.where(np.isin(one.id, other.id))
    return _by_id(kept)


def _by_id(at: Columns) -> Columns:
    """Columns are in the order of (due, id): equal plans are in equal order already, closed loops are not."""
    order = np.argsort(at.id, kind="stable")
    return at if np.array_equal(order, np.arange(len(at))) else at.taken(order)


def _difference(due: Floats, differences: Floats, window: tuple[int, int]) -> Interval | None:
    known = ~np.isnan(differences)
    return mean_interval(due[known], differences[known], window)


def _changes(name: str, alone: Columns, beside: Columns) -> list[Change]:
    values = [_known(name, each) for each in (alone, beside)]
    means = [float(each.mean()) if len(each) else None for each in values]
    found = [Change(name, "mean", means[0], means[1])]
    for q in _QUANTILES:
        one, other = (estimate(each, q).value for each in values)
        found.append(Change(name, f"p{q * 100:g}", one, other))
    return found


def _known(name: str, at: Columns) -> Floats:
    values = metrics.POOLED[name](at) if name in metrics.POOLED else metrics.PER_REQUEST[name](at)
    return values[~np.isnan(values)]
