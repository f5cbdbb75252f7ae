"""HTTP/1.1 as a load process needs it: stamps first, nothing parsed beyond the framing.

One exchange at a time runs on a connection. `httptools` (llhttp in C) does the framing. The first thing that happens
when bytes arrive is that their time is taken.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from loadgen.drive.spool import End

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Clock
    from loadgen.drive.exchange import Exchange

MOST_BODY = 16 << 20
"""Bytes of an answer: a server that never ends must not fill the memory."""
MOST_HEAD = 64 << 10
"""Bytes before the end of the headers."""
_MOST_RAW = 8 * MOST_BODY
"""Bytes of an answer with its framing: chunks of one byte are fine, endless trailers are not."""
_KEPT = frozenset(
    (
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"x-slackwater-worker",
        b"x-worker-id",
        b"x-request-id",
        b"content-encoding",
        b"location",
    )
)
_DELIMITING = frozenset((b"content-length", b"transfer-encoding"))
_MOST_KEPT = 4096
_SLOW_BUFFER, _SLOW_SHARE = 4_096, 8
"""Receive buffer of a slow reader, at least, and as a part of what it reads in a second: with the usual one the kernel
would read for it, and with too small a one TCP itself would be the slow one.
"""


class Watch(Protocol):
    """Looks at receive queues now and then."""

    left: int
    """Reads until it wants to look again."""

    def look(self, connection: Connection, now: int) -> None:
        """See what waits unread on the connection."""


class NoWatch:
    """Never looks."""

    left = 1 << 62

    def look(self, connection: Connection, now: int) -> None:
        """Look at nothing."""


class Connection(asyncio.Protocol):
    """One socket to the target."""

    def __init__(self, clock: Clock, owner: Owner, watch: Watch | None = None) -> None:
        """`owner` is told when it is idle, and when it is gone."""
        self._now = clock.now
        self._owner = owner
        self._watch: Watch = NoWatch() if watch is None else watch
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.exchange: Exchange | None = None
        self.fileno = -1
        """For a look at its receive queue; -1: none."""
        self.over_since = -1
        """Since when its receive queue is too long; -1: it is not."""
        self.is_single = False
        """It serves one exchange only."""
        self._used = False
        self._keep = True
        self._in_body = self._whole = self._delimited = False
        self._raw = 0
        self._at = 0
        self._early = bytearray()

    def use_clock(self, clock: Clock) -> None:
        """Count from another t0; it is idle."""
        self._now = clock.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Small packets go out at once."""
        # Not an instance check: uvloop's transports are of no asyncio class.
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.fileno = sock.fileno()

    @property
    def is_usable(self) -> bool:
        """Whether it stands."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange) -> None:
        """Put a request on the wire. The connection is idle."""
        transport = self._transport
        exchange.new_connection = not self._used
        self._used = True
        if (transport is None or transport.is_closing()) and not self._early:
            exchange.finish(End.REFUSED, self._now())
            return
        self.exchange, exchange.connection = exchange, self
        self._keep = True
        self._in_body = self._whole = False
        self._raw = 0
        if self._early or transport is None:
            self._refuse(exchange)
            return
        if exchange.slow is not None:
            self._read_slowly(transport, exchange.slow)
        line, at = self._owner.key_line, self._owner.key_at
        # Before the write: what the kernel needs to take the bytes belongs to the request.
        exchange.sent = self._now()
        if line:
            transport.writelines((exchange.payload[:at], line, exchange.payload[at:]))
        else:
            transport.write(exchange.payload)

    def data_received(self, data: bytes) -> None:
        """Stamp, frame, keep."""
        now = self._at = self._now()
        exchange = self.exchange
        if exchange is None:
            self._unasked(data)
            return
        body = exchange.body
        before = len(body)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            if not self._whole:
                self._end(End.MALFORMED, now)
                return
            self._keep = False  # more than the answer
        length = len(body)
        if length > before:
            stamps = exchange.stamps
            marks = data.count(b"data:")
            if marks:
                exchange.marks += marks
                tally = exchange.tally
                tally.marks += marks
                if stamps:
                    tally.gaps.append(now - stamps[-1])
            stamps.append(now)
            exchange.lengths.append(length)
        watch = self._watch
        watch.left -= 1
        if watch.left <= 0 or self.over_since >= 0:
            watch.look(self, now)
        if self._whole:
            self._complete(now)
            return
        self._raw += len(data)
        if length > MOST_BODY or self._raw > _MOST_RAW:
            self._end(End.TOO_BIG, now)
        elif not self._in_body and self._raw > MOST_HEAD:
            self._end(End.MALFORMED, now)
        elif exchange.slow is not None:
            self._rest(len(data) / exchange.slow)

    def eof_received(self) -> bool:
        """An answer without a length ends with its connection."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End what was going on."""
        now = self._now()
        self._transport, self.fileno = None, -1
        exchange, self.exchange = self.exchange, None
        self._owner.lost(self)
        if exchange is None:
            return
        if exchange.header < 0:
            exchange.errno = getattr(error, "errno", None) or 0
            exchange.finish(End.REFUSED, now)
        elif error is None and self._in_body and not self._delimited:
            exchange.finish(End.COMPLETE, now)
        else:
            exchange.finish(End.CLOSED, now)

    def abort(self, kind: End) -> None:
        """Hang up on the exchange that is going on."""
        self._end(kind, self._now())

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.abort()

    # httptools calls these.

    def on_message_begin(self) -> None:
        """An answer begins, or an interim one (1xx)."""
        exchange = self.exchange
        if exchange is not None and not self._whole:
            exchange.header = self._at
            exchange.kept_headers.clear()
            self._in_body = self._delimited = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the few that a record wants."""
        exchange = self.exchange
        name = name.lower()
        if exchange is None or self._whole:
            return
        if name in _DELIMITING:
            self._delimited = True
        elif name in _KEPT and len(exchange.kept_headers) < _MOST_KEPT:
            exchange.kept_headers += name + b": " + value[:256].replace(b"\n", b" ") + b"\n"

    def on_headers_complete(self) -> None:
        """The status is known."""
        exchange = self.exchange
        if exchange is not None and not self._whole:
            exchange.status = self._parser.get_status_code()
            if exchange.status >= 200:
                self._keep = bool(self._parser.should_keep_alive())
                self._in_body = True

    def on_body(self, body: bytes) -> None:
        """A piece of the answer."""
        exchange = self.exchange
        if exchange is not None and not self._whole:
            exchange.body += body

    def on_message_complete(self) -> None:
        """The answer is whole; an interim answer is not one."""
        exchange = self.exchange
        if exchange is not None and exchange.status >= 200:
            self._whole = True

    def _unasked(self, data: bytes) -> None:
        """Before the first request it may be a refusal, such as at a cap of connections; later it is nonsense."""
        if self._used or len(self._early) > MOST_HEAD:
            self.close()
        else:
            self._early += data

    def _refuse(self, exchange: Exchange) -> None:
        """The answer was there before the question."""
        data, self._early = bytes(self._early), bytearray()
        exchange.sent = self._now()
        self.data_received(data)
        if exchange.is_open and self._transport is None:
            self.exchange = None
            exchange.finish(End.REFUSED, self._now())

    def _complete(self, now: int) -> None:
        exchange, self.exchange = self.exchange, None
        # First idle, then told: whoever waits for it may send on it at once.
        if self._keep and not self.is_single and self._transport is not None:
            self._owner.idle(self)
        else:
            self.close()
        if exchange is not None:
            exchange.finish(End.COMPLETE, now)

    def _end(self, kind: End, now: int) -> None:
        exchange, self.exchange = self.exchange, None
        self.close()
        if exchange is not None:
            exchange.finish(kind, now)

    def _read_slowly(self, transport: asyncio.Transport, rate: int) -> None:
        self.is_single = True
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(_SLOW_BUFFER, rate // _SLOW_SHARE))

    def _rest(self, seconds: float) -> None:
        """A slow reader: nothing is read until its rate allows it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


class Owner(Protocol):
    """Whom connections belong to."""

    key_line: bytes
    """The `authorization` line with its end; empty: none."""
    key_at: int
    """Where in a request it goes."""

    @property
    def idle(self) -> Callable[[Connection], None]:
        """Told when a connection can take the next exchange."""

    @property
    def lost(self) -> Callable[[Connection], None]:
        """Told when a connection is gone."""
