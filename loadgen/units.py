"""Values as people write them: `90s`, `6/s`, `2%`, `64KiB`, `lognormal:128@0.5`.

Times are integers in microseconds everywhere in this package, and rates are floats per second.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

_NUMBER = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_TIME = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_SIZE = {"B": 1, "KB": 1_000, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION_PART = re.compile(rf"{_NUMBER}(us|ms|s|m|h)")
_SIZED = re.compile(rf"{_NUMBER}([KMG]i?B|B)?")
_RATE = re.compile(rf"{_NUMBER}/(.*)")


def duration(text: str) -> int:
    """Microseconds of `90s`, `1m30s`, `200ms`.

    Raises:
        ValueError: no such duration.
    """
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("a duration is a number and us, ms, s, m or h, such as 90s or 1m30s")
    return round(sum(float(number) * _TIME[unit] for number, unit in parts))


def rate(text: str) -> float:
    """Events a second of `6/s`, `1/10m`, `300/m`.

    Raises:
        ValueError: no such rate, or none above zero.
    """
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError("a rate is a number, a slash and a time, such as 6/s or 1/10m")
    per = found[2] if found[2][:1].isdigit() or found[2][:1] == "." else f"1{found[2]}"
    seconds = duration(per) / 1e6
    if seconds <= 0:
        raise ValueError("the time of a rate must be above zero")
    return float(found[1]) / seconds


def share(text: str) -> float:
    """0.02 of `2%` or `0.02`.

    Raises:
        ValueError: not a share between 0 and 1.
    """
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= value <= 1:
        raise ValueError("a share lies between 0 and 1, or 0% and 100%")
    return value


def size(text: str) -> int:
    """Bytes of `64KiB`, `4GiB`, `8KB`, `100`.

    Raises:
        ValueError: no such size.
    """
    found = _SIZED.fullmatch(text)
    if found is None:
        raise ValueError("a size is a number and B, KB, MB, GB, KiB, MiB or GiB")
    return round(float(found[1]) * _SIZE[found[2] or "B"])


@dataclass(frozen=True, slots=True)
class Dist:
    """A distribution of positive values; of what, its user says. `kind` and its numbers as in the text form."""

    kind: str
    first: float
    second: float = 0.0
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    file: str = ""
    """Of `hist`: where its values came from, so that it can be written back."""

    def mean(self) -> float:
        """Expected value."""
        if self.kind == "uniform":
            return (self.first + self.second) / 2
        if self.kind == "hist":
            return float(np.average(self.values, weights=self.weights))
        return self.first

    def draw(self, rng: Generator, count: int) -> NDArray[np.float64]:
        """`count` values, f64."""
        if self.kind == "uniform":
            return rng.uniform(self.first, self.second, count)
        if self.kind == "exp":
            return rng.exponential(self.first, count)
        if self.kind == "lognormal":
            return _lognormal(self.first, self.second, rng, count)
        if self.kind == "hist":
            weights = np.asarray(self.weights) / np.sum(self.weights)
            return rng.choice(np.asarray(self.values), size=count, p=weights)
        return np.full(count, self.first)


def _lognormal(mean: float, cv: float, rng: Generator, count: int) -> NDArray[np.float64]:
    """By mean and coefficient of variation, which people know, and not by the logarithm's, which they do not."""
    variance = math.log1p(cv * cv)
    return rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)


def dist(text: str, unit: str = "plain") -> Dist:
    """`fixed:v | uniform:a..b | exp:mean | lognormal:mean@cv | hist:FILE`; a bare number is `fixed`.

    `unit`: `plain` numbers, or `duration` (values become microseconds). A file holds `value,weight` lines.

    Raises:
        ValueError: no such distribution, or one that may give values that are not positive.
        OSError: the file cannot be read.
    """
    number = _plain if unit == "plain" else duration
    kind, colon, rest = text.partition(":")
    if not colon:
        kind, rest = "fixed", text
    if kind == "uniform":
        low, dots, high = rest.partition("..")
        if not dots:
            raise ValueError("uniform wants two ends, such as uniform:10..20")
        made = Dist(kind, number(low), number(high))
        if made.second < made.first:
            raise ValueError("the second end of uniform lies below the first")
    elif kind == "lognormal":
        mean, at, cv = rest.partition("@")
        if not at:
            raise ValueError("lognormal wants mean and coefficient of variation, such as lognormal:128@0.5")
        made = Dist(kind, number(mean), _plain(cv))
    elif kind == "hist":
        made = _histogram(Path(rest), number)
    elif kind in ("fixed", "exp"):
        made = Dist(kind, number(rest))
    else:
        raise ValueError("a distribution is fixed, uniform, exp, lognormal or hist")
    if made.kind != "hist" and made.first <= 0:
        raise ValueError("its values must be above zero")
    return made


def _plain(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError("a number must be finite and not negative")
    return value


def _histogram(path: Path, number: object) -> Dist:
    values: list[float] = []
    weights: list[float] = []
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split(",")
        try:
            value, weight = number(parts[0].strip()), _plain(parts[1].strip())  # type: ignore[operator]
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path}, row {row}: expected value,weight") from error
        if value <= 0:
            raise ValueError(f"{path}, row {row}: the value must be above zero")
        values.append(value)
        weights.append(weight)
    if not values or sum(weights) <= 0:
        raise ValueError(f"{path} holds no weight")
    return Dist("hist", values[0], values=tuple(values), weights=tuple(weights), file=str(path))
