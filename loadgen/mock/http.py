"""HTTP/1.1 of the mock: raw protocols, no framework. Everything that a peer can make grow has a bound."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import parse_qsl

import httptools
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_HEAD = 64 << 10
MOST_BODY = 256 << 20
MOST_PIPELINED = 16
MOST_UNSENT = 16 << 20
"""Bytes that a client has not read; a stream beyond it is cut."""

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_PREFACE = b"PRI * HTTP/2"
_END = object()


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole. `received`: when its last byte was read, in microseconds of CLOCK_MONOTONIC."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    received: int
    is_loopback: bool

    def header(self, name: str) -> str | None:
        """The first header of this lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    def parameter(self, name: str) -> str | None:
        """The last query parameter of this name."""
        return dict(parse_qsl(self.query, max_num_fields=64)).get(name)


class App(Protocol):
    """What answers."""

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer now, or keep `reply` and answer later."""


class Reply:
    """The answer to one request. Once its connection is gone every call does nothing."""

    def __init__(self, connection: Connection, *, keep_alive: bool, chunked: bool) -> None:
        self._connection: Connection | None = connection
        self._keep_alive, self._chunked = keep_alive, chunked
        self._queue: deque[bytes | object] = deque()
        self.on_gone: Callable[[], None] | None = None
        """Called when the client hangs up before the end."""

    @property
    def is_open(self) -> bool:
        """Whether anybody still listens."""
        return self._connection is not None

    def send(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """A whole answer."""
        head = self._head(status, content_type, headers) + b"content-length: %d\r\n\r\n" % len(body)
        self._write(head + body)
        self._finish()

    def send_raw(self, answer: bytes) -> None:
        """A whole answer, its head included, made by somebody else for a connection that is kept."""
        self._write(answer)
        self._finish()

    def json(self, status: int, value: object, headers: Sequence[tuple[str, str]] = ()) -> None:
        """A whole answer in JSON."""
        self.send(status, orjson.dumps(value), headers=headers)

    def error(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """An error as OpenAI words it."""
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.json(status, {"error": error}, headers)

    def start(
        self, status: int, content_type: bytes, headers: Sequence[tuple[str, str]] = (), first: bytes = b""
    ) -> None:
        """The head of a stream, with its first bytes."""
        head = self._head(status, content_type, headers)
        head += b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        self._write(head + (self._frame(first) if first else b""))

    def write(self, data: bytes) -> None:
        """More of a stream, behind what `write_pieces` has not written yet."""
        if not data:
            return  # an empty chunk would end the body
        if self._queue:
            self._queue.append(data)
        else:
            self._write(self._frame(data))

    def write_pieces(self, pieces: Sequence[bytes]) -> None:
        """More of a stream, each piece in a write of its own, one a turn of the loop."""
        idle = not self._queue
        self._queue.extend(pieces)
        if idle and self._queue:
            self._next_piece()

    def end(self) -> None:
        """The end of a stream."""
        if self._queue:
            self._queue.append(_END)
        else:
            self._write(b"0\r\n\r\n" if self._chunked else b"")
            self._finish()

    def cut(self) -> None:
        """Close the connection in the middle."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def gone(self) -> None:
        """The connection tells that it is lost."""
        self._connection = None
        self._queue.clear()
        if self.on_gone is not None:
            callback, self.on_gone = self.on_gone, None
            callback()

    def _next_piece(self) -> None:
        if not self._queue or self._connection is None:
            return
        piece = self._queue.popleft()
        if not isinstance(piece, bytes):
            self.end()
            return
        self._write(self._frame(piece))
        asyncio.get_running_loop().call_soon(self._next_piece)

    def _frame(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def _head(self, status: int, content_type: bytes, headers: Sequence[tuple[str, str]]) -> bytes:
        lines = [b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (status, _REASONS.get(status, "").encode(), content_type)]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers]
        if not self._keep_alive:
            lines.append(b"connection: close\r\n")
        return b"".join(lines)

    def _write(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.write(data)

    def _finish(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self.on_gone = None
            connection.finished(keep=self._keep_alive)


class Connection(asyncio.Protocol):
    """One client. Requests are answered one after the other."""

    def __init__(self, app: App, open_connections: set[Connection], most: int) -> None:
        """`most`: connections at once; further ones are closed."""
        self._app, self._all, self._most = app, open_connections, most
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._received = 0
        self._loopback = True
        self._current: Reply | None = None
        self._pending: deque[tuple[Request, bool, bool]] = deque()
        self._closing = False
        self._head_bytes = 0
        self._begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Small packets go out at once."""
        # uvloop's transports are no subclass of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        if len(self._all) >= self._most:
            transport.abort()
            return
        self._all.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = transport.get_extra_info("peername")
            self._loopback = peer is not None and (peer[0].startswith("127.") or peer[0] in ("::1", "::ffff:127.0.0.1"))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who answers."""
        del error
        self._all.discard(self)
        self._transport = None
        self._pending.clear()
        if self._current is not None:
            current, self._current = self._current, None
            current.gone()

    def data_received(self, data: bytes) -> None:
        """Parse; a request that is whole goes to the app."""
        self._received = time.monotonic_ns() // 1_000
        if self._closing:
            return
        if data.startswith(_PREFACE):
            self._refuse(400, "this is HTTP/1.1")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "no upgrade is offered")
        except httptools.HttpParserError as error:
            self._refuse(400, f"not HTTP: {error}")
        # A header that never ends is kept by the parser, which tells nobody.
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > MOST_HEAD:
            self._refuse(431, f"target and headers have at most {MOST_HEAD} bytes")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Some clients wait to be told to go on."""
        self._in_head = False
        if any(name == "expect" and value.lower() == "100-continue" for name, value in self._headers):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > MOST_BODY:
            self._refuse(413, f"a body has at most {MOST_BODY} bytes")
        elif not self._closing:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request on, or let it wait for the one before it."""
        if self._closing:
            return
        path, _, query = self._url.decode("latin-1").partition("?")
        request = Request(
            self._parser.get_method().decode(),
            path,
            query,
            tuple(self._headers),
            b"".join(self._body),
            self._received,
            self._loopback,
        )
        item = (request, self._parser.should_keep_alive(), self._parser.get_http_version() != "1.0")
        if self._current is None:
            self._dispatch(*item)
        elif len(self._pending) < MOST_PIPELINED:
            self._pending.append(item)
        else:
            self._refuse(429, "too many requests at once on one connection")

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket; a client that does not read is cut off."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size() > MOST_UNSENT:
            transport.abort()

    def close(self) -> None:
        """Close after what was written."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def finished(self, *, keep: bool) -> None:
        """The current answer is complete."""
        self._current = None
        if not keep:
            self.close()
        elif self._pending:
            self._dispatch(*self._pending.popleft())

    def _begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._in_head = True

    def _dispatch(self, request: Request, keep_alive: bool, chunked: bool) -> None:
        self._current = Reply(self, keep_alive=keep_alive and chunked, chunked=chunked)
        self._app.handle(request, self._current)

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close: nothing more on this connection is understood."""
        if self._closing:
            return
        if self._current is None:
            self._current = Reply(self, keep_alive=False, chunked=True)
            self._current.error(status, message)
        self.close()
