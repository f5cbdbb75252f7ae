"""`summary.md`: the report for a pull request or a wiki."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from loadgen.report import against as sides
from loadgen.report import runs as several
from loadgen.report import story, tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.report.against import Against
    from loadgen.report.load import LoadedRun
    from loadgen.report.tables import Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")


def summary(runs: Sequence[LoadedRun], against: Sequence[Against] = ()) -> str:
    """One or several runs; `against`: each held against another."""
    lines = ["# Load test report", ""]
    if len(runs) > 1:
        for table in (several.table(runs), several.repeats(runs)):
            lines += [*show_table(table), ""] if table.rows else []
    for run in runs:
        lines += _run(run, heading=f"## {escape(run.name)}")
    for found in against:
        for table in sides.tables(found):
            lines += [*show_table(table), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def show_table(table: Table) -> list[str]:
    """With its title as a heading and its note below it."""
    head = [escape(cell) or " " for cell in table.head]
    rule = [":--" if place < table.left else "--:" for place in range(len(head))]
    rows = [head, rule, *([escape(cell) for cell in row] for row in table.rows)]
    lines = [f"### {escape(table.title)}", ""]
    lines += [f"{escape(table.note[:1].upper() + table.note[1:])}.", ""] if table.note else []
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def escape(text: str) -> str:
    """Text of a server must neither end a cell nor mark anything up."""
    return _SPECIAL.sub(r"\\\1", text.replace("\n", " ").replace("\r", " "))


def _run(run: LoadedRun, heading: str) -> Iterator[str]:
    result = run.result
    yield from (heading, "")
    for flag in story.flags(result, complete=run.complete):
        yield f"**{flag.kind}**: {escape(flag.means)}"
        yield from ("", *(f"- {escape(reason)}" for reason in flag.reasons), "")
    yield from (f"> warning: {escape(each)}\n" for each in run.warnings)
    for fact in story.facts(result):
        text = escape(fact.text)
        yield f"- {fact.name}: {f'**{text}**' if fact.alarming else text}"
    yield ""
    for table in tables.of_run(result, run.checks):
        yield from (*show_table(table), "")
    yield from ("### What this run cannot claim", "", *(f"- {escape(each)}" for each in story.limits(result)), "")
