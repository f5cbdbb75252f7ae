"""HdrHistogram's interval log, version 1.2 with V2 histograms: one line an interval, read by that project's tools.

payload    = ZigZag LEB128 of each count; a run of n zeros is written as -n
histogram  = base64(cookie || length || zlib(header || payload)), everything big-endian
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadData
from loadgen.stats.hist import BUCKETS, DIGITS, HIGHEST, LOWEST, Histogram, highest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ENCODED = 0x1C849303 | 0x10
_COMPRESSED = 0x1C849304 | 0x10
_OUTER = struct.Struct(">II")
_HEADER = struct.Struct(">IIIIQQd")
_WORD = 9
"""Bytes of the longest LEB128 word: eight of 7 bits and a last one of 8."""
_LEGEND = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'
_MICROS = 1_000_000
_MOST_BYTES = 16 + _HEADER.size + _WORD * BUCKETS


@dataclass(frozen=True, slots=True)
class Interval:
    """One line. `start` and `length` in microseconds from the run's `t0`; `tag` such as `chat.ttft.window`."""

    tag: str
    start: int
    length: int
    histogram: Histogram


def encode(histogram: Histogram) -> str:
    """V2, compressed, in base64."""
    payload = _words(histogram)
    head = _HEADER.pack(_ENCODED, len(payload), 0, DIGITS, LOWEST, HIGHEST, 1.0)
    packed = zlib.compress(head + payload)
    return base64.b64encode(_OUTER.pack(_COMPRESSED, len(packed)) + packed).decode("ascii")


def decode(text: str) -> Histogram:
    """What `encode` wrote, or another tool with the same range and digits.

    Raises:
        ValueError: not such a histogram (binascii.Error is one), or counts that do not fit.
    """
    raw = base64.b64decode(text, validate=True)
    if len(raw) < _OUTER.size:
        raise ValueError("the histogram is too short")
    cookie, length = _OUTER.unpack_from(raw)
    if cookie != _COMPRESSED or length != len(raw) - _OUTER.size:
        raise ValueError("not a compressed V2 histogram")
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(raw[_OUTER.size :], _MOST_BYTES)
    except zlib.error as error:
        raise ValueError("the histogram cannot be decompressed") from error
    if len(body) < _HEADER.size:
        raise ValueError("the histogram is too short")
    cookie, size, offset, digits, lowest, highest, _ratio = _HEADER.unpack_from(body)
    if cookie != _ENCODED or size != len(body) - _HEADER.size or offset:
        raise ValueError("not a V2 histogram")
    if (digits, lowest, highest) != (DIGITS, LOWEST, HIGHEST):
        raise ValueError(f"a histogram of {digits} digits, {lowest}..{highest}: of another layout")
    return Histogram(_counts(memoryview(body)[_HEADER.size :]))


def lines(intervals: Iterable[Interval], start_micros: int) -> Iterator[str]:
    """The file, line by line with line ends. `start_micros`: wall clock of `t0`, microseconds since 1970.

    The times of the lines count from there, which is what `BaseTime` says.
    """
    since = start_micros / _MICROS
    yield "#[Histogram log format version 1.2]\n"
    yield f"#[StartTime: {since:.3f} (seconds since epoch)]\n"
    yield f"#[BaseTime: {since:.3f} (seconds since epoch)]\n"
    yield f"{_LEGEND}\n"
    for each in intervals:
        used = np.flatnonzero(each.histogram.counts)
        most = highest_of(int(used[-1])) / _MICROS if len(used) else 0.0
        tag = f"Tag={each.tag}," if each.tag else ""
        start, length = each.start / _MICROS, each.length / _MICROS
        yield f"{tag}{start:.3f},{length:.3f},{most:.6f},{encode(each.histogram)}\n"


def read(file: str, text: Iterable[str]) -> Iterator[Interval]:
    """The intervals of a log. `file` is named in errors.

    Raises:
        BadData: a line that is none of a log.
    """
    for row, line in enumerate(text, 1):
        if line.startswith(("#", '"')) or not line.strip():
            continue
        tag, rest = "", line.rstrip("\n")
        if rest.startswith("Tag="):
            tag, _, rest = rest[4:].partition(",")
        fields = rest.split(",")
        try:
            start, length = (round(float(each) * _MICROS) for each in fields[:2])
            yield Interval(tag, start, length, decode(fields[3]))
        except (ValueError, IndexError) as error:
            raise BadData(file, row, "histogram", str(error) or "fields are missing") from error


def _words(histogram: Histogram) -> bytes:
    out = bytearray()
    before = -1
    for bucket in np.flatnonzero(histogram.counts):
        zeros = int(bucket) - before - 1
        if zeros:
            # One zero is written as it is: "-1" would be read back, but it is not what other writers do.
            _append(out, -zeros if zeros > 1 else 0)
        _append(out, int(histogram.counts[bucket]))
        before = int(bucket)
    return bytes(out)


def _append(out: bytearray, value: int) -> None:
    rest = (value << 1) ^ (value >> 63)
    for _ in range(_WORD - 1):
        if rest < 0x80:
            out.append(rest)
            return
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)


def _counts(payload: memoryview) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    counts = np.zeros(BUCKETS, dtype=np.int64)
    at = place = 0
    while place < len(payload):
        value, place = _word(payload, place)
        if value < 0:
            at -= value
        elif at < BUCKETS:
            counts[at] = value
            at += 1
        else:
            raise ValueError("more counts than buckets")
    if at > BUCKETS:
        raise ValueError("more counts than buckets")
    return counts


def _word(payload: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count in range(_WORD):
        if place >= len(payload):
            raise ValueError("the last count is cut")
        byte = payload[place]
        place += 1
        if count == _WORD - 1:
            value |= byte << (7 * count)
            break
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            break
    return (value >> 1) ^ -(value & 1), place
