"""Several runs in one table, and what repeats of one run say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure.classes import interval
from loadgen.report import show
from loadgen.report.tables import Table
from loadgen.stats.paired import FEWEST_RUNS, over_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.report.load import LoadedRun
    from loadgen.result import ClassResult

_SAME = ("target", "model", "dialect", "lengths", "cache", "server_version")
_RATES_ALIKE = 1.1


def table(runs: Sequence[LoadedRun]) -> Table:
    """A row a run and online class. A run that was asked for too much has no latency quantiles: they depend on its
    length.
    """
    rows = []
    for run in runs:
        for name, each in run.result.classes.items():
            if each.online:
                rows.append((run.name, name, *_cells(run, each)))
    head = (
        "run",
        "class",
        "status",
        "rate",
        "ok",
        "attainment",
        "TTFT p50",
        "TTFT p99",
        "TPOT p99",
        "offline tokens/s",
    )
    return Table("Runs", head, tuple(rows), left=3)


def repeats(runs: Sequence[LoadedRun]) -> Table:
    """Figures over runs that differ in nothing but seed and time; nothing of others."""
    head = ("class", "figure", "runs", "lowest", "median", "highest", "mean [95 % over runs]")
    if len(runs) < 2 or not _alike(runs):
        return Table("Over repeats", head, ())
    rows = []
    for name in runs[0].result.classes:
        for figure, form, values in _figures([run.result.classes[name] for run in runs]):
            found = over_runs(np.array(values))
            write = show.share if form == "share" else show.time if form == "time" else show.number
            spread = show.UNKNOWN if found.interval is None else show.interval(interval(found.interval), form)
            numbers = (write(found.lowest), write(found.median), write(found.highest))
            rows.append((name, figure, str(len(values)), *numbers, spread))
    note = "" if len(runs) >= FEWEST_RUNS else f"fewer than {FEWEST_RUNS} runs carry no interval, and no claim"
    return Table("Over repeats", head, tuple(rows), left=2, note=note)


def _cells(run: LoadedRun, each: ClassResult) -> tuple[str, ...]:
    status = "overloaded" if each.overloaded and run.result.status != "invalid" else run.result.status
    offline = run.result.offline_tokens_per_s
    return (
        status.upper() if status != "ok" else status,
        "closed" if each.closed else f"{show.number(each.offered_per_s)}/s",
        show.share(each.outcomes["ok"] / each.offered) if each.offered else show.UNKNOWN,
        show.share(each.attainment.value) if each.attainment is not None else "no slo",
        *(
            show.UNKNOWN if each.overloaded else show.quantile_of(each.metrics.get(metric), q)
            for metric, q in (("ttft", 0.5), ("ttft", 0.99), ("tpot", 0.99))
        ),
        show.number(offline.value) if offline is not None else show.UNKNOWN,
    )


def _alike(runs: Sequence[LoadedRun]) -> bool:
    """Measured alike, all of the same classes at the same rates, and each to be believed."""
    first = runs[0].result
    for run in runs:
        told = run.result
        if told.status in ("invalid", "overloaded") or list(told.classes) != list(first.classes):
            return False
        if any(told.identity.get(key) != first.identity.get(key) for key in _SAME):
            return False
    for name in first.classes:
        rates = [run.result.classes[name].offered_per_s or 0.0 for run in runs]
        if max(rates) > _RATES_ALIKE * min(rates) + 1e-9:
            return False
    return True


def _figures(classes: Sequence[ClassResult]) -> list[tuple[str, str, list[float]]]:
    """(name, form, one value a run) of figures that every run has."""
    found: list[tuple[str, str, list[float | None]]] = [
        ("attainment", "share", [each.attainment.value if each.attainment else None for each in classes]),
        ("tokens/s", "number", [each.tokens_per_s.value if each.tokens_per_s else None for each in classes]),
    ]
    for metric, q in (("ttft", 0.5), ("ttft", 0.99), ("tpot", 0.5), ("tpot", 0.99)):
        values = [next((one.value for one in each.metrics[metric].quantiles if one.q == q), None) for each in classes]
        found.append((f"p{q * 100:g} {metric}", "time", values if classes[0].online else [None]))
    whole = []
    for name, form, values in found:
        known = [each for each in values if each is not None]
        if len(known) == len(classes):
            whole.append((name, form, known))
    return whole
