"""Time, and being woken at a time: never early, and late by as little as the host allows.

The timers of event loops are too coarse: they fire on a grid of milliseconds, and some of them early. So an absolute
timerfd is watched through `add_reader`. Where there is none, the loop's timer is used up to the last 2 ms, which are
spun away.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_SPIN_MICROS = 2_000


class Alarm(Protocol):
    """Wakes its owner once for each time that it is set."""

    def set(self, due: int) -> None:
        """Call back at `due` (microseconds of the clock) or as soon as possible after it; replaces what was set."""

    def cancel(self) -> None:
        """Forget what was set."""

    def close(self) -> None:
        """Give back what it holds. Idempotent."""


class Clock(Protocol):
    """Microseconds since some moment, `t0`; never steps back."""

    def now(self) -> int:
        """The time."""

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """An alarm that is not set yet. `callback` may set it again."""


class MonotonicClock:
    """CLOCK_MONOTONIC, which all processes of a host share. Alarms run on the event loop that is running."""

    def __init__(self, t0_nanos: int = 0, *, timerfd: bool | None = None) -> None:
        """`t0_nanos`: where zero lies, as `time.monotonic_ns`. `timerfd` False: the fallback; None: what there is."""
        self._t0 = t0_nanos
        self._timerfd = has_timerfd() if timerfd is None else timerfd

    def begin(self, t0_nanos: int) -> None:
        """Put zero there: `t0` is known only when all are ready. No alarm is set before."""
        self._t0 = t0_nanos

    def now(self) -> int:
        """Microseconds since t0, rounded down."""
        return (time.monotonic_ns() - self._t0) // 1_000

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """An alarm on the running loop."""
        loop = asyncio.get_running_loop()
        if self._timerfd:
            return _TimerfdAlarm(loop, self._t0, callback)
        return _SpinAlarm(loop, self, callback)


class VirtualClock:
    """Time that moves only when a test says so."""

    def __init__(self, now: int = 0) -> None:
        self._now = now
        self._heap: list[tuple[int, int, _VirtualAlarm]] = []
        self._count = 0

    def now(self) -> int:
        """The time."""
        return self._now

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """An alarm that `run_until` fires."""
        return _VirtualAlarm(self, callback)

    def run_until(self, end: int) -> None:
        """Fire all that is due up to `end`, each at its own time and in the order in which it was set."""
        while self._heap and self._heap[0][0] <= end:
            due, order, alarm = heapq.heappop(self._heap)
            if alarm.order == order:
                self._now = max(self._now, due)
                alarm.fire()
        self._now = max(self._now, end)

    def next_due(self) -> int | None:
        """When the next alarm goes off."""
        while self._heap and self._heap[0][2].order != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def put(self, due: int, alarm: _VirtualAlarm) -> int:
        """Note an alarm; the number by which it is known."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, alarm))
        return self._count


class _VirtualAlarm:
    def __init__(self, clock: VirtualClock, callback: Callable[[], None]) -> None:
        self._clock, self._callback = clock, callback
        self.order = 0
        """Number of what is set; 0: nothing."""

    def set(self, due: int) -> None:
        self.order = self._clock.put(due, self)

    def cancel(self) -> None:
        self.order = 0

    def close(self) -> None:
        self.order = 0

    def fire(self) -> None:
        self.order = 0
        self._callback()


class _TimerfdAlarm:
    def __init__(self, loop: asyncio.AbstractEventLoop, t0_nanos: int, callback: Callable[[], None]) -> None:
        self._loop, self._t0, self._callback = loop, t0_nanos, callback
        self._fd = _create()
        self._loop.add_reader(self._fd, self._fire)

    def set(self, due: int) -> None:
        # Zero would disarm it; a time that has passed fires at once.
        _arm(self._fd, max(1, self._t0 + due * 1_000))

    def cancel(self) -> None:
        _arm(self._fd, 0)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fire(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # cancelled or set anew since the loop saw it
            return
        self._callback()


class _SpinAlarm:
    """Sleeps by the loop, whose timers may fire early, and spins the rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, callback: Callable[[], None]) -> None:
        self._loop, self._clock, self._callback = loop, clock, callback
        self._handle: asyncio.Handle | None = None
        self._due = 0

    def set(self, due: int) -> None:
        self.cancel()
        self._due = due
        self._wait()

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        self.cancel()

    def _wait(self) -> None:
        left = self._due - self._clock.now()
        if left <= 0:
            self._handle = self._loop.call_soon(self._fire)
        elif left <= _SPIN_MICROS:
            self._handle = self._loop.call_soon(self._wait)
        else:
            self._handle = self._loop.call_later((left - _SPIN_MICROS) / 1e6, self._wait)

    def _fire(self) -> None:
        self._handle = None
        self._callback()


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanos", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def has_timerfd() -> bool:
    """Whether this system has it."""
    return sys.platform == "linux" and (hasattr(os, "timerfd_create") or hasattr(_libc(), "timerfd_create"))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


_LIBC = _libc()


def _create() -> int:
    fd: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def _arm(fd: int, nanos: int) -> None:
    """Absolute time of CLOCK_MONOTONIC; 0 disarms."""
    value = _Itimerspec(_Timespec(0, 0), _Timespec(nanos // 1_000_000_000, nanos % 1_000_000_000))
    if _LIBC.timerfd_settime(fd, _ABSOLUTE, ctypes.byref(value), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
