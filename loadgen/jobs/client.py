"""Calls of the Files and Batches API: JSON both ways, files streamed up and down, one connection that is kept.

All calls here may be made twice without harm, so one that meets a connection which the server has closed meanwhile is
made again on a new one. Keys are held in memory and stand in no error, file or `repr`.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from loadgen.jobs.answer import IncomingAnswer, NoAnswer, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

MOST_JSON = 16 << 20
MOST_RESULT = 4 << 30
"""Bytes of one output file."""
_PIECE = 256 << 10
_READ = 64 << 10
_BOUNDARY = "slackwater-loadgen-7d1f0c2b9a6e4853"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server. `timeout`: seconds without a byte either way after which a call has failed."""

    host: str
    port: int
    name: str
    """As in the `host` header."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    timeout: float = 30.0

    @classmethod
    def of(cls, url: str, key: str | None = None, *, insecure: bool = False, timeout: float = 30.0) -> Endpoint:
        """Of `http://HOST:PORT` or `https://`. `insecure`: any certificate will do."""
        parts = urlsplit(url)
        tls = None
        if parts.scheme == "https":
            tls = ssl.create_default_context()
            if insecure:
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname or "", port, parts.netloc, tls, key, timeout)


class ApiClient:
    """One connection to an endpoint; calls wait for each other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def json(
        self, method: str, path: str, value: object = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """A call whose answer is a JSON object.

        Raises:
            NoAnswer: none came, or none that can be read.
            ApiRefused: any status but 2xx.
        """
        sent: dict[str, str] = dict(headers or {})
        body = b""
        if value is not None:
            body = msgspec.json.encode(value)
            sent["content-type"] = "application/json"
        if body or method == "POST":
            sent["content-length"] = str(len(body))
        answer = IncomingAnswer(MOST_JSON)
        await self._call(f"{method} {path}", sent, lambda: (body,), answer)
        return _object(answer.body)

    async def upload(self, file: Path, filename: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`POST /v1/files` with purpose `batch`; the file is never in memory as a whole. Raises as `json`."""
        before = _part("purpose") + b"batch\r\n" + _part("file", filename)
        after = f"\r\n--{_BOUNDARY}--\r\n".encode()
        length = len(before) + file.stat().st_size + len(after)
        sent = {**(headers or {}), "content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        sent["content-length"] = str(length)

        def pieces() -> Iterator[bytes]:
            yield before
            with file.open("rb") as source:
                while piece := source.read(_PIECE):
                    yield piece
            yield after

        answer = IncomingAnswer(MOST_JSON)
        await self._call("POST /v1/files", sent, pieces, answer)
        return _object(answer.body)

    async def download(self, file_id: str, into: Path, most: int = MOST_RESULT) -> int:
        """`GET /v1/files/{id}/content` into a file, which has its name only when it is whole; its bytes.

        Raises:
            NoAnswer: none came, or it is longer than `most` bytes.
            ApiRefused: any status but 2xx.
        """
        part = into.with_name(into.name + ".part")
        with part.open("wb") as file:
            answer = IncomingAnswer(MOST_JSON, file, most)
            await self._call(f"GET /v1/files/{_safe(file_id)}/content", {}, tuple, answer)
        part.replace(into)
        return answer.length

    async def close(self) -> None:
        """Hang up. Idempotent."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            with suppress(OSError):
                await streams[1].wait_closed()

    async def _call(
        self, target: str, headers: Mapping[str, str], body: Callable[[], Iterable[bytes]], answer: IncomingAnswer
    ) -> None:
        """`target`: method and path. `body`: its pieces, from the beginning each time it is asked."""
        async with self._turn:
            kept = self._streams is not None
            try:
                await self._exchange(target, headers, body(), answer)
            except NoAnswer:
                if not kept or answer.has_begun:
                    raise
                await self._exchange(target, headers, body(), answer)
        if not 200 <= answer.status < 300:
            raise refusal(target, answer.status, answer.body)

    async def _exchange(
        self, target: str, headers: Mapping[str, str], body: Iterable[bytes], answer: IncomingAnswer
    ) -> None:
        seconds = self._endpoint.timeout
        whole = False
        try:
            async with asyncio.timeout(seconds) as limit:
                patience = _Patience(limit, seconds)
                reader, writer = await self._connect()
                # Both ways at once: a server may refuse a file before it has read all of it.
                reading = asyncio.create_task(_read(reader, answer, patience))
                try:
                    written = await _write(writer, self._head(target, headers), body, reading, patience)
                    await reading
                finally:
                    reading.cancel()
            whole = answer.keeps and written
        except TimeoutError as error:
            raise NoAnswer(f"{self._endpoint.name} said nothing for {seconds:g} s") from error
        except OSError as error:
            raise NoAnswer(f"{self._endpoint.name}: {error.strerror or type(error).__name__}") from error
        finally:
            if not whole:
                self._drop()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            at = self._endpoint
            self._streams = await asyncio.open_connection(at.host, at.port, ssl=at.tls)
        return self._streams

    def _drop(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    def _head(self, target: str, headers: Mapping[str, str]) -> bytes:
        found = {"host": self._endpoint.name, "accept": "*/*", "accept-encoding": "identity", **headers}
        if self._endpoint.key is not None:
            found["authorization"] = f"Bearer {self._endpoint.key}"
        lines = [f"{target} HTTP/1.1", *(f"{name}: {value}" for name, value in found.items()), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@dataclass(slots=True)
class _Patience:
    """Puts the end of a call off whenever something moves."""

    limit: asyncio.Timeout
    seconds: float

    def renew(self) -> None:
        self.limit.reschedule(asyncio.get_running_loop().time() + self.seconds)


async def _write(
    writer: asyncio.StreamWriter,
    head: bytes,
    body: Iterable[bytes],
    reading: asyncio.Task[None],
    patience: _Patience,
) -> bool:
    """Whether all was written. An answer that comes before ends it: the rest of the request is not wanted then."""
    try:
        writer.write(head)
        for piece in body:
            if reading.done():
                return False
            writer.write(piece)
            draining = asyncio.ensure_future(writer.drain())
            try:
                await asyncio.wait((draining, reading), return_when=asyncio.FIRST_COMPLETED)
                if not draining.done():
                    return False
                draining.result()
            finally:
                draining.cancel()
            patience.renew()
    except OSError:
        # Whoever closes in the middle may have said why before.
        await asyncio.wait((reading,))
        return False
    return True


async def _read(reader: asyncio.StreamReader, answer: IncomingAnswer, patience: _Patience) -> None:
    while not answer.is_complete:
        data = await reader.read(_READ)
        patience.renew()
        if data:
            answer.feed(data)
        else:
            answer.feed_end()


def _part(name: str, filename: str | None = None) -> bytes:
    """The head of a part of a form."""
    file = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: application/jsonl'
    return f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()


def _safe(file_id: str) -> str:
    """An id comes from a server, and goes into a request line."""
    return quote(file_id, safe="")


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise NoAnswer(f"the answer is no JSON object: {error}") from error
