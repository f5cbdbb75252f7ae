"""What the parent and a load process say to each other: commands by its stdin, reports by its stdout, one JSON line
each.
"""

from __future__ import annotations

import msgspec

from loadgen.drive.gate import Meters
from loadgen.drive.orders import Orders


class Prepare(msgspec.Struct, tag=True, frozen=True):
    """Map the payload, open the connections; then say `Ready` or `Failed`. `key` goes into each request."""

    orders: Orders
    key: str | None = None


class Go(msgspec.Struct, tag=True, frozen=True):
    """Begin; `t0`: nanoseconds of CLOCK_MONOTONIC."""

    t0: int


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Issue nothing more."""


class Abandon(msgspec.Struct, tag=True, frozen=True):
    """Hang up on all that is open."""


class HangUp(msgspec.Struct, tag=True, frozen=True):
    """Clients of a class go away: this share of those that are open."""

    cls: str
    share: float


class Finish(msgspec.Struct, tag=True, frozen=True):
    """End the round: abandon, close the spool, say `Finished`. Then another round may be prepared."""


Command = Prepare | Go | Stop | Abandon | HangUp | Finish


class Ready(msgspec.Struct, tag=True, frozen=True):
    """All is prepared."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """It cannot be prepared. `unreachable`: nobody answers at the target."""

    why: str
    unreachable: bool


class Ended(msgspec.Struct, tag=True, frozen=True):
    """All that was planned has ended."""


class Finished(msgspec.Struct, tag=True, frozen=True):
    """The spool is whole."""

    meters: Meters


class HungUp(msgspec.Struct, tag=True, frozen=True):
    """So many clients have gone away."""

    count: int


Report = Ready | Failed | Ended | Finished | HungUp
