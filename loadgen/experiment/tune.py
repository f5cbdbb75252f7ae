"""Which setting of a knob is tried next, and which are taken. Pure: what was found so far decides, so a search goes on
where it was broken off.

Every arm gets the same number of probes, also where fewer would do: an arm that was looked at more closely would win.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.experiment.plan import Tune
    from loadgen.experiment.state import Probe

OFFLINE: Final = "offline.tokens_per_s"
CELLS: Final = tuple(f"{statistic}.{metric}" for metric in ("ttft", "tbt") for statistic in ("mean", "p99"))
"""Of the tolerance study."""
_VALUE: Final = re.compile(r"([0-9]*\.?[0-9]+)([^0-9]*)")


@dataclass(frozen=True, slots=True)
class Tried:
    """A probe that is done. `figures`: of its table, by name, None where it has none."""

    value: str
    figures: dict[str, float | None]


def tried(probe: Probe) -> Tried:
    """One that failed, or in which the client was too slow, was tried and holds nothing."""
    return Tried(probe.value, {} if probe.status in ("failed", "invalid") else probe.figures)


def next_value(tune: Tune, done: Sequence[Tried], base: float | None) -> str | None:
    """The setting to try next, None when all probes are done. `base`: the baseline's metric on the same window.

    Raises:
        BadInput: a search whose ends are no numbers of one unit.
    """
    if len(done) >= tune.probes:
        return None
    if tune.search == "grid":
        values = grid(tune)
        return values[len(done) % len(values)]
    return _bisected(tune, done, base)


def grid(tune: Tune) -> list[str]:
    """As many values as probes, evenly on a log scale, or those that were listed."""
    if tune.values:
        return list(tune.values)
    low, high, unit = ends(tune)
    steps = max(1, tune.probes - 1)
    whole = low.is_integer() and high.is_integer() and unit in ("", "us")
    return [_text(low * (high / low) ** (place / steps), unit, whole) for place in range(tune.probes)]


def ends(tune: Tune) -> tuple[float, float, str]:
    """Lowest and highest value, and their unit.

    Raises:
        BadInput: no two numbers of one unit, the first below the second.
    """
    parts = [_VALUE.fullmatch(text) for text in (tune.lo, tune.hi)]
    if parts[0] is None or parts[1] is None or parts[0][2] != parts[1][2]:
        raise BadInput(f"[[tune]] {tune.arm}", "lo", f"{tune.lo}..{tune.hi}", "expected two numbers of one unit")
    low, high = float(parts[0][1]), float(parts[1][1])
    if not 0 < low < high:
        raise BadInput(f"[[tune]] {tune.arm}", "lo", f"{tune.lo}..{tune.hi}", "expected 0 < lo < hi")
    return low, high, parts[0][2]


def _bisected(tune: Tune, done: Sequence[Tried], base: float | None) -> str:
    """On a log scale between the largest that held and the smallest that did not; the ends are taken to hold and
    not.
    """
    low, high, unit = ends(tune)
    whole = low.is_integer() and high.is_integer() and unit in ("", "us")
    for each in done:
        value = float(each.value.removesuffix(unit))
        if holds(each, tune.metric, tune.tolerance, base):
            low = max(low, value)
        else:
            high = min(high, value)
    return _text(math.sqrt(low * high), unit, whole)


def holds(tried: Tried, metric: str, tolerance: float, base: float | None) -> bool:
    """`metric <= (1 + tolerance) x base`; a figure that is not there does not hold."""
    value = tried.figures.get(metric)
    return value is not None and base is not None and value <= (1 + tolerance) * base


def _text(value: float, unit: str, whole: bool) -> str:
    return f"{round(value)}{unit}" if whole else f"{float(f'{value:.4g}'):g}{unit}"


def best(tune: Tune, done: Sequence[Tried], base: float | None) -> str | None:
    """The setting that is taken; None where none does.

    `within`: most offline tokens/s among those that hold; else the least or most of the metric.
    """
    if tune.goal == "within":
        return _most([each for each in done if holds(each, tune.metric, tune.tolerance, base)], OFFLINE)
    known = [each for each in done if each.figures.get(tune.metric) is not None]
    if tune.goal == "most":
        return _most(known, tune.metric)
    return min(known, key=lambda each: each.figures[tune.metric] or 0.0).value if known else None


def ranked(
    tune: Tune, done: Sequence[Tried], bases: Mapping[str, float | None], tolerances: Sequence[float]
) -> list[str]:
    """All settings that were tried, the one to test first in front: the best, then those that win the most cells of the
    tolerance study, then the most careful ones.

    `bases`: the baseline's figures on the tuning window.
    """
    cls = tune.metric.partition(".")[0]
    first = best(tune, done, bases.get(tune.metric))
    wins: dict[str, int] = {}
    for tolerance in tolerances:
        for cell in CELLS:
            name = f"{cls}.{cell}"
            winner = _most([each for each in done if holds(each, name, tolerance, bases.get(name))], OFFLINE)
            if winner is not None:
                wins[winner] = wins.get(winner, 0) + 1
    winners = sorted(wins, key=lambda value: (-wins[value], value))
    careful = sorted(done, key=lambda each: (_or_infinite(each.figures.get(tune.metric)), each.value))
    return list(dict.fromkeys([*([first] if first is not None else []), *winners, *(each.value for each in careful)]))


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _most(tried: Sequence[Tried], metric: str) -> str | None:
    known = [each for each in tried if each.figures.get(metric) is not None]
    # The earlier of two equal ones, so that the order of a dictionary decides nothing.
    return max(known, key=lambda each: each.figures[metric] or 0.0).value if known else None
