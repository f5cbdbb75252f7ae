"""A sweep as text. Latencies of overloaded runs are left out: they tell how long the run was, not how good the server
is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.campaign import in_columns, shown

if TYPE_CHECKING:
    from loadgen.sweep.record import Found, Point, SweepRecord

_HEAD = (
    "run",
    "asked/s",
    "due/s",
    "done/s",
    "attainment",
    "ttft p50",
    "ttft p99",
    "tpot p50",
    "tpot p99",
    "offline tok/s",
)


def text(record: SweepRecord) -> str:
    """All there is, incomplete sweeps too; times in ms."""
    parts = [f"sweep of {record.cls}.rate, lengths {record.lengths}, times in ms\n"]
    if record.interrupted:
        parts.insert(0, "INTERRUPTED: this is what there was\n")
    points = [each for each in record.points if each.purpose != "alone"]
    parts.append(in_columns([(*_HEAD, ""), *(_row(each, record.cls) for each in _sorted(points))]))
    alone = next((each for each in record.points if each.purpose == "alone"), None)
    if alone is not None:
        parts.append(_frontier(points, alone, record.cls))
    parts += [_answer(each, record) for each in record.found]
    return "\n".join(parts)


def _sorted(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda each: (each.rate or 0.0, each.mode, each.seed))


def _row(point: Point, cls: str) -> tuple[str, ...]:
    row = point.classes.get(cls)
    cells = ["-"] * 7
    if row is not None:
        cells = [shown(row.offered_per_s), shown(row.completed_per_s), shown(row.attainment, "%")]
        cells += [shown(each, "ms") for each in (row.ttft_p50, row.ttft_p99, row.tpot_p50, row.tpot_p99)]
    offline = shown(point.offline_tokens_per_s)
    return (f"{point.purpose} jobs {point.mode}", shown(point.rate), *cells, offline, _mark(point))


def _mark(point: Point) -> str:
    words = [] if point.status == "ok" else [point.status.upper()]
    words += {True: ["holds"], False: ["fails"], None: []}[point.holds]
    return " ".join(words)


def _frontier(points: list[Point], alone: Point, cls: str) -> str:
    """What the jobs took from the class, and how much they got for it, at each rate."""
    head = (f"harvest against attainment of {cls}", "without", "beside", "offline tok/s", "harvest")
    rows: list[tuple[str, ...]] = [head]
    for rate in sorted({each.rate for each in points if each.rate is not None}):
        off, on = (_first(points, rate, mode) for mode in ("off", "on"))
        if off is None or on is None:
            continue
        shares = [each.classes[cls].attainment if cls in each.classes else None for each in (off, on)]
        cells = [shown(each, "%") for each in shares]
        rows.append((f"{rate:.4g}/s", *cells, shown(on.offline_tokens_per_s), shown(on.harvest, "%")))
    return in_columns(rows) + f"jobs alone: {shown(alone.offline_tokens_per_s)} tokens/s\n"


def _first(points: list[Point], rate: float, mode: str) -> Point | None:
    return next((each for each in points if each.rate == rate and each.mode == mode and not each.invalid), None)


def _answer(found: Found, record: SweepRecord) -> str:
    jobs = {"on": "", "off": " without the jobs"}[found.mode] if record.with_offline == "both" else ""
    if found.low is None:
        why = "the client was the bottleneck" if found.limit == "client" else "it fails at the lowest rate"
        return f"{record.find}{jobs}: no rate found, {why}\n"
    above = {
        "condition": f"fails at {shown(found.high)}/s",
        "client": f"above it the client was the bottleneck (at {shown(found.high)}/s)",
        "range": "nothing higher was tried",
        "unfinished": "not confirmed",
    }[found.limit]
    seeds = f"{found.confirmed} of {found.wanted} fresh seeds agree"
    return f"{record.find}{jobs}: holds up to {shown(found.low)}/s ({above}; {seeds})\n"
