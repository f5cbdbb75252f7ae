"""Writes what an experiment found: `tables/*.csv` and `summary.md`; where the runs may not stand together, why not."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loadgen.experiment import analyse, overhead, routing, studies
from loadgen.experiment.fairness import refusals, unfinished
from loadgen.experiment.gather import gather
from loadgen.experiment.schedule import selected
from loadgen.experiment.state import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadgen.experiment.analyse import Run, Table
    from loadgen.experiment.gather import Gathered
    from loadgen.experiment.plan import Plan
    from loadgen.experiment.schedule import Selection
    from loadgen.experiment.state import State

HEADLINE: Final = (
    "mean.ttft", "p99.ttft", "mean.tbt", "p99.tbt", "attainment",
)  # fmt: skip
"""Of the online class, in the summary. p99 TBT never stands without mean TBT: alone it hides a fourfold loss."""
_MOST_ROWS: Final = 400
_SHOWN: Final = ("overhead", "cache", "failover", "tolerance", "pooled")
"""Tables that stand in the summary too."""


@dataclass(frozen=True, slots=True)
class Written:
    """`refused`: why there are no tables; then only `runs.csv` was written."""

    tables: tuple[str, ...]
    refused: tuple[str, ...]
    missing: tuple[str, ...]


def write_tables(plan: Plan, state: State, folder: Path, chosen: Selection) -> Written:
    """From the files of the runs alone.

    Raises:
        BadData: a run whose files are broken.
    """
    found = gather(plan, state, folder)
    refused, missing = refusals(plan, state, found.seen), unfinished(state)
    place = folder / "tables"
    place.mkdir(exist_ok=True)
    tables = [analyse.runs_table(found.runs)]
    if refused:
        # Tables of an earlier state would say what no longer holds.
        for old in place.glob("*.csv"):
            old.unlink()
    elif found.runs:
        tables += _tables(plan, found, chosen)
    for table in tables:
        write_atomic(place / f"{table.name}.csv", as_csv(table).encode())
    text = summary(plan, state, found, tables, (refused, missing))
    write_atomic(folder / "summary.md", text.encode())
    return Written(tuple(table.name for table in tables), tuple(refused), tuple(missing))


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
    notes = {arm.name: plan.servers[arm.server].note for arm in plan.arms.values()}
    if "cache" in plan.tables:
        made.append(routing.cache_table(found.runs, baseline, cls, notes))
    if "failover" in plan.tables:
        made.append(routing.failover_table(found.runs, cls))
    if "overhead" in plan.tables:
        made.append(overhead.overhead_table(found.runs, baseline, cls, notes))
    return made


def as_csv(table: Table) -> str:
    """Header and rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.rows)
    return text.getvalue()


def summary(
    plan: Plan, state: State, found: Gathered, tables: Sequence[Table], against: tuple[Sequence[str], Sequence[str]]
) -> str:
    """As Markdown."""
    refused, missing = against
    lines = [f"# {plan.name}", ""]
    if plan.about:
        lines += [plan.about, ""]
    if state.mode == "virtual":
        lines += ["**Simulated. No figure here is a measurement.**", ""]
    if state.quick:
        lines += ["**A quick look: no tuning, one window. No figure here is a result.**", ""]
    lines += ["Only ratios within a block count: a machine's speed moves from one run to the next.", ""]
    lines += [plan.note, ""] if plan.note else []
    lines += _list("No tables", refused)
    lines += _list("Not done", missing)
    lines += _list("Left out", [f"{name}: {why}" for name, why in sorted(state.skipped.items())])
    lines += _list("Notes", [*state.notes, *_sittings(state)])
    lines += _list("Machines", [f"{name}: {_words(what)}" for name, what in sorted(state.hosts.items())])
    lines += _list(
        "Calibration", [f"{name}: {analyse.number(value)}" for name, value in sorted(state.calibration.items())]
    )
    lines += _list("Scaled load", [f"{name}: {_words(what)}" for name, what in sorted(state.scaled.items())])
    lines += _list("Tuned", [f"{arm}: {', '.join(values)}" for arm, values in sorted(state.tuned.items())])
    if not refused and found.runs:
        lines += _headline(plan, found.runs)
        lines += [line for table in tables if table.name in _SHOWN for line in _table(table)]
    return "\n".join(lines).rstrip() + "\n"


def _list(title: str, rows: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {row}" for row in rows), ""] if rows else []


def _words(values: object) -> str:
    if not isinstance(values, dict):
        return str(values)
    return ", ".join(
        f"{name} {analyse.number(each) if isinstance(each, float) else each}" for name, each in values.items()
    )


def _sittings(state: State) -> list[str]:
    blocks: dict[str, set[int]] = {}
    for entry in state.runs:
        if entry.sitting:
            blocks.setdefault(entry.block, set()).add(entry.sitting)
    torn = sorted(block for block, sittings in blocks.items() if len(sittings) > 1)
    again = sum(len(entry.attempts) - 1 for entry in state.runs if entry.attempts)
    found = [f"blocks that were done in several sittings: {', '.join(torn)}"] if torn else []
    return found + (
        [f"{again} runs were repeated because they were disturbed or the client was too slow"] if again else []
    )


def _headline(plan: Plan, runs: Sequence[Run]) -> list[str]:
    names = [f"{plan.online_class}.{each}" for each in HEADLINE]
    header = ("cell", "arm", "knob", "blocks", *names, "offline.tokens_per_s", f"total over {plan.baseline}")
    rows = []
    for (cell, arm, knob), mine in analyse.groups(runs).items():
        figures = [_figure(plan, runs, mine, name) for name in names]
        offline = analyse.number(analyse.median_of(mine, "offline.tokens_per_s"))
        total = analyse.over_baseline(mine, runs, plan.baseline, "total.tokens_per_s")
        shown = analyse.number(None if total is None else total.mean.value)
        rows.append((cell, arm, knob, str(len(mine)), *figures, offline, shown))
    title = analyse.Table(
        f"Medians over blocks, times in milliseconds, with the ratio to {plan.baseline}", header, tuple(rows)
    )
    return _table(title)


def _figure(plan: Plan, runs: Sequence[Run], mine: Sequence[Run], name: str) -> str:
    value = analyse.median_of(mine, name)
    if value is None:
        return "-"
    if name.endswith("attainment"):
        return f"{value:.4f}"
    ratio = analyse.over_baseline(mine, runs, plan.baseline, name)
    return f"{value / 1e3:.3g}" + (f" ({ratio.mean.value:.2f}x)" if ratio is not None else "")


def _table(table: Table) -> list[str]:
    lines = [f"## {table.name}", "", "| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    lines += ["| " + " | ".join(_cell(each) for each in row) + " |" for row in table.rows[:_MOST_ROWS]]
    if len(table.rows) > _MOST_ROWS:
        lines.append(f"\n{len(table.rows) - _MOST_ROWS} more rows are in the csv file.")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
