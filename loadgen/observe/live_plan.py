"""What the live view knows of a run before it begins."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadgen.scenario_checks import class_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.plan.model import Plan, PlannedJob
    from loadgen.spec import Scenario, Slo, SloTerm

JUDGED = ("ttft", "tpot", "e2e")
"""Parts of an SLO that are known of an answer before its records are parsed."""


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """`terms`: those of its SLO that can be judged live, microseconds; empty: no attainment is shown."""

    online: bool = True
    planned: int | None = None
    terms: tuple[SloTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class JobPlan:
    """`deadline`: microseconds from `t0`, None where it has none, or begins when another ends."""

    cls: str
    items: int
    deadline: int | None = None


@dataclass(frozen=True, slots=True)
class LivePlan:
    """Times are microseconds from `t0`. `horizon`: the latest end of the drain. `faults`: name and time."""

    window: tuple[int, int]
    horizon: int
    classes: Mapping[str, ClassPlan] = field(default_factory=dict)
    jobs: Mapping[str, JobPlan] = field(default_factory=dict)
    faults: Sequence[tuple[str, int]] = ()


def live_plan(scenario: Scenario, plan: Plan) -> LivePlan:
    """What a scenario and its plan say beforehand."""
    counts = Counter(request.cls for request in plan.requests)
    offline = {spec.name for spec in scenario.offline}
    slos = {spec.name: spec.slo for spec in scenario.online}
    names = dict.fromkeys((*class_names(scenario), *counts))
    return LivePlan(
        window=plan.window,
        horizon=plan.window[1] + scenario.drain,
        classes={name: ClassPlan(name not in offline, counts.get(name), _terms(slos.get(name))) for name in names},
        jobs={job.name: JobPlan(job.cls, len(job.items), _deadline(job)) for job in plan.jobs},
        faults=[(fault.name, fault.at) for fault in scenario.faults],
    )


def _deadline(job: PlannedJob) -> int | None:
    return None if job.deadline is None or job.at < 0 else job.at + job.deadline


def _terms(slo: Slo | None) -> tuple[SloTerm, ...]:
    return tuple(term for term in slo.per_request if term.metric in JUDGED) if slo is not None else ()
