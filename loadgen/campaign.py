"""Several runs by one command: what `sweep`, `compare` and `threeway` have in common.

They take the engine of a run as an argument, so that a simulated one can stand in its place.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loadgen.errors import BadInput, ExitCode
from loadgen.measure.evaluate import Value, figure_value
from loadgen.run.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType

    from loadgen.measure.columns import Columns
    from loadgen.measure.expr import Figure
    from loadgen.measure.facts import RunFacts
    from loadgen.options import RunOptions
    from loadgen.run.stage import Runner, RunOutcome
    from loadgen.spec import Scenario


_ENDING = (signal.SIGTERM, signal.SIGHUP)
QUIET = Stage(html=False)
"""Of one run of many: its files are there, and a report can be made of them when it is wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What expressions are judged on: records as arrays, the facts beside them, and the measured window."""

    at: Columns
    facts: RunFacts
    window: tuple[int, int]


class Opener(Protocol):
    """Reads the evidence of a run from its files."""

    def __call__(self, outcome: RunOutcome) -> Evidence:
        """The evidence.

        Raises:
            BadData: files that cannot be used.
        """


@dataclass(frozen=True, slots=True)
class Tools:
    """Where a series gets its runs from and what it says meanwhile, a line at a time."""

    runner: Runner
    opener: Opener
    say: Callable[[str], None]


class Interrupted(Exception):
    """The user ended the run that was going on; its outcome, where it left one."""

    def __init__(self, outcome: RunOutcome | None) -> None:
        self.outcome = outcome
        super().__init__("interrupted")


def carry_out(tools: Tools, options: RunOptions, stage: Stage = QUIET) -> RunOutcome:
    """One run.

    Raises:
        Interrupted: by the user, in it or before its end.
        LoadgenError: as the runner does.
    """
    held = {number: signal.getsignal(number) for number in _ENDING}
    try:
        outcome = tools.runner(options, stage)
    except KeyboardInterrupt as error:
        raise Interrupted(None) from error
    finally:
        # A run listens to signals itself, and leaves them as it likes them.
        for number, handler in held.items():
            _set_handler(number, handler)
    if ExitCode.INTERRUPTED in outcome.codes:
        raise Interrupted(outcome)
    return outcome


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Being told to end is a Ctrl-C between runs too, so that what is there is kept and servers are let go."""
    held = {number: signal.getsignal(number) for number in _ENDING}
    for number in _ENDING:
        _set_handler(number, _as_interrupt)
    try:
        yield
    finally:
        for number, handler in held.items():
            _set_handler(number, handler)


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _set_handler(number: signal.Signals, handler: Callable[[int, FrameType | None], object] | int | None) -> None:
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def value_in(figure: Figure, evidence: Evidence, other: Mapping[str, float] | None = None) -> Value:
    """A figure of one run."""
    return figure_value(figure, evidence.at, evidence.facts, evidence.window, other or {})


def work_ran_out(evidence: Evidence, cls: str | None = None) -> bool:
    """Whether the jobs (of one class) had all ended before the window did: a rate over the window is then too low."""
    jobs = [each for each in evidence.facts.jobs if cls in (None, each.cls)]
    return bool(jobs) and all(each.finished is not None and each.finished < evidence.window[1] for each in jobs)


def part_of(base: RunOptions, scenario: Scenario, folder: Path) -> RunOptions:
    """Options of one run of a series. It is quiet unless a view was asked for by name."""
    return replace(base, scenario=scenario, out=str(folder), ui=base.ui or "none", dry_run=False)


def new_folder(asked: str | None, kind: str) -> Path:
    """Where a series is kept: as asked, else `runs/KIND-TIME`. It must not hold a finished one.

    Raises:
        BadInput: it does, or cannot be made.
    """
    folder = Path(asked) if asked else Path("runs") / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (folder / f"{kind}.json").exists():
        raise BadInput("--out", "", str(folder), f"holds a {kind} already")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput("--out", "", str(folder), error.strerror or "cannot be made") from error
    return folder


def own_tools(say: Callable[[str], None]) -> Tools:
    """Real runs, read back from their files."""
    from loadgen.run.execute import execute
    from loadgen.run.files import RunFolder

    def opened(outcome: RunOutcome) -> Evidence:
        folder = RunFolder(outcome.folder)
        window = outcome.result.window
        return Evidence(folder.load_records(), folder.load_facts(), (window.start, window.end))

    return Tools(execute, opened, say)


def say_on_stderr(line: str) -> None:
    """What is going on; results go to stdout."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def in_columns(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as text: the first column to the left, the others to the right."""
    held = list(rows)
    if not held:
        return ""
    widths = [max(len(row[place]) for row in held) for place in range(len(held[0]))]
    lines = []
    for row in held:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def shown(value: float | None, unit: str = "") -> str:
    """A number for a table; `-` where there is none. `unit` `ms` takes microseconds, `%` a share."""
    if value is None:
        return "-"
    if unit == "%":
        return f"{value:.1%}"
    if unit == "ms":
        value = value / 1e3
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
