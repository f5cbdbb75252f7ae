"""The live view in a terminal: from 80 columns on, wider where there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from loadgen.observe import live_text as text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from loadgen.observe.live_class import LiveClass
    from loadgen.observe.live_state import JobState, LiveState

WIDE: Final = 110
_STYLES: Final = {"INVALID": "bold white on red", "OVERLOADED": "bold black on yellow", "DISTURBED": "black on cyan"}
_NARROW: Final = (
    "class",
    "off/s",
    "done/s",
    "open",
    "ttft50",
    "ttft99",
    "tpot50",
    "tpot99",
    "30 s",
    "all",
    "err",
    "shed",
)
_BROAD: Final = (
    "class", "offered/s", "done/s", "in flight", "TTFT p50 ms", "p99", "TPOT p50 ms", "p99",
    "attained 30 s", "all", "errors", "shed",
)  # fmt: skip
_SERVER: Final = (("running", "running"), ("queue", "queued"), ("kv_use", "of KV"), ("preemptions", "preempted"))
_CURVES: Final = ("load/s", "attained", "offline")


def render(state: LiveState, now: int, width: int) -> RenderableType:
    """All of it, for a console of `width` columns."""
    parts: list[RenderableType] = [_header(state, now), _classes(state, now, width)]
    parts += [_job(job, width) for job in state.jobs()]
    parts += _curves(state, width)
    parts += _server(state)
    parts.append(_client(state))
    return Group(*parts)


def _header(state: LiveState, now: int) -> Text:
    phase, left = state.phase(now)
    found = Text(no_wrap=True, overflow="ellipsis")
    found.append(f"{phase} ", "bold")
    found.append(text.clock(now))
    if phase != "end":
        found.append(f"  {text.clock(left)} left", "dim")
    flags = state.flags(now)
    for name in flags:
        found.append(" ").append(f" {name} ", _STYLES.get(name, "bold"))
    # The flags are seen whatever the width; of the reasons as many as there is room for.
    found.append(" " + "; ".join(flags.values()), "italic")
    return found


def _classes(state: LiveState, now: int, width: int) -> Table:
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="dim")
    heads = _BROAD if wide else _NARROW
    for place, head in enumerate(heads):
        first = place == 0
        table.add_column(
            head,
            justify="left" if first else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=(24 if wide else 10) if first else None,
        )
    for name, each in state.classes.items():
        table.add_row(*_row(name, each, now))
    return table


def _row(name: str, each: LiveClass, now: int) -> list[str | Text]:
    totals = each.totals()
    offered, done = each.rates()
    recent, whole = each.attainment(now)
    errors = sum(totals.ended.get(kind, 0) for kind in ("error", "refused", "timeout"))
    shed = totals.ended.get("shed", 0)
    return [
        Text(name, "bold" if each.plan.online else "bold magenta"),
        text.number(offered) if each.plan.online else text.DASH,
        text.number(done),
        text.number(totals.in_flight),
        *(text.millis(each.quantile(metric, q, now)) for metric in ("ttft", "tpot") for q in (0.5, 0.99)),
        _share(recent),
        _share(whole),
        Text(text.number(errors), "red" if errors else "dim"),
        Text(text.number(shed), "yellow" if shed else "dim"),
    ]


def _share(share: float | None) -> Text:
    style = "dim" if share is None else "green" if share >= 0.99 else "yellow" if share >= 0.9 else "red"
    return Text(text.percent(share), style)


def _job(job: JobState, width: int) -> Text:
    found = Text(no_wrap=True, overflow="ellipsis")
    late = job.deadline is not None and job.forecast is not None and job.forecast > job.deadline
    style = "red" if late else "green"
    found.append(f"{job.name[:14]:<14} ", "bold magenta")
    found.append(text.bar(job.done / job.items if job.items else 0.0, max(10, width // 4)), style)
    found.append(f" {job.done}/{job.items}")
    if job.failed:
        found.append(f" {job.failed} failed", "red")
    if job.forecast is not None:
        done = job.items and job.done >= job.items
        found.append(f"  {'done' if done else 'forecast'} {text.clock(job.forecast)}", style)
    if job.deadline is not None:
        found.append(f"  deadline {text.clock(job.deadline)}", "dim")
    return found


def _curves(state: LiveState, width: int) -> list[RenderableType]:
    """Three curves over one axis of time, and where the faults were."""
    points = list(state.points)
    room = width - 22
    if len(points) < 2 or room < 10:
        return []
    columns: list[Sequence[float | None]] = [
        [point.offered for point in points],
        [point.attainment for point in points],
        [point.offline_tokens for point in points],
    ]
    found: list[RenderableType] = []
    for name, values, top in zip(_CURVES, columns, (None, 1.0, None), strict=True):
        if all(value is None for value in values):
            continue
        newest = values[-1]
        told = text.percent(newest) if top else f"{text.number(newest)}{'tok/s' if name == 'offline' else ''}"
        row = Text(no_wrap=True, overflow="crop")
        row.append(f"{name:<9}", "dim").append(text.spark(text.resampled(values, room), top)).append(f" {told}")
        found.append(row)
    marks = _marks(state, points[0].at, points[-1].at, min(room, len(points)))
    if marks:
        found.append(Text(f"{'faults':<9}{marks}", "red", no_wrap=True, overflow="crop"))
    return found


def _marks(state: LiveState, begin: int, end: int, width: int) -> str:
    """`▲name` under the second of each fault."""
    row = [" "] * width
    for name, at in state.faults:
        if begin <= at <= end:
            place = min(width - 1, (at - begin) * width // max(1, end - begin))
            mark = "▲" + name
            for step, letter in enumerate(mark[: width - place]):
                row[place + step] = letter
    return "".join(row).rstrip()


def _client(state: LiveState) -> Text:
    client = state.client()
    found = Text(no_wrap=True, overflow="ellipsis")
    found.append("client   ", "dim")
    found.append(
        f"lag p99 {text.millis(client.lag_p99)} ms  loop {text.millis(client.loop_lag_p99)} ms  "
        f"cpu {client.cpu:.0%}  backlog {text.size(client.backlog)}"
    )
    if client.dropped:
        found.append(f"  {client.dropped} summaries missed", "yellow")
    return found


def _server(state: LiveState) -> list[RenderableType]:
    told = [
        f"{text.percent(value) if name == 'kv_use' else text.number(value)} {word}"
        for name, word in _SERVER
        if (value := state.server.get(name)) is not None
    ]
    return [Text(f"{'server':<9}{', '.join(told)}", "dim", no_wrap=True, overflow="ellipsis")] if told else []
