"""What a load process takes of itself: a heartbeat for the loop's lag, CPU, collections, and a summary a second."""

from __future__ import annotations

import gc
import time
from array import array
from typing import TYPE_CHECKING

import numpy as np

from loadgen.drive.gate import Meters
from loadgen.drive.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Alarm, Clock
    from loadgen.drive.orders import Orders
    from loadgen.drive.sender import Sender
    from loadgen.drive.spool import SpoolWriter

BEAT = 10_000
"""Microseconds between heartbeats."""
SECOND = 1_000_000


class Gauge:
    """Runs beside a sender. Lags and CPU of its meters are those of the window."""

    def __init__(
        self,
        clock: Clock,
        orders: Orders,
        sender: Sender,
        spool: SpoolWriter,
        on_summary: Callable[[Summary], None] | None,
    ) -> None:
        self._clock, self._orders, self._sender, self._spool = clock, orders, sender, spool
        self._on_summary = on_summary
        self._alarm: Alarm | None = None
        self._due = 0
        self._next_summary = SECOND
        self._lags: array[int] = array("q")
        self._second_lags: array[int] = array("q")
        self._sends_told = 0
        self._cpu_told = (0, time.process_time_ns())
        self._collections = 0
        self._window: tuple[int, int, int] | None = None
        """At the window's begin: time, CPU nanoseconds, slow writes."""
        self._meters: Meters | None = None

    @staticmethod
    def none(process: int) -> Meters:
        """Meters of a process that never began."""
        return Meters(process)

    def start(self) -> None:
        """Begin at t0."""
        gc.callbacks.append(self._collected)
        self._due = max(0, -(-self._clock.now() // BEAT) * BEAT)
        self._alarm = self._clock.alarm(self._beat)
        self._alarm.set(self._due)

    def finish(self) -> Meters:
        """The meters; a window that has not ended ends here."""
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
            gc.callbacks.remove(self._collected)
        if self._meters is None:
            self._meters = self._measured()
        # Not before the end: a stall at the window's end holds back the very requests that show it.
        self._meters.send_lags = self._sender.window_lags.tolist()
        return self._meters

    def _collected(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collections += 1

    def _beat(self) -> None:
        now = self._clock.now()
        lag = now - self._due
        self._second_lags.append(lag)
        if self._window is None and now >= self._orders.window[0]:
            self._window = (now, time.process_time_ns(), self._spool.slow_writes)
            self._collections = 0
        if self._window is not None and self._meters is None:
            self._lags.append(lag)
            if now > self._orders.window[1]:
                self._meters = self._measured()
        # Beats that a stall swallowed were late too: each counts with the time that it waited.
        self._due += BEAT
        while self._due <= now and self._meters is None and self._window is not None:
            self._lags.append(now - self._due)
            self._due += BEAT
        if self._due <= now:
            self._due = (now // BEAT + 1) * BEAT
        if now >= self._next_summary:
            self._next_summary = (now // SECOND + 1) * SECOND
            self._tell(now)
        if self._alarm is not None:
            self._alarm.set(self._due)

    def _measured(self) -> Meters:
        if self._window is None:
            return Meters(self._orders.process)
        began, cpu, writes = self._window
        wall = max(self._clock.now() - began, 1) * 1_000
        return Meters(
            process=self._orders.process,
            loop_lags=self._lags.tolist(),
            cpu_share=(time.process_time_ns() - cpu) / wall,
            collections=self._collections,
            slow_spool_writes=self._spool.slow_writes - writes,
        )

    def _tell(self, now: int) -> None:
        before, cpu_before = self._cpu_told
        cpu = time.process_time_ns()
        self._cpu_told = (now, cpu)
        names = [each.name for each in self._orders.classes]
        sends = self._sender.lags[self._sends_told :]
        self._sends_told = len(self._sender.lags)
        loops, self._second_lags = self._second_lags, array("q")
        classes = {name: tally.taken() for name, tally in zip(names, self._sender.tallies, strict=True)}
        if self._on_summary is None:
            return
        self._on_summary(
            Summary(
                process=self._orders.process,
                at=now,
                classes=classes,
                send_lag_p99=_p99(sends),
                loop_lag_p99=_p99(loops),
                cpu_share=(cpu - cpu_before) / max((now - before) * 1_000, 1),
                backlog=self._spool.backlog,
                dropped=0,
            )
        )


def _p99(values: array[int]) -> float:
    return float(np.percentile(np.frombuffer(values, dtype=np.int64), 99)) if values else 0.0
