"""The report in the form that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.report import against as sides
from loadgen.report import csv, html_run, markdown, text
from loadgen.report import runs as several
from loadgen.report.load import LoadedRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.measure.interference import Interference
    from loadgen.options import ReportOptions
    from loadgen.report.against import Against

_WHOLE = 3
"""Of more runs than these the text has only the table: each by itself is a command away."""


def render(
    runs: Sequence[LoadedRun],
    options: ReportOptions,
    against: LoadedRun | None = None,
    *,
    colour: bool = False,
) -> str:
    """All of it. `against`: a run that each of the others is held against.

    Raises:
        BadInput: simulated runs beside measured ones, lengths that cannot be compared, or a page without plotly.
    """
    sides.refuse_mixed([*runs, *([against] if against else [])])
    found = [sides.compare(run, against) for run in runs] if against else []
    if options.format == "json":
        return _json(runs, found)
    if options.format == "csv":
        return csv.classes(runs)
    if options.format == "md":
        return markdown.summary(runs, found)
    if options.format == "html":
        return html_run.report(runs, found, options.bucket)
    return _text(runs, found, colour=colour)


def _text(runs: Sequence[LoadedRun], found: Sequence[Against], *, colour: bool) -> str:
    parts = []
    if len(runs) > 1:
        tables = [table for table in (several.table(runs), several.repeats(runs)) if table.rows]
        # What cannot be believed is said before anything that could be.
        invalid = [f"INVALID: {run.name}: {run.result.invalid[0]}" for run in runs if run.result.invalid]
        parts += ["\n".join(invalid)] if invalid else []
        parts += ["\n".join(text.show_table(table, colour=colour)) for table in tables]
    for run in runs if len(runs) <= _WHOLE else ():
        parts.append(
            text.summary(
                run.result,
                folder=run.name,
                checks=run.checks,
                warnings=run.warnings,
                complete=run.complete,
                colour=colour,
            ).rstrip("\n")
        )
    if len(runs) > _WHOLE:
        parts += [f"warning: {run.name}: {each}" for run in runs for each in run.warnings]
    for each in found:
        parts += ["\n".join(text.show_table(table, colour=colour)) for table in sides.tables(each)]
    return "\n\n".join(parts) + "\n"


def _json(runs: Sequence[LoadedRun], found: Sequence[Against]) -> str:
    tree: dict[str, Any] = {
        "runs": [
            {
                "folder": run.name,
                "complete": run.complete,
                "warnings": list(run.warnings),
                "assertions": [
                    {"text": each.text, "holds": each.holds, "value": each.value.number, "reason": each.value.reason}
                    for each in run.checks
                ],
                "result": msgspec.to_builtins(run.result),
            }
            for run in runs
        ]
    }
    if found:
        tree["against"] = [
            {
                "folder": each.run.name,
                "other": each.other.name,
                "harvest": each.harvest,
                "classes": {pair.name: {"paired": pair.paired, **_interference(pair.found)} for pair in each.pairs},
            }
            for each in found
        ]
    return msgspec.json.format(msgspec.json.encode(tree), indent=1).decode() + "\n"


def _interference(found: Interference | None) -> dict[str, Any]:
    if found is None:
        return {}
    changes = [{**msgspec.to_builtins(each), "ratio": each.ratio} for each in found.changes]
    return {
        "pairs": found.pairs,
        "attainment": msgspec.to_builtins(found.attainment),
        "differences": msgspec.to_builtins(found.differences),
        "changes": changes,
    }
