"""What the mock did, by its own clock: the client's figures are judged against this, not against what was asked."""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class TruthEntry:
    """One request. Times in microseconds of CLOCK_MONOTONIC."""

    __slots__ = (
        "body",
        "body_bytes",
        "body_hash",
        "counts",
        "emits",
        "end",
        "fault",
        "finish",
        "hdr",
        "headers",
        "id",
        "path",
        "received",
        "status",
        "tokens_in",
    )

    def __init__(self, number: int, path: str, received: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self.id, self.path, self.received, self.headers = number, path, received, headers
        self.body: bytes | None = body
        self.body_bytes = len(body)
        self.body_hash = xxhash.xxh3_64_hexdigest(body)
        self.emits = array("q")
        """When each chunk was handed to the socket."""
        self.counts = array("I")
        """Tokens in it."""
        self.hdr: int | None = None
        self.end: int | None = None
        self.finish: str | None = None
        self.fault: str | None = None
        self.status: int | None = None
        self.tokens_in: int | None = None

    def as_json(self) -> dict[str, object]:
        """For `GET /mock/truth`."""
        return {
            "id": self.id,
            "path": self.path,
            "received_micros": self.received,
            "hdr_micros": self.hdr,
            "emit_micros": self.emits.tolist(),
            "emit_tokens": self.counts.tolist(),
            "end_micros": self.end,
            "status": self.status,
            "finish": self.finish,
            "fault": self.fault,
            "tokens_in": self.tokens_in,
            "body_bytes": self.body_bytes,
            "body_hash": self.body_hash,
            "headers": [list(pair) for pair in self.headers],
        }


class Truth:
    """The newest `most` requests, their bodies up to `most_body_bytes` in all, and calls by route."""

    def __init__(self, most: int = 100_000, most_body_bytes: int = 64 << 20) -> None:
        self._most, self._most_body_bytes = most, most_body_bytes
        self._entries: OrderedDict[int, TruthEntry] = OrderedDict()
        self._bodies: OrderedDict[int, int] = OrderedDict()
        self._body_bytes = 0
        self._next = 0
        self.routes: Counter[str] = Counter()
        self.dropped = 0
        """Entries that had to go."""

    def begin(self, path: str, received: int, headers: Sequence[tuple[str, str]], body: bytes) -> TruthEntry:
        """Note a request. Numbers count from 1."""
        self._next += 1
        entry = TruthEntry(self._next, path, received, headers, body)
        self._entries[entry.id] = entry
        self._keep_body(entry)
        if len(self._entries) > self._most:
            number, oldest = self._entries.popitem(last=False)
            self._drop_body(number, oldest)
            self.dropped += 1
        return entry

    def body(self, number: int) -> bytes | None:
        """The bytes of a request's body, as they came; None: unknown, or gone."""
        entry = self._entries.get(number)
        return None if entry is None else entry.body

    def since(self, number: int, most: int) -> Iterator[TruthEntry]:
        """Up to `most` entries after this one, oldest first."""
        left = most
        for entry in self._entries.values():
            if entry.id > number and left > 0:
                left -= 1
                yield entry

    def clear(self) -> None:
        """Forget all entries; numbers go on."""
        self._entries.clear()
        self._bodies.clear()
        self._body_bytes = 0
        self.routes.clear()
        self.dropped = 0

    def _keep_body(self, entry: TruthEntry) -> None:
        self._bodies[entry.id] = entry.body_bytes
        self._body_bytes += entry.body_bytes
        while self._body_bytes > self._most_body_bytes:
            number = next(iter(self._bodies))
            self._drop_body(number, self._entries[number])

    def _drop_body(self, number: int, entry: TruthEntry) -> None:
        self._body_bytes -= self._bodies.pop(number, 0)
        entry.body = None
