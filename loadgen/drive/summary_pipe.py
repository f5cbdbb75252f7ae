"""A pipe to the parent that nobody waits for: what it does not take in time is dropped, the oldest first.

A summary goes as its length (u32) and msgpack.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from loadgen.drive.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTH = struct.Struct("<I")
_MOST_WAITING = 4
_CAPACITY = 1 << 20


class SummaryPipe:
    """The writing end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            # The user's pipes may hold no more: then summaries are dropped a little earlier.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _CAPACITY)
        self._waiting: deque[bytes] = deque()
        self._begun = b""
        """The rest of one that is on its way: it cannot be dropped any more."""
        self._watched = False
        self.dropped = 0

    def put(self, summary: Summary) -> None:
        """Send it now, later, or never."""
        data = msgspec.msgpack.encode(msgspec.structs.replace(summary, dropped=self.dropped))
        self._waiting.append(LENGTH.pack(len(data)) + data)
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._write()

    def _write(self) -> None:
        while self._begun or self._waiting:
            if not self._begun:
                self._begun = self._waiting.popleft()
            try:
                self._begun = self._begun[os.write(self._fd, self._begun) :]
            except BlockingIOError:
                break
            except BrokenPipeError:
                self._begun = b""
                self._waiting.clear()
        wanted = bool(self._begun)
        loop = asyncio.get_running_loop()
        if wanted and not self._watched:
            loop.add_writer(self._fd, self._write)
        elif self._watched and not wanted:
            loop.remove_writer(self._fd)
        self._watched = wanted


class SummaryReader:
    """The reading end: bytes in, summaries out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._decoder = msgspec.msgpack.Decoder(Summary)

    def feed(self, data: bytes) -> Iterator[Summary]:
        """All that are whole now."""
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < LENGTH.size + length:
                return
            yield self._decoder.decode(bytes(self._buffer[LENGTH.size : LENGTH.size + length]))
            del self._buffer[: LENGTH.size + length]
