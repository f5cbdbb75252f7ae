"""What a caller of a run may set beside its scenario, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from loadgen.errors import ExitCode, first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from loadgen.drive.crew import Crew
    from loadgen.measure.evaluate import Outcome
    from loadgen.options import RunOptions
    from loadgen.plan.model import Plan
    from loadgen.result import Result


def _quiet(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`crew`: load processes that stand already, so that two servers are measured from the same ones. `plan`: made
    before. `experiment`: lags disturb instead of making it INVALID. `within_limits`: refuse what `selftest` found this
    host to be too slow for. `other`: figures of a second run, for assertions.
    `say`: gets lines of progress.
    """

    crew: Crew | None = None
    plan: Plan | None = None
    experiment: bool = False
    within_limits: bool = False
    quick: bool = False
    html: bool = True
    other: Mapping[str, float] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = _quiet


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """`codes`: all that apply. `checks`: the assertions."""

    folder: Path
    result: Result
    codes: frozenset[ExitCode]
    checks: tuple[Outcome, ...] = ()

    @property
    def code(self) -> ExitCode:
        """The one that the command ends with."""
        return first_of(self.codes)

    @property
    def failed(self) -> tuple[str, ...]:
        """Assertions that do not hold."""
        return tuple(each.text for each in self.checks if not each.holds)


class Runner(Protocol):
    """Carries out one run: `execute`, or a stand-in in tests."""

    def __call__(self, options: RunOptions, stage: Stage | None = None) -> RunOutcome:
        """Raises LoadgenError where there is nothing to report."""
