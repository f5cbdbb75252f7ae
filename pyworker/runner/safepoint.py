"""The byte by which a step in progress is asked to give way.

It lies in an anonymous shared mapping, so a forked process can be given it.

Order: whoever has work for the engine puts it into the inbox, then raises the byte. The engine clears the byte at the
beginning of a step, then drains its inbox: work whose raise it has cleared away is in the inbox by that time. The other
order would lose a wake-up.
"""

from __future__ import annotations

import mmap
import threading
from enum import IntEnum


class Yield(IntEnum):
    """What a step does at its next layer."""

    GO_ON = 0
    OFFLINE_LEAVES = 1
    STOP = 2


class Safepoint:
    """One shared byte, a `Yield`. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 1)
        self._lock = threading.Lock()
        self.view = memoryview(self._map)
        """The byte itself, for the loop that reads it before every layer."""

    @property
    def level(self) -> Yield:
        """What is asked now."""
        return Yield(self.view[0])

    def ask(self, level: Yield) -> None:
        """Raise the byte; a higher one stays. Within a process no raise is lost to another."""
        with self._lock:
            self.view[0] = max(self.view[0], level)

    def clear(self) -> None:
        """Begin anew; the engine's alone."""
        with self._lock:
            self.view[0] = Yield.GO_ON
