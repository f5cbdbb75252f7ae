"""Whether a run may be believed: the client must not have been the bottleneck.

Pure: it judges numbers that load processes took. Two verdicts: INVALID (the figures say nothing about the server) and
DISTURBED (somebody else used the machine; worth a repeat).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

FLOOR_MICROS = 1_000.0
SHARE_OF_TTFT = 0.02
MOST_CPU = 0.70
MOST_QUEUE_BYTES = 64 << 10
EXPERIMENT_FLOOR_MICROS = 2_000.0
MOST_STEAL = 0.01
MOST_FOREIGN = 0.05
MOST_CLOCK_CHANGE = 0.10


@dataclass(slots=True)
class Meters:
    """What one load process took over the window. Lags in microseconds."""

    process: int
    send_lags: list[int] = field(default_factory=list)
    loop_lags: list[int] = field(default_factory=list)
    cpu_share: float = 0.0
    collections: int = 0
    """Runs of the garbage collector."""
    slow_spool_writes: int = 0
    queue_seconds: float = 0.0
    """Longest time that a socket's receive queue stayed over its bound."""
    died: bool = False
    trouble: str = ""
    """What made it stop issuing: no sockets, a full disk."""
    dry: list[str] = field(default_factory=list)
    """Classes for which fewer requests were planned than a closed loop could have sent."""


@dataclass(slots=True)
class HostMeters:
    """What the host did meanwhile; None where it does not say."""

    steal: float | None = None
    foreign_cpu: float | None = None
    swapped_bytes: int | None = None
    clock_change: float | None = None


@dataclass(slots=True)
class Verdict:
    """Reasons, each a sentence with the number and the bound; empty: none. `lasting`: those of `invalid` that are no
    lag, so that `--allow-lag` does not excuse them.
    """

    invalid: list[str] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)


def judge(
    processes: list[Meters],
    host: HostMeters,
    *,
    median_wire_ttft: float | None,
    unaccounted: int = 0,
    unproved_faults: tuple[str, ...] = (),
    censored_share: float = 0.0,
    experiment: bool = False,
) -> Verdict:
    """`median_wire_ttft` in microseconds, None if nothing was answered. `experiment`: lags only disturb, at a wider
    bound.
    """
    verdict = Verdict()
    lags = verdict.disturbed if experiment else verdict.invalid
    floor = EXPERIMENT_FLOOR_MICROS if experiment else FLOOR_MICROS
    bound = max(floor, SHARE_OF_TTFT * (median_wire_ttft or 0.0))
    for meters in processes:
        name = f"load process {meters.process}"
        lasting = [f"{name} died"] if meters.died else []
        lasting += [f"{name} stopped: {meters.trouble}"] if meters.trouble else []
        lasting += [f"{name}: {each} ran out of planned requests" for each in meters.dry]
        verdict.lasting += lasting
        verdict.invalid += lasting
        for what, values in (("send lag", meters.send_lags), ("loop lag", meters.loop_lags)):
            p99 = float(np.percentile(values, 99, method="higher")) if values else 0.0
            if p99 > bound:
                lags.append(f"{name}: {what} p99 {p99 / 1e3:.2f} ms, bound {bound / 1e3:.2f} ms")
        if meters.cpu_share > MOST_CPU:
            verdict.invalid.append(f"{name}: {meters.cpu_share:.0%} of a core, bound {MOST_CPU:.0%}")
        if meters.collections:
            verdict.invalid.append(f"{name}: the garbage collector ran {meters.collections} times")
        if meters.slow_spool_writes:
            verdict.invalid.append(f"{name}: {meters.slow_spool_writes} writes to the spool took over 5 ms")
        if meters.queue_seconds > 1.0:
            verdict.invalid.append(f"{name}: answers waited unread for {meters.queue_seconds:.1f} s")
    if unaccounted:
        verdict.invalid.append(f"{unaccounted} planned requests have no record")
    verdict.invalid += [f"fault {name} was not seen to happen" for name in unproved_faults]
    if censored_share > 0.01:
        verdict.invalid.append(f"{censored_share:.1%} of the requests were still open with time left, bound 1%")
    _disturbance(host, verdict)
    return verdict


def _disturbance(host: HostMeters, verdict: Verdict) -> None:
    if host.steal is not None and host.steal > MOST_STEAL:
        verdict.disturbed.append(
            f"the host was given away {host.steal:.1%} of the time (steal), bound {MOST_STEAL:.0%}"
        )
    if host.foreign_cpu is not None and host.foreign_cpu > MOST_FOREIGN:
        verdict.disturbed.append(f"other processes used {host.foreign_cpu:.0%} of a core, bound {MOST_FOREIGN:.0%}")
    if host.swapped_bytes:
        verdict.disturbed.append(f"{host.swapped_bytes} bytes were swapped")
    if host.clock_change is not None and host.clock_change > MOST_CLOCK_CHANGE:
        verdict.disturbed.append(f"the cores' clock changed by {host.clock_change:.0%}")
