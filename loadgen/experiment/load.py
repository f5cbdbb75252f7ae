"""From a plan's load to the scenario of one run: placeholders filled, the trace's keys put in, the arm's kind of load
kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loadgen import forms
from loadgen import scenario as scenarios
from loadgen.errors import BadInput
from loadgen.experiment import scale
from loadgen.experiment.fill import fill_all
from loadgen.experiment.plan import arm_values
from loadgen.plan import transforms
from loadgen.plan.sources import open_source
from loadgen.plan.streams import seed_of, stream
from loadgen.spec import Transforms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.experiment.armrun import Job
    from loadgen.experiment.plan import Arm, Plan
    from loadgen.experiment.server import Running
    from loadgen.plan.rows import SourceRow
    from loadgen.spec import Scenario

_SEEDS: Final = 1 << 31
_ROWS: Final = ("online", "offline", "fault")
"""Tables of a load; a row with `arms` is for those alone."""
_NO_SERVER: Final = {"dir": "dir", "run": "run", "port": "1", "ops": "1"}
"""Stand for what only a server that runs can tell."""


def data_folder(given: str | None) -> Path:
    """`--data`, SLACKWATER_DATA, or `../shared/data`."""
    return Path(given or os.environ.get("SLACKWATER_DATA") or "../shared/data")


class Traces:
    """Rows of a plan's traces, read once each, and what scaling makes of them."""

    def __init__(self, plan: Plan, data: Path) -> None:
        self._plan, self._data = plan, data
        self._rows: dict[str, list[SourceRow] | None] = {}

    def rows(self, name: str) -> list[SourceRow] | None:
        """All rows with `dequantise` applied; None of a trace that is drawn.

        Raises:
            BadInput, BadData: it cannot be read, or is thinned.
        """
        if name not in self._rows:
            self._rows[name] = self._read(name)
        return self._rows[name]

    def _read(self, name: str) -> list[SourceRow] | None:
        trace = self._plan.traces[name]
        where = f"[trace.{name}]"
        if "thin" in trace:
            raise BadInput(where, "thin", str(trace["thin"]), "is another experiment than the stretch of this plan")
        if str(trace.get("arrivals", "trace")) != "trace":
            return None
        try:
            source = forms.source(str(trace.get("source", "synth")))
        except ValueError as error:
            raise BadInput(where, "source", str(trace["source"]), str(error)) from error
        asked = Transforms(dequantise=forms.positive_duration(str(trace["dequantise"])) if "dequantise" in trace else 0)
        found = open_source(source, self._data, Transforms(floor=(0, 0)), self._plan.seed, name, 1 << 62)
        rows = list(found.rows())
        # Only `thin` draws, and it is refused above.
        return transforms.apply(rows, asked, 16, stream(0, name, "thin")) if asked.dequantise else rows

    def facts(self, name: str, window: tuple[int, int]) -> scale.TraceFacts:
        """Of a window.

        Raises:
            BadInput: the plan has no scaling, or the window too few requests.
        """
        scaling = self._plan.scaling
        if scaling is None:
            raise BadInput("[scaling]", "", "", "is missing: the plan has traces with rho or share")
        rows = self.rows(name)
        return scale.drawn_facts(self._plan.traces[name]) if rows is None else scale.trace_facts(rows, window, scaling)


def solved(
    traces: Traces,
    plan: Plan,
    cell: Mapping[str, str],
    window: tuple[int, int],
    length: int,
    known: Mapping[str, float],
) -> tuple[dict[str, str], dict[str, float]]:
    """Placeholders and numbers of a cell in a window of its trace; nothing for a cell without a trace.

    `length`: microseconds of warm-up and window. `known`: `c_off`, `r_sat`, or `rate` alone, which is then taken.
    """
    if "trace" not in cell or plan.scaling is None:
        return {}, {}
    facts = traces.facts(cell["trace"], window)
    rate = known["rate"] if "rate" in known else scale.target_rate(cell, facts, known)
    return scale.solve(rate, facts, window, plan.scaling, length)


