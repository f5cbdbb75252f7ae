"""Writes what an experiment found: `tables/*.csv`, `summary.md` and `report.html`; where the runs may not stand
together, why not.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loadgen.experiment import analyse, overhead, page, routing, studies
from loadgen.experiment.fairness import refusals, unfinished
from loadgen.experiment.gather import gather
from loadgen.experiment.schedule import selected
from loadgen.experiment.state import write_atomic
from loadgen.experiment.summary import markdown
from loadgen.report.html import has_plotly

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.experiment.analyse import Table
    from loadgen.experiment.gather import Gathered
    from loadgen.experiment.plan import Plan
    from loadgen.experiment.schedule import Selection
    from loadgen.experiment.state import State


@dataclass(frozen=True, slots=True)
class Written:
    """`refused`: why there are no tables; then only `runs.csv` was written. `page`: whether there is a
    `report.html`, which wants plotly.
    """

    tables: tuple[str, ...]
    refused: tuple[str, ...]
    missing: tuple[str, ...]
    page: bool = False


def write_tables(plan: Plan, state: State, folder: Path, chosen: Selection) -> Written:
    """From the files of the runs alone.

    Raises:
        BadData: a run whose files are broken.
    """
    found = gather(plan, state, folder)
    refused, missing = refusals(plan, state, found.seen), unfinished(state)
    place = folder / "tables"
    place.mkdir(exist_ok=True)
    tables = [analyse.runs_table(found.runs, "quick" if state.quick and state.mode == "measured" else state.mode)]
    # Where an INVALID run is no reason against the tables, it is a void cell, and no figure of them.
    fit = replace(found, runs=[run for run in found.runs if run.status != "invalid"])
    if fit.runs and not refused:
        tables += _tables(plan, fit, chosen)
        if "overhead" in plan.tables:
            tables.append(overhead.overhead_table(found.runs, plan.baseline, plan.online_class, _notes(plan)))
    for table in tables:
        write_atomic(place / f"{table.name}.csv", as_csv(table).encode())
    for old in place.glob("*.csv"):
        # One of an earlier state would say what no longer holds.
        if old.stem not in {table.name for table in tables}:
            old.unlink()
    text = markdown(plan, state, fit, tables, (refused, missing))
    write_atomic(folder / "summary.md", text.encode())
    shown = has_plotly()
    if shown:
        text = page.report(plan, state, fit, tables, (refused, missing))
        write_atomic(folder / "report.html", text.encode())
    else:
        # One of an earlier state would say what no longer holds.
        (folder / "report.html").unlink(missing_ok=True)
    return Written(tuple(table.name for table in tables), tuple(refused), tuple(missing), shown)


def _tables(plan: Plan, found: Gathered, chosen: Selection) -> list[Table]:
    cls, baseline = plan.online_class, plan.baseline
    made = [analyse.arms_table(found.runs, baseline)]
    if "pooled" in plan.tables:
        made.append(studies.pooled_table(found.samples, found.requests))
    tolerances = tuple(sorted({each for question in selected(plan, chosen) for each in question.tolerances}))
    if "tolerance" in plan.tables and tolerances:
        made.append(studies.tolerance_table(found.tuning, found.runs, baseline, cls, tolerances))
    if "frontier" in plan.tables:
        alone = next((arm.name for arm in plan.arms.values() if arm.load == "offline"), None)
        made.append(studies.frontier_table(found.runs, baseline, alone, cls))
    if "cache" in plan.tables:
        made.append(routing.cache_table(found.runs, baseline, cls, _notes(plan)))
    if "failover" in plan.tables:
        made.append(routing.failover_table(found.runs, cls))
    return made


def _notes(plan: Plan) -> dict[str, str]:
    """By arm, what its server does for each request."""
    return {arm.name: plan.servers[arm.server].note for arm in plan.arms.values()}


def as_csv(table: Table) -> str:
    """Header and rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.rows)
    return text.getvalue()
