"""Reads the runs of an experiment back from its folder, and nothing else: tables can be made anew at any time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadData
from loadgen.experiment import processes
from loadgen.experiment.analyse import Run
from loadgen.experiment.armrun import beside_of
from loadgen.experiment.fairness import Seen
from loadgen.experiment.figures import figures
from loadgen.experiment.overhead import Machine, machine_figures
from loadgen.experiment.plan import setting_name
from loadgen.experiment.routing import wrong_texts
from loadgen.experiment.state import DONE, counted
from loadgen.experiment.studies import TuningRuns
from loadgen.experiment.tune import tried
from loadgen.measure import metrics
from loadgen.run.files import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loadgen.experiment.plan import Plan
    from loadgen.experiment.processes import Reading, Usage
    from loadgen.experiment.state import Entry, State
    from loadgen.result import Result

Group = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Gathered:
    """`samples`: ttft and tbt of each group over all its blocks, microseconds; `requests`: how many online requests."""

    runs: list[Run] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    tuning: TuningRuns = field(default_factory=TuningRuns)
    samples: dict[Group, dict[str, np.ndarray]] = field(default_factory=dict)
    requests: dict[Group, int] = field(default_factory=dict)


def gather(plan: Plan, state: State, folder: Path) -> Gathered:
    """All runs that have a result; those of arms that are no longer in the plan are left out.

    Raises:
        BadData: a file of a run that is broken.
    """
    found = Gathered(tuning=_tuning(state))
    parts: dict[Group, dict[str, list[np.ndarray]]] = {}
    places: list[Path] = []
    for entry in counted(state.runs):
        attempt = entry.result()
        if attempt is None or entry.arm not in plan.arms or entry.state not in DONE:
            continue
        place = folder / attempt.folder
        result = RunFolder(place).load_result()
        values = figures(place)
        if {"overhead", "cache"} & set(plan.tables):
            values |= machine_figures(_machine(place, plan.online_class, result))
        run = Run(
            arm=entry.arm,
            cell=cell_of(plan, entry),
            knob=entry.knob or "",
            window=entry.window,
            repeat=entry.repeat,
            host=entry.host,
            status=attempt.status,
            attempts=len(entry.attempts),
            figures=values,
        )
        found.runs.append(run)
        places.append(place)
        found.seen.append(
            Seen(
                entry=entry,
                status=attempt.status,
                mode=result.mode,
                quick=result.quick or state.quick,
                server=plan.arms[entry.arm].server,
                classes=attempt.classes,
                identity=result.identity,
                reasons=attempt.reasons,
            )
        )
        if "pooled" in plan.tables and result.mode == "measured":
            _pool(place, plan.online_class, result, parts.setdefault(run.group, {}), found.requests, run.group)
    if "failover" in plan.tables:
        found.runs[:] = _compared(plan, found.runs, places)
    for group, by_metric in parts.items():
        found.samples[group] = {name: np.concatenate(each) for name, each in by_metric.items() if each}
    return found


def _compared(plan: Plan, runs: list[Run], places: list[Path]) -> list[Run]:
    """The runs with `compared` and `wrong`: their whole answers against the baseline's of the same block."""
    cls = plan.online_class
    base = {run.block: place for run, place in zip(runs, places, strict=True) if run.arm == plan.baseline}
    found = []
    for run, place in zip(runs, places, strict=True):
        own = base.get(run.block)
        if own is not None:
            compared, wrong = wrong_texts(_texts(place, cls), _texts(own, cls))
            added: dict[str, float | None] = {f"{cls}.compared": float(compared), f"{cls}.wrong": float(wrong)}
            run = replace(run, figures={**run.figures, **added})
        found.append(run)
    return found


def _texts(place: Path, cls: str) -> dict[int, str]:
    records = RunFolder(place).read_records()
    return {each.id: each.text_hash for each in records if each.cls == cls and each.outcome == "ok" and each.text_hash}


def cell_of(plan: Plan, entry: Entry) -> str:
    """The setting without the knob."""
    arm = plan.arms[entry.arm]
    tail = setting_name({}, arm, entry.knob).removeprefix("all")
    return entry.setting.removesuffix(tail) if tail else entry.setting


def _tuning(state: State) -> TuningRuns:
    base = state.probes.get("baseline", [])
    probes = {arm: [tried(each) for each in found] for arm, found in state.probes.items() if arm != "baseline"}
    return TuningRuns(base[0].figures if base else {}, probes)


def _pool(
    place: Path, cls: str, result: Result, parts: dict[str, list[np.ndarray]], requests: dict[Group, int], group: Group
) -> None:
    try:
        at = RunFolder(place).load_records()
    except BadData:
        return
    window = result.window
    mine = at.where((at.cls == cls) & (at.due >= window.start) & (at.due <= window.end) & ~at.is_("cancelled"))
    if not len(mine):
        return
    # A request without an answer is endlessly slow: it must not fall out of the worst hundredth.
    first = np.where(np.isnan(metrics.ttft(mine)), np.inf, metrics.ttft(mine))
    parts.setdefault("ttft", []).append(first)
    parts.setdefault("tbt", []).append(metrics.tbt(mine))
    requests[group] = requests.get(group, 0) + len(mine)


def _machine(place: Path, cls: str, result: Result) -> Machine:
    beside, path = beside_of(place), place / "processes.csv"
    readings = processes.read(path) if path.is_file() and beside.t0 is not None else []
    span = result.window.start, result.window.end
    at = RunFolder(place).load_records()
    mine = at.where(at.cls == cls)
    ended = np.count_nonzero((mine.end >= span[0]) & (mine.end <= span[1]))
    stamps = np.repeat(mine.sent, mine.chunks) + mine.stamps
    chunks = np.count_nonzero((stamps >= span[0]) & (stamps <= span[1]))
    return Machine(
        router=_usage(readings, beside.roles, "router", span),
        mock=_usage(readings, beside.roles, "mock", span),
        requests=float(ended),
        chunks=float(chunks),
        routes=beside.routes,
        quickack=beside.quickack,
    )


def _usage(readings: list[Reading], roles: Mapping[str, str], role: str, span: tuple[int, int]) -> Usage | None:
    """Of the busiest part with this role: one mock of several that has no time left holds the others up."""
    parts = [processes.usage(readings, name, span) for name, own in roles.items() if own == role]
    return max((each for each in parts if each is not None), key=lambda each: each.cores, default=None)
