"""Connections to the target: idle ones first, new ones on demand. There is no limit but the plan's own."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ssl
import struct
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.drive.gate import MOST_QUEUE_BYTES
from loadgen.drive.http import Connection, NoWatch
from loadgen.drive.spool import End

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Clock
    from loadgen.drive.exchange import Exchange
    from loadgen.drive.http import Watch

_AT_ONCE = 64
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)


class QueueWatch:
    """Every so many reads: how much waits unread in the socket's receive queue, and for how long it has been too
    much.
    """

    def __init__(self, every: int = 100, most_bytes: int = MOST_QUEUE_BYTES) -> None:
        self._every, self._most = every, most_bytes
        self.left = every
        self.longest = 0
        """Microseconds that a queue stayed over the bound."""

    def look(self, connection: Connection, now: int) -> None:
        """See what waits unread on the connection."""
        self.left = self._every
        exchange = connection.exchange
        if connection.fileno < 0 or (exchange is not None and exchange.slow is not None):
            return  # what a slow reader leaves unread is the plan's wish
        waiting = struct.unpack("i", fcntl.ioctl(connection.fileno, termios.FIONREAD, b"\0\0\0\0"))[0]
        if waiting <= self._most:
            connection.over_since = -1
        elif connection.over_since < 0:
            connection.over_since = now
        else:
            self.longest = max(self.longest, now - connection.over_since)


@dataclass(frozen=True, slots=True)
class Target:
    """`insecure`: no check of the certificate."""

    host: str
    port: int
    tls: bool = False
    insecure: bool = False

    def context(self) -> ssl.SSLContext | None:
        """How to talk to it, None for plain text."""
        if not self.tls:
            return None
        made = ssl.create_default_context()
        if self.insecure:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        return made


class ConnectionPool:
    """All connections of a load process."""

    def __init__(self, clock: Clock, target: Target, *, watch: Watch | None = None) -> None:
        self._clock, self._target = clock, target
        self._tls = target.context()
        self._watch: Watch = NoWatch() if watch is None else watch
        self._addresses: list[str] = []
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self.key_line = b""
        self.key_at = 0
        self.on_exhausted: Callable[[str], None] = lambda _: None
        """Told when the host gives no more sockets."""
        self.idle = self._idle.append
        self.lost = self._all.discard

    @property
    def num_open(self) -> int:
        """Connections that stand."""
        return len(self._all)

    def use_clock(self, clock: Clock) -> None:
        """Count from another t0; nothing is under way."""
        self._clock = clock
        for connection in self._all:
            connection.use_clock(clock)

    def adopt(self, connection: Connection) -> None:
        """Take in a connection that stands and is idle."""
        self._all.add(connection)
        self._idle.append(connection)

    async def open(self, count: int) -> None:
        """Open so many before anything is due; at least one, to see whether anybody is there.

        Raises:
            OSError: the target takes none.
        """
        await self._resolve()
        for first in range(0, max(count, 1), _AT_ONCE):
            made = await asyncio.gather(*(self._connect() for _ in range(min(_AT_ONCE, max(count, 1) - first))))
            self._idle += made

    def send(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Send on an idle connection, or on a new one as soon as it stands."""
        # A slow reader spoils its connection for everybody after it.
        single = fresh or exchange.slow is not None
        while self._idle and not single:
            connection = self._idle.pop()
            if connection.is_usable:
                connection.send(exchange)
                return
        task = asyncio.get_running_loop().create_task(self._send_on_new(exchange, single=single))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def hang_up(self, exchange: Exchange, kind: End) -> None:
        """End the exchange, and close the connection that it is on."""
        if exchange.connection is not None:
            exchange.connection.abort(kind)
        else:
            exchange.finish(kind, self._clock.now())

    def close(self) -> None:
        """Hang up everywhere."""
        for task in list(self._opening):
            task.cancel()
        for connection in list(self._all):
            connection.close()
        self._idle.clear()

    async def _resolve(self) -> None:
        """Names are looked up once, before the run."""
        found = await asyncio.get_running_loop().getaddrinfo(self._target.host, self._target.port, type=1)
        self._addresses = list(dict.fromkeys(str(each[4][0]) for each in found))

    async def _send_on_new(self, exchange: Exchange, *, single: bool) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            exchange.errno = error.errno or 0
            if error.errno in _EXHAUSTED:
                self.on_exhausted(f"no more sockets: {error.strerror}")
        else:
            connection.is_single = single
            if exchange.is_open:
                connection.send(exchange)
            else:
                self._idle.append(connection)
        finally:
            # Whatever went wrong: an exchange is never lost.
            if exchange.connection is None:
                exchange.finish(End.REFUSED, self._clock.now())

    async def _connect(self) -> Connection:
        if not self._addresses:
            await self._resolve()
        loop = asyncio.get_running_loop()
        name = self._target.host if self._tls is not None else None
        connection = Connection(self._clock, self, self._watch)
        # A copy: others connect meanwhile, and put what they found first.
        addresses = list(self._addresses)
        for address in addresses:
            try:
                await loop.create_connection(
                    lambda: connection, address, self._target.port, ssl=self._tls, server_hostname=name
                )
            except OSError:
                if address == addresses[-1]:
                    raise
            else:
                self._all.add(connection)
                self._addresses.sort(key=lambda each: each != address)  # what works comes first from now on
                break
        return connection