def scenario_of(
    plan: Plan,
    arm: Arm,
    load: str,
    setting: tuple[Mapping[str, str], str | None],
    values: Mapping[str, str],
    lengths: tuple[int, int, int],
) -> dict[str, Any]:
    """The load as tables of a scenario, without its target. `setting`: cell and knob. `lengths`: warm-up, window, seed.

    Raises:
        BadInput: a placeholder without a value, or nothing left of this kind of load.
    """
    warmup, duration, seed = lengths
    where = f"[load.{load}]"
    cell, knob = setting
    given = arm_values(plan, arm, cell, knob) | dict(values) | {"seed": str(seed)}
    tables: dict[str, Any] = fill_all(plan.loads[load], given, where)
    trace = fill_all(plan.traces.get(cell.get("trace", ""), {}), given, where)
    if trace:
        rows = tables.get("online", [])
        tables["online"] = [({**trace, **row} if row.pop("trace", True) else row) for row in rows]
    for kind in _ROWS:
        if kind in tables:
            tables[kind] = [row for row in tables[kind] if arm.name in row.pop("arms", [arm.name])]
    if arm.load == "online":
        tables.pop("offline", None)
    elif arm.load == "offline":
        tables.pop("online", None)
        tables.pop("fault", None)
    tables |= {"duration": f"{duration}us", "warmup": f"{warmup}us", "seed": seed}
    tables.setdefault("max-duration", f"{max(duration, 1_800_000_000)}us")
    if not tables.get("online") and not tables.get("offline"):
        raise BadInput(where, arm.name, arm.load, "has no class of this kind of load")
    return tables


def build(tables: Mapping[str, Any], running: Running | None, where: str, data: Path) -> Scenario:
    """The scenario against a running server; without one, against nothing, to check it.

    Raises:
        BadInput: keys or values that cannot be meant.
    """
    given = dict(tables) | {"data": str(data)}
    target = "http://127.0.0.1:1"
    if running is not None:
        target = running.target
        if running.metrics is not None:
            given["metrics-url"] = running.metrics
        if running.pids_file is not None and given.get("fault"):
            given["pids"] = str(running.pids_file)
    elif given.get("fault"):
        given["pids"] = "pids.txt"
    return scenarios.build(scenarios.from_tables(given, where), target=target)


def planned(plan: Plan, job: Job, data: Path) -> Scenario:
    """What a run would send, as far as it is known before its server is started.

    Raises:
        BadInput: keys or values that cannot be meant.
    """
    values = {**job.values, **_NO_SERVER, "data": str(data)}
    lengths = job.warmup, job.duration, job.seed
    tables = scenario_of(plan, job.arm, job.load, (job.cell, job.knob), values, lengths)
    return build(tables, None, f"[load.{job.load}]", data)


def check_loads(plan: Plan, data: Path) -> None:
    """Every load of every arm and cell is a scenario, whatever scaling will give.

    Raises:
        BadInput: the first that is none.
    """
    values = {"scale": "x1", "rate": "1", "window": "0s..1m", "len": "x1", "data": str(data), "duration": "1s"}
    values |= _NO_SERVER
    for question in plan.questions:
        for name in question.arms:
            arm = plan.arms[name]
            knob = arm.settings[0] if arm.settings else None
            for cell in question.cells:
                tables = scenario_of(plan, arm, question.load, (cell, knob), values, (0, plan.duration, 1))
                build(tables, None, f"[load.{question.load}]", data)


def seed_for(plan: Plan, window: int, repeat: int) -> int:
    """The same for all arms of a block."""
    return seed_of(plan.seed, "run", window, repeat) % _SEEDS


def windows_of(plan: Plan) -> Sequence[tuple[int, int]]:
    """Test windows of the trace, microseconds; one that says nothing where the plan has no scaling."""
    return plan.scaling.windows if plan.scaling is not None else ((0, 0),) * max(1, plan.windows)
