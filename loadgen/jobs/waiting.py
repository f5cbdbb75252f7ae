"""Waiting for a time of the run's clock, or for somebody who is in a hurry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from loadgen.drive.clock import Clock


class Waiter:
    """Of one task, which waits with it in one place at a time. A context manager: its alarm holds a descriptor."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._woken = asyncio.Event()
        self._alarm = clock.alarm(self._woken.set)

    def __enter__(self) -> Waiter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.close()

    async def until(self, due: int) -> None:
        """Returns at `due` (microseconds of the clock), or as soon as `wake` is called; at once if it was before."""
        if not self._woken.is_set():
            self._alarm.set(due)
            await self._woken.wait()
        self._alarm.cancel()
        self._woken.clear()

    def wake(self) -> None:
        """End the wait that is going on, or the next one."""
        self._woken.set()
