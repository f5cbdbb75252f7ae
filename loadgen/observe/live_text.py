"""The live view as text: numbers in few letters, a line for logs, an object for programs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.observe.live_class import LiveClass
    from loadgen.observe.live_state import LiveState

DASH: Final = "-"
_BARS: Final = "▁▂▃▄▅▆▇█"


def clock(micros: int) -> str:
    """`1:05`, `12:00`, `1:00:00`."""
    seconds = max(0, micros) // 1_000_000
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def millis(micros: float | None) -> str:
    """Three digits, without the unit: `8.31`, `85.2`, `340`; from 100 s on in seconds."""
    if micros is None:
        return DASH
    value = micros / 1e3
    if value >= 100_000:
        return f"{value / 1e3:.0f}s"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def number(value: float | None) -> str:
    """A rate or a count in at most five letters: `0.25`, `12.0`, `1500`, `23.4k`."""
    if value is None:
        return DASH
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            scaled = value / (1e3 if letter == "k" else size)
            return f"{scaled:.0f}{letter}" if scaled >= 99.95 else f"{scaled:.1f}{letter}"
    return f"{value:.0f}" if value >= 99.95 or value == int(value) else f"{value:.3g}"


def percent(share: float | None) -> str:
    """`100%`, `99.4%`; never rounded up to 100."""
    if share is None:
        return DASH
    return "100%" if share >= 1 else f"{min(share, 0.999) * 100:.1f}%"


def size(count: float) -> str:
    """Bytes: `0B`, `12kB`, `3.4MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f}{name}"
    return f"{count:.0f}B"


def spark(values: Sequence[float | None], top: float | None = None) -> str:
    """One bar a value, from 0 to `top` or the greatest; a blank where nothing is known."""
    known = [value for value in values if value is not None]
    most = max(known, default=0.0) if top is None else top
    steps = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[round(steps * min(1.0, max(0.0, value / most))) if most > 0 else 0]
        for value in values
    )


def resampled(values: Sequence[float | None], width: int) -> list[float | None]:
    """Means of neighbours, so that all fit into `width`; fewer than that stay as they are."""
    if len(values) <= width:
        return list(values)
    found: list[float | None] = []
    for place in range(width):
        part = values[place * len(values) // width : (place + 1) * len(values) // width]
        known = [value for value in part if value is not None]
        found.append(sum(known) / len(known) if known else None)
    return found


def bar(share: float, width: int) -> str:
    """A filled part of `width` letters."""
    full = min(width, max(0, int(share * width)))
    return "█" * full + "░" * (width - full)


def header(state: LiveState, now: int) -> str:
    """Phase, time and what is left, for a line."""
    phase, left = state.phase(now)
    return f"{phase} {clock(now)}" + (f", {clock(left)} left" if phase != "end" else "")


def line(state: LiveState, now: int) -> str:
    """For `plain`: one line, all classes."""
    parts = [header(state, now)]
    parts += [f"{name} {why}" for name, why in state.flags(now).items()]
    parts += [_class_line(name, each, now) for name, each in state.classes.items() if each.totals().due]
    for job in state.jobs():
        forecast = "" if job.forecast is None else f", done at {clock(job.forecast)}"
        limit = "" if job.deadline is None else f" of {clock(job.deadline)}"
        parts.append(f"{job.name} {job.done}/{job.items}{forecast}{limit}")
    client = state.client()
    parts.append(f"client lag p99 {millis(client.lag_p99)} ms, cpu {client.cpu:.0%}")
    return " | ".join(parts)


def _class_line(name: str, each: LiveClass, now: int) -> str:
    totals = each.totals()
    offered, done = each.rates()
    words = [f"{name} {number(offered)}/s", f"done {number(done)}/s", f"{totals.in_flight} open"]
    ttft = each.quantile("ttft", 0.99, now)
    if ttft is not None:
        words.append(f"ttft p50 {millis(each.quantile('ttft', 0.5, now))} p99 {millis(ttft)} ms")
    recent, whole = each.attainment(now)
    if whole is not None:
        words.append(f"attained {percent(recent)} (all {percent(whole)})")
    bad = {kind: totals.ended.get(kind, 0) for kind in ("error", "shed", "refused", "timeout")}
    words += [f"{count} {kind}" for kind, count in bad.items() if count]
    return ", ".join(words)


def as_object(state: LiveState, now: int) -> dict[str, object]:
    """For `json`. Times are microseconds from `t0`, counts exact and since `t0`, the rest approximate; null is not
    known.
    """
    phase, left = state.phase(now)
    client = state.client()
    return {
        "t_micros": now,
        "phase": phase,
        "left_micros": left,
        "flags": state.flags(now),
        "classes": {name: _class_object(each, now) for name, each in state.classes.items()},
        "jobs": {
            job.name: {
                "items": job.items,
                "done": job.done,
                "failed": job.failed,
                "deadline_micros": job.deadline,
                "forecast_micros": job.forecast,
            }
            for job in state.jobs()
        },
        "server": state.server,
        "faults": [{"name": name, "at_micros": at} for name, at in state.faults],
        "client": {
            "lag_p99_micros": client.lag_p99,
            "loop_lag_p99_micros": client.loop_lag_p99,
            "cpu": client.cpu,
            "backlog_bytes": client.backlog,
            "dropped": client.dropped,
        },
    }


def _class_object(each: LiveClass, now: int) -> dict[str, object]:
    totals = each.totals()
    offered, done = each.rates()
    recent, whole = each.attainment(now)
    quantiles = {
        f"{metric}_p{round(q * 100)}_micros": each.quantile(metric, q, now)
        for metric in ("ttft", "tpot")
        for q in (0.5, 0.99)
    }
    return {
        "due": totals.due,
        "sent": totals.sent,
        "in_flight": totals.in_flight,
        "ended": totals.ended,
        "events": totals.marks,
        "offered_per_s": offered,
        "done_per_s": done,
        "attainment_30s": recent,
        "attainment": whole,
        **quantiles,
    }
