"""A mock on loopback, and the plainest client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from loadgen.mock.options import MockOptions, parse
from loadgen.mock.server import MockServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Got:
    """An answer. `complete`: its body ended as HTTP says."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool
    reads: list[bytes] = field(default_factory=list)

    def json(self) -> Any:
        return orjson.loads(self.body)

    def events(self) -> list[bytes]:
        lines = self.body.splitlines()
        return [line[6:] for line in lines if line.startswith(b"data: ")]

    def text(self) -> str:
        chunks = [orjson.loads(event) for event in self.events() if event != b"[DONE]"]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def options(*flags: str) -> MockOptions:
    return parse(flags)


@asynccontextmanager
async def serving(*flags: str) -> AsyncIterator[MockServer]:
    server = MockServer(options(*flags))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def chat(text: str = "hello there", **more: object) -> dict[str, object]:
    return {"model": "mock", "messages": [{"role": "user", "content": text}], **more}


async def call(
    server: MockServer, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> Got:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    lines = [f"{method} {path} HTTP/1.1", "host: mock", f"content-length: {len(raw)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
    try:
        return await read_answer(reader)
    finally:
        writer.close()


async def post(server: MockServer, path: str, body: object, **headers: str) -> Got:
    return await call(server, "POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})


async def get(server: MockServer, path: str) -> Got:
    return await call(server, "GET", path)


async def read_answer(reader: asyncio.StreamReader) -> Got:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    status = int(head[0].split()[1])
    pieces: list[bytes] = []
    try:
        if headers.get("transfer-encoding") == "chunked":
            while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                pieces.append((await reader.readexactly(size + 2))[:-2])
            await reader.readexactly(2)
        else:
            pieces.append(await reader.readexactly(int(headers["content-length"])))
    except asyncio.IncompleteReadError as error:
        return Got(status, headers, b"".join(pieces) + error.partial, False, pieces)
    return Got(status, headers, b"".join(pieces), True, pieces)


async def truth(server: MockServer) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (await get(server, "/mock/truth")).body.splitlines()]
