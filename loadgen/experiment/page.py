"""`report.html` of an experiment: what `summary.md` says, with the blocks behind each ratio, and every table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadgen.experiment import analyse, summary
from loadgen.experiment.tune import OFFLINE
from loadgen.report import chart_pairs, chart_slo, html
from loadgen.report.html import Folded, Listing, Row, Section
from loadgen.report.story import Fact, Flag
from loadgen.report.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.experiment.analyse import Run
    from loadgen.experiment.gather import Gathered
    from loadgen.experiment.plan import Plan
    from loadgen.experiment.state import State
    from loadgen.experiment.summary import Against
    from loadgen.report.charts import Chart
    from loadgen.report.html import Item
    from loadgen.stats.paired import Paired

MOST_CELLS: Final = 12
"""With charts of their own: a page is read in a browser."""
_PAIRS: Final = (("mean.ttft", "p99.ttft"), ("mean.tbt", "p99.tbt"))
"""Side by side: a p99 of TBT never stands without the mean."""
_WHOLE: Final = ("p50.e2e", "p99.e2e")
"""What a router adds is seen in these."""
_WORDS: Final = (
    "mode",
    "cell",
    "arm",
    "knob",
    "metric",
    "figure",
    "tolerance",
    "held",
    "claim",
    "stall",
    "void",
    "note",
)
"""Columns that hold no number."""


def report(plan: Plan, state: State, found: Gathered, tables: Sequence[analyse.Table], against: Against) -> str:
    """The file.

    Raises:
        BadInput: plotly is not installed.
    """
    refused, _ = against
    sections = [_first(plan, state, against)]
    if found.runs and not refused:
        sections[0:0] = [Section("", [_shown(summary.headline(plan, found.runs))])]
        sections += _cells(plan, found.runs)
    folded = tuple(Folded(f"{table.name}.csv", (_shown(table),)) for table in tables if table.rows)
    if folded:
        sections.append(Section("Tables", folded))
    stamp = "VIRTUAL" if state.mode == "virtual" else "QUICK" if state.quick else "NO TABLES" if refused else ""
    return html.page(plan.name, sections, status="refused" if refused else "", stamp=stamp)


def _first(plan: Plan, state: State, against: Against) -> Section:
    flags = [Flag("VIRTUAL", summary.SIMULATED)] if state.mode == "virtual" else []
    flags += [Flag("QUICK", summary.QUICK)] if state.quick else []
    facts = [Fact("question", plan.about)] if plan.about else []
    facts += [Fact("read it so", text) for text in (summary.ONLY_RATIOS, plan.note) if text]
    return Section(
        "About", [Listing(title, tuple(rows)) for title, rows in summary.story(state, against)], flags, facts
    )


def _cells(plan: Plan, runs: Sequence[Run]) -> Iterator[Section]:
    cells = list(dict.fromkeys(run.cell for run in runs))
    for cell in cells[:MOST_CELLS]:
        items = list(_charts(plan, [run for run in runs if run.cell == cell]))
        if items:
            yield Section(cell, items)
    if len(cells) > MOST_CELLS:
        left = f"{len(cells) - MOST_CELLS} more cells have no charts here; their figures stand in the tables"
        yield Section("Other cells", [Listing("", (left,))])


def _charts(plan: Plan, runs: Sequence[Run]) -> Iterator[Item | Row]:
    over = f"arm over {plan.baseline}"
    for mean, tail in (*_PAIRS, *((_WHOLE,) if "overhead" in plan.tables else ())):
        first, second = (_ratios(plan, runs, f"{plan.online_class}.{name}") for name in (mean, tail))
        if first:
            made = [(name, found) for name, found in ((mean, first), (tail, second)) if found]
            charts = (chart_pairs.ratios(_title(name), found, "less is better", over) for name, found in made)
            yield Row(tuple(charts))
    gain = _ratios(plan, runs, "total.tokens_per_s")
    beside: list[Chart] = [chart_pairs.ratios("All tokens/s", gain, "more is better", over)] if gain else []
    front = _front(plan, runs)
    beside += [front] if front is not None else []
    if beside:
        yield Row(tuple(beside))


def _title(name: str) -> str:
    statistic, _, metric = name.partition(".")
    return f"{metric.upper()}, {statistic}"


def _ratios(plan: Plan, runs: Sequence[Run], figure: str) -> dict[str, Paired]:
    """By arm and setting; those that have the figure in every block, since what is missing is seldom the good part."""
    found = {}
    for (_, arm, knob), mine in analyse.groups(runs).items():
        paired = analyse.over_baseline(mine, runs, plan.baseline, figure)
        if arm != plan.baseline and paired is not None and len(paired.ratios) == len(mine):
            found[f"{arm} {knob}".strip()] = paired
    return found


def _front(plan: Plan, runs: Sequence[Run]) -> Chart | None:
    """Offline tokens/s against attainment, a line an arm through its settings: medians over blocks."""
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for (_, arm, knob), mine in analyse.groups(runs).items():
        attained = analyse.median_of(mine, f"{plan.online_class}.attainment")
        gain = analyse.median_of(mine, OFFLINE)
        if attained is not None and gain is not None:
            lines.setdefault(arm, []).append((attained, gain, f"{arm} {knob}".strip()))
    names = [arm.name for arm in plan.arms.values() if arm.load == "offline"]
    alone = [analyse.median_of([run for run in runs if run.arm == name], OFFLINE) for name in names]
    return chart_slo.front(lines, max((each for each in alone if each), default=None)) if lines else None


def _shown(table: analyse.Table) -> Table:
    left = next((place for place, name in enumerate(table.header) if name not in _WORDS), len(table.header))
    more = len(table.rows) - summary.MOST_ROWS
    note = f"{more} more rows are in the csv file" if more > 0 else ""
    return Table(table.name, table.header, table.rows[: summary.MOST_ROWS], left, note)
