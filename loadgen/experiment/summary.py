"""What an experiment has to say, in words and one table: for `summary.md`, and for the page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadgen.experiment import analyse
from loadgen.experiment.state import DONE, counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.experiment.analyse import Run, Table
    from loadgen.experiment.gather import Gathered
    from loadgen.experiment.plan import Plan
    from loadgen.experiment.state import State

HEADLINE: Final = (
    "mean.ttft", "p99.ttft", "mean.tbt", "p99.tbt", "attainment",
)  # fmt: skip
"""Of the online class. p99 TBT never stands without mean TBT: alone it hides a fourfold loss."""
SIMULATED: Final = "Simulated. No figure here is a measurement."
QUICK: Final = "A quick look: no tuning, one window. No figure here is a result."
ONLY_RATIOS: Final = "Only ratios within a block count: a machine's speed moves from one run to the next."
MOST_ROWS: Final = 400
"""Of a table; the rest is in its csv file."""
_SHOWN: Final = ("overhead", "cache", "failover", "tolerance", "pooled")
"""Tables that stand in the summary too."""
Against = tuple["Sequence[str]", "Sequence[str]"]
"""Why there are no tables, and which runs have no result."""


def markdown(plan: Plan, state: State, found: Gathered, tables: Sequence[Table], against: Against) -> str:
    """`summary.md`."""
    lines = [f"# {plan.name}", ""]
    if plan.about:
        lines += [plan.about, ""]
    if state.mode == "virtual":
        lines += [f"**{SIMULATED}**", ""]
    if state.quick:
        lines += [f"**{QUICK}**", ""]
    lines += [ONLY_RATIOS, ""]
    lines += [plan.note, ""] if plan.note else []
    for title, rows in story(state, against):
        lines += [f"## {title}", "", *(f"- {row}" for row in rows), ""]
    if not against[0] and found.runs:
        lines += _table(headline(plan, found.runs))
        lines += [line for table in tables if table.name in _SHOWN for line in _table(table)]
    return "\n".join(lines).rstrip() + "\n"


def story(state: State, against: Against) -> Iterator[tuple[str, list[str]]]:
    """Headings with sentences below; those that have something to say."""
    refused, missing = against
    told = {
        "No tables": list(refused),
        "Not done": list(missing),
        "Left out": [f"{name}: {why}" for name, why in sorted(state.skipped.items())],
        "Notes": [*state.notes, *_sittings(state), *_changes(state)],
        "Machines": [f"{name}: {_words(what)}" for name, what in sorted(state.hosts.items())],
        "Calibration": [f"{name}: {analyse.number(value)}" for name, value in sorted(state.calibration.items())],
        "Scaled load": [f"{name}: {_words(what)}" for name, what in sorted(state.scaled.items())],
        "Tuned": [f"{arm}: {', '.join(values)}" for arm, values in sorted(state.tuned.items())],
    }
    yield from ((title, rows) for title, rows in told.items() if rows)


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


def _changes(state: State) -> Iterator[str]:
    """What was not the same all along, and is no reason against a table: within a block it was."""
    done = [entry for entry in counted(state.runs) if entry.state in DONE]
    if len({entry.host for entry in done}) > 1:
        yield "blocks of several machines: each is paired on its own; calibration and tuning are of those who did them"
    programs: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for entry in done:
        programs.setdefault(entry.arm, set()).add(tuple(sorted(entry.binaries.items())))
    changed = [arm for arm, found in programs.items() if len(found) > 1]
    if changed:
        yield f"programs changed from one block to another: {', '.join(sorted(changed))}"
    bad = [
        f"{arm} {each.value}".strip()
        for arm, probes in state.probes.items()
        for each in probes
        if each.status == "invalid"
    ]
    if bad:
        yield f"INVALID while tuning, and so not chosen: {', '.join(bad)}"


def headline(plan: Plan, runs: Sequence[Run]) -> Table:
    """A line an arm and setting: medians over blocks, beside the baseline."""
    names = [f"{plan.online_class}.{each}" for each in HEADLINE]
    header = ("cell", "arm", "knob", "blocks", *names, "offline.tokens_per_s", f"total over {plan.baseline}")
    rows = []
    for (cell, arm, knob), mine in analyse.groups(runs).items():
        figures = [_figure(plan, runs, mine, name) for name in names]
        offline = analyse.number(analyse.median_of(mine, "offline.tokens_per_s"))
        shown = analyse.number(_ratio(plan, runs, mine, "total.tokens_per_s"))
        rows.append((cell, arm, knob, str(len(mine)), *figures, offline, shown))
    title = f"Medians over blocks, times in milliseconds, with the ratio to {plan.baseline}"
    return analyse.Table(title, header, tuple(rows))


def _figure(plan: Plan, runs: Sequence[Run], mine: Sequence[Run], name: str) -> str:
    value = analyse.median_of(mine, name)
    if value is None:
        return "-"
    if name.endswith("attainment"):
        return f"{value:.4f}"
    ratio = _ratio(plan, runs, mine, name)
    return f"{value / 1e3:.3g}" + (f" ({ratio:.2f}x)" if ratio is not None else "")


def _ratio(plan: Plan, runs: Sequence[Run], mine: Sequence[Run], name: str) -> float | None:
    """Of every block, or of none: where a figure is missing the arm seldom did well."""
    paired = analyse.over_baseline(mine, runs, plan.baseline, name)
    return paired.mean.value if paired is not None and len(paired.ratios) == len(mine) else None


def _table(table: Table) -> list[str]:
    lines = [f"## {table.name}", "", "| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    lines += ["| " + " | ".join(_cell(each) for each in row) + " |" for row in table.rows[:MOST_ROWS]]
    if len(table.rows) > MOST_ROWS:
        lines.append(f"\n{len(table.rows) - MOST_ROWS} more rows are in the csv file.")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
