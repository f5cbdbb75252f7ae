"""`hist/*.hlog`: one log a class, metric and phase, with a histogram each second. They merge; percentiles do not.

A request's values belong to the second in which it was due, and so does every gap between its tokens: the phases then
hold the same requests as the result's window does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure import metrics
from loadgen.stats import hlog
from loadgen.stats.hist import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.measure.columns import Columns, Floats
    from loadgen.measure.facts import RunFacts

SECOND = 1_000_000
PHASES = ("warmup", "window", "drain")


def logs(at: Columns, facts: RunFacts, started_micros: int) -> Iterator[tuple[str, Iterator[str]]]:
    """(file name, lines) of each log that has values. `started_micros`: wall clock of `t0`, since 1970.

    `facts.window` divides the phases, as it was planned and before anything was cut from it.
    """
    for cls in facts.classes:
        mine = at.where(at.cls == cls)
        for phase, part in _phases(mine, facts.window):
            for metric in (*metrics.PER_REQUEST, *metrics.POOLED):
                due, values = _values(part, metric)
                if len(values):
                    name = f"{cls}.{metric}.{phase}"
                    yield f"{name}.hlog", hlog.lines(_seconds(name, due, values), started_micros)


def _phases(at: Columns, window: tuple[int, int]) -> Iterator[tuple[str, Columns]]:
    before, after = at.due < window[0], at.due > window[1]
    yield "warmup", at.where(before)
    yield "window", at.where(~before & ~after)
    yield "drain", at.where(after)


def _values(at: Columns, metric: str) -> tuple[Floats, Floats]:
    """Due times and values, without those who have none."""
    if metric == "gap":
        values, owner = metrics.visible_gaps(at)
        return at.due[owner], values
    if metric == "tbt":
        times, owner = metrics.token_times(at)
        within = np.diff(owner) == 0
        return at.due[owner[1:][within]], np.diff(times)[within]
    values = metrics.PER_REQUEST[metric](at)
    known = ~np.isnan(values)
    return at.due[known], values[known]


def _seconds(tag: str, due: Floats, values: Floats) -> Iterator[hlog.Interval]:
    order = np.argsort(due, kind="stable")
    second = (due[order] // SECOND).astype(np.int64)
    # What was sent before it was due makes the run INVALID, and is said there; a histogram has no place for it.
    whole = np.maximum(np.floor(values[order] + 0.5), 0).astype(np.int64)
    edges = np.flatnonzero(np.diff(second)) + 1
    for part, numbers in zip(np.split(second, edges), np.split(whole, edges), strict=True):
        held = Histogram()
        held.record(numbers)
        yield hlog.Interval(tag, int(part[0]) * SECOND, SECOND, held)
