"""Writes values back in the forms that `units` reads, exactly: `parse(text(x)) == x`."""

from __future__ import annotations

from decimal import Decimal

from loadgen.units import Dist

_UNITS = (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000))


def decimal(value: float) -> str:
    """Shortest text that reads as the same float, without an exponent."""
    text = format(Decimal(repr(float(value))), "f")
    return text.removesuffix(".0")


def duration(micros: float) -> str:
    """In the largest unit that leaves a whole number."""
    for name, size in _UNITS:
        if micros and micros % size == 0:
            return f"{int(micros // size)}{name}"
    return f"{int(micros)}us"


def rate(per_second: float) -> str:
    """Such as `6/s`."""
    return f"{decimal(per_second)}/s"


def dist(value: Dist, unit: str = "plain") -> str:
    """As `units.dist` reads it.

    Raises:
        ValueError: a histogram that did not come from a file.
    """
    number = decimal if unit == "plain" else duration
    if value.kind == "uniform":
        return f"uniform:{number(value.first)}..{number(value.second)}"
    if value.kind == "lognormal":
        return f"lognormal:{number(value.first)}@{decimal(value.second)}"
    if value.kind == "hist":
        if not value.file:
            raise ValueError("a histogram is written as the file it came from, and this one has none")
        return f"hist:{value.file}"
    return f"{value.kind}:{number(value.first)}"
