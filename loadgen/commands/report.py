"""`report`: figures of finished runs, computed again from their records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import BadInput, ExitCode
from loadgen.report import csv, rows
from loadgen.report.load import LoadedRun, load, runs_under
from loadgen.report.render import render
from loadgen.run.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.options import ReportOptions


def main(options: ReportOptions) -> ExitCode:
    """INVALID stays INVALID, whatever the report is made of it."""
    if any(path.endswith(".jsonl") for path in options.dirs):
        return _rows(options)
    runs = [load(path, options.slos, options.window) for given in options.dirs for path in runs_under(given)]
    _check_classes(runs, options)
    against = load(options.against, options.slos, options.window) if options.against else None
    colour = options.output is None and options.format == "text" and sys.stdout.isatty()
    made = render(runs, options, against, colour=colour)
    if options.output is None:
        sys.stdout.write(made)
    else:
        _write(Path(options.output), made, runs, options)
    if options.format not in ("text", "md"):
        _warn(runs)
    invalid = any(run.result.invalid for run in runs)
    return ExitCode.INVALID if invalid else ExitCode.OK


def _rows(options: ReportOptions) -> ExitCode:
    """Lines of JSON, such as those of the conformance suite: nothing is computed of them."""
    tables = [rows.table(path) for path in options.dirs]
    made = rows.render(tables, options.format)
    if options.output is None:
        sys.stdout.write(made)
    else:
        _write_text(Path(options.output), made)
    return ExitCode.OK


def _check_classes(runs: Sequence[LoadedRun], options: ReportOptions) -> None:
    known = sorted({name for run in runs for name in run.result.classes})
    for cls in options.slos:
        if cls not in known:
            raise BadInput("--slo", "", cls, "no such class in these runs", known)


def _write(path: Path, made: str, runs: Sequence[LoadedRun], options: ReportOptions) -> None:
    _write_text(path, made)
    if options.format == "csv":
        beside = path.with_name(f"{path.stem}.intervals{path.suffix}")
        _write_text(beside, "".join(csv.timeline(runs, options.bucket)))


def _write_text(path: Path, made: str) -> None:
    try:
        write_whole(path, made.encode())
    except OSError as error:
        raise BadInput("-o", "", str(path), error.strerror or "cannot be written") from error


def _warn(runs: Sequence[LoadedRun]) -> None:
    """What the text says in its first lines is said on stderr where the output is for a machine."""
    for run in runs:
        for reason in run.result.invalid:
            sys.stderr.write(f"INVALID: {run.name}: {reason}\n")
        for each in run.warnings:
            sys.stderr.write(f"warning: {run.name}: {each}\n")
