"""One page that holds everything: style, script, plotly itself once, and the figures. It asks the network for nothing.

`page` takes any sections, so experiments and comparisons make their pages with it too. All text is escaped here, as
late as can be: whatever a server said is text and stays text.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.errors import BadInput
from loadgen.report.charts import Chart
from loadgen.report.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.report.story import Fact, Flag

INSTALL = "needs plotly: pip install 'slackwater[report]'"
_GRAVE = ("INVALID", "OVERLOADED", "INCOMPLETE")
_ALARMING = ("NO", "FAILS", "INVALID", "OVERLOADED", "never", "endless", "not ended")
_NETWORK = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True, slots=True)
class Card:
    """The figures of one class at a glance: a big one with what it is, and a few small ones."""

    title: str
    colour: str
    big: str
    what: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Sentences, one a line."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """Behind a line that opens it."""

    title: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Under one another in one box."""

    items: tuple[Item, ...]


Item = Chart | Table | Listing | Folded | Stack


@dataclass(frozen=True, slots=True)
class Row:
    """One to three things side by side where the screen is wide enough."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what is spoilt about it, what was done, and the figures. An empty `title` makes no heading."""

    title: str
    items: Sequence[Item | Row] = ()
    flags: Sequence[Flag] = ()
    facts: Sequence[Fact] = ()
    cards: Sequence[Card] = ()


class _Charts:
    """Numbers the charts as they are placed, to be written once at the end."""

    def __init__(self) -> None:
        self.held: list[dict[str, Any]] = []

    def place(self, chart: Chart) -> int:
        self.held.append({"data": list(chart.data), "layout": chart.layout})
        return len(self.held) - 1

    def script(self) -> str:
        # No text of a server may end the element that the data stand in.
        return msgspec.json.encode(self.held).decode().replace("<", "\\u003c")


def page(title: str, sections: Sequence[Section], *, status: str = "", stamp: str = "") -> str:
    """The whole file. `status`: of the pill beside the title; `stamp`: a word across all of it, such as `INVALID`.

    Raises:
        BadInput: plotly is not installed.
    """
    charts = _Charts()
    library = plotly_script()
    body = "".join(part for section in sections for part in _section(section, charts))
    across = f'<div class="stamp" aria-hidden="true"><span>{escape(stamp)}</span></div>' if stamp else ""
    pill = f'<span class="pill {escape(status)}">{escape(status)}</span>' if status else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_NETWORK}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(f'{stamp} {title}'.strip())}</title>\n<style>\n{_beside('page.css')}</style></head>\n"
        f'<body>{across}<main><header><div class="kicker">Slackwater load test</div>'
        f"<h1>{escape(title)}{pill}</h1></header>"
        f"{body}<noscript><p>The charts want JavaScript; all figures stand in the tables.</p></noscript>"
        "<footer>Made by slackwater-loadgen from the files of the run. Times count from the due time of a request, "
        "which was fixed before the run. Drag in a chart to look closer, double-click to go back.</footer></main>\n"
        f'<script>{library}</script>\n<script type="application/json" id="charts">{charts.script()}</script>\n'
        f"<script>\n{_beside('page.js')}</script></body></html>\n"
    )


def has_plotly() -> bool:
    """Whether pages can be made."""
    return importlib.util.find_spec("plotly") is not None


def plotly_script() -> str:
    """plotly.js, to be written into a page.

    Raises:
        BadInput: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise BadInput("--format", "", "html", INSTALL) from error
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _section(section: Section, charts: _Charts) -> Iterator[str]:
    yield "<section>"
    yield f'<h2 id="{_anchor(section.title)}">{escape(section.title)}</h2>' if section.title else ""
    yield from (_flag(each) for each in section.flags)
    if section.facts:
        yield '<dl class="facts">'
        for fact in section.facts:
            alarm = ' class="alarm"' if fact.alarming else ""
            yield f"<dt>{escape(fact.name)}</dt><dd{alarm}>{escape(fact.text)}</dd>"
        yield "</dl>"
    if section.cards:
        yield f'<div class="cards">{"".join(_card(each) for each in section.cards)}</div>'
    yield '<div class="grid">'
    for item in section.items:
        if isinstance(item, Row):
            yield from (_box(each, width, charts) for each, width in zip(item.items, _widths(item), strict=True))
        else:
            yield _box(item, "", charts)
    yield "</div></section>"


def _widths(row: Row) -> tuple[str, ...]:
    """A table wants more room than the chart that it stands beside."""
    if len(row.items) == 2 and isinstance(row.items[0], Chart | Stack) and isinstance(row.items[1], Table):
        return ("four", "eight")
    return ({1: "", 2: "half", 3: "third"}[len(row.items)],) * len(row.items)


def _anchor(title: str) -> str:
    """So that a part of a page can be pointed at: `#over-time`."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))


def _flag(flag: Flag) -> str:
    grave = " grave" if flag.kind in _GRAVE else ""
    reasons = "".join(f"<li>{escape(each)}</li>" for each in flag.reasons)
    more = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<div class="flag{grave}"><strong>{flag.kind}</strong>: {escape(flag.means)}{more}</div>'


def _card(card: Card) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in card.rows)
    return (
        f'<div class="card"><h3><i style="background:{escape(card.colour)}"></i>{escape(card.title)}</h3>'
        f'<div class="big">{escape(card.big)}</div><div class="what">{escape(card.what)}</div><dl>{rows}</dl></div>'
    )


def _box(item: Item, width: str, charts: _Charts) -> str:
    return f'<div class="box {width}">{_inside(item, charts)}</div>'


def _inside(item: Item, charts: _Charts) -> str:
    if isinstance(item, Folded):
        inner = "".join(_inside(each, charts) for each in item.items)
        return f"<details><summary>{escape(item.title)}</summary>{inner}</details>"
    if isinstance(item, Stack):
        return "".join(_inside(each, charts) for each in item.items)
    if isinstance(item, Listing):
        lines = "".join(f"<li>{escape(each)}</li>" for each in item.lines)
        return f'<h3>{escape(item.title)}</h3><ul class="limits">{lines}</ul>'
    note = f'<div class="note">{escape(item.note)}</div>' if item.note else ""
    if isinstance(item, Chart):
        number = charts.place(item)
        return f'<h3>{escape(item.title)}</h3>{note}<div data-chart="{number}" style="height:{item.height}px"></div>'
    return f"<h3>{escape(item.title)}</h3>{note}{_table(item)}"


def _table(table: Table) -> str:
    head = "".join(_cell("th", cell, word=place < table.left) for place, cell in enumerate(table.head))
    rows = "".join(
        f"<tr>{''.join(_cell('td', cell, word=place < table.left) for place, cell in enumerate(row))}</tr>"
        for row in table.rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{rows}</tbody></table></div>'


def _cell(kind: str, text: str, *, word: bool) -> str:
    alarming = kind == "td" and (text in _ALARMING or text.startswith("NO "))
    names = [
        name
        for name, on in (("w", word), ("none", text.startswith("-") and len(text) < 14 and not word), ("bad", alarming))
        if on
    ]
    marked = f' class="{" ".join(names)}"' if names else ""
    return f"<{kind}{marked}>{escape(text)}</{kind}>"
