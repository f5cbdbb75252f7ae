"""What all charts have in common. A chart is plain data in plotly's form, so making one wants no plotly.

Colours, grid and font are the page's affair (`page.js`), which knows whether the reader's screen is light or dark.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen.report import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loadgen.measure.columns import Floats

MOST_POINTS = 5_000
"""Of one trace."""
PALETTE = ("#3b82d6", "#e07b39", "#1f9e89", "#c2528b", "#8468d0", "#b08d1e", "#5b8c3a", "#8a6d5b")
"""Told apart on white and on black, and mostly by those who see no red or no green."""
BAD = "#d64545"
MUTED = "#8b93a1"

Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """`data` and `layout` as `Plotly.newPlot` takes them. `height` in pixels; `wide`: across the whole page."""

    title: str
    data: Sequence[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    height: int = 340
    wide: bool = False


def colours(names: Sequence[str]) -> dict[str, str]:
    """One each; the same class has the same colour in every chart of a page."""
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}


def words(text: str) -> str:
    """Plotly takes `<b>` and the like for markup, and a server may have written the text."""
    return html.escape(text, quote=False)


def line(x: Floats, y: Floats, name: str, colour: str, **more: Any) -> Trace:  # noqa: ANN401  plotly's own keys
    """A line through at most MOST_POINTS points; NaN breaks it. `dash`, `width`, `shape` are of the line."""
    style: dict[str, Any] = {key: more.pop(key) for key in ("dash", "shape") if key in more}
    style |= {"color": colour, "width": more.pop("width", 2)}
    kept = thinned(len(x))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": words(name),
        "x": numbers(x[kept]),
        "y": numbers(y[kept]),
        "line": style,
        **more,
    }


def thinned(count: int, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Places of at most `most` of so many points: evenly, with the first and the last."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


def numbers(values: Floats, digits: int = 6) -> list[float | None]:
    """For JSON, which has no NaN; six significant digits are more than a screen shows."""
    return [None if not np.isfinite(each) else float(f"{each:.{digits}g}") for each in values]


def axis(title: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401  plotly's own keys
    """An axis with a title."""
    return {"title": {"text": title}, "automargin": True, **more}


def log_axis(title: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401  plotly's own keys
    """One on which equal steps are equal factors."""
    return axis(title, **{"type": "log", "minor": {"showgrid": True}, **more})


def time_ticks(data: Sequence[Trace]) -> dict[str, Any]:
    """Ticks with their units for an axis of milliseconds, no more than there is room for."""
    known = [each for trace in data for each in trace["x"] if each]
    low, high = (min(known), max(known)) if known else (1.0, 10.0)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 10 else (1, 2, 5) if high / low < 300 else (1,)
    ticks = [step * 10.0**each for each in decades for step in steps]
    return {"tickvals": ticks, "ticktext": [show.brief(each * 1e3) for each in ticks], "minor": {"showgrid": False}}


def share_axis(title: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401  plotly's own keys
    """From nothing to all."""
    return axis(title, **{"tickformat": ".0%", "range": [0, 1.03], **more})


def mark(x: float, text: str, colour: str = MUTED, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
    """(shape, annotation) of a line from bottom to top."""
    shape = {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": colour, "width": 1, "dash": "dot"},
        **more,
    }
    note = {
        "x": x,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "text": words(text),
        "showarrow": False,
        "font": {"color": colour, "size": 11},
    }
    return shape, note
