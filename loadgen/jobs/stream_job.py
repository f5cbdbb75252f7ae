"""Jobs of `submit=stream`: their items are requests of a load process, and its records tell all. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from loadgen.jobs.checks import CHECKS
from loadgen.jobs.report import ItemResult, JobReport
from loadgen.measure.facts import JobFacts
from loadgen.plan.model import NOT_DUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadgen.jobs.report import ItemStatus
    from loadgen.plan.model import Plan, PlannedJob
    from loadgen.record import Record
    from loadgen.spec import Scenario

_SECOND = 1_000_000
_OPEN = ("cut", "censored")
_NAMED = 3


def stream_reports(scenario: Scenario, plan: Plan, records: Iterable[Record], horizon: int) -> list[JobReport]:
    """One a job, in the plan's order. A job that never began has none. `horizon`: the run's end, microseconds."""
    classes = {spec.name for spec in scenario.offline if spec.submit == "stream"}
    by_job: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.job is not None and record.cls in classes:
            by_job[record.job].append(record)
    exact = scenario.lengths == "exact"
    jobs = [job for job in plan.jobs if job.cls in classes]
    return [_report(job, by_job[job.name], exact) for job in jobs if by_job[job.name] or NOT_DUE < job.at <= horizon]


def _report(job: PlannedJob, records: Sequence[Record], exact: bool) -> JobReport:
    # By number alone: two answers to one item need not compare.
    results = sorted((_result(record) for record in records), key=lambda each: each.item)
    ended = Counter(result.status for result in results)
    held = Counter(record.item for record in records)
    repeated = sum(count - 1 for count in held.values())
    wrong = [record for record in records if record.outcome == "ok" and not _length_is_right(record, exact)]
    ends = [record.end_micros for record in records if record.outcome not in _OPEN and record.end_micros is not None]
    whole = len(held) == len(job.items) and len(ends) == len(records)
    done = [record for record in records if record.outcome == "ok"]
    violations = _violations(job.name, repeated, wrong)
    facts = JobFacts(
        name=job.name,
        cls=job.cls,
        submitted=_submitted(job, records),
        finished=max(ends) if whole and ends else None,
        deadline=job.deadline,
        items=len(job.items),
        completed=ended["ok"],
        failed=ended["failed"],
        repeated=repeated,
        wrong=len(wrong),
        retries=sum(record.attempt for record in records),
        in_tokens=sum(record.in_want if record.in_got is None else record.in_got for record in done),
        out_tokens=sum(record.out_got or 0 for record in done),
        curve=_curve(sorted(record.end_micros for record in done if record.end_micros is not None)),
        unfinished=len(job.items) - ended["ok"] - ended["failed"],
        reason=None if whole else "the run ended before it did",
        checks=dict.fromkeys(CHECKS, 0) | {"repeated": repeated, "wrong": len(wrong)},
        violations=tuple(violations),
    )
    return JobReport(facts, results, violations)


def _submitted(job: PlannedJob, records: Sequence[Record]) -> int:
    """When it was due, or for a job of a pool when its first item was."""
    return job.at if job.at != NOT_DUE else min(record.due_micros for record in records)


def _result(record: Record) -> ItemResult:
    status: ItemStatus = "ok" if record.outcome == "ok" else "cancelled" if record.outcome in _OPEN else "failed"
    error = None if status == "ok" else record.reason or record.outcome
    return ItemResult(record.item or 0, status, record.in_got, record.out_got, None, error)


def _length_is_right(record: Record, exact: bool) -> bool:
    """Of an answer that is whole; a count that nobody gave cannot be right."""
    if record.out_got is None:
        return False
    return record.out_got == record.out_want if exact else record.out_got <= record.out_want


def _violations(job: str, repeated: int, wrong: Sequence[Record]) -> list[str]:
    found = []
    if repeated:
        found.append(f"{job}: {repeated} items were answered more than once")
    if wrong:
        named = ", ".join(f"{each.item}: {each.out_got} for {each.out_want}" for each in wrong[:_NAMED])
        found.append(f"{job}: {len(wrong)} items have another number of output tokens than asked for ({named})")
    return found


def _curve(ends: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(time, items done) at each full second up to the last item."""
    found: list[tuple[int, int]] = []
    for count, end in enumerate(ends, 1):
        mark = -(-end // _SECOND) * _SECOND
        if found and found[-1][0] == mark:
            found[-1] = (mark, count)
        else:
            found.append((mark, count))
    return tuple(found)
