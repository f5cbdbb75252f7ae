"""Charts of pairs: the same request in two runs, and the ratios of blocks that `compare` and `experiment` measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen.measure.slo import value_of
from loadgen.report import charts
from loadgen.report.chart_latency import distribution
from loadgen.report.charts import Chart
from loadgen.stats.paired import FEWEST_RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.measure.columns import Floats
    from loadgen.report.against import Against
    from loadgen.stats.paired import Paired

_TITLES = {"ttft": "TTFT", "tpot": "TPOT"}


def differences(found: Against) -> list[Chart]:
    """By how much each request got slower or faster than its twin, and when."""
    made = []
    for metric in ("ttft", "tpot"):
        sets = [(pair.name, *_differences(found, pair.name, metric)) for pair in found.pairs if pair.found is not None]
        known = [each for each in sets if len(each[1])]
        if known:
            made += [_spread(metric, known, found), _over_time(metric, known, found)]
    return made


def ratios(title: str, found: dict[str, Paired], better: str = "", over: str = "B over A") -> Chart:
    """Per figure the ratios of its blocks, with their geometric mean and, from six blocks on, its interval over them.

    `over`: what is divided by what.
    """
    names = list(found)
    data: list[charts.Trace] = []
    for number, each in enumerate(found.values()):
        colour = charts.PALETTE[number % len(charts.PALETTE)]
        spot = {"color": colour, "size": 6, "opacity": 0.5}
        data.append({"type": "scatter", "mode": "markers", "x": list(each.ratios), "y": [number] * len(each.ratios)})
        data[-1] |= {"marker": spot, "name": "blocks", "showlegend": False}
        # Fewer blocks carry no claim, and a bar would be read as one.
        claims = len(each.ratios) >= FEWEST_RUNS
        low, high = (each.mean.low, each.mean.high) if claims else (None, None)
        sides = {"type": "data", "symmetric": False, "thickness": 2}
        sides |= {"array": [0 if high is None else high - each.mean.value]}
        sides |= {"arrayminus": [0 if low is None else each.mean.value - low]}
        mean = {"color": colour, "size": 12, "symbol": "diamond"}
        data.append({"type": "scatter", "mode": "markers", "x": [each.mean.value], "y": [number], "marker": mean})
        data[-1] |= {"error_x": sides, "name": charts.words(names[number]), "showlegend": False}
        data[-1] |= {"hovertemplate": "%{x:.3f}" + (f", p = {each.p:.3g}" if claims else "")}
    shape, note = charts.mark(1, "equal")
    layout = {
        "xaxis": charts.log_axis(f"ratio, {charts.words(over)}"),
        "yaxis": charts.axis("", tickvals=list(range(len(names))), ticktext=[charts.words(each) for each in names]),
        "shapes": [shape],
        "annotations": [{**note, "x": 0}],
    }
    how = f"dots: blocks; diamond: geometric mean, with 95 % from {FEWEST_RUNS} blocks on"
    return Chart(title, data, layout, f"{how}; {better}" if better else how, height=130 + 44 * len(names))


def _differences(found: Against, name: str, metric: str) -> tuple[Floats, Floats]:
    pair = next(each for each in found.pairs if each.name == name)
    slo = found.run.facts.classes[name].slo
    change = value_of(pair.here, metric, slo) - value_of(pair.alone, metric, slo)
    inside = (pair.here.due >= found.run.window[0]) & (pair.here.due <= found.run.window[1]) & ~np.isnan(change)
    return pair.here.due[inside], change[inside]


def _spread(metric: str, sets: Sequence[tuple[str, Floats, Floats]], found: Against) -> Chart:
    tint = charts.colours(list(found.run.facts.classes))
    data, ends = [], []
    for name, _, change in sets:
        x, y = distribution(change / 1e3, len(change))
        data.append(charts.line(x, y, name, tint[name], shape="hv"))
        ends += [float(np.quantile(change / 1e3, q)) for q in (0.005, 0.995)]
    shape, note = charts.mark(0, "no change")
    edge = max(abs(min(ends)), abs(max(ends)), 1e-3) * 1.05
    layout: dict[str, Any] = {
        "xaxis": charts.axis("change, ms", range=[-edge, edge]),
        "yaxis": charts.share_axis("share of pairs"),
        "shapes": [shape],
        "annotations": [note],
    }
    return Chart(f"{_TITLES[metric]}, paired differences", data, layout, "this run less the other, request by request")


def _over_time(metric: str, sets: Sequence[tuple[str, Floats, Floats]], found: Against) -> Chart:
    tint = charts.colours(list(found.run.facts.classes))
    data = []
    for name, due, change in sets:
        more: dict[str, Any] = {"mode": "markers", "marker": {"size": 4, "opacity": 0.5, "color": tint[name]}}
        data.append(charts.line(due / 1e6, change / 1e3, name, tint[name], **more))
    layout = {"xaxis": charts.axis("due, seconds from t0"), "yaxis": charts.axis("change, ms")}
    return Chart(f"{_TITLES[metric]}, differences over time", data, layout, "a dot a request")
