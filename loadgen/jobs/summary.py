"""A job's ledger as the facts of the run. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from loadgen.jobs.report import JobReport
from loadgen.measure.facts import JobFacts

if TYPE_CHECKING:
    from loadgen.jobs.checks import Ledger
    from loadgen.jobs.inputs import JobInput


@dataclass(frozen=True, slots=True)
class Ending:
    """Times in microseconds; `retries`: calls that were made again."""

    submitted: int
    finished: int | None
    judge: Literal["server", "client"]
    retries: int
    reason: str | None


def facts_of(
    job: JobInput, ledger: Ledger, ending: Ending, curve: tuple[tuple[int, int], ...], usage_agrees: bool
) -> JobReport:
    """The report. Tokens are those of the items' own usage, each item once."""
    results = list(ledger.results.values())
    ended = Counter(result.status for result in results)
    lost = ledger.counts["lost"]
    violations = ledger.violations(job.name)
    facts = JobFacts(
        name=job.name,
        cls=job.cls,
        submitted=ending.submitted,
        finished=ending.finished,
        deadline=job.deadline,
        deadline_judge=ending.judge,
        items=job.num_items,
        completed=ended["ok"],
        failed=ended["failed"],
        expired=ended["expired"],
        lost=lost,
        repeated=ledger.counts["repeated"],
        unknown=ledger.counts["unknown"],
        wrong=ledger.counts["wrong"],
        retries=ending.retries,
        in_tokens=sum(result.in_got or 0 for result in results) if results else None,
        out_tokens=sum(result.out_got or 0 for result in results) if results else None,
        curve=curve,
        usage_disagrees=not usage_agrees,
        unfinished=job.num_items - ended["ok"] - ended["failed"] - ended["expired"] - lost,
        reason=ending.reason,
        checks=dict(ledger.counts),
        violations=tuple(violations),
    )
    return JobReport(facts, results, violations)
