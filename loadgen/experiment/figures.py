"""The figures of one run, by name, from its files. Pure but for reading them.

Names are `CLASS.STATISTIC.METRIC` or `CLASS.FIGURE`; times are microseconds, rates a second. `offline` stands for all
classes of jobs together, `total` for everything. None: not known, or too few samples.

Tokens a second count a prompt once, when its first token comes, without what a cache held, and each output token when
it comes. What the server computes again is in neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from loadgen.errors import BadData
from loadgen.measure import metrics
from loadgen.run.files import RunFolder
from loadgen.stats.quantile import rank_of

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.measure.columns import Columns
    from loadgen.result import ClassResult, Result

Figures = dict[str, float | None]
SPREAD: Final = ("ttft", "tbt", "tpot", "e2e", "max_gap")
FEWEST_PROBED: Final = 20
"""Requests from which the 99th percentile of a *search* is taken; a claim wants 299."""


def figures(folder: Path) -> Figures:
    """Of a complete run.

    Raises:
        BadData: a file that is missing or broken.
    """
    run = RunFolder(folder)
    result = run.load_result()
    found: Figures = {}
    for name, cls in result.classes.items():
        if cls.online:
            found |= _online(name, cls)
    found |= _jobs(result)
    try:
        at = run.load_records()
    except BadData:
        # A virtual run has no records: its result says tokens itself, or they stay unknown.
        return found | _told(result)
    return found | _tokens(result, at)


def _online(name: str, cls: ClassResult) -> Figures:
    found: Figures = {
        f"{name}.requests": float(cls.offered),
        f"{name}.offered_per_s": cls.offered_per_s,
        f"{name}.completed_per_s": None if cls.completed_per_s is None else cls.completed_per_s.value,
        f"{name}.overloaded": float(cls.overloaded),
        f"{name}.errors": float(sum(count for outcome, count in cls.outcomes.items() if outcome in _ERRORS)),
        f"{name}.cached_of_ideal": cls.tokens.cached_of_ideal,
        f"{name}.cached_share": _share(cls.tokens.cached, cls.tokens.in_got or cls.tokens.in_want),
    }
    if cls.attainment is not None:
        found[f"{name}.attainment"] = cls.attainment.value
        found[f"{name}.goodput"] = cls.attainment.goodput
        found[f"{name}.late"] = cls.attainment.late_tokens
    for metric in SPREAD:
        spread = cls.metrics.get(metric)
        if spread is None:
            continue
        found[f"{name}.mean.{metric}"] = None if spread.mean is None else spread.mean.value
        for quantile in spread.quantiles:
            found[f"{name}.p{quantile.q * 100:g}.{metric}"] = quantile.value
    gaps = cls.metrics.get("max_gap")
    found[f"{name}.worst_gap"] = None if gaps is None else gaps.greatest
    return found


_ERRORS: Final = ("error", "refused", "timeout", "cut")


def _share(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


def _jobs(result: Result) -> Figures:
    jobs = result.jobs.values()
    if not jobs:
        return {}
    judged = [job.deadline_met for job in jobs if job.deadline_met is not None]
    rates = [job.items_per_s for job in jobs if job.items_per_s is not None]
    return {
        "offline.items_per_s": sum(rates) if rates else None,
        "offline.deadlines_met": sum(judged) / len(judged) if judged else None,
        "offline.lost": float(sum(job.lost for job in jobs)),
        "offline.repeated": float(sum(job.repeated for job in jobs)),
        "offline.wrong": float(sum(job.wrong for job in jobs)),
        "offline.wasted": float(sum(job.wasted or 0 for job in jobs)),
    }


def _told(result: Result) -> Figures:
    offline = result.offline_tokens_per_s
    return {"offline.tokens_per_s": None if offline is None else offline.value}


def _tokens(result: Result, at: Columns) -> Figures:
    span = result.window.start, result.window.end
    seconds = max(span[1] - span[0], 1) / 1e6
    found: Figures = {}
    offline = total = 0.0
    for name, cls in result.classes.items():
        mine = at.where(at.cls == name)
        count = _within(mine, span)
        total += count
        offline += 0.0 if cls.online else count
        if cls.online:
            found[f"{name}.tokens_per_s"] = count / seconds
    jobs = [name for name, cls in result.classes.items() if not cls.online]
    items = at.where(np.isin(at.cls, jobs))
    # Items of the Batches API have no records: there only the server's own counter knows.
    if set(jobs) - set(items.cls.tolist()):
        counted = _told(result)["offline.tokens_per_s"]
        return found | {"offline.tokens_per_s": counted, "total.tokens_per_s": None}
    if jobs:
        found["offline.tokens_per_s"] = offline / seconds
        ended = items.is_("ok") & (items.end >= span[0]) & (items.end <= span[1])
        found["offline.items_per_s"] = float(np.count_nonzero(ended)) / seconds
        waits = metrics.ttft(items)
        found["offline.longest_wait"] = float(np.nanmax(waits)) if len(waits) and not np.isnan(waits).all() else None
    found["total.tokens_per_s"] = total / seconds
    return found


def _within(at: Columns, span: tuple[int, int]) -> float:
    first = metrics.first_token(at)
    prompt = np.where(np.isnan(at.in_got), at.in_want, at.in_got) - np.nan_to_num(at.cached)
    inside = (first >= span[0]) & (first <= span[1])
    times = metrics.delivery_times(at)
    return float(prompt[inside].sum()) + float(np.count_nonzero((times >= span[0]) & (times <= span[1])))


def probed_p99(folder: Path, cls: str) -> float | None:
    """p99 of TTFT for a search, from few requests; those without an answer are endlessly slow."""
    run = RunFolder(folder)
    window = run.load_result().window
    at = run.load_records()
    mine = at.where((at.cls == cls) & (at.due >= window.start) & (at.due <= window.end))
    if len(mine) < FEWEST_PROBED:
        return None
    values = np.sort(np.where(np.isnan(metrics.ttft(mine)), np.inf, metrics.ttft(mine)))
    return float(values[rank_of(0.99, len(values)) - 1])
