"""An engine of runs that sends nothing: a queue with one server, in virtual time, behind the contract of `execute`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadgen.campaign import Evidence, Tools
from loadgen.errors import ExitCode
from loadgen.measure.columns import columns
from loadgen.measure.facts import ClassFacts, Curve, JobFacts, RunFacts
from loadgen.measure.summarise import summarise
from loadgen.plan.streams import stream
from loadgen.run.stage import RunOutcome
from loadgen.sweep.axis import mean_rate
from support.loadgen_records import SECOND, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.options import RunOptions
    from loadgen.record import Record
    from loadgen.run.stage import Stage
    from loadgen.spec import Scenario

_PACE = 10.0
"""Milliseconds between tokens."""


@dataclass
class QueueEngine:
    """`service`: mean ms of a request at the only server of `target`, which jobs beside stretch by `burden`.

    Jobs get the idle share of `offline_rate` tokens a second. `before` is called with the number of the run and may
    raise, or give codes that it ends with.
    """

    service: float = 50.0
    burden: float = 1.0
    offline_rate: float = 1_000.0
    speed: dict[str, float] = field(default_factory=dict)
    """By target: factor of the service time."""
    lengths: dict[str, str] = field(default_factory=dict)
    jobs_end: float = 1.0
    """Share of the window after which jobs have ended."""
    invalid_above: float = float("inf")
    """Requests a second that this client cannot send."""
    before: Callable[[int], frozenset[ExitCode]] | None = None
    runs: list[RunOptions] = field(default_factory=list)
    stages: list[Stage | None] = field(default_factory=list)
    kept: dict[Path, Evidence] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def tools(self) -> Tools:
        return Tools(self, lambda outcome: self.kept[outcome.folder], self.said.append)

    def __call__(self, options: RunOptions, stage: Stage | None = None) -> RunOutcome:
        self.runs.append(options)
        self.stages.append(stage)
        codes = self.before(len(self.runs)) if self.before else frozenset()
        assert options.out is not None
        folder = Path(options.out)
        folder.mkdir(parents=True)
        records, facts = self._records(options.scenario)
        result = summarise(records, facts)
        window = (result.window.start, result.window.end)
        self.kept[folder] = Evidence(columns(records), facts, window)
        codes |= {ExitCode.INVALID} if result.invalid else {ExitCode.OK}
        return RunOutcome(folder, result, frozenset(codes))

    def _records(self, scenario: Scenario) -> tuple[list[Record], RunFacts]:
        length = scenario.duration / 1e3
        records: list[Record] = []
        busy = 0.0
        for spec in scenario.online:
            rate = mean_rate(spec.arrivals) or 0.0
            factor = self.speed.get(scenario.target, 1.0) * (self.burden if scenario.offline else 1.0)
            rng = stream(scenario.seed, spec.name, "queue")
            due = np.cumsum(rng.exponential(1e3 / rate, size=round(rate * length / 1e3)))
            free = 0.0
            for moment, need in zip(
                due.tolist(), rng.exponential(self.service * factor, len(due)).tolist(), strict=True
            ):
                free = max(free, moment) + need
                busy += need
                ttft = free - moment
                chunks = [(moment + ttft, 1), (moment + ttft + _PACE, 1)]
                records.append(record(len(records), moment, chunks, cls=spec.name))
        classes = {spec.name: ClassFacts(slo=spec.slo) for spec in scenario.online}
        classes |= {spec.name: ClassFacts(online=False) for spec in scenario.offline}
        offered = sum(mean_rate(spec.arrivals) or 0.0 for spec in scenario.online)
        tokens = self.offline_rate * max(0.0, 1 - min(busy / length, 1.0)) * length / 1e3
        end = round(length) * 1_000
        facts = RunFacts(
            window=(0, end),
            horizon=end + 600 * SECOND,
            classes=classes,
            warmup=1,
            invalid=("send lag",) if offered > self.invalid_above else (),
            offline_curve=Curve(times=(0, end), counts=(0, round(tokens))) if scenario.offline else None,
            jobs=tuple(
                JobFacts(
                    name=each.name,
                    cls=each.name,
                    submitted=0,
                    finished=round(end * (self.jobs_end if scenario.online else 1.0)),
                    items=10,
                    completed=10,
                    in_tokens=0,
                    out_tokens=round(tokens),
                )
                for each in scenario.offline
            ),
            identity={"lengths": self.lengths.get(scenario.target, "exact"), "plan_hash": str(scenario.seed)},
            realised={f"{spec.name}.rate": mean_rate(spec.arrivals) or 0.0 for spec in scenario.online},
        )
        return records, facts
