"""The limits of this host, as `selftest` found them: kept in a file, and asked by whoever plans a run.

The file is `loadgen/limits.json` in the state folder: `$XDG_STATE_HOME/slackwater`, else `~/.local/state/slackwater`.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from loadgen.plan.model import NOT_DUE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.plan.model import Plan

LIMITS_VERSION = 1
_SECOND = 1_000_000
LimitedBy = Literal["gate", "mock", "steps", "errors"]


class TimerError(msgspec.Struct, frozen=True, kw_only=True):
    """How late a timer fires, microseconds; `least` below zero: it fired early. `cpu`: share of a core at 500/s."""

    least: float
    p50: float
    p99: float
    cpu: float


class Highest(msgspec.Struct, frozen=True, kw_only=True):
    """The highest clean rate that was reached. `rate` 0: not even the first step. `cpu`: of the busiest load process,
    as a share of a core; `micros`: of the load processes, for each request or chunk; `all_micros`: with the scribe and
    all else of the parent. `limited_by`: what ended the climb; `reason` in words.
    """

    rate: float
    cpu: float
    micros: float | None
    all_micros: float | None
    limited_by: LimitedBy
    reason: str


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """With so many load processes."""

    procs: int
    requests: Highest
    chunks: Highest


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """`host`: what tells this host from another. `taken`: UTC, ISO 8601."""

    host: dict[str, str]
    taken: str
    timers: dict[str, TimerError]
    limits: list[Limit]
    version: int = LIMITS_VERSION


def host() -> dict[str, str]:
    """Processor, cores, kernel: limits of another say nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    named = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    return {"cpu": named or platform.machine(), "cores": str(_cores()), "kernel": platform.release()}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the limits are kept."""
    given = environ.get("XDG_STATE_HOME", "")
    # As its standard says: a path that is not absolute is ignored.
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return base / "slackwater" / "loadgen" / "limits.json"


def encode(limits: Limits) -> bytes:
    """As it stands in the file, and as `--json` prints it."""
    return msgspec.json.format(msgspec.json.encode(limits), indent=1) + b"\n"


def load(file: Path) -> Limits | None:
    """The limits of this host; `None` where nobody has found them, or they are of another host or version."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Limits)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.version == LIMITS_VERSION and found.host == host() else None


def exceeded(limits: Limits, procs: int, requests_per_s: float, chunks_per_s: float, factor: float = 1.0) -> list[str]:
    """Why a run of this rate is beyond this host, a sentence each; none: it is not. `factor`: of room to be left."""
    best = max((each for each in limits.limits if each.procs <= procs), key=lambda each: each.procs, default=None)
    if best is None:
        return [f"selftest has not tried {procs} load processes"]
    found = []
    for asked, highest, what in (
        (requests_per_s, best.requests, "requests"),
        (chunks_per_s, best.chunks, "chunks"),
    ):
        if asked * factor > highest.rate:
            room = f", {factor:g} times that with room" if factor != 1 else ""
            found.append(
                f"{asked:.0f} {what}/s are planned{room}; {best.procs} load processes reach {highest.rate:.0f} here"
            )
    return found


def planned_rates(plan: Plan) -> tuple[float, float]:
    """Requests a second in the fullest second of a plan, and output tokens a second on the mean: a chunk each."""
    due = np.array([each.due for each in plan.requests if each.due != NOT_DUE], dtype=np.int64)
    if not len(due):
        return 0.0, 0.0
    fullest = int(np.max(np.searchsorted(due, due + _SECOND) - np.arange(len(due))))
    tokens = sum(each.out for each in plan.requests if each.due != NOT_DUE)
    return float(fullest), tokens / max(1.0, float(due[-1] - due[0]) / _SECOND)
