"""A link over libzmq: a DEALER socket of its own for each connection, used by one thread and never reconnected.

libzmq would reconnect in silence, so that a message meant for the old connection could be the first one on the new.
Hence no reconnection by the library within the life of a link: the end of the connection is read from the socket's
monitor, and the next link is a new socket.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from pyworker.transport.link import LinkClosed, LinkFull, LinkState, bounded
from pyworker.wire.frame import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.transport.link import RouterLink, Waker
    from pyworker.wire.frame import Parts

_HANDSHAKE_MILLIS: Final = 5_000
_HIGH_WATER: Final = 10_000
_OPTIONS: Final = (
    (zmq.LINGER, 0),  # Bye is said and waited for; nothing else may outlive the link
    # Never in the life of a link, which is closed as soon as its connection has ended. With -1, and also with
    # IMMEDIATE 1, libzmq 4.3.5 throws away what has come but was not read when the peer hangs up: the Bye that says
    # why. IMMEDIATE has nothing to prevent here: nothing is sent before the handshake, no socket connects twice.
    (zmq.RECONNECT_IVL, 2**30),
    (zmq.IMMEDIATE, 0),
    (zmq.MAXMSGSIZE, MAX_FRAME_BYTES),
    (zmq.HANDSHAKE_IVL, _HANDSHAKE_MILLIS),
    (zmq.SNDHWM, _HIGH_WATER),
    (zmq.RCVHWM, _HIGH_WATER),
)
_ENDS: Final = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class ZmqLinks:
    """Makes links on one libzmq context; a `LinkFactory`."""

    def __init__(self) -> None:
        self._context = zmq.Context()

    def __call__(self, endpoint: str, waker: Waker) -> RouterLink:
        """A link that has not started yet."""
        return ZmqLink(self._context, endpoint, waker)

    def close(self) -> None:
        """End the context. All links must be closed."""
        self._context.term()


class ZmqLink:
    """A `RouterLink` over one DEALER socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, waker: Waker) -> None:
        self._endpoint = endpoint
        self._waker = waker
        self._state = LinkState.CONNECTING
        self._ended = False  # the monitor has said so; what came before may still be in the socket
        self._socket = context.socket(zmq.DEALER)
        for option, value in _OPTIONS:
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | _ENDS)
        self._poller = zmq.Poller()
        for waited in (self._socket, self._monitor, waker.fileno()):
            self._poller.register(waited, zmq.POLLIN)

    @property
    def state(self) -> LinkState:
        """Where the link stands."""
        return self._state

    def start(self) -> None:
        """Begin to connect."""
        self._socket.connect(self._endpoint)

    def recv(self, timeout: float) -> Sequence[bytes] | None:
        """The next message in its parts; see `RouterLink`."""
        if self._state is LinkState.CLOSED:
            return None
        parts = self._take()
        if parts is not None or self._ended:
            return self._or_closed(parts)
        ready = dict(self._poller.poll(math.ceil(bounded(timeout) * 1000)))
        if self._waker.fileno() in ready:
            self._waker.clear()
        if self._monitor in ready:
            self._read_monitor()
        if self._socket not in ready and not self._ended:
            return None
        return self._or_closed(self._take())

    def send(self, parts: Parts) -> None:
        """Queue a message."""
        if self._state is not LinkState.OPEN:
            raise LinkClosed
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again as error:
            raise LinkFull from error

    def close(self) -> None:
        """Close the socket and its monitor."""
        if self._socket.closed:
            return
        self._state = LinkState.CLOSED
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _take(self) -> list[bytes] | None:
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def _or_closed(self, parts: list[bytes] | None) -> list[bytes] | None:
        """Hand out what came; the link counts as closed only once nothing is left."""
        if parts is None and self._ended:
            self._state = LinkState.CLOSED
        return parts

    def _read_monitor(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event & _ENDS:
                self._ended = True
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED and not self._ended:
                # The socket takes up its new pipe when it is asked for its events.
                self._socket.getsockopt(zmq.EVENTS)
                self._state = LinkState.OPEN
