"""One request on its way: what is to be sent, and what has come back so far."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from loadgen.drive.spool import End

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.http import Connection
    from loadgen.drive.tally import Tally

NEVER = -1


class Exchange:
    """Filled by a connection, and handed to `done` exactly once. All times in microseconds from t0."""

    __slots__ = (
        "attempt",
        "body",
        "connection",
        "done",
        "due",
        "end",
        "end_kind",
        "errno",
        "header",
        "id",
        "is_retried",
        "kept_headers",
        "lengths",
        "marks",
        "new_connection",
        "payload",
        "sent",
        "slow",
        "stamps",
        "status",
        "tally",
    )

    def __init__(
        self,
        number: int,
        due: int,
        payload: memoryview | bytes,
        done: Callable[[Exchange], None],
        tally: Tally,
    ) -> None:
        """`payload`: head and body, without a key. `tally`: of its class."""
        self.id = number
        self.attempt = 0
        self.due = due
        self.payload = payload
        self.done = done
        self.tally = tally
        self.slow: int | None = None
        """Bytes a second that are read at most."""
        self.sent = self.header = self.end = NEVER
        self.status = 0
        self.new_connection = False
        self.is_retried = False
        """Another attempt follows, which decides."""
        self.end_kind = End.OPEN
        self.errno = 0
        """Why there was no connection, as the system says."""
        self.stamps: array[int] = array("q")
        self.lengths: array[int] = array("I")
        self.marks = 0
        """`data:` markers seen: about as many as tokens."""
        self.body = bytearray()
        self.kept_headers = bytearray()
        self.connection: Connection | None = None
        """While it is on one."""

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.end == NEVER

    def finish(self, kind: End, now: int) -> None:
        """End it; a second call changes nothing."""
        if self.is_open:
            self.end_kind, self.end = kind, now
            self.connection = None
            self.done(self)
