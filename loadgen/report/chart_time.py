"""The run over time, on one axis: load, attainment, tokens, the server's own counters, and when faults were on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen.measure.steps import rates
from loadgen.report import charts
from loadgen.report.charts import BAD, MUTED, Chart
from loadgen.report.intervals import SECOND, Buckets, buckets, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.measure.columns import Floats
    from loadgen.report.load import LoadedRun

_ROW = 128
_GAP = 0.26
"""Of a row's share of the height, kept free above it for its title."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One chart of the stack."""

    title: str
    data: list[charts.Trace]
    axis: dict[str, Any]


def timeline(run: LoadedRun, bucket: int = SECOND) -> Chart | None:
    """Rows that have nothing to show are left out; `None` without any request."""
    if not len(run.at):
        return None
    until = span(run.at, run.facts)
    while until // bucket >= charts.MOST_POINTS:
        bucket *= 2
    found = {
        name: buckets(run.of_class(name), facts, run.facts, until, bucket) for name, facts in run.facts.classes.items()
    }
    rows = [_load(run, found, bucket), _attainment(found), _offline(run, found, bucket), *_server(run), _host(run)]
    return _stacked([row for row in rows if row.data], run, until)


def _load(run: LoadedRun, found: dict[str, Buckets], bucket: int) -> _Row:
    tint = charts.colours(list(found))
    data = []
    for name, each in found.items():
        if run.facts.classes[name].online:
            x = each.starts / 1e6
            data.append(_step(x, each.offered / (bucket / 1e6), name, tint[name], legendgroup=name))
    return _Row("offered requests/s", data, {"rangemode": "tozero"})


def _attainment(found: dict[str, Buckets]) -> _Row:
    """Of groups of buckets with enough requests to be a share of something."""
    tint = charts.colours(list(found))
    data = []
    for name, each in found.items():
        if each.counted.sum():
            wide = _group(each)
            counted, good = (_summed(part, wide) for part in (each.counted, each.good))
            share = np.where(counted > 0, good / np.maximum(counted, 1), np.nan)
            more = {"legendgroup": name, "showlegend": False}
            data.append(_step(each.starts[::wide] / 1e6, share, f"{name} attainment", tint[name], **more))
    return _Row("attainment, by due time", data, {"tickformat": ".0%", "range": [0, 1.05]})


def _offline(run: LoadedRun, found: dict[str, Buckets], bucket: int) -> _Row:
    tint = charts.colours(list(found))
    names = [name for name, each in run.facts.classes.items() if not each.online]
    data = []
    for name in names:
        each = found[name]
        if each.tokens.sum():
            x = each.starts / 1e6
            data.append(_step(x, each.tokens / (bucket / 1e6), f"{name} output", tint[name], legendgroup=name))
    counter = run.facts.offline_curve
    if counter is not None and len(counter.times) > 1:
        x = np.arange(counter.times[0], counter.times[-1], SECOND, dtype=np.float64)
        y = rates(counter, counter.times[0], counter.times[-1])
        dashed = not run.facts.curve_agrees or any(job.usage_disagrees for job in run.facts.jobs)
        label = "offline, server's count" + (", disagrees with usage" if dashed else "")
        data.append(charts.line(x[: len(y)] / 1e6, y, label, MUTED, dash="dash" if dashed else "solid", width=1.5))
    return _Row("offline tokens/s", data, {"rangemode": "tozero"})


def _server(run: LoadedRun) -> list[_Row]:
    times, use = run.server.known("kv_use", "kv_usage")
    kv = [charts.line(times / 1e6, use, "KV use", charts.PALETTE[4], fill="tozeroy", width=1.5)] if len(times) else []
    queues = []
    for name, colour in (("running", charts.PALETTE[6]), ("queue", charts.PALETTE[7])):
        times, values = run.server.known(name)
        queues += [charts.line(times / 1e6, values, f"server {name}", colour, width=1.5)] if len(times) else []
    return [
        _Row("KV cache in use", kv, {"tickformat": ".0%", "range": [0, 1.05]}),
        _Row("requests in the server", queues, {"rangemode": "tozero"}),
    ]


def _host(run: LoadedRun) -> _Row:
    """Who else worked on this machine, where that is what the reader must ask."""
    data = []
    if run.result.invalid or run.result.disturbed:
        for name, label, colour in (("foreign_cpu", "other processes", BAD), ("own_cpu", "load generator", MUTED)):
            times, values = run.host.known(name)
            data += [charts.line(times / 1e6, values, label, colour, width=1.5)] if len(times) else []
    return _Row("CPU on this host, cores", data, {"rangemode": "tozero"})


def _stacked(rows: Sequence[_Row], run: LoadedRun, until: int) -> Chart:
    layout: dict[str, Any] = {
        "xaxis": charts.axis("seconds from t0", range=[0, until / 1e6], anchor="free", position=0),
        "hovermode": "x unified",
        "annotations": [],
        "shapes": _spans(run, until),
    }
    data: list[charts.Trace] = []
    for number, row in enumerate(rows):
        key = "" if number == 0 else str(number + 1)
        top = 1 - number / len(rows)
        domain = [top - 1 / len(rows), top - _GAP / len(rows)]
        layout[f"yaxis{key}"] = {"domain": domain, "nticks": 4, "zeroline": False, **row.axis}
        data += [{**trace, "yaxis": f"y{key}"} for trace in row.data]
        layout["annotations"].append(_title(row.title, domain[1]))
    layout["annotations"] += [_fault_name(each.name, each.at) for each in run.facts.faults]
    note = "the measured window is shaded, faults are red"
    return Chart("Timeline", data, layout, note, height=90 + _ROW * len(rows), wide=True)


def _spans(run: LoadedRun, until: int) -> list[dict[str, Any]]:
    box = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0}, "layer": "below"}
    found = [{**box, "x0": run.window[0] / 1e6, "x1": run.window[1] / 1e6, "fillcolor": MUTED, "opacity": 0.09}]
    for each in run.facts.faults:
        begin, end = each.at / 1e6, (each.until if each.until is not None else each.at) / 1e6
        found.append({**box, "x0": begin, "x1": min(end, until / 1e6), "fillcolor": BAD, "opacity": 0.14})
        found.append(charts.mark(begin, "", BAD)[0])
    return found


def _title(text: str, y: float) -> dict[str, Any]:
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": y, "yanchor": "bottom"}
    return {**place, "text": text, "showarrow": False, "font": {"size": 12}}


def _fault_name(name: str, at: int) -> dict[str, Any]:
    place = {"x": at / 1e6, "xanchor": "left", "yref": "paper", "y": 1, "yanchor": "top"}
    return {**place, "text": charts.words(name), "showarrow": False, "font": {"size": 11, "color": BAD}}


def _step(x: Floats, y: Floats, name: str, colour: str, **more: Any) -> charts.Trace:  # noqa: ANN401  plotly's own keys
    return charts.line(x, y, name, colour, shape="hv", width=1.5, **more)


def _group(each: Buckets) -> int:
    """Buckets taken together, so that there are some 20 requests in each."""
    busy = each.counted[each.counted > 0]
    return max(1, round(20 / float(busy.mean())))


def _summed(values: Floats, wide: int) -> Floats:
    return np.add.reduceat(values, np.arange(0, len(values), wide))
