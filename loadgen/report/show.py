"""How numbers are written for people: three significant digits and a unit; `-` for what is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadgen.result import Interval, MetricResult, Quantile

UNKNOWN = "-"
_SECOND = 1_000_000


def count(value: float | None) -> str:
    """Such as `12,345`."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """Three significant digits, all digits of what is larger: `0.123`, `1.23`, `12.3`, `1,234`."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    for least, form in ((99.95, ",.0f"), (9.995, ".1f"), (0.9995, ".2f"), (0.0005, ".3f")):
        if size >= least:
            return format(value, form)
    return "0" if value == 0 else f"{value:.1e}"


def time(micros: float | None) -> str:
    """In the unit that suits: `85 us`, `12.3 ms`, `4.56 s`, `3 m 20 s`."""
    if micros is None:
        return UNKNOWN
    size = abs(micros)
    if size < 999.5:
        return f"{micros:.0f} us" if size >= 0.5 else "0 ms"
    if size < 999_500:
        return f"{number(micros / 1e3)} ms"
    if size < 120 * _SECOND:
        return f"{number(micros / 1e6)} s"
    minutes, seconds = divmod(round(size / 1e6), 60)
    sign = "-" if micros < 0 else ""
    return f"{sign}{minutes} m {seconds:02d} s"


def brief(micros: float) -> str:
    """For a tick, whose value is round: `20 ms`, `5 s`."""
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if micros >= size:
            return f"{micros / size:g} {unit}"
    return f"{micros:g} us"


def at(micros: float | None) -> str:
    """A moment of the run: `12.3 s`."""
    return UNKNOWN if micros is None else f"{micros / 1e6:,.1f} s"


def share(value: float | None) -> str:
    """Such as `98.7 %`. What is not all never reads `100 %`, and what is not nothing never `0 %`."""
    if value is None:
        return UNKNOWN
    percent = value * 100
    digits = 1
    while digits < 4 and value not in (0.0, 1.0) and round(percent, digits) in (0.0, 100.0):
        digits += 1
    return f"{percent:.{digits}f} %".replace(".0 %", " %") if value in (0.0, 1.0) else f"{percent:.{digits}f} %"


def interval(found: Interval | None, form: str = "number") -> str:
    """`12.3 [11.9, 12.7]`; without the brackets where there is no interval.

    `form`: `number`, `time`, `share`, `change` of a time, or `points` for the difference of two shares.
    """
    if found is None:
        return UNKNOWN
    if form == "points":
        low, high = (None if each is None else f"{each * 100:+.1f}" for each in (found.low, found.high))
        bounds_of = "" if low is None or high is None else f" [{low}, {high}]"
        return f"{found.value * 100:+.1f}{bounds_of} points"
    write = {"number": number, "time": time, "share": _within, "change": change}[form]
    if found.low is None or found.high is None:
        return write(found.value)
    return f"{write(found.value)} [{write(found.low)}, {write(found.high)}]"


def change(micros: float) -> str:
    """A difference of two times, with its sign."""
    return f"+{time(micros)}" if micros > 0 else time(micros)


def _within(value: float) -> str:
    """A t interval knows nothing of the ends of a share."""
    return share(min(max(value, 0.0), 1.0))


def quantile(found: Quantile | None) -> str:
    """Its value, or `-` and how many samples it wants."""
    if found is None:
        return UNKNOWN
    return time(found.value) if found.value is not None else f"- (n>={found.needed:,})"


def quantile_of(metric: MetricResult | None, q: float) -> str:
    """One quantile of a metric, which the class may not have at all."""
    return quantile(
        None if metric is None or not metric.count else next((each for each in metric.quantiles if each.q == q), None)
    )


def bounds(found: Quantile) -> str:
    """The order-statistic interval: `[1.2 ms, 1.4 ms]`, open sides as `..`."""
    if found.value is None:
        return ""
    low = ".." if found.low is None else time(found.low)
    high = ".." if found.high is None else time(found.high)
    return f"[{low}, {high}]"


def yes(value: bool | None) -> str:
    """`yes`, `NO` or `-`."""
    return UNKNOWN if value is None else "yes" if value else "NO"


def counts(pairs: Iterable[tuple[str, int]]) -> str:
    """`8 no_done, 4 status_500`, the greatest first."""
    ordered = sorted(((name, held) for name, held in pairs if held), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{held:,} {name}" for name, held in ordered)


def plain(text: str, most: int = 200) -> str:
    """Text of a server on one line, without control characters: it may be anything."""
    whole = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return whole if len(whole) <= most else f"{whole[: most - 3]}..."
