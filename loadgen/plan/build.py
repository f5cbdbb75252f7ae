"""A scenario, a seed and the data folder make the plan: every request with its due time, before anything is sent.

All times count from `t0`, where the warm-up begins; so do the times of a trace. The window begins after the warm-up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadInput
from loadgen.plan import arrivals, online, transforms
from loadgen.plan.model import NOT_DUE, Plan, PlannedJob, PlannedRequest
from loadgen.plan.prefix import ideal_share
from loadgen.plan.sources import open_source
from loadgen.plan.streams import stream
from loadgen.spec import Arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from loadgen.plan.conversations import Turn
    from loadgen.plan.rows import SourceRow
    from loadgen.spec import OfflineSpec, OnlineSpec, Scenario

PROBE = "probe"
PROBE_TOKENS = 8
POOL_JOBS = 32
"""Jobs that a closed pool may use."""
SYNTH_ITEMS = 1_000


def build(scenario: Scenario, data: Path, server_block: int = 16) -> Plan:
    """The plan. Ids are given class by class in the scenario's order, so that a class added last changes none.

    Raises:
        BadInput: classes that cannot be planned.
        BadData: a row of a source that cannot be used.
    """
    warmup = scenario.warmup_micros
    bounds = online.Bounds(warmup + scenario.duration, scenario.max_requests, server_block)
    requests: list[PlannedRequest] = []
    jobs: list[PlannedJob] = []
    done: dict[str, str] = {}
    sessions = 0
    for spec in scenario.online:
        source = open_source(spec.source, data, spec.transforms, scenario.seed, spec.name, bounds.until)
        turns = online.turns(spec, source, scenario.seed, bounds)
        made = list(_planned(spec, turns, scenario.seed, len(requests), sessions))
        sessions += 1 + max((number for number, _ in turns if number is not None), default=-1)
        requests += made
        done[spec.name] = transforms.words(spec.transforms)
    for job_spec in scenario.offline:
        added, items = _jobs(job_spec, scenario, data, bounds, len(requests))
        jobs += added
        requests += items
        done[job_spec.name] = transforms.words(job_spec.transforms)
    if scenario.probe:
        requests += _probes(scenario.probe, scenario.seed, bounds, len(requests))
    kept = _first(requests, scenario.max_requests)
    last = max((request.due for request in kept), default=NOT_DUE)
    window = (warmup, last if last >= warmup else bounds.until)
    plan = Plan(scenario.seed, kept, jobs, window, done)
    return replace(plan, realised=realised(plan, bounds.until))


def _planned(
    spec: OnlineSpec, turns: Sequence[tuple[int | None, Turn]], seed: int, first: int, sessions: int
) -> Iterator[PlannedRequest]:
    rng = stream(seed, spec.name, "clients")
    leaves = rng.random(len(turns))
    crawls = rng.random(len(turns))
    waits = spec.cancel[1].draw(rng, len(turns)) if spec.cancel else None
    for place, (session, turn) in enumerate(turns):
        cancelled = spec.cancel is not None and waits is not None and leaves[place] < spec.cancel[0]
        slow = spec.slow_reader is not None and crawls[place] < spec.slow_reader[0]
        yield PlannedRequest(
            id=first + place,
            cls=spec.name,
            due=turn.due,
            prompt=turn.prompt,
            out=turn.out,
            tenant=spec.tenant,
            session=None if session is None else sessions + session,
            turn=turn.turn,
            think=turn.think,
            cancel_after=round(float(waits[place])) if cancelled and waits is not None else None,
            slow_bytes_per_second=spec.slow_reader[1] if slow and spec.slow_reader else None,
        )


def _jobs(
    spec: OfflineSpec, scenario: Scenario, data: Path, bounds: online.Bounds, first: int
) -> tuple[list[PlannedJob], list[PlannedRequest]]:
    source = open_source(spec.source, data, spec.transforms, scenario.seed, spec.name, bounds.until, one_turn=True)
    rows = transforms.apply(
        list(source.rows()), spec.transforms, bounds.block, stream(scenario.seed, spec.name, "thin")
    )
    synth = source.name == "synth"
    size = spec.items or (SYNTH_ITEMS if synth else len(rows))
    if not rows or (size > len(rows) and not synth):
        raise BadInput("--offline", "items", str(size), f"{source.name} has {len(rows)} rows")
    times = [spec.at]
    if spec.jobs is not None:
        drawn = arrivals.due_times(spec.jobs, bounds.until, scenario.seed, spec.name)
        times = [spec.at + int(due) for due in drawn if spec.at + due < bounds.until]
    elif spec.pool_closed:
        times = [spec.at, spec.at] + [NOT_DUE] * (POOL_JOBS - 2)
    if len(times) * size + first > scenario.max_requests:
        raise BadInput("--offline", "items", str(size), f"with {len(times)} jobs more than --max-requests")
    prompting = online.Prompting(spec, scenario.seed, source.name)
    jobs: list[PlannedJob] = []
    requests: list[PlannedRequest] = []
    for number, at in enumerate(times):
        name = spec.name if len(times) == 1 else f"{spec.name}-{number + 1}"
        items = [rows[(number * size + item) % len(rows)] for item in range(size)]
        made = [_item(spec, prompting, row, first + len(requests) + k, name, k) for k, row in enumerate(items)]
        jobs.append(PlannedJob(name, spec.name, at, spec.deadline, tuple(item.id for item in made)))
        requests += made
    return jobs, requests


def _item(
    spec: OfflineSpec, prompting: online.Prompting, row: SourceRow, number: int, job: str, item: int
) -> PlannedRequest:
    prompt, out = prompting.prompt(row), prompting.out(row)
    return PlannedRequest(
        number, spec.name, NOT_DUE, prompt, out, tenant=spec.tenant, job=job, item=item, answer=row.answer
    )


def _probes(rate: float, seed: int, bounds: online.Bounds, first: int) -> list[PlannedRequest]:
    times = arrivals.due_times(Arrivals("poisson", rate=rate), bounds.until, seed, PROBE, bounds.requests)
    return [
        PlannedRequest(first + place, PROBE, int(due), online.own_words(seed, PROBE, place, PROBE_TOKENS), 1)
        for place, due in enumerate(times)
    ]


def _first(requests: list[PlannedRequest], limit: int) -> list[PlannedRequest]:
    """In the order of (due, id); of the online ones the first `limit`, later turns of a kept session included."""
    ordered = sorted(requests, key=lambda request: (request.due, request.id))
    spare = len(ordered) - limit
    if spare <= 0:
        return ordered
    return ordered[:limit]


def realised(plan: Plan, until: int) -> dict[str, float]:
    """What the plan came out as, from the plan alone: rate a second in the window, CV of gaps, mean lengths, ideal
    hits.
    """
    found: dict[str, float] = {}
    begin = plan.window[0]
    for cls in dict.fromkeys(request.cls for request in plan.requests):
        mine = [request for request in plan.requests if request.cls == cls]
        due = np.array([request.due for request in mine if request.due >= begin])
        if len(due):
            found[f"{cls}.rate"] = len(due) / ((until - begin) / 1e6)
        if len(due) > 2 and np.mean(np.diff(due)) > 0:
            gaps = np.diff(due)
            found[f"{cls}.cv"] = float(np.std(gaps) / np.mean(gaps))
        known = [request.prompt.tokens for request in mine if request.prompt.tokens is not None]
        if known:
            found[f"{cls}.in_tokens"] = float(np.mean(known))
        found[f"{cls}.out_tokens"] = float(np.mean([request.out for request in mine]))
        found[f"{cls}.ideal_hits"] = ideal_share([request.prompt.segments for request in mine])
    return found
