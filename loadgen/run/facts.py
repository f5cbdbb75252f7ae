"""What must be known of a run beside its records, put together from the plan and from what happened."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from loadgen.measure.facts import ClassFacts, Curve, FaultFacts, JobFacts, LoadStep, RunFacts
from loadgen.plan.build import PROBE
from loadgen.plan.model import NOT_DUE
from loadgen.plan.prefix import ideal_found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.plan.model import PlannedRequest
    from loadgen.run.prepare import Prepared
    from loadgen.spec import Arrivals

_NEAR = 0.01
"""Share by which two counts of the same tokens may differ."""


def class_facts(prepared: Prepared) -> dict[str, ClassFacts]:
    """Of every class in the plan, by name."""
    plan, scenario = prepared.plan, prepared.scenario
    exact = scenario.lengths == "exact"
    by_class: dict[str, list[PlannedRequest]] = {name: [] for name in prepared.classes}
    for request in plan.requests:
        by_class[request.cls].append(request)
    found: dict[str, ClassFacts] = {}
    for spec in scenario.online:
        mine = by_class.pop(spec.name)
        found[spec.name] = ClassFacts(
            slo=spec.slo,
            closed=spec.arrivals.kind == "closed",
            exact=exact,
            planned=len(mine) if all(each.due != NOT_DUE for each in mine) else None,
            supply=len(mine) if spec.arrivals.kind == "closed" else None,
            live=any(each.due == NOT_DUE and each.turn > 0 for each in mine),
            ideal_cached_tokens=_ideal(mine, plan.window),
            steps=steps(spec.arrivals, plan.window[1]),
        )
    for job in scenario.offline:
        by_class.pop(job.name)
        found[job.name] = ClassFacts(online=False, exact=exact)
    for name, mine in by_class.items():  # the probe and floods
        found[name] = ClassFacts(online=name == PROBE, exact=exact, planned=len(mine))
    return {name: found[name] for name in prepared.classes}


def run_facts(
    prepared: Prepared,
    *,
    horizon: int,
    identity: dict[str, str],
    faults: Sequence[FaultFacts] = (),
    jobs: Sequence[JobFacts] = (),
    offline_curve: Curve | None = None,
    interrupted: bool = False,
) -> RunFacts:
    """All but the gate's verdict, which is added when the records are known."""
    plan, scenario = prepared.plan, prepared.scenario
    return RunFacts(
        window=plan.window,
        horizon=horizon,
        classes=class_facts(prepared),
        warmup_auto=scenario.warmup is None,
        warmup=scenario.warmup_micros,
        faults=tuple(faults),
        jobs=tuple(jobs),
        offline_curve=offline_curve,
        curve_agrees=curve_agrees(offline_curve, jobs),
        allow_lag=scenario.allow_lag,
        interrupted=interrupted,
        identity=identity,
        realised=dict(plan.realised),
        transforms=dict(plan.transforms),
    )


def with_messages(facts: RunFacts, messages: Mapping[tuple[str, str], str]) -> RunFacts:
    """The facts, and what the server said with its errors, by (class, reason)."""
    classes = {
        name: msgspec.structs.replace(
            each, messages={reason: text for (cls, reason), text in messages.items() if cls == name}
        )
        for name, each in facts.classes.items()
    }
    return msgspec.structs.replace(facts, classes=classes)


def curve_agrees(curve: Curve | None, jobs: Sequence[JobFacts]) -> bool:
    """Whether the server's counter grew by what the jobs got; a job whose tokens nobody counted says nothing."""
    counts = [each.out_tokens for each in jobs]
    told = sum(each for each in counts if each is not None)
    if curve is None or not jobs or not told or None in counts:
        return True
    grown = curve.counts[-1] - curve.counts[0]
    return abs(grown - told) <= _NEAR * told


def steps(arrivals: Arrivals, until: int) -> tuple[LoadStep, ...]:
    """The planned changes of load up to `until`; of `step` only, whose times are known."""
    if arrivals.kind != "step" or len(arrivals.levels) < 2:
        return ()
    lengths = [length for _, length in arrivals.levels]
    rates = [rate for rate, _ in arrivals.levels]
    rounds = until // sum(lengths) + 1
    edges = list(accumulate(lengths * rounds))
    found = []
    for place, at in enumerate(edges[:-1]):
        before, after = rates[place % len(rates)], rates[(place + 1) % len(rates)]
        if at < until and before != after:
            found.append(LoadStep(at=at, until=min(edges[place + 1], until), before=before, after=after))
    return tuple(found)


def _ideal(requests: Sequence[PlannedRequest], window: tuple[int, int]) -> int | None:
    """Prompt tokens that an endless cache, cold at `t0`, would have held for the requests of the window."""
    if any(each.due == NOT_DUE or not each.prompt.segments for each in requests):
        return None
    found = ideal_found([each.prompt.segments for each in requests])
    return sum(tokens for each, tokens in zip(requests, found, strict=True) if window[0] <= each.due <= window[1])
