"""Swim lanes: what single requests did in one minute of the run, one bar each, in as few lanes as they need."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen.measure import metrics
from loadgen.measure.columns import OUTCOMES
from loadgen.report import charts, show
from loadgen.report.charts import BAD, MUTED, Chart

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns, Floats, Ints
    from loadgen.report.load import LoadedRun

MINUTE = 60_000_000
_MOST = 400
"""Requests a class."""
_LANES = 40
"""Lanes a class: more cannot be told apart."""
_BAR = 7


def lanes(run: LoadedRun) -> Chart | None:
    """Around the first fault, else in the middle of the window."""
    start = _minute(run)
    tint = charts.colours(list(run.facts.classes))
    data: list[charts.Trace] = []
    ticks: list[tuple[float, str]] = []
    base = drawn = shown = 0
    for name, facts in run.facts.classes.items():
        at = _within(run.of_class(name), start, online=facts.online)
        if not len(at):
            continue
        kept = at.taken(charts.thinned(len(at), _MOST))
        place, used = packed(_begins(kept, online=facts.online), _ends(kept, run.facts.horizon))
        kept, place = kept.where(place >= 0), place[place >= 0]
        data += _bars(kept, -(base + place).astype(np.float64), (name, tint[name]), run, online=facts.online)
        ticks.append((-(base + (used - 1) / 2), name))
        base += used + 1
        drawn, shown = drawn + len(kept), shown + len(at)
    if not data:
        return None
    window = [start / 1e6, min(start + MINUTE, run.window[1]) / 1e6]
    layout: dict[str, Any] = {
        "xaxis": charts.axis("seconds from t0", range=window),
        "yaxis": {
            "tickvals": [each[0] for each in ticks],
            "ticktext": [charts.words(each[1]) for each in ticks],
            "range": [-base + 0.5, 1],
            "showgrid": False,
            "zeroline": False,
        },
        "shapes": [charts.mark(each.at / 1e6, "", BAD)[0] for each in run.facts.faults],
        "hovermode": "closest",
    }
    what = "pale: waiting for the first token; full: tokens; grey: not sent yet; cross: not served"
    note = f"{drawn:,} of {shown:,} requests of {window[0]:g} to {window[1]:g} s; {what}"
    return Chart("One minute, request by request", data, layout, note, height=130 + 9 * base, wide=True)


def packed(begins: Floats, ends: Floats) -> tuple[Ints, int]:
    """Lane of each request so that none overlap, -1 beyond the last lane; and how many lanes are used."""
    place = np.full(len(begins), -1, dtype=np.int64)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    used = 0
    for each in np.argsort(begins, kind="stable"):
        while busy and busy[0][0] <= begins[each]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free and used < _LANES:
            heapq.heappush(free, used)
            used += 1
        if free:
            place[each] = heapq.heappop(free)
            heapq.heappush(busy, (float(ends[each]), int(place[each])))
    return place, used


def _minute(run: LoadedRun) -> int:
    """Its beginning; within the window, if that is long enough."""
    first, last = run.window
    fault = next((each.at for each in run.facts.faults if first <= each.at <= last), None)
    wanted = fault - MINUTE // 4 if fault is not None else (first + last - MINUTE) // 2
    return int(max(first, min(wanted, last - MINUTE)))


def _within(at: Columns, start: int, *, online: bool) -> Columns:
    begins, ends = _begins(at, online=online), np.where(np.isnan(at.end), np.inf, at.end)
    return at.where((begins < start + MINUTE) & (ends > start))


def _begins(at: Columns, *, online: bool) -> Floats:
    """An item of a job waits its turn, in which nobody waits for it: its bar begins with its sending."""
    return at.due if online else np.where(np.isnan(at.sent), np.inf, at.sent)


def _ends(at: Columns, horizon: int) -> Floats:
    return np.where(np.isnan(at.end), float(horizon), at.end)


def _bars(at: Columns, y: Floats, told: tuple[str, str], run: LoadedRun, *, online: bool) -> list[charts.Trace]:
    name, colour = told
    ends = _ends(at, run.facts.horizon)
    sent = np.where(np.isnan(at.sent), ends, at.sent)
    first = metrics.first_token(at)
    begun = np.where(np.isnan(first), ends, first)
    made = []
    if online and np.count_nonzero(sent - at.due > 1000):
        made.append(_segments((at.due, sent, y), f"{name} not sent", MUTED, at))
    made.append(_segments((sent, begun, y), f"{name} to first token", colour, at, opacity=0.4))
    made.append(_segments((begun, ends, y), f"{name} tokens", colour, at))
    bad = ~at.is_("ok") & ~at.is_("cancelled")
    if bad.any():
        marker = {"symbol": "x", "size": 8, "color": BAD}
        text = [f"{charts.words(show.plain(str(why)))}" for why in at.reason[bad]]
        place = {"x": charts.numbers(ends[bad] / 1e6), "y": charts.numbers(y[bad]), "text": text}
        look = {"type": "scatter", "mode": "markers", "marker": marker, "showlegend": False, "hoverinfo": "text"}
        made.append({**look, **place, "name": f"{charts.words(name)} not served"})
    return made


def _segments(
    spans: tuple[Floats, Floats, Floats], name: str, colour: str, at: Columns, opacity: float = 1.0
) -> charts.Trace:
    """(from, to, lane) of each request, with gaps between them so that one trace draws all."""
    gap = np.full(len(at), np.nan)
    x = np.stack((spans[0] / 1e6, spans[1] / 1e6, gap), axis=1).ravel()
    y = np.stack((spans[2], spans[2], gap), axis=1).ravel()
    text = [f"request {each}, {outcome}" for each, outcome in zip(at.id, _outcomes(at), strict=True) for _ in range(3)]
    more: dict[str, Any] = {"opacity": opacity, "text": text, "hovertemplate": "%{text}, %{x:.3f} s"}
    return charts.line(x, y, name, colour, width=_BAR, **more)


def _outcomes(at: Columns) -> list[str]:
    return [OUTCOMES[each] for each in at.outcome]
