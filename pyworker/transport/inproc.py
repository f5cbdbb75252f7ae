"""A link without a socket: both ends in one process, for tests of whatever stands on a link."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING

from pyworker.transport.link import LinkClosed, LinkFull, LinkState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.transport.link import RouterLink, Waker
    from pyworker.wire.frame import Parts


class InprocRouter:
    """The router's end: a `LinkFactory` for the worker, and `accept` for the test. `capacity` messages may wait."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._arrived: queue.SimpleQueue[InprocLink] = queue.SimpleQueue()

    def __call__(self, endpoint: str, waker: Waker) -> RouterLink:
        """A link that has not started yet; the endpoint is not looked at."""
        del endpoint
        return InprocLink(self, waker, self._capacity)

    def accept(self, timeout: float) -> InprocPeer:
        """The next link that starts.

        Raises:
            TimeoutError: none did.
        """
        try:
            return InprocPeer(self._arrived.get(timeout=timeout))
        except queue.Empty as error:
            raise TimeoutError("no worker connected") from error

    def arrive(self, link: InprocLink) -> None:
        """Called by a link that starts."""
        self._arrived.put(link)


class InprocLink:
    """The worker's end, a `RouterLink`."""

    def __init__(self, router: InprocRouter, waker: Waker, capacity: int) -> None:
        self._router = router
        self._waker = waker
        self._capacity = capacity
        self._state = LinkState.CONNECTING
        self._to_worker: deque[Sequence[bytes]] = deque()
        self._hung_up = False
        self.to_router: deque[Parts] = deque()
        self.changed = threading.Condition()

    @property
    def state(self) -> LinkState:
        """Where the link stands."""
        return self._state

    def start(self) -> None:
        """Connect."""
        self._state = LinkState.OPEN
        self._router.arrive(self)

    def recv(self, timeout: float) -> Sequence[bytes] | None:
        """The next message in its parts; see `RouterLink`."""
        if not self._to_worker and not self._hung_up:
            self._waker.wait(timeout)
        if self._to_worker:
            return self._to_worker.popleft()
        if self._hung_up:
            self._state = LinkState.CLOSED
        return None

    def send(self, parts: Parts) -> None:
        """Queue a message."""
        with self.changed:
            if self._state is not LinkState.OPEN or self._hung_up:
                raise LinkClosed
            if len(self.to_router) >= self._capacity:
                raise LinkFull
            self.to_router.append(parts)
            self.changed.notify()

    def close(self) -> None:
        """Hang up."""
        with self.changed:
            self._state = LinkState.CLOSED
            self.changed.notify()

    def deliver(self, parts: Sequence[bytes]) -> None:
        """Called by the other end."""
        self._to_worker.append(parts)
        self._waker.set()

    def hang_up(self) -> None:
        """Called by the other end."""
        self._hung_up = True
        self._waker.set()


class InprocPeer:
    """The router's end of one link."""

    def __init__(self, link: InprocLink) -> None:
        self._link = link

    def send(self, parts: Sequence[bytes]) -> None:
        """Send a message to the worker."""
        self._link.deliver(parts)

    def recv(self, timeout: float) -> Parts | None:
        """The worker's next message; `None` once it has hung up and nothing is left.

        Raises:
            TimeoutError: nothing came.
        """
        link = self._link
        with link.changed:
            if not link.changed.wait_for(lambda: link.to_router or link.state is LinkState.CLOSED, timeout):
                raise TimeoutError("the worker says nothing")
            return link.to_router.popleft() if link.to_router else None

    def close(self) -> None:
        """Hang up. What was sent before is still delivered."""
        self._link.hang_up()
