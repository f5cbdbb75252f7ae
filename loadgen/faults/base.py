"""What every fault can do: be injected, prove that it happened, and be healed.

A fault that did nothing makes a run look robust that was never tested. So no fault is taken at its word: `verify` looks
at the effect itself, and raises `FaultNotSeen` where there is none.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from loadgen.errors import ExitCode, LoadgenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Clock

PATIENCE_MICROS = 5_000_000
"""How long the effect of a fault may take to show where nothing else is said."""
LOOK_MICROS = 10_000
"""Between two looks for an effect that nobody announces."""

Value = int | float | str


class FaultNotSeen(LoadgenError):
    """The fault was injected, and what it should have done did not happen."""

    code = ExitCode.INVALID

    def __init__(self, fault: str, why: str) -> None:
        self.fault, self.why = fault, why
        super().__init__(f"fault {fault} was not seen to happen: {why}")


@dataclass(frozen=True, slots=True)
class Proof:
    """`what`: one line for people. `figures`: what was looked at, such as `{"pid": 71, "state": "T"}`."""

    what: str
    figures: dict[str, Value] = field(default_factory=dict)


class Fault(Protocol):
    """One fault, used once: `inject`, `verify`, and `heal` always, even when one of the others failed."""

    name: str

    async def inject(self) -> None:
        """Do it.

        Raises:
            FaultNotSeen: there is nothing that it could be done to.
        """

    async def verify(self) -> Proof:
        """The proof, as soon as there is one.

        Raises:
            FaultNotSeen: the fault's patience has ended without.
        """

    async def heal(self) -> None:
        """Undo what can be undone. Idempotent, and harmless after an injection that failed.

        Raises:
            FaultNotSeen: it stays as it is.
        """


async def wait_until(clock: Clock, due: int) -> None:
    """Return at `due` (microseconds of the clock), never earlier."""
    if clock.now() >= due:
        return
    reached = asyncio.get_running_loop().create_future()

    def ring() -> None:
        if not reached.done():
            reached.set_result(None)

    alarm = clock.alarm(ring)
    alarm.set(due)
    try:
        await reached
    finally:
        alarm.close()


async def look_until(clock: Clock, seen: Callable[[], bool], deadline: int) -> bool:
    """Whether `seen` came true by `deadline`; looks at once, and once more at the end."""
    while not seen():
        now = clock.now()
        if now >= deadline:
            return False
        await wait_until(clock, min(now + LOOK_MICROS, deadline))
    return True
