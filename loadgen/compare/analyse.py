"""What the pairs say of one figure: B over A, its interval, and how likely so much is by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from loadgen.measure.expr import Figure
from loadgen.stats import paired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.spec import Scenario

SIGNIFICANT = 0.05


class Pair(msgspec.Struct, frozen=True):
    """One figure of both sides of a pair; `null`: not known there."""

    pair: int
    a: float | None
    b: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all pairs.

    `kind` `ratio`: `mean` is the geometric mean of B over A with a t interval on logs. `difference`, where a value of
    zero allows no ratio: the mean of B less A. `used`: pairs in which both are known. `least_p`: the smallest that so
    many pairs can give; where it is above 5 %, nothing can be told.
    """

    figure: str
    unit: str
    kind: Literal["ratio", "difference"] | None
    used: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    exact: bool = True
    least_p: float | None = None
    a_median: float | None = None
    b_median: float | None = None
    reason: str | None = None
    pairs: list[Pair] = []

    @property
    def differs(self) -> bool:
        """Whether the sides differ by more than chance would have it, at 5 %."""
        return self.p is not None and self.p <= SIGNIFICANT


def default_figures(scenario: Scenario) -> tuple[Figure, ...]:
    """What is compared where nothing was asked for: latencies and attainment, and the jobs' throughput."""
    found = []
    for spec in scenario.online:
        found += [_figure(spec.name, "ttft", 0.5), _figure(spec.name, "ttft", 0.99), _figure(spec.name, "tpot", None)]
        if spec.slo.per_request:
            found.append(Figure(spec.name, None, False, "attainment", "window", None))
    found += [Figure(spec.name, None, False, "tokens_per_s", "window", None) for spec in scenario.offline]
    return tuple(found)


def _figure(cls: str, metric: str, quantile: float | None) -> Figure:
    return Figure(cls, quantile, quantile is None, metric, "window", None)


def compare(figure: Figure, pairs: Sequence[Pair], seed: int, reason: str | None = None) -> Comparison:
    """`reason`: why a value is missing, where one is."""
    known = [(each.a, each.b) for each in pairs if each.a is not None and each.b is not None]
    finite = [each for each in known if all(np.isfinite(each))]
    if not finite:
        why = reason or ("endless on one side" if known else "no pair has it")
        return Comparison(figure=str(figure), unit=figure.unit, kind=None, used=0, reason=why, pairs=list(pairs))
    a, b = (np.array([each[side] for each in finite], dtype=np.float64) for side in (0, 1))
    positive = bool((a > 0).all() and (b > 0).all())
    found = paired.compare(a, b, seed) if positive else paired.subtract(a, b, seed)
    return Comparison(
        figure=str(figure),
        unit=figure.unit,
        kind="ratio" if positive else "difference",
        used=len(finite),
        mean=found.mean.value,
        low=found.mean.low,
        high=found.mean.high,
        p=found.p,
        exact=found.exact,
        least_p=2.0 ** (1 - len(finite)) if found.exact else None,
        a_median=float(np.median(a)),
        b_median=float(np.median(b)),
        reason=reason if len(finite) < len(pairs) else None,
        pairs=list(pairs),
    )
