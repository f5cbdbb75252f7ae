"""What the worker needs of a connection to a router, and how a thread that waits on one is woken.

A link is one connection. It is used once: when it has ended, the next one is a new object.
"""

from __future__ import annotations

import os
import select
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyworker.wire.frame import Parts

LONGEST_WAIT_SECONDS: Final = 3_600.0
"""A wait ends by then, whatever was asked for: the calls of the system take only so many milliseconds."""


class LinkState(Enum):
    """Where a link stands; it only ever moves down this list."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class LinkClosed(Exception):
    """The link has ended, so nothing can be sent on it."""


class LinkFull(Exception):
    """The transport would have to wait. The message is not sent, so the link has to be closed."""


class RouterLink(Protocol):
    """One connection to a router. All calls come from one thread."""

    @property
    def state(self) -> LinkState:
        """Where the link stands; brought up to date by `recv`."""

    def start(self) -> None:
        """Begin to connect. Never blocks."""

    def recv(self, timeout: float) -> Sequence[bytes] | None:
        """The next whole message, in its parts, waited for at most `timeout` seconds, and an hour at most.

        `None`: the time is over, the waker was set or the state has changed. What came before the end of a link is
        handed out before the state becomes `CLOSED`.
        """

    def send(self, parts: Parts) -> None:
        """Queue a message. Says nothing about delivery.

        Raises:
            LinkFull: not queued; close the link.
            LinkClosed: there is no connection.
        """

    def close(self) -> None:
        """Let go of everything at once; what is queued may be lost. Idempotent."""


def bounded(timeout: float) -> float:
    """A time to wait in seconds that every call of the system can take."""
    return min(max(0.0, timeout), LONGEST_WAIT_SECONDS)


class Waker:
    """Wakes the one thread that waits on it, from any thread. Set before a wait, it ends that wait at once."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def fileno(self) -> int:
        """Readable while set."""
        return self._fd

    def set(self) -> None:
        """Wake the waiting thread."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Take back what was set."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def wait(self, timeout: float) -> None:
        """Wait until set, at most `timeout` seconds, and clear."""
        self._poll.poll(bounded(timeout) * 1000)
        self.clear()

    def close(self) -> None:
        """Give the descriptor back. No other thread may use the waker any more."""
        os.close(self._fd)


if TYPE_CHECKING:
    LinkFactory = Callable[[str, Waker], RouterLink]
    """Makes an unstarted link to an endpoint; its `recv` returns early when the waker is set."""
