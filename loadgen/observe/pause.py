"""Waiting for a time of a clock, so that a test's clock does as well as the real one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.drive.clock import Clock


async def until(clock: Clock, due: int) -> None:
    """Return at `due` (microseconds of `clock`), or at once if that is past."""
    if clock.now() >= due:
        return
    rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ring() -> None:
        if not rung.done():
            rung.set_result(None)

    alarm = clock.alarm(ring)
    try:
        alarm.set(due)
        await rung
    finally:
        alarm.close()
