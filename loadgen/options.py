"""What each command is asked to do, typed: `cli.py` makes these, `commands/NAME.py` takes them.

The options of `mock` are in `mock/options.py`, with what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from loadgen.measure.expr import Expr, Figure
    from loadgen.spec import Scenario, Slo, SourceSpec, Transforms

Ui = Literal["rich", "plain", "json", "none"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`out` None: a new folder under `runs/`. `ui` None: `rich` at a terminal, else `plain`."""

    scenario: Scenario
    out: str | None = None
    ui: Ui | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Vary:
    """The rate of class `cls`: `values`, or from `low` to `high`, requests a second."""

    cls: str
    values: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """`points`: of a range, spaced evenly on a log scale. `tolerance`: of the rate found, as a share."""

    run: RunOptions
    vary: Vary
    points: int = 8
    find: Expr | None = None
    tolerance: float = 0.05
    confirm: int = 3
    with_offline: Literal["on", "off", "both"] = "on"


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """`run.scenario.target` is `a`. `block`: microseconds. `metrics` empty: the report's own choice."""

    run: RunOptions
    a: str
    b: str
    a_up: str | None = None
    a_down: str | None = None
    b_up: str | None = None
    b_down: str | None = None
    idle: Literal["leave", "freeze", "stop"] = "leave"
    block: int = 60_000_000
    pairs: int = 10
    order: Literal["abba", "random"] = "abba"
    metrics: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class ThreewayOptions:
    """Online alone, offline alone, both."""

    run: RunOptions


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """`plan`: a name of `loadgen/plans/` or a file. `out` is None only with `list` or `dry_run`; None elsewhere
    means the plan's own.
    """

    plan: str
    out: str | None
    runs: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    windows: int | None = None
    repeats: int | None = None
    data: str | None = None
    quick: bool = False
    resume: bool = False
    virtual: bool = False
    dry_run: bool = False
    list: bool = False
    set: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenOptions:
    """The scenario has no target."""

    scenario: Scenario
    output: str


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """`capacity`: prefill and decode tokens a second. A source without kind has `kind` empty: its file tells."""

    sources: tuple[SourceSpec, ...]
    transforms: Transforms
    cache_blocks: tuple[int, ...] = ()
    capacity: tuple[float, float] | None = None
    data: str | None = None
    json: bool = False


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """`slos`: by class. `window`: microseconds from `t0`. `output` None: stdout."""

    dirs: tuple[str, ...]
    slos: dict[str, Slo] = field(default_factory=dict)
    window: tuple[int, int] | None = None
    bucket: int = 1_000_000
    format: Literal["text", "json", "csv", "html", "md"] = "text"
    output: str | None = None
    against: str | None = None


@dataclass(frozen=True, slots=True)
class SelftestOptions:
    """`procs` None: 1, 2 and 4 as far as there are cores."""

    procs: int | None = None
    json: bool = False
