"""Faults for tests of the server: the load generator's own, so that there is one of each.

`Kill` and `Stop` take an `Identity` (`of(pid)`); `LinkProxy` is a link that `Net` disturbs. Each has `inject()`,
`verify()` and `heal()`, and raises `FaultNotSeen` where nothing happened. `injected` does all three around a block.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from loadgen.drive.clock import MonotonicClock
from loadgen.faults.base import Fault, FaultNotSeen, Proof
from loadgen.faults.exec import Exec
from loadgen.faults.link import PASS, Counters, Mode, Net
from loadgen.faults.link_proxy import LinkProxy
from loadgen.faults.process import Kill, Stop
from loadgen.faults.procfs import Identity, identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "PASS",
    "Counters",
    "Exec",
    "Fault",
    "FaultNotSeen",
    "Identity",
    "Kill",
    "LinkProxy",
    "Mode",
    "Net",
    "Proof",
    "Stop",
    "clock",
    "injected",
    "of",
]


def clock() -> MonotonicClock:
    """Microseconds from now."""
    return MonotonicClock(time.monotonic_ns())


def of(pid: int) -> Identity:
    """The process that has this pid now.

    Raises:
        ValueError: none has.
    """
    found = identity(pid)
    if found is None:
        raise ValueError(f"no process has pid {pid}")
    return found


@asynccontextmanager
async def injected(fault: Fault) -> AsyncIterator[Proof]:
    """Inject it, have it prove itself, run the block, and heal it whatever happens.

    Raises:
        FaultNotSeen: it did nothing.
    """
    try:
        await fault.inject()
        yield await fault.verify()
    finally:
        await fault.heal()
