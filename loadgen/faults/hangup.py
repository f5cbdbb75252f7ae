"""Clients that hang up: a share of a class's open requests, at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.faults.base import FaultNotSeen, Proof

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    HangUp = Callable[[str, float], Awaitable[int]]
    """(class, share) to the number of exchanges that were hung up on, over all load processes."""


class HangUpOn:
    """Tells the load processes, which say how many exchanges they cancelled."""

    def __init__(self, name: str, cls: str, share: float, hang_up: HangUp) -> None:
        self.name, self.cls, self.share = name, cls, share
        self._hang_up = hang_up
        self._cancelled: int | None = None

    async def inject(self) -> None:
        """Tell them."""
        self._cancelled = await self._hang_up(self.cls, self.share)

    async def verify(self) -> Proof:
        """At least one was open, and was cancelled."""
        if not self._cancelled:
            raise FaultNotSeen(self.name, f"no request of class {self.cls} was open")
        return Proof(f"{self._cancelled} requests of {self.cls} were hung up on", {"cancelled": self._cancelled})

    async def heal(self) -> None:
        """Nothing to undo."""
