"""`intervals.csv`: each second of a run, class by class. Nothing in it is smoothed, and the window is marked, not cut.

Requests are counted in the second in which they were due; tokens and ends in the second in which they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure import metrics
from loadgen.measure.columns import OUTCOMES
from loadgen.measure.slo import judge
from loadgen.stats.overload import in_flight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.measure.columns import Columns, Floats
    from loadgen.measure.facts import ClassFacts, RunFacts

SECOND = 1_000_000
HEAD = (
    "start_micros",
    "class",
    "in_window",
    "offered",
    *OUTCOMES,
    "ended",
    "counted",
    "good",
    "attainment",
    "out_tokens",
    "in_flight",
    "ttft_mean_micros",
    "ttft_max_micros",
    "tpot_mean_micros",
    "lag_max_micros",
)


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """One class over n buckets; every array is f64[n]. Times in microseconds, NaN where a bucket has none.

    `counted` and `good` are zero everywhere for a class without a promise per request.
    """

    starts: Floats
    offered: Floats
    outcomes: dict[str, Floats]
    ended: Floats
    counted: Floats
    good: Floats
    tokens: Floats
    flying: Floats
    ttft_mean: Floats
    ttft_max: Floats
    tpot_mean: Floats
    lag_max: Floats

    @property
    def attainment(self) -> Floats:
        """Good over counted, NaN where nothing counts."""
        return np.where(self.counted > 0, self.good / np.maximum(self.counted, 1), np.nan)


def span(at: Columns, facts: RunFacts) -> int:
    """Microseconds from `t0` to the last thing that happened, at least to the window's end."""
    last = [float(each[~np.isnan(each)].max()) for each in (at.due, at.end) if (~np.isnan(each)).any()]
    return round(max([float(facts.window[1]), *last]))


def buckets(at: Columns, facts: ClassFacts, run: RunFacts, until: int, bucket: int = SECOND) -> Buckets:
    """Of one class's requests, from `t0` until `until`."""
    number = max(-(-until // bucket), 1)

    def total(times: Floats, weights: Floats | None = None) -> Floats:
        place = times // bucket
        held = (place >= 0) & (place < number)
        chosen = None if weights is None else weights[held]
        return np.bincount(place[held].astype(np.int64), weights=chosen, minlength=number).astype(np.float64)

    judged = judge(at, facts.slo, run.horizon, exact=facts.exact)
    has_slo = bool(facts.slo.per_request)
    ttft, tpot, lag = metrics.ttft(at), metrics.tpot(at), metrics.lag(at)
    return Buckets(
        starts=np.arange(number, dtype=np.float64) * bucket,
        offered=total(at.due),
        outcomes={name: total(at.due[at.is_(name)]) for name in OUTCOMES},
        ended=total(at.end[~np.isnan(at.end)]),
        counted=total(at.due[judged.counted & has_slo]),
        good=total(at.due[judged.good & has_slo]),
        tokens=total(metrics.delivery_times(at)),
        flying=in_flight(at.due, at.end, (0, number * bucket), block=bucket),
        ttft_mean=_mean(at.due, ttft, number, bucket),
        ttft_max=_most(at.due, ttft, number, bucket),
        tpot_mean=_mean(at.due, tpot, number, bucket),
        lag_max=_most(at.due, lag, number, bucket),
    )


def lines(at: Columns, facts: RunFacts, bucket: int = SECOND) -> Iterator[str]:
    """The file, line by line with line ends; `at`: all records of the run."""
    until = span(at, facts)
    yield ",".join(HEAD) + "\n"
    each_class = {
        name: buckets(at.where(at.cls == name), told, facts, until, bucket) for name, told in facts.classes.items()
    }
    number = len(next(iter(each_class.values())).starts) if each_class else 0
    for place in range(number):
        for name, found in each_class.items():
            yield ",".join(_row(name, found, place, facts.window)) + "\n"


def _row(name: str, found: Buckets, place: int, window: tuple[int, int]) -> list[str]:
    start = found.starts[place]
    inside = window[0] <= start <= window[1]
    counts = (found.offered, *found.outcomes.values(), found.ended, found.counted, found.good)
    times = (found.ttft_mean, found.ttft_max, found.tpot_mean, found.lag_max)
    return [
        str(int(start)),
        name,
        str(int(inside)),
        *(str(int(each[place])) for each in counts),
        _cell(found.attainment[place], 4),
        str(int(found.tokens[place])),
        _cell(found.flying[place], 3),
        *(_cell(each[place], 0) for each in times),
    ]


def _cell(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _mean(times: Floats, values: Floats, number: int, bucket: int) -> Floats:
    place, known = _places(times, values, number, bucket)
    sums = np.bincount(place, weights=values[known], minlength=number)
    counts = np.bincount(place, minlength=number)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _most(times: Floats, values: Floats, number: int, bucket: int) -> Floats:
    place, known = _places(times, values, number, bucket)
    most = np.full(number, -np.inf)
    np.maximum.at(most, place, values[known])
    return np.where(np.isinf(most), np.nan, most)


def _places(
    times: Floats, values: Floats, number: int, bucket: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    place = times // bucket
    known = ~np.isnan(values) & (place >= 0) & (place < number)
    return place[known].astype(np.int64), known
