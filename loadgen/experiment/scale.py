"""Fits a trace to a machine: lengths by one factor, and one stretch of time to a rate. Pure.

A stretch keeps the shape of bursts relative to the mean; leaving out requests at random does not, and is another
experiment, so a load that asks for `thin` has no place in a plan with scaling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen import texts, units
from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.experiment.plan import Scaling
    from loadgen.plan.rows import SourceRow

_MICROS = 1e6
_BIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """Of a window of a trace, lengths already scaled. `rate`: requests a second as recorded. `burst`: most requests in
    10 recorded seconds over their mean. `shared`: share of prompt tokens in blocks that came before; 0 without blocks.
    """

    requests: int
    seconds: float
    rate: float
    in_mean: float
    out_mean: float
    burst: float
    shared: float

    @property
    def tokens(self) -> float:
        """Prompt and output tokens of a request, on the mean."""
        return self.in_mean + self.out_mean


def trace_facts(rows: Sequence[SourceRow], window: tuple[int, int], scaling: Scaling) -> TraceFacts:
    """Of the rows within `window`, microseconds.

    Raises:
        BadInput: fewer than two rows there.
    """
    kept = [row for row in rows if row.time is not None and window[0] <= row.time < window[1]]
    if len(kept) < 2:
        raise BadInput(
            "[scaling]", "windows", f"{window[0]}..{window[1]}", "holds fewer than two requests of the trace"
        )
    seconds = (window[1] - window[0]) / _MICROS
    times = (np.array([row.time for row in kept], dtype=np.float64) - window[0]) / _MICROS
    bins = np.bincount((times / _BIN_SECONDS).astype(np.int64), minlength=max(1, round(seconds / _BIN_SECONDS)))
    prompt = [max(scaling.floor[0], round((row.in_tokens or 0) * scaling.length)) for row in kept]
    out = [max(scaling.floor[1], round((row.out_tokens or 0) * scaling.length)) for row in kept]
    return TraceFacts(
        requests=len(kept),
        seconds=seconds,
        rate=len(kept) / seconds,
        in_mean=float(np.mean(prompt)),
        out_mean=float(np.mean(out)),
        burst=float(bins.max() / bins.mean()),
        shared=_shared(kept),
    )


def drawn_facts(trace: Mapping[str, Any]) -> TraceFacts:
    """Of a trace that is drawn: its rate is 1 a second before scaling.

    Raises:
        BadInput: it does not say its lengths.
    """
    means = []
    for key in ("in", "out"):
        if key not in trace:
            raise BadInput("[trace]", key, "", "is missing: a drawn trace says its lengths")
        means.append(units.dist(str(trace[key])).mean())
    return TraceFacts(0, 0.0, 1.0, means[0], means[1], float("nan"), 0.0)


def target_rate(cell: Mapping[str, str], facts: TraceFacts, calibration: Mapping[str, float]) -> float:
    """Requests a second: `rho` of R_sat, or `share` of C_off's tokens; both given is a contradiction.

    Raises:
        BadInput: neither, both, no number, or nothing calibrated.
    """
    if ("rho" in cell) == ("share" in cell):
        raise BadInput("[[run]]", "rho", cell.get("rho", ""), "a cell of a trace has rho or share")
    name, known = ("rho", "r_sat") if "rho" in cell else ("share", "c_off")
    if known not in calibration:
        raise BadInput("[calibrate]", known, "", "is not known yet")
    try:
        factor = float(cell[name])
    except ValueError as error:
        raise BadInput("[[run]]", name, cell[name], "expected a number") from error
    whole = calibration[known] * factor
    return whole if name == "rho" else whole / facts.tokens


def solve(
    rate: float, facts: TraceFacts, window: tuple[int, int], scaling: Scaling, length: int
) -> tuple[dict[str, str], dict[str, float]]:
    """Placeholders of a load, and the numbers for `experiment.json`. `length`: microseconds of warm-up and window.

    Raises:
        BadInput: at this rate the run needs more of the trace than the window has.
    """
    scale = rate / facts.rate
    if facts.requests and length * scale > window[1] - window[0]:
        needed = length * scale / _MICROS
        why = f"a rate of {rate:.3g}/s wants {needed:.0f} s of the trace, more than the window has"
        raise BadInput("[scaling]", "windows", texts.duration(window[0]), why)
    values = {
        "scale": f"x{texts.decimal(scale)}",
        "rate": texts.decimal(rate),
        "window": f"{texts.duration(window[0])}..{texts.duration(window[1])}",
        "len": f"x{texts.decimal(scaling.length)}",
    }
    numbers = {
        "rate_per_s": rate,
        "scale": scale,
        "in_mean": facts.in_mean,
        "out_mean": facts.out_mean,
        "online_tokens_per_s": rate * facts.tokens,
        "burst": facts.burst,
        "shared": facts.shared,
    }
    return values, {name: value for name, value in numbers.items() if np.isfinite(value)}


def _shared(rows: Sequence[SourceRow]) -> float:
    seen: set[int] = set()
    total = found = 0
    for row in rows:
        for block in row.blocks or ():
            total += 1
            found += block in seen
            seen.add(block)
    return found / total if total else 0.0
