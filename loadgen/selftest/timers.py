"""How late the timers of this host fire: the timerfd that load processes use, and the event loop's own beside it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np

from loadgen.drive.clock import MonotonicClock
from loadgen.selftest.limits import TimerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EVENTS = 1_000
GAP_MICROS = 2_000


async def timerfd_error(events: int = EVENTS) -> TimerError:
    """Of the alarm of `drive/clock.py`, whatever it uses here."""
    clock = MonotonicClock(time.monotonic_ns())
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    fired: list[int] = []

    def ring() -> None:
        fired.append(clock.now())
        if len(fired) == events:
            done.set_result(None)
        else:
            alarm.set((len(fired) + 1) * GAP_MICROS)

    alarm = clock.alarm(ring)
    alarm.set(GAP_MICROS)
    return await _measured(done, fired, alarm.close)


async def loop_error(events: int = EVENTS) -> TimerError:
    """Of `call_at` of the loop that runs."""
    loop = asyncio.get_running_loop()
    clock = MonotonicClock(time.monotonic_ns())
    began = loop.time()
    done: asyncio.Future[None] = loop.create_future()
    fired: list[int] = []

    def ring() -> None:
        fired.append(clock.now())
        if len(fired) == events:
            done.set_result(None)
        else:
            loop.call_at(began + (len(fired) + 1) * GAP_MICROS / 1e6, ring)

    loop.call_at(began + GAP_MICROS / 1e6, ring)
    return await _measured(done, fired, lambda: None)


async def _measured(done: asyncio.Future[None], fired: list[int], close: Callable[[], None]) -> TimerError:
    cpu, wall = time.process_time(), time.monotonic()
    try:
        await done
    finally:
        close()
    return error_of(fired, (time.process_time() - cpu) / max(1e-9, time.monotonic() - wall))


def error_of(fired: Sequence[int], cpu: float) -> TimerError:
    """`fired`: when each event went off, microseconds; they were due `GAP_MICROS` apart from there on."""
    late = np.asarray(fired, dtype=np.float64) - GAP_MICROS * np.arange(1, len(fired) + 1)
    return TimerError(
        least=float(late.min()),
        p50=float(np.quantile(late, 0.5)),
        p99=float(np.quantile(late, 0.99)),
        cpu=cpu,
    )
