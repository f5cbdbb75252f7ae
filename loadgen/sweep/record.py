"""`sweep.json`: every run of a sweep, what was found, and what must be known to read both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from loadgen.result import ClassResult, Result

SWEEP_VERSION = 1
Mode = Literal["on", "off"]
"""Beside the jobs, or without."""
Purpose = Literal["point", "search", "confirm", "alone"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One online class in one run. Times in microseconds; `null` too where the class was overloaded, since such
    latencies depend on how long the run was.
    """

    offered_per_s: float | None
    completed_per_s: float | None
    attainment: float | None
    ttft_p50: float | None
    ttft_p99: float | None
    tpot_p50: float | None
    tpot_p99: float | None
    overloaded: bool


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `holds` `null`: it could not be judged, `reason` says why. `alone`: the jobs without the classes."""

    rate: float | None
    """As asked for, requests a second; `null` for `alone`."""
    realised: float | None
    """As the plan came out."""
    mode: Mode
    purpose: Purpose
    seed: int
    folder: str
    """From the folder of the sweep."""
    status: str
    invalid: list[str]
    classes: dict[str, Row]
    offline_tokens_per_s: float | None
    harvest: float | None = None
    """Offline tokens a second over those of the jobs alone."""
    holds: bool | None = None
    value: float | None = None
    """Of the figure of `--find`, in its unit."""
    reason: str | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `--find`. `low` passes, `high` is the smallest that fails; `null`: none of those tried does.

    `limit`: why nothing is claimed above `low`: the condition failed, the client was the bottleneck, the range ended,
    or it is not confirmed.
    """

    mode: Mode
    low: float | None
    high: float | None
    within_tolerance: bool
    confirmed: int
    """Fresh seeds at `low`, all of which pass."""
    wanted: int
    limit: Literal["condition", "client", "range", "unfinished"]

    @property
    def settled(self) -> bool:
        """A rate that passes, with as many fresh seeds as were asked for."""
        return self.low is not None and self.confirmed >= self.wanted


class SweepRecord(msgspec.Struct, kw_only=True):
    """The whole; written anew after every run."""

    version: int = SWEEP_VERSION
    cls: str = msgspec.field(name="class")
    find: str | None = None
    tolerance: float = 0.05
    with_offline: Literal["on", "off", "both"] = "on"
    lengths: str = "unknown"
    interrupted: bool = False
    points: list[Point] = []
    found: list[Found] = []


def encode(record: SweepRecord) -> bytes:
    """As it stands in the file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(text: bytes) -> SweepRecord:
    """What `encode` wrote.

    Raises:
        msgspec.ValidationError: not such a tree, or of another version.
    """
    found = msgspec.json.decode(text, type=SweepRecord)
    if found.version != SWEEP_VERSION:
        raise msgspec.ValidationError(f"sweep.json is of version {found.version}, this program reads {SWEEP_VERSION}")
    return found


def rows(result: Result) -> dict[str, Row]:
    """The online classes of a run, without latencies where they say nothing."""
    return {name: _row(each, bare=bool(result.invalid)) for name, each in result.classes.items() if each.online}


def _row(each: ClassResult, *, bare: bool) -> Row:
    silent = bare or each.overloaded
    return Row(
        offered_per_s=each.offered_per_s,
        completed_per_s=None if each.completed_per_s is None else each.completed_per_s.value,
        attainment=None if each.attainment is None or bare else each.attainment.value,
        ttft_p50=None if silent else _quantile(each, "ttft", 0.5),
        ttft_p99=None if silent else _quantile(each, "ttft", 0.99),
        tpot_p50=None if silent else _quantile(each, "tpot", 0.5),
        tpot_p99=None if silent else _quantile(each, "tpot", 0.99),
        overloaded=each.overloaded,
    )


def _quantile(each: ClassResult, metric: str, q: float) -> float | None:
    found = each.metrics.get(metric)
    return None if found is None else next((one.value for one in found.quantiles if one.q == q), None)
