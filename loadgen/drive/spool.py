"""The spool: what a load process saw, as it saw it. Written in big blocks, parsed by somebody else (the scribe).

A file is a magic line and then entries. An entry is a head (`HEAD`), the stamps of its chunks (i64, microseconds from
t0), the length of the body at each stamp (u32), the response headers that were kept, and the body.
"""

from __future__ import annotations

import os
import struct
import time
from array import array
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.drive.exchange import Exchange

MAGIC = b"slackwater-spool 1\n"
HEAD = struct.Struct("<IHBBHHqqqqIII")
"""id, attempt, end, flags, status, errno, due, sent, header, end (-1: never), stamps, header bytes, body bytes."""
NEW, RETRIED = 1, 2
"""Flags: the connection was new; another attempt follows."""
BLOCK = 256 << 10
SLOW_WRITE = 5_000_000
"""Nanoseconds after which a write has held up the sending."""


class End(IntEnum):
    """How an exchange ended, as far as the socket can tell."""

    COMPLETE = 0
    REFUSED = 1
    """No connection, or it was closed before a status came."""
    CLOSED = 2
    """Closed in the middle of the answer."""
    TIMEOUT = 3
    CANCELLED = 4
    """As the plan wanted."""
    OPEN = 5
    """Still going on at the end of the drain."""
    TOO_BIG = 6
    MALFORMED = 7
    """Not HTTP."""
    UNSENT = 8
    """Due, and never sent: the run was stopped."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One exchange, read back. Times are microseconds from t0, -1 where nothing happened."""

    id: int
    attempt: int
    end_kind: End
    new_connection: bool
    retried: bool
    status: int
    errno: int
    due: int
    sent: int
    header: int
    end: int
    stamps: array[int]
    lengths: array[int]
    headers: bytes
    body: bytes


class SpoolError(Exception):
    """A spool that ends in the middle of an entry (`is_cut`), or is none. `offset` in bytes."""

    def __init__(self, path: str, offset: int, why: str, *, is_cut: bool = False) -> None:
        self.path, self.offset, self.is_cut = path, offset, is_cut
        super().__init__(f"{path} at byte {offset}: {why}")


class SpoolWriter:
    """Collects entries and writes them in blocks."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._block = bytearray(MAGIC)
        self.slow_writes = 0
        self.written = 0
        self.longest_write = 0
        """Nanoseconds."""

    @property
    def backlog(self) -> int:
        """Bytes that are not in the file yet."""
        return len(self._block)

    def add(self, one: Exchange) -> None:
        """Append one exchange, and write if a block is full.

        Raises:
            OSError: the disk is full, or gone.
        """
        headers = bytes(one.kept_headers)
        self._block += HEAD.pack(
            one.id,
            one.attempt,
            one.end_kind,
            NEW * one.new_connection | RETRIED * one.is_retried,
            one.status,
            one.errno,
            one.due,
            one.sent,
            one.header,
            one.end,
            len(one.stamps),
            len(headers),
            len(one.body),
        )
        self._block += one.stamps.tobytes()
        self._block += one.lengths.tobytes()
        self._block += headers
        self._block += one.body
        if len(self._block) >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        began = time.monotonic_ns()
        # A write that fails is not tried again: half of it may be there already.
        block, self._block = self._block, bytearray()
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]
        self.written += len(block)
        took = time.monotonic_ns() - began
        self.longest_write = max(self.longest_write, took)
        if took > SLOW_WRITE:
            self.slow_writes += 1

    def close(self) -> None:
        """Write the rest, and close. Idempotent.

        Raises:
            OSError: the rest could not be written; it is closed all the same.
        """
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            os.close(self._fd)
            self._fd = -1


def read_spool(path: str) -> Iterator[Entry]:
    """All entries of a file, in the order in which they ended.

    Raises:
        SpoolError: it is no spool, or its writer died in the middle of an entry.
    """
    with Path(path).open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise SpoolError(path, 0, "not a spool of this version", is_cut=MAGIC.startswith(magic))
        while (entry := read_entry(file, path)) is not None:
            yield entry


def read_entry(file: BinaryIO, path: str) -> Entry | None:
    """The next entry, None at the end.

    Raises:
        SpoolError: the file ends in the middle of it.
    """
    head = file.read(HEAD.size)
    return _entry(file, head, path) if head else None


def _entry(file: BinaryIO, head: bytes, path: str) -> Entry:
    def take(count: int) -> bytes:
        data = file.read(count)
        if len(data) < count:
            raise SpoolError(path, file.tell(), "it ends in the middle of an entry", is_cut=True)
        return data

    if len(head) < HEAD.size:
        raise SpoolError(path, file.tell(), "it ends in the middle of an entry", is_cut=True)
    number, attempt, kind, flags, status, errno, due, sent, header, end, stamps, kept, body = HEAD.unpack(head)
    times, lengths = array("q"), array("I")
    times.frombytes(take(8 * stamps))
    lengths.frombytes(take(4 * stamps))
    new, retried = bool(flags & NEW), bool(flags & RETRIED)
    return Entry(
        number,
        attempt,
        End(kind),
        new,
        retried,
        status,
        errno,
        due,
        sent,
        header,
        end,
        times,
        lengths,
        take(kept),
        take(body),
    )
