"""Server-sent events out of a body that came in pieces: each event gets the time at which its last byte arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def events(body: bytes, lengths: Sequence[int], stamps: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """(stamp, data) of each event of a stream that has data. How the bytes were cut into pieces changes no event.

    `lengths[i]` bytes were there at `stamps[i]`. An event that the stream ends in the middle of is none, by the
    standard; one that lacks only its blank line is told all the same, for servers are that careless.
    """
    piece = 0
    data: list[bytes] = []
    for end, line in _lines(body):
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            continue
        if data:
            piece = _piece_of(end, lengths, piece)
            yield stamps[piece], b"\n".join(data)
            data = []
    if data and stamps:
        yield stamps[-1], b"\n".join(data)


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset behind it, line). Lines end in LF, CR LF or CR: exactly what `bytes.splitlines` knows."""
    at = 0
    for line in body.splitlines(keepends=True):
        at += len(line)
        yield at, line.rstrip(b"\r\n")


def _piece_of(end: int, lengths: Sequence[int], first: int) -> int:
    """The piece that brought byte `end - 1`; pieces before `first` are too early."""
    while first < len(lengths) - 1 and lengths[first] < end:
        first += 1
    return first
