"""What a link under our control can be told, and what it counts. Both ends of a proxy's control pipe read this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from loadgen import forms, units
from loadgen.faults.base import LOOK_MICROS, PATIENCE_MICROS, FaultNotSeen, Proof, wait_until

if TYPE_CHECKING:
    from loadgen.drive.clock import Clock
    from loadgen.spec import FaultSpec

Way = Literal["both", "up", "down"]
"""`up`: from whoever connected to whom the link leads; `down`: back."""
Kind = Literal["pass", "delay", "reset", "blackhole", "rate", "truncate"]


class Mode(msgspec.Struct, frozen=True):
    """What happens to bytes.

    `delay`: each is held `micros`. `rate`: `size` bytes a second a way, over all connections. `truncate`: a connection
    is closed once `size` bytes went one way; `reset`: the same with a reset, at once where `size` is 0. `blackhole`:
    connections stay open, and nothing is read or sent. `standing`: only of connections that stand now.
    """

    kind: Kind = "pass"
    micros: int = 0
    size: int = 0
    way: Way = "both"
    standing: bool = False


PASS = Mode()


class Counters(msgspec.Struct):
    """Since the link began. Bytes, but for the numbers of connections."""

    connections: int = 0
    open: int = 0
    refused: int = 0
    """Connections for which nobody answered behind the link, or for which it had no room."""
    read_up: int = 0
    read_down: int = 0
    written_up: int = 0
    written_down: int = 0
    delayed: int = 0
    """Passed on after the whole delay."""
    slowed: int = 0
    """Passed on after waiting for the rate."""
    held: int = 0
    """Seen to wait, unread, in the sockets of a black hole."""
    cut_connections: int = 0
    cut_bytes: int = 0
    """Had come, and were thrown away."""


_EFFECT: dict[Kind, str] = {
    "delay": "delayed",
    "rate": "slowed",
    "blackhole": "held",
    "reset": "cut_connections",
    "truncate": "cut_connections",
}


def effect(kind: Kind, before: Counters, after: Counters) -> int:
    """By how much the counter that proves such a mode has grown."""
    name = _EFFECT.get(kind)
    return 0 if name is None else int(getattr(after, name)) - int(getattr(before, name))


class Link(Protocol):
    """A link that can be disturbed."""

    name: str
    address: str
    """Where it listens: `host:port` or `unix:PATH`."""

    @property
    def pid(self) -> int | None:
        """Of the process that it runs in, if that is one of its own."""

    async def set(self, mode: Mode) -> Counters:
        """From now on do this; the counters of just before."""

    async def counters(self) -> Counters:
        """As they stand."""

    async def close(self) -> None:
        """End it, and all that passes it. Idempotent."""


def mode_of(spec: FaultSpec) -> Mode:
    """Of a `net` fault; without `for` it meets the connections that stand, and no other."""
    standing = spec.duration is None
    ((kind, value),) = spec.options.items()
    if kind == "delay":
        return Mode("delay", micros=units.duration(value), standing=standing)
    if kind == "rate":
        return Mode("rate", size=max(1, round(forms.byte_rate(value))), standing=standing)
    if kind == "truncate":
        return Mode("truncate", size=units.size(value), standing=standing)
    return Mode("blackhole" if kind == "blackhole" else "reset", standing=standing)


class Net:
    """A mode of a link, for a time. The link's own counters prove it."""

    def __init__(self, name: str, link: Link, mode: Mode, clock: Clock, *, patience: int = PATIENCE_MICROS) -> None:
        """`patience`: microseconds within which the counter must grow; of a lasting fault, how long it lasts."""
        self.name, self.link, self.mode = name, link, mode
        self._clock, self._patience = clock, patience
        self._before: Counters | None = None
        self._at = 0

    async def inject(self) -> None:
        """Set the mode.

        Raises:
            FaultNotSeen: the link is gone.
        """
        self._at = self._clock.now()
        self._before = await self.link.set(self.mode)

    async def verify(self) -> Proof:
        """Some bytes, or for a cut some connections, were met."""
        if self._before is None:
            raise FaultNotSeen(self.name, f"the link {self.link.name} was not told")
        deadline = self._at + self._patience
        while True:
            now = self._clock.now()
            after = await self.link.counters()
            met = effect(self.mode.kind, self._before, after)
            if met > 0:
                return self._proof(met, after)
            if now >= deadline:
                raise FaultNotSeen(self.name, f"nothing passed the link {self.link.name} that it could meet")
            await wait_until(self._clock, min(now + LOOK_MICROS, deadline))

    async def heal(self) -> None:
        """All passes again, what was held first."""
        if self._before is not None:
            await self.link.set(PASS)

    def _proof(self, met: int, after: Counters) -> Proof:
        before = self._before or Counters()
        names = (_EFFECT[self.mode.kind], "cut_bytes", "connections", "open")
        figures = {name: getattr(after, name) - (0 if name == "open" else getattr(before, name)) for name in names}
        return Proof(f"{self.mode.kind}: {_EFFECT[self.mode.kind]} grew by {met}", figures)
