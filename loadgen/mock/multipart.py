"""Uploads: the parts of a `multipart/form-data` body. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^;\s]{1,200}))', re.IGNORECASE)
_NAME = re.compile(r';\s*name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(r';\s*filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_MOST_PARTS = 32
_MOST_HEAD = 8 << 10


@dataclass(frozen=True, slots=True)
class Part:
    """One field; `filename` where it is a file."""

    name: str
    filename: str | None
    content: bytes


def parse_multipart(content_type: str, body: bytes) -> list[Part]:
    """All parts of a body.

    Raises:
        ValueError: it is no multipart body.
    """
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        raise ValueError("the body must be multipart/form-data with a boundary")
    marker = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
    pieces = (b"\r\n" + body).split(marker, _MOST_PARTS + 1)
    if len(pieces) > _MOST_PARTS + 1:
        raise ValueError(f"more than {_MOST_PARTS} parts")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise ValueError("the body does not end with its boundary")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, blank, content = piece.partition(b"\r\n\r\n")
    if not blank or len(head) > _MOST_HEAD:
        raise ValueError("a part has no headers")
    for line in head.decode("utf-8", errors="replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            name, filename = _NAME.search(value), _FILENAME.search(value)
            if name is not None:
                return Part(name[1], None if filename is None else filename[1], content)
    raise ValueError("a part has no name")
