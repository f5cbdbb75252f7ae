"""Two runs side by side: request by request where they had the same requests, else only as wholes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from loadgen.errors import BadInput
from loadgen.measure.classes import interval
from loadgen.measure.interference import Interference, harvest, interference
from loadgen.report import show
from loadgen.report.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.measure.columns import Columns
    from loadgen.report.load import LoadedRun
    from loadgen.result import ClassResult

_QUANTILES = (0.5, 0.99)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One class in both. `paired`: by what; `found` is `None` where nothing pairs them. `alone`, `here`: the paired
    requests, in the same order.
    """

    name: str
    paired: Literal["plan", "requests", "no"]
    found: Interference | None
    alone: Columns
    here: Columns


@dataclass(frozen=True, slots=True, eq=False)
class Against:
    """`other`: the run that is held against, such as the same plan without offline work."""

    run: LoadedRun
    other: LoadedRun
    pairs: tuple[Pair, ...]
    harvest: float | None


def compare(run: LoadedRun, other: LoadedRun) -> Against:
    """Of all online classes that both have.

    Raises:
        BadInput: one is simulated and the other measured, or they forced lengths differently.
    """
    refuse_mixed((run, other))
    lengths = [each.result.identity.get("lengths", "unknown") for each in (run, other)]
    if lengths[0] != lengths[1]:
        why = f"lengths are {lengths[1]} there and {lengths[0]} here: other answers, not comparable"
        raise BadInput("--against", "", other.name, why)
    names = [name for name, each in run.facts.classes.items() if each.online and name in other.facts.classes]
    rates = [each.result.offline_tokens_per_s for each in (run, other)]
    beside, alone = (None if each is None else each.value for each in rates)
    return Against(run, other, tuple(_pair(name, run, other) for name in names), harvest(beside, alone))


def refuse_mixed(runs: Sequence[LoadedRun]) -> None:
    """Raises:
    BadInput: simulated runs beside measured ones, which no table may hold together.
    """
    virtual = [each for each in runs if each.result.mode == "virtual"]
    if virtual and len(virtual) < len(runs):
        raise BadInput("report", "", virtual[0].name, "is simulated, and stands in no table beside measured runs")


def tables(found: Against) -> list[Table]:
    """What one kind of load cost the other, or what a change did."""
    return [each for each in (_costs(found), _changes(found)) if each.rows]


def _pair(name: str, run: LoadedRun, other: LoadedRun) -> Pair:
    here, alone = run.of_class(name), other.of_class(name)
    facts, horizons = run.facts.classes[name], (other.facts.horizon, run.facts.horizon)
    how = _how(run, other, alone, here, closed=facts.closed)
    if how == "no":
        return Pair(name, how, None, alone, here)
    if how == "requests":
        # The same requests in two plans have other numbers, since other classes stand between them.
        alone, here = (replace(each, id=np.arange(len(each), dtype=np.int64)) for each in (alone, here))
    shared = [each.where(np.isin(each.id, rest.id)) for each, rest in ((alone, here), (here, alone))]
    alone, here = (each.taken(np.argsort(each.id, kind="stable")) for each in shared)
    # By the due time here: in a closed loop the same request may be due in the window of one run only.
    inside = (here.due >= run.window[0]) & (here.due <= run.window[1])
    alone, here = alone.where(inside), here.where(inside)
    return Pair(name, how, interference(alone, here, facts, run.window, horizons), alone, here)


def _how(
    run: LoadedRun, other: LoadedRun, alone: Columns, here: Columns, *, closed: bool
) -> Literal["plan", "requests", "no"]:
    hashes = [each.result.identity.get("plan_hash", "unknown") for each in (run, other)]
    if hashes[0] == hashes[1] != "unknown":
        return "plan"
    same = len(alone) == len(here) > 0 and not closed
    for name in ("due", "in_want", "out_want"):
        same = same and np.array_equal(getattr(alone, name), getattr(here, name))
    return "requests" if same else "no"


def _costs(found: Against) -> Table:
    rows = []
    for each in found.pairs:
        here, alone = (run.result.classes[each.name] for run in (found.run, found.other))
        told = each.found
        rows.append(
            (
                each.name,
                f"{told.pairs:,}" if told else "not paired",
                _attained(alone),
                _attained(here),
                show.UNKNOWN if told is None else show.interval(interval(told.attainment), "points"),
                *(
                    show.UNKNOWN if told is None else show.interval(interval(told.differences[name]), "change")
                    for name in ("ttft", "tpot")
                ),
            )
        )
    head = (
        "class",
        "pairs",
        "attainment there",
        "here",
        "change [95 % in the run]",
        "mean TTFT change",
        "mean TPOT change",
    )
    how = {each.paired for each in found.pairs}
    note = {"plan": "one plan, paired by request", "requests": "the same requests, paired"}
    why = " and ".join(note.get(each, "other requests: not paired") for each in sorted(how))
    if found.harvest is not None:
        why += f"; harvest: offline work ran at {show.share(found.harvest)} of its speed there"
    return Table(f"Against {found.other.name}", head, tuple(rows), note=why)


def _changes(found: Against) -> Table:
    rows: list[tuple[str, ...]] = []
    for each in found.pairs:
        if each.found is not None:
            for change in each.found.changes:
                ratio = f"x{change.ratio:.2f}" if change.ratio is not None else show.UNKNOWN
                values = (show.time(change.alone), show.time(change.beside))
                rows.append((each.name, f"{change.statistic} {change.metric}", *values, ratio))
        else:
            rows += _whole(each.name, found)
    return Table("Figures there and here", ("class", "figure", "there", "here", "ratio"), tuple(rows), left=2)


def _whole(name: str, found: Against) -> list[tuple[str, ...]]:
    """Of runs with other requests: each as it is, and no more than a ratio."""
    rows: list[tuple[str, ...]] = []
    for metric in ("ttft", "tpot"):
        for q in _QUANTILES:
            there, here = (_value(run.result.classes[name], metric, q) for run in (found.other, found.run))
            ratio = f"x{here / there:.2f}" if here is not None and there else show.UNKNOWN
            rows.append((name, f"p{q * 100:g} {metric}", show.time(there), show.time(here), ratio))
    return rows


def _value(each: ClassResult, metric: str, q: float) -> float | None:
    return next((one.value for one in each.metrics[metric].quantiles if one.q == q), None)


def _attained(each: ClassResult) -> str:
    return show.UNKNOWN if each.attainment is None else show.share(each.attainment.value)
