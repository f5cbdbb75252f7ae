"""The report as text: what `run` prints at its end, and `report` by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.report import show, story, tables
from loadgen.report.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.measure.evaluate import Outcome
    from loadgen.plan.model import Plan
    from loadgen.result import Result

_RED, _BOLD, _DIM, _END = "\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"
_LONG = {"INVALID": _RED, "OVERLOADED": _RED, "INCOMPLETE": _RED}
_EDGE = 2


class _Pen:
    """Adds colour where there is some."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def write(self, text: str, *codes: str) -> str:
        return f"{''.join(codes)}{text}{_END}" if self._colour and text and any(codes) else text


def summary(
    result: Result,
    *,
    folder: str = "",
    checks: Sequence[Outcome] = (),
    warnings: Sequence[str] = (),
    complete: bool = True,
    colour: bool = False,
) -> str:
    """One run. `checks`: its assertions as judged; `warnings`: of the reader of the files; `colour`: for a terminal."""
    pen = _Pen(colour=colour)
    parts = [
        _flags(result, pen, complete=complete),
        [pen.write(f"warning: {each}", _RED) for each in warnings],
        _facts(result, folder, pen),
        *([*show_table(each, colour=colour), ""] for each in tables.of_run(result, checks)),
        _limits(result, pen),
    ]
    lines = [line for part in parts for line in (*part, "") if part]
    return "\n".join(_single_blanks(lines)) + "\n"


def show_table(table: Table, *, colour: bool = False) -> list[str]:
    """Lines of one table: words to the left, numbers to the right."""
    pen = _Pen(colour=colour)
    rows = [table.head, *table.rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(table.head))]
    title = pen.write(table.title, _BOLD) + (pen.write(f"  {table.note}", _DIM) if table.note else "")
    lines = [title]
    for number, row in enumerate(rows):
        cells = (
            cell.ljust(width) if place < table.left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        line = " " * _EDGE + "  ".join(cells).rstrip()
        lines.append(pen.write(line, _DIM) if number == 0 else line)
    # A head of nothing but empty cells is for tables that explain themselves.
    return lines if any(table.head) else [lines[0], *lines[2:]]


def plan_summary(plan: Plan, plan_hash: str) -> str:
    """What would be sent: for `--dry-run`."""
    seconds = (plan.window[1] - plan.window[0]) / 1e6
    names = list(dict.fromkeys(each.cls for each in plan.requests))
    rows = []
    for name in names:
        mine = [each for each in plan.requests if each.cls == name]
        prompts = [each.prompt.tokens for each in mine if each.prompt.tokens is not None]
        rate, cv = (plan.realised.get(f"{name}.{what}") for what in ("rate", "cv"))
        rows.append(
            (
                name,
                show.count(len(mine)),
                show.UNKNOWN if rate is None else f"{show.number(rate)}/s",
                show.number(cv),
                show.count(sum(prompts)) if len(prompts) == len(mine) else show.UNKNOWN,
                show.count(sum(each.out for each in mine)),
            )
        )
    head = ("class", "requests", "rate", "CV of gaps", "prompt tokens", "output tokens")
    jobs = [
        (each.name, each.cls, show.at(each.at), show.count(len(each.items)), show.time(each.deadline))
        for each in plan.jobs
    ]
    lines = [
        f"plan      {plan_hash}, seed {plan.seed}; nothing is sent",
        f"measured  {seconds:,.0f} s, from {show.at(plan.window[0])} to {show.at(plan.window[1])}",
        *(f"trace     {name}: {text}" for name, text in story.changes(plan.transforms).items()),
        "",
        *show_table(Table("Classes", head, tuple(rows))),
    ]
    job_head = ("job", "class", "at", "items", "deadline")
    lines += ["", *show_table(Table("Offline jobs", job_head, tuple(jobs), left=2))] if jobs else []
    return "\n".join(lines) + "\n"


def _flags(result: Result, pen: _Pen, *, complete: bool) -> list[str]:
    lines = []
    for flag in story.flags(result, complete=complete):
        lines.append(f"{pen.write(flag.kind, _BOLD, _LONG.get(flag.kind, ''))}: {flag.means}")
        lines += [f"{' ' * _EDGE}- {reason}" for reason in flag.reasons]
    return lines


def _facts(result: Result, folder: str, pen: _Pen) -> list[str]:
    found = story.facts(result, folder)
    width = max(len(each.name) for each in found)
    return [f"{each.name.ljust(width)}  {pen.write(each.text, _RED if each.alarming else '')}" for each in found]


def _limits(result: Result, pen: _Pen) -> list[str]:
    found = story.limits(result)
    return [pen.write("What this run cannot claim", _BOLD), *(f"{' ' * _EDGE}- {each}" for each in found)]


def _single_blanks(lines: list[str]) -> list[str]:
    kept = [line for place, line in enumerate(lines) if line or (place and lines[place - 1])]
    while kept and not kept[-1]:
        kept.pop()
    return kept
