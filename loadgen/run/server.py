"""The few calls that are made before and after a run: blocking, bounded, and never on the path that is measured."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from loadgen.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_ANSWER = 64 << 20
PATIENCE = 10.0
"""Seconds in which a target may come up."""
_CALL_TIMEOUT = 10.0
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and JSON of an answer; `json` None: it was none."""

    status: int
    json: Any


class Server:
    """Calls to one address. Keep the key out of every message."""

    def __init__(self, base_url: str, key: str | None = None, timeout: float = _CALL_TIMEOUT) -> None:
        """`timeout`: seconds for each call."""
        parts = urlsplit(base_url)
        self.base_url = base_url
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._key, self._timeout = key, timeout
        self._connection: http.client.HTTPConnection | None = None

    def wait(self, path: str, patience: float = PATIENCE, *, pause: Callable[[float], None] = time.sleep) -> Reply:
        """GET `path` as soon as somebody answers there.

        Raises:
            Unreachable: nobody did within `patience` seconds.
        """
        end = time.monotonic() + patience
        while True:
            try:
                return self.call("GET", path)
            except Unreachable:
                if time.monotonic() + _PAUSE > end:
                    raise
                pause(_PAUSE)

    def call(self, method: str, path: str, body: object = None) -> Reply:
        """One call. A redirect is an answer like any other and is not followed.

        Raises:
            Unreachable: no answer, or none that is HTTP.
        """
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        data = None
        if body is not None:
            data = orjson.dumps(body)
            headers["content-type"] = "application/json"
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        connection = self._open()
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read(MOST_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            connection.close()
            raise Unreachable(self.base_url, f"{method} {path}: {_words(error)}") from error
        if answer.will_close or not answer.isclosed():
            self.close()
        return Reply(answer.status, _json(text))

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> http.client.HTTPConnection:
        """The one that stands, or a new one: thousands of words are counted in a row."""
        if self._connection is None:
            made = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
            if self._tls:
                context = ssl.create_default_context()
                made = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
            self._connection = made
        return self._connection


def _json(text: bytes) -> Any:  # noqa: ANN401 - JSON may be anything
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
