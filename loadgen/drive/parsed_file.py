"""A spool's answers as somebody has parsed them already, in a file beside it: `SPOOL.parsed`.

A magic line that says whether texts were kept, then lengths (u32) and msgpack; a length of 0 ends it, and without that
end it is not whole.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from loadgen.drive.parsed import Parsed

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = struct.Struct("<I")
_MAGIC = {False: b"slackwater-parsed 1 bare\n", True: b"slackwater-parsed 1 text\n"}
_BEGIN = len(_MAGIC[True])


def beside(spool: Path) -> Path:
    """The file of a spool."""
    return spool.with_name(spool.name + ".parsed")


def write_begin(file: BinaryIO, *, keep_text: bool) -> None:
    """Say what is in it."""
    file.write(_MAGIC[keep_text])


def write(file: BinaryIO, one: Parsed) -> None:
    """Append one."""
    data = msgspec.msgpack.encode(one)
    file.write(_LENGTH.pack(len(data)))
    file.write(data)


def write_end(file: BinaryIO) -> None:
    """It is whole."""
    file.write(_LENGTH.pack(0))


def parsed_of(spool: Path, *, keep_text: bool) -> Iterator[Parsed] | None:
    """All of a spool, None if there is no whole file. `keep_text`: it must have the texts."""
    path = beside(spool)
    if not path.exists():
        return None
    with path.open("rb") as file:
        if file.read(_BEGIN) not in (_MAGIC[True], _MAGIC[keep_text]) or not _is_whole(file):
            return None
    return _walk(path)


def _is_whole(file: BinaryIO) -> bool:
    while head := file.read(_LENGTH.size):
        if len(head) < _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack(head)
        if length == 0:
            return not file.read(1)
        file.seek(length, 1)
    return False


def _walk(path: Path) -> Iterator[Parsed]:
    decoder = msgspec.msgpack.Decoder(Parsed)
    with path.open("rb") as file:
        file.seek(_BEGIN)
        while (length := _LENGTH.unpack(file.read(_LENGTH.size))[0]) != 0:
            yield decoder.decode(file.read(length))
