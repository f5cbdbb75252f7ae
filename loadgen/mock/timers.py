"""Many wake-ups on one alarm."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Clock


class Timers:
    """Calls back, once each, never early, in the order of the times."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._alarm = clock.alarm(self._fire)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0

    def at(self, due: int, callback: Callable[[], None]) -> None:
        """Call at `due`, in microseconds of the clock."""
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, callback))
        if self._heap[0][1] == self._order:
            self._alarm.set(due)

    def close(self) -> None:
        """Forget everything."""
        self._heap.clear()
        self._alarm.close()

    def _fire(self) -> None:
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
        if self._heap:
            self._alarm.set(self._heap[0][0])
