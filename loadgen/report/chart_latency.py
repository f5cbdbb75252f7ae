"""Distributions of latencies on both clocks: from the due time as a user waits, from sending as the server sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure import metrics
from loadgen.measure.slo import judge, targets
from loadgen.report import charts
from loadgen.report.charts import Chart

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns, Floats
    from loadgen.measure.facts import ClassFacts
    from loadgen.report.load import LoadedRun

_CLOCKS = {"ttft": ("ttft", "wire_ttft"), "e2e": ("e2e", "wire_e2e"), "tpot": ("tpot", None)}
_TITLES = {"ttft": "Time to first token", "e2e": "Time to the whole answer", "tpot": "Time per output token"}
_TAIL = 200
"""So many of the greatest values are all drawn: the tail is what the chart is for."""


def cdfs(run: LoadedRun) -> list[Chart]:
    """Of online classes; a curve that ends below 100 % is of a class in which some got no such thing."""
    found = []
    for name in ("ttft", "tpot", "e2e"):
        made = _cdf(run, name)
        found += [made] if made is not None else []
    return found


def distribution(values: Floats, total: int) -> tuple[Floats, Floats]:
    """(value, share of `total` at or below it), thinned, all of the tail kept."""
    ordered = np.sort(values[~np.isnan(values)])
    body = charts.thinned(max(len(ordered) - _TAIL, 0), charts.MOST_POINTS - _TAIL)
    kept = np.concatenate((body, np.arange(max(len(ordered) - _TAIL, 0), len(ordered))))
    return ordered[kept], (kept + 1) / max(total, 1)


def _cdf(run: LoadedRun, name: str) -> Chart | None:
    tint = charts.colours(list(run.facts.classes))
    data, shapes = [], []
    for cls, facts in run.facts.classes.items():
        at = run.of_class(cls)
        at = at.where((at.due >= run.window[0]) & (at.due <= run.window[1]))
        if facts.online and len(at):
            data += _curves(at, facts, run.facts.horizon, name, (cls, tint[cls]))
            bound = dict(zip(("ttft", "tpot"), targets(facts.slo), strict=True)).get(name)
            shapes += [charts.mark(bound / 1e3, "", tint[cls])[0]] if bound is not None else []
    if not data:
        return None
    layout = {
        "xaxis": charts.log_axis("", **charts.time_ticks(data)),
        "yaxis": charts.share_axis("share of requests"),
        "shapes": shapes,
    }
    wire = "; dotted: from sending" if _CLOCKS[name][1] else ""
    clock = "from the due time" if wire else "between tokens"
    return Chart(_TITLES[name], data, layout, f"{clock}{wire}; upright: the SLO" if shapes else f"{clock}{wire}")


def _curves(at: Columns, facts: ClassFacts, horizon: int, name: str, told: tuple[str, str]) -> list[charts.Trace]:
    counted = judge(at, facts.slo, horizon, exact=facts.exact).counted
    cls, colour = told
    made = []
    for clock, metric in zip(("due", "wire"), _CLOCKS[name], strict=True):
        values = metrics.PER_REQUEST[metric](at)[counted] if metric else np.zeros(0)
        # An answer of one token has no time per token, and its lack is no failure.
        total = int(np.count_nonzero(~np.isnan(values))) if name == "tpot" else int(np.count_nonzero(counted))
        x, y = distribution(np.maximum(values, 1.0) / 1e3, total)
        if len(x):
            style = {"dash": "dot", "width": 1.5} if clock == "wire" else {}
            label = cls if name == "tpot" else f"{cls} {clock}"
            made.append(charts.line(x, y, label, colour, legendgroup=cls, shape="hv", **style))
    return made
