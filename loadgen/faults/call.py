"""One HTTP call, on a connection of its own, with bounds on its time and its answer."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from loadgen.errors import Unreachable

CALL_MICROS = 10_000_000
"""The most that a call may take."""
MOST_ANSWER = 1 << 20
_READ = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """`body`: what came, at most `MOST_ANSWER` bytes of it."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """`key` becomes a bearer token and is shown nowhere."""

    method: str
    url: str
    key: str | None = None

    def head(self) -> bytes:
        """The request as it goes out; it has no body."""
        parts = urlsplit(self.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"{self.method} {path} HTTP/1.1", f"host: {parts.netloc}", "content-length: 0", "connection: close"]
        lines += ["accept-encoding: identity"]
        if self.key is not None:
            lines.append(f"authorization: Bearer {self.key}")
        return "\r\n".join([*lines, "", ""]).encode()


async def send(call: Call, *, micros: int = CALL_MICROS) -> Answer:
    """The answer, of whatever status. Redirects are not followed.

    Raises:
        Unreachable: no connection, no HTTP, or not within `micros`.
    """
    try:
        async with asyncio.timeout(micros / 1e6):
            return await _exchange(call)
    except TimeoutError:
        raise Unreachable(call.url, f"no answer within {micros / 1e6:g} s") from None
    except (OSError, httptools.HttpParserError) as error:
        raise Unreachable(call.url, str(error) or type(error).__name__) from error


async def _exchange(call: Call) -> Answer:
    parts = urlsplit(call.url)
    secure = parts.scheme == "https"
    tls = ssl.create_default_context() if secure else None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or (443 if secure else 80), ssl=tls)
    try:
        writer.write(call.head())
        answer = _Reading()
        parser = httptools.HttpResponseParser(answer)
        while not answer.whole:
            data = await reader.read(_READ)
            if not data:
                break
            parser.feed_data(data)
        if not answer.begun:
            raise Unreachable(call.url, "it closed the connection before an answer")
        return Answer(parser.get_status_code(), bytes(answer.body))
    finally:
        writer.close()


class _Reading:
    """What httptools calls. `whole`: the answer is complete, or as long as anybody wants it."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.whole = False
        self.begun = False
        """Its head is complete."""

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, body: bytes) -> None:
        self.body += body[: MOST_ANSWER - len(self.body)]
        self.whole = self.whole or len(self.body) >= MOST_ANSWER

    def on_message_complete(self) -> None:
        self.whole = True
