"""One small GET on a connection of its own: what the parent needs to read a server's counters."""

from __future__ import annotations

import asyncio
import os
import ssl
from urllib.parse import urlsplit

import httptools

from loadgen.errors import Unreachable

MOST_BYTES = 8 << 20
_PIECE = 64 << 10


class _Answer:
    """Callbacks of the parser."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.done = False

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)
        self.size += len(body)

    def on_message_complete(self) -> None:
        self.done = True


async def get(url: str, timeout: float = 2.0) -> bytes:
    """The body that `url` answers with status 200. `timeout`: seconds for all of it.

    Raises:
        Unreachable: no answer in time, another status, no HTTP, or more than 8 MiB.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _get(url)
    except TimeoutError as error:
        raise Unreachable(url, f"no answer within {timeout:g} s") from error
    except OSError as error:
        raise Unreachable(url, os.strerror(error.errno) if error.errno else str(error)) from error
    except httptools.HttpParserError as error:
        raise Unreachable(url, f"no HTTP: {error}") from error


async def _get(url: str) -> bytes:
    parts = urlsplit(url)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"GET {path} HTTP/1.1\r\nhost: {parts.netloc}\r\naccept: text/plain\r\naccept-encoding: identity\r\n"
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    received = 0
    try:
        writer.write(head.encode() + b"connection: close\r\n\r\n")
        while not answer.done:
            piece = await reader.read(_PIECE)
            received += len(piece)
            if received > MOST_BYTES:
                raise Unreachable(url, f"answered more than {MOST_BYTES >> 20} MiB")
            if not piece:
                break
            parser.feed_data(piece)
    finally:
        writer.close()
    status = parser.get_status_code() if received else 0
    if status != 200:
        raise Unreachable(url, f"answered {status}" if status else "closed the connection")
    return b"".join(answer.pieces)
