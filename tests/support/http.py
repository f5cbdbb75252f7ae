"""A plain HTTP client for tests: one connection a call, events as they come, nothing retried."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def call(base: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
    """One request and its whole answer. `body` is sent as JSON unless it is bytes."""
    connection = _connect(base)
    try:
        _send(connection, method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@dataclass
class Stream:
    """A server-sent stream that is read as it comes. `raw` holds the data of all events so far."""

    base: str
    path: str
    body: object
    raw: list[str] = field(default_factory=list)
    receive_bytes: int | None = None
    """Size of the socket's receive buffer, for a reader that shall be slow."""

    def __enter__(self) -> Self:
        self._connection = _connect(self.base, self.receive_bytes)
        _send(self._connection, "POST", self.path, self.body, None)
        self.response = self._connection.getresponse()
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[str]:
        """The data of each event, `[DONE]` included; ends with the body."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                self.raw.append(line[6:].rstrip(b"\r\n").decode())
                yield self.raw[-1]


def masked(events: list[str]) -> list[str]:
    """Events with what differs between two runs of one request masked: `id` and `created`."""
    out = []
    for event in events:
        if event == "[DONE]":
            out.append(event)
            continue
        chunk = json.loads(event)
        out.append(json.dumps({**chunk, "id": "*", "created": 0}))
    return out


def stream_events(base: str, path: str, body: object) -> list[str]:
    """All events of one stream."""
    with Stream(base, path, body) as stream:
        return list(stream)


def text_of(events: list[str]) -> str:
    """The text of a completions or chat stream."""
    parts = []
    for event in events:
        if event == "[DONE]":
            continue
        for choice in json.loads(event)["choices"]:
            parts.append(choice["text"] if "text" in choice else choice["delta"].get("content") or "")
    return "".join(parts)


@dataclass
class Choice:
    """One choice of a completions stream, put together from its events."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)


def choices_of(events: list[str]) -> dict[int, Choice]:
    """What each choice of a completions stream is made of, by its index, whatever the events that it came in."""
    found: dict[int, Choice] = {}
    for event in events:
        for choice in [] if event == "[DONE]" else json.loads(event)["choices"]:
            kept = found.setdefault(choice["index"], Choice())
            kept.text += choice["text"]
            kept.token_ids += choice.get("token_ids") or []
            kept.token_logprobs += (choice["logprobs"] or {}).get("token_logprobs", [])
            kept.finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    return found


class _Connection(http.client.HTTPConnection):
    receive_bytes: int | None = None

    def connect(self) -> None:
        if self.receive_bytes is None:
            return super().connect()
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_bytes)
        self.sock.settimeout(60)
        return self.sock.connect((self.host, self.port))


def _connect(base: str, receive_bytes: int | None = None) -> http.client.HTTPConnection:
    where = urlsplit(base)
    connection = _Connection(where.hostname or "", where.port, timeout=60)
    connection.receive_bytes = receive_bytes
    return connection


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, body: object, headers: dict[str, str] | None
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    kind = {"content-type": "application/json"} if data is not None else {}
    connection.request(method, path, body=data, headers={**kind, **(headers or {})})
