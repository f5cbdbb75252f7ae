"""Charts of attainment: against how strict the promise is, against the rate, and against what offline work gains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen.measure.slo import judge
from loadgen.report import charts
from loadgen.report.charts import Chart
from loadgen.spec import Slo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.measure.columns import Columns
    from loadgen.measure.facts import ClassFacts
    from loadgen.report.load import LoadedRun
    from loadgen.result import ClassResult

SCALES = tuple(float(each) for each in np.geomspace(0.25, 8, 41))
_TICKS = (0.25, 0.5, 1, 2, 4, 8)


def scaled(slo: Slo, factor: float) -> Slo:
    """All times of the promise to each request stretched; a share of late tokens stays, and its deadlines stretch."""
    terms = (term if term.metric == "late" else replace(term, bound=term.bound * factor) for term in slo.per_request)
    return Slo(tuple(terms))


def curve(at: Columns, facts: ClassFacts, horizon: int) -> list[float | None]:
    """Attainment of these requests under each of SCALES."""
    return [judge(at, scaled(facts.slo, each), horizon, exact=facts.exact).value() for each in SCALES]


def by_scale(runs: Sequence[LoadedRun]) -> Chart | None:
    """A line a class and run; `None` where nothing was promised to any request."""
    data = []
    for number, run in enumerate(runs):
        tint = charts.colours(list(run.facts.classes))
        for name, facts in run.facts.classes.items():
            if facts.slo.per_request and run.result.classes[name].offered:
                at = run.of_class(name)
                inside = at.where((at.due >= run.window[0]) & (at.due <= run.window[1]))
                told = f"{name}, {run.name}" if len(runs) > 1 else name
                dash = ("solid", "dash", "dot", "dashdot")[number % 4]
                found = np.array(curve(inside, facts, run.facts.horizon), dtype=np.float64)
                data.append(charts.line(np.array(SCALES), found, told, tint[name], dash=dash))
    if not data:
        return None
    shape, note = charts.mark(1, "as promised")
    # On an axis of logarithms a shape stands at its value, an annotation at the value's logarithm.
    layout = {
        "xaxis": charts.log_axis(
            "SLO scale", tickvals=_TICKS, ticktext=[f"x{each:g}" for each in _TICKS], minor={"showgrid": False}
        ),
        "yaxis": charts.share_axis("attainment"),
        "shapes": [shape],
        "annotations": [{**note, "x": 0}],
        "hovermode": "x unified",
    }
    return Chart("Attainment against SLO scale", data, layout, "every bound of the SLO times the scale")


def by_rate(runs: Sequence[LoadedRun]) -> Chart | None:
    """A point a run and class. Closed loops have no rate of their own and stand in no such chart."""
    names = list(dict.fromkeys(name for run in runs for name in run.result.classes))
    tint, data = charts.colours(names), []
    for name in names:
        points = [
            (each.offered_per_s, each.attainment.value, each, run)
            for run in runs
            if (each := run.result.classes.get(name)) is not None and each.attainment is not None and not each.closed
        ]
        known = sorted((point for point in points if None not in point[:2]), key=lambda point: point[0] or 0.0)
        if len(known) > 1:
            data.append(_points(known, name, tint[name]))
    if not data:
        return None
    layout = {"xaxis": charts.axis("offered requests/s", rangemode="tozero"), "yaxis": charts.share_axis("attainment")}
    return Chart("Attainment against rate", data, layout, "bars: 95 % from within each run; open circles: overloaded")


def frontier(runs: Sequence[LoadedRun]) -> Chart | None:
    """What offline work gains against what online users keep: a point a run that had both."""
    both = [run for run in runs if run.result.offline_tokens_per_s is not None and _attained(run)]
    alone = [
        run.result.offline_tokens_per_s.value
        for run in runs
        if run.result.offline_tokens_per_s is not None and not any(each.online for each in run.result.classes.values())
    ]
    if len(both) < 2:
        return None
    names = list(dict.fromkeys(name for run in both for name in _attained(run)))
    lines = {
        name: [
            (_attained(run)[name], run.result.offline_tokens_per_s.value, run.name)
            for run in both
            if name in _attained(run) and run.result.offline_tokens_per_s is not None
        ]
        for name in names
    }
    return front(lines, max(alone, default=None))


def front(lines: Mapping[str, Sequence[tuple[float, float, str]]], best: float | None) -> Chart:
    """A line a name through its points: attainment, offline tokens/s, and what the point is. `best`: tokens/s of
    offline work alone, where somebody knows.
    """
    tint, data = charts.colours(list(lines)), []
    for name, found in lines.items():
        points = sorted(found)
        gains = np.array([each[1] for each in points]) / (best or 1.0)
        shares = np.array([each[0] for each in points])
        text = [charts.words(each[2]) for each in points]
        more: dict[str, Any] = {"mode": "lines+markers", "text": text, "hovertemplate": "%{text}<br>%{x:.1%}, %{y:.3g}"}
        data.append(charts.line(shares, gains, name, tint[name], width=1, **more))
    title = "harvest" if best else "offline tokens/s"
    layout = {
        "xaxis": charts.axis("attainment", tickformat=".0%"),
        "yaxis": charts.axis(title, rangemode="tozero", **({"tickformat": ".0%"} if best else {})),
    }
    note = "harvest: offline tokens/s beside the stream over offline alone" if best else "no run of offline work alone"
    return Chart("Harvest against attainment", data, layout, note)


def _attained(run: LoadedRun) -> dict[str, float]:
    told = {name: each.attainment for name, each in run.result.classes.items() if each.online}
    return {name: each.value for name, each in told.items() if each is not None and each.value is not None}


def _points(known: Sequence[tuple[Any, Any, ClassResult, LoadedRun]], name: str, colour: str) -> charts.Trace:
    spreads = [each.attainment.interval if each.attainment else None for _, _, each, _ in known]
    # A t interval knows nothing of the ends of a share.
    high = [(min(one.high, 1.0) - one.value) if one and one.high is not None else 0.0 for one in spreads]
    low = [(one.value - max(one.low, 0.0)) if one and one.low is not None else 0.0 for one in spreads]
    symbols = ["circle-open" if each.overloaded else "circle" for _, _, each, _ in known]
    rates, shares = (np.array([point[place] for point in known], dtype=np.float64) for place in (0, 1))
    text = [charts.words(run.name) for *_, run in known]
    more: dict[str, Any] = {
        "mode": "lines+markers",
        "marker": {"symbol": symbols, "size": 9},
        "error_y": {"type": "data", "array": high, "arrayminus": low, "symmetric": False, "thickness": 1},
        "text": text,
        "hovertemplate": "%{text}<br>%{x:.3g}/s, %{y:.1%}",
    }
    return charts.line(rates, shares, name, colour, **more)
