"""Figures for a spreadsheet: a row a run and class, in microseconds, shares and counts; what is not known is empty."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from loadgen.measure.classes import QUANTILES
from loadgen.measure.columns import OUTCOMES
from loadgen.report import intervals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.report.load import LoadedRun
    from loadgen.result import ClassResult, Interval, Result

METRICS = ("ttft", "wire_ttft", "ttfo", "tpot", "tbt", "gap", "max_gap", "e2e", "wire_e2e", "norm_e2e", "lag")
_BEFORE = ("run", "mode", "status", "class", "online", "closed", "overloaded", "offered", "offered_per_s")
_RATES = ("completed_per_s", "tokens_per_s", "attainment")
_AFTER = ("slo", "good", "counted", "goodput", "late_tokens", "concurrency", "new_connections")
_IDENTITY = ("seed", "plan_hash", "lengths", "cache", "dialect", "model", "target")


def classes(runs: Sequence[LoadedRun]) -> str:
    """The table, with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_head())
    for run in runs:
        for name, each in run.result.classes.items():
            writer.writerow([safe(cell) for cell in _row(run.name, run.result, name, each)])
    return out.getvalue()


def timeline(runs: Sequence[LoadedRun], bucket: int) -> Iterator[str]:
    """`intervals.csv` of all runs under one another, the run before each row. `bucket`: microseconds."""
    for number, run in enumerate(runs):
        rows = intervals.lines(run.at, run.facts, bucket)
        head = next(rows)
        if not number:
            yield f"run,{head}"
        name = io.StringIO()
        csv.writer(name, lineterminator="").writerow([safe(run.name)])
        yield from (f"{name.getvalue()},{row}" for row in rows)


def _head() -> list[str]:
    spreads = [
        f"{metric}_{part}"
        for metric in METRICS
        for part in ("count", "mean", *(f"p{q * 100:g}" for q in QUANTILES), "max")
    ]
    rates = [f"{name}{part}" for name in _RATES for part in ("", "_low", "_high")]
    return [*_BEFORE, *OUTCOMES, *rates, *_AFTER, *spreads, *_IDENTITY]


def _row(name: str, result: Result, cls: str, each: ClassResult) -> Iterator[str | float | None]:
    yield from (name, result.mode, result.status, cls, int(each.online), int(each.closed), int(each.overloaded))
    yield from (each.offered, each.offered_per_s)
    yield from (each.outcomes[outcome] for outcome in OUTCOMES)
    told = each.attainment
    yield from _spread(each.completed_per_s)
    yield from _spread(each.tokens_per_s)
    yield from _spread(told.interval) if told and told.interval else (told.value if told else None, None, None)
    yield from (told.slo, told.good, told.counted, told.goodput, told.late_tokens) if told else (None,) * 5
    yield from (each.concurrency, each.new_connections)
    for metric in METRICS:
        found = each.metrics[metric]
        yield from (found.count, found.mean.value if found.mean else None)
        yield from (one.value for one in found.quantiles)
        yield found.greatest
    yield from (result.identity.get(key, "unknown") for key in _IDENTITY)


def _spread(found: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (found.value, found.low, found.high) if found else (None, None, None)


def safe(cell: str | float | None) -> str | float | None:
    """A spreadsheet takes a text that begins so for a formula, and a server may have written it."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell
