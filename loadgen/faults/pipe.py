"""One connection that passes a link: two sockets, and a pipe each way."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections import deque
from typing import TYPE_CHECKING, Literal, cast

from loadgen.faults.link import PASS

if TYPE_CHECKING:
    from loadgen.faults.link import Mode
    from loadgen.faults.link_proxy import LinkProxy

QUEUE_BYTES = 1 << 20
"""Held each way of a connection before reading stops: with `delay` this bounds the rate to so much a delay."""
_WRITE_BUFFER = 256 << 10
_QUANTUM_SECONDS = 0.01
_MOST_QUANTUM = 16 << 10
_RESET = struct.pack("ii", 1, 0)


class End(asyncio.Protocol):
    """A socket; what is read from it goes into `out`."""

    def __init__(self, passing: Passing) -> None:
        self.passing = passing
        self.out: Pipe
        self.transport: asyncio.Transport | None = None
        self.stood = False
        """It is or was connected."""
        self.blocked = False
        """Its writes are not taken as fast as they come."""
        self.seen = 0
        """Bytes seen to wait in its socket."""
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Small packets go on at once."""
        self.transport = cast("asyncio.Transport", transport)
        self.stood = True
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.passing.made(self)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self._paused and self.transport is not None:
            self.transport.pause_reading()  # uvloop forgets a pause that was asked for in `connection_made`
        self.out.put(data)

    def eof_received(self) -> bool:
        """Half a connection may go on for long."""
        self.out.end()
        return True

    def pause_writing(self) -> None:
        """Push back."""
        self.blocked = True
        self.passing.flow()

    def resume_writing(self) -> None:
        """Take more."""
        self.blocked = False
        self.passing.flow()

    def connection_lost(self, error: Exception | None) -> None:
        """The other end ends too, in the same way."""
        self.transport = None
        self.passing.lost(self, error)

    def read(self, wanted: bool) -> None:
        """Read, or let it wait."""
        transport = self.transport
        if transport is None or transport.is_closing() or wanted is not self._paused:
            return
        self._paused = not wanted
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def waiting(self) -> int:
        """Bytes that have come and were not read."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return 0
        room = bytearray(4)
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, room)
        return int.from_bytes(room, "little")

    def close(self, *, hard: bool) -> None:
        """`hard`: with a reset, and nothing more is written."""
        if self.transport is None:
            return
        if not hard:
            self.transport.close()
            return
        sock = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class Pipe:
    """One way of a connection. `taken`: bytes written since its mode began."""

    def __init__(self, passing: Passing, way: Literal["up", "down"], sink: End) -> None:
        self.passing, self.way, self.sink = passing, way, sink
        self.mode = PASS
        self.size = 0
        self.ended = False
        self.taken = 0
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._waits = False
        self._done = False

    @property
    def is_dark(self) -> bool:
        """Nothing is read into it."""
        return self.mode.kind == "blackhole"

    @property
    def is_drained(self) -> bool:
        """Its end was passed on."""
        return self._done

    def put(self, data: bytes) -> None:
        """Bytes have come."""
        count = self.passing.link.count
        if self.way == "up":
            count.read_up += len(data)
        else:
            count.read_down += len(data)
        if self.is_dark:
            count.held += len(data)
        if self.mode.kind in ("pass", "reset", "truncate") and not self._queue and self.sink.stood:
            self._write(data)
            return
        self._queue.append((asyncio.get_running_loop().time(), data))
        self.size += len(data)
        self.pump()
        self.passing.flow()

    def end(self) -> None:
        """No more will come."""
        self.ended = True
        self.pump()

    def change(self, mode: Mode) -> None:
        """From now on."""
        self.mode = mode if mode.way in ("both", self.way) else PASS
        self.taken = 0
        self.pump()

    def pump(self) -> None:
        """Pass on what may pass."""
        self._disarm()
        now = asyncio.get_running_loop().time()
        if self.is_dark or not self.sink.stood:
            return
        while self._queue and not self.passing.is_cut:
            came, data = self._queue[0]
            wait, size = self._turn(now, came, len(data))
            if wait > 0:
                self._waits = True
                self._timer = asyncio.get_running_loop().call_later(wait, self._ring)
                return
            self._queue.popleft()
            if size < len(data):
                self._queue.appendleft((came, data[size:]))
            self.size -= size
            self._count(size)
            self._write(data[:size])
        self._waits = False
        if self.ended and not self._queue:
            self._finish()

    def drop(self) -> int:
        """Throw away what is held; how much it was."""
        dropped, self.size = self.size, 0
        self._queue.clear()
        self._disarm()
        return dropped

    def _turn(self, now: float, came: float, length: int) -> tuple[float, int]:
        """Seconds to wait yet, and bytes that may pass then."""
        if self.mode.kind == "delay":
            return came + self.mode.micros / 1e6 - now, length
        if self.mode.kind == "rate":
            return self.passing.link.buckets[self.way].take(now, self.mode.size, length)
        return 0.0, length

    def _count(self, size: int) -> None:
        count = self.passing.link.count
        if self.mode.kind == "delay":
            count.delayed += size
        elif self.mode.kind == "rate" and self._waits:
            count.slowed += size

    def _write(self, data: bytes) -> None:
        transport = self.sink.transport
        if transport is None or transport.is_closing():
            return
        limit = self.mode.size if self.mode.kind in ("reset", "truncate") else 0
        cut = limit > 0 and self.taken + len(data) >= limit
        passed = data[: limit - self.taken] if cut else data
        self.taken += len(passed)
        count = self.passing.link.count
        if self.way == "up":
            count.written_up += len(passed)
        else:
            count.written_down += len(passed)
        transport.write(passed)
        if cut:
            count.cut_bytes += len(data) - len(passed)
            self.passing.cut(hard=self.mode.kind == "reset")

    def _ring(self) -> None:
        self._timer = None
        self.pump()
        self.passing.flow()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self) -> None:
        if self._done:
            return
        self._done = True
        transport = self.sink.transport
        if transport is not None and not transport.is_closing():
            transport.write_eof()
        self.passing.half_ended()


class Bucket:
    """Bytes a second of one way, over all connections: what passes takes its time, and the next waits for it."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def take(self, now: float, rate: int, wanted: int) -> tuple[float, int]:
        """Seconds to wait, or 0 and how many bytes pass."""
        if now < self._free_at:
            return self._free_at - now, 0
        size = min(wanted, _MOST_QUANTUM, max(1, round(rate * _QUANTUM_SECONDS)))
        self._free_at = max(self._free_at, now - _QUANTUM_SECONDS) + size / rate
        return 0.0, size


class Passing:
    """The connection. `client` is its first end; the other is connected when that one has come."""

    def __init__(self, link: LinkProxy) -> None:
        self.link = link
        self.client, self.server = End(self), End(self)
        self.up, self.down = Pipe(self, "up", self.server), Pipe(self, "down", self.client)
        self.client.out, self.server.out = self.up, self.down
        self.is_cut = False
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    def made(self, end: End) -> None:
        """An end stands."""
        if end is self.server:
            self.up.pump()
            self.flow()
            return
        self.link.passing.add(self)
        self.link.count.connections += 1
        self.flow()
        if not self.link.has_room:
            self.link.count.refused += 1
            self.cut(hard=True)
            return
        self._task = asyncio.get_running_loop().create_task(self._connect())
        self.change(self.link.mode)

    def change(self, mode: Mode) -> None:
        """Another mode. What is held passes first if it may."""
        self.client.seen = self.server.seen = 0
        if mode.kind == "reset" and mode.size == 0:
            self.cut(hard=True)
            return
        self.up.change(mode)
        self.down.change(mode)
        self.flow()

    def flow(self) -> None:
        """Read where it can be passed on."""
        stands = self.server.transport is not None
        for pipe, end in ((self.up, self.client), (self.down, self.server)):
            end.read(stands and not (pipe.is_dark or pipe.sink.blocked or pipe.size >= QUEUE_BYTES))

    def look(self) -> None:
        """Count what waits unread because nothing is read."""
        for pipe, end in ((self.up, self.client), (self.down, self.server)):
            waits = end.waiting() if pipe.is_dark else 0
            if waits > end.seen:
                self.link.count.held += waits - end.seen
                end.seen = waits

    def cut(self, *, hard: bool) -> None:
        """Close both ends; what is held is lost."""
        if self.is_cut:
            return
        self.is_cut = True
        count = self.link.count
        count.cut_connections += 1
        count.cut_bytes += self.up.drop() + self.down.drop() + self.client.waiting() + self.server.waiting()
        self._close(hard=hard)

    def half_ended(self) -> None:
        """One way has ended; with both the connection has."""
        if self.up.is_drained and self.down.is_drained:
            self._close(hard=False)

    def lost(self, end: End, error: Exception | None) -> None:
        """An end is gone."""
        other = self.server if end is self.client else self.client
        if error is not None or other.transport is None:
            other.close(hard=True)
            self._cancel()
        elif not self.is_cut:
            end.out.end()
            other.out.drop()
            other.out.end()
        if self.client.transport is None and self.server.transport is None:
            self._leave()

    async def ended(self) -> None:
        """Until both ends are closed."""
        await self._ended.wait()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _close(self, *, hard: bool) -> None:
        self._cancel()
        self.client.close(hard=hard)
        self.server.close(hard=hard)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _leave(self) -> None:
        self.up.drop()
        self.down.drop()
        self.link.passing.discard(self)
        self._ended.set()

    async def _connect(self) -> None:
        try:
            await self.link.connect(self.server)
        except OSError:
            self.link.count.refused += 1
            self.client.close(hard=True)
