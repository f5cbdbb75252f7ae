"""From runs to tables. Pure: every figure is paired with the baseline's of the same block, and claims come from blocks.

A table is a header and rows of texts; `tables.py` says which figures each has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from loadgen.stats.paired import Paired, Spread, compare, over_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FIGURE_PLACES: Final = 6
_GONE: Final = "-"


@dataclass(frozen=True, slots=True)
class Run:
    """One run that counts. `cell`: its load, by which it is paired, and `knob` the setting of its arm. `status` `ok`,
    `disturbed` or `invalid`.
    """

    arm: str
    cell: str
    knob: str
    window: int
    repeat: int
    host: str
    status: str
    attempts: int
    figures: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def block(self) -> tuple[str, int, int, str]:
        """Which block: runs of one block are paired."""
        return self.cell, self.window, self.repeat, self.host

    @property
    def group(self) -> tuple[str, str, str]:
        """Cell, arm, setting: what a line of `arms.csv` is about."""
        return self.cell, self.arm, self.knob


@dataclass(frozen=True, slots=True)
class Table:
    """`name`.csv."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None) -> str:
    """Six digits; `-` for what is not known."""
    if value is None or math.isnan(value):
        return _GONE
    return f"{value:.{FIGURE_PLACES}g}"


def runs_table(runs: Sequence[Run], mode: str = "measured") -> Table:
    """A line a run, all figures. `mode`: `measured`, `quick` or `virtual`, on every line."""
    names = figure_names(runs)
    header = ("mode", "cell", "arm", "knob", "window", "repeat", "host", "status", "attempts", *names)
    rows = []
    for run in _sorted(runs):
        key = (run.cell, run.arm, run.knob, str(run.window), str(run.repeat), run.host, run.status, str(run.attempts))
        rows.append((mode, *key, *(number(run.figures.get(name)) for name in names)))
    return Table("runs", header, tuple(rows))


def arms_table(runs: Sequence[Run], baseline: str) -> Table:
    """A line an arm, setting and figure: over the blocks, and over the baseline of the same block."""
    spread_names = ("blocks", "min", "median", "max", "low", "high")
    header = ("cell", "arm", "knob", "figure", *spread_names, "over_baseline", "over_low", "over_high", "p", "pairs")
    rows = []
    for (cell, arm, knob), mine in groups(runs).items():
        for name in figure_names(mine):
            values = _known(mine, name)
            if not len(values):
                continue
            spread, paired = over_runs(values), over_baseline(mine, runs, baseline, name)
            key = (cell, arm, knob, name, str(len(values)))
            rows.append((*key, *_spread(spread), *_paired(paired)))
    return Table("arms", header, tuple(rows))


def over_baseline(mine: Sequence[Run], runs: Sequence[Run], baseline: str, name: str) -> Paired | None:
    """Ratio of a figure to the baseline's of the same block; None where no pair has both above zero."""
    base = {run.block: run.figures.get(name) for run in runs if run.arm == baseline}
    pairs = [(base.get(run.block), run.figures.get(name)) for run in mine]
    known = [(one, other) for one, other in pairs if one is not None and other is not None and one > 0 and other > 0]
    known = [(one, other) for one, other in known if math.isfinite(one) and math.isfinite(other)]
    if not known:
        return None
    return compare(np.array([one for one, _ in known]), np.array([other for _, other in known]))


def groups(runs: Iterable[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Runs by cell, arm and setting, in the order of a table."""
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in _sorted(runs):
        found.setdefault(run.group, []).append(run)
    return found


def figure_names(runs: Iterable[Run]) -> list[str]:
    """All figures that any of them has, in order."""
    return sorted({name for run in runs for name in run.figures})


def median_of(runs: Iterable[Run], name: str) -> float | None:
    """Of a figure over runs; None where none has it."""
    values = _known(list(runs), name)
    return float(np.median(values)) if len(values) else None


def _sorted(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (run.cell, run.arm, run.knob, run.window, run.repeat, run.host))


def _known(runs: Sequence[Run], name: str) -> np.ndarray:
    values = [run.figures.get(name) for run in runs]
    return np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)


def _spread(spread: Spread) -> tuple[str, ...]:
    inner = spread.interval
    low, high = (None, None) if inner is None else (inner.low, inner.high)
    return tuple(number(each) for each in (spread.lowest, spread.median, spread.highest, low, high))


def _paired(paired: Paired | None) -> tuple[str, ...]:
    if paired is None:
        return (_GONE,) * 4 + ("0",)
    # Fewer than six blocks carry no interval, and so no claim.
    claims = len(paired.ratios) >= 6
    low, high, p = (paired.mean.low, paired.mean.high, paired.p) if claims else (None, None, None)
    return (*(number(each) for each in (paired.mean.value, low, high, p)), str(len(paired.ratios)))
