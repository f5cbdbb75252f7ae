"""Figures of offline jobs. Prompts count once; what was computed again is `wasted`, never throughput."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure import metrics

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns
    from loadgen.measure.facts import JobFacts


@dataclass(frozen=True, slots=True)
class JobFigures:
    """Times in microseconds, rates a second. `None`: not known, such as times of items in the Batch API."""

    items: int
    completed: int
    failed: int
    expired: int
    lost: int
    repeated: int
    unknown: int
    wrong: int
    retries: int
    completion: float | None
    deadline_met: bool | None
    items_per_s: float | None
    tokens_per_s: float | None
    tail1: float | None
    wasted: int | None
    unfinished: int
    right: int | None
    reason: str | None
    checks: dict[str, int]
    violations: list[str]


def figures(job: JobFacts, at: Columns) -> JobFigures:
    """`at`: the job's own records, none for `submit=batch`."""
    took = None if job.finished is None else job.finished - job.submitted
    seconds = took / 1e6 if took else None
    completed = int(np.count_nonzero(at.is_("ok"))) if len(at) else job.completed
    tokens = _tokens(job, at)
    open_items = int(np.count_nonzero(at.is_("cut") | at.is_("censored")))
    unsent = max(job.items - len(at), 0)
    ended = job.finished is not None
    return JobFigures(
        items=job.items,
        completed=completed,
        failed=job.failed if not len(at) else len(at) - completed - open_items,
        expired=job.expired,
        lost=(unsent if ended else 0) if len(at) else job.lost,
        repeated=job.repeated,
        unknown=job.unknown,
        wrong=job.wrong,
        retries=int(np.maximum(at.attempt, 0).sum()) if len(at) else job.retries,
        completion=took,
        deadline_met=_deadline_met(job, took, completed),
        items_per_s=completed / seconds if seconds else None,
        tokens_per_s=tokens / seconds if seconds and tokens is not None else None,
        tail1=_tail(job, at, completed),
        wasted=job.wasted_tokens,
        unfinished=open_items + (0 if ended else unsent) if len(at) else job.unfinished,
        right=job.right,
        reason=job.reason,
        checks=job.checks,
        violations=list(job.violations),
    )


def tokens_within(job: JobFacts, window: tuple[int, int]) -> float | None:
    """Output tokens of a batch job within the window, from the curve of its items at so many tokens each: their own
    times are not in the API. `None` where the job does not say enough.
    """
    if job.out_tokens is None or not job.completed or not job.curve:
        return None
    points = [(job.submitted, 0), *job.curve]
    if job.finished is not None:
        points.append((job.finished, job.completed))
    times, counts = (np.array(each, dtype=np.float64) for each in zip(*sorted(points), strict=True))
    begin, end = np.interp(np.array(window, dtype=np.float64), times, counts)
    return float(end - begin) * job.out_tokens / job.completed


def _deadline_met(job: JobFacts, took: float | None, completed: int) -> bool | None:
    """Every item done in time; a job that ended early with items missing has not met it."""
    if job.deadline is None:
        return None
    return took is not None and took <= job.deadline and completed >= job.items


def _tokens(job: JobFacts, at: Columns) -> float | None:
    if len(at):
        done = at.is_("ok")
        prompt = np.where(np.isnan(at.in_got), at.in_want, at.in_got)
        return float(np.nansum(prompt[done]) + metrics.out_tokens(at)[done].sum())
    if job.in_tokens is None or job.out_tokens is None:
        return None
    return float(job.in_tokens + job.out_tokens)


def _tail(job: JobFacts, at: Columns, completed: int) -> float | None:
    """Time of the last 1 % of items: from the moment that 99 % were done to the end."""
    if completed < 1 or job.finished is None:
        return None
    mark = int(np.ceil(0.99 * completed))
    if len(at):
        ends = np.sort(at.end[at.is_("ok") & ~np.isnan(at.end)])
        return float(ends[-1] - ends[max(mark, 1) - 1]) if len(ends) == completed else None
    # The Batch API gives a curve of how many were done, as often as it was asked.
    reached = [time for time, count in job.curve if count >= mark]
    return float(job.finished - reached[0]) if reached else None
