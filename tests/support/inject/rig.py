"""Processes and sockets for faults to be aimed at."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from loadgen import keys
from loadgen.drive.clock import MonotonicClock
from loadgen.faults.link_proxy import LinkProxy
from loadgen.keys_fault import BARE, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from loadgen.spec import FaultSpec

SHORT = 200_000
"""Microseconds that a fault which is never seen is looked for."""

WAITS = "import sys; print('up', flush=True); sys.stdin.read()"
COUNTS = "import sys\nfor line in sys.stdin: print(line.strip(), flush=True)"


def spec(text: str) -> FaultSpec:
    return fault(keys.split_spec(text, "--fault", BARE))


def clock() -> MonotonicClock:
    return MonotonicClock(time.monotonic_ns())


@contextmanager
def child(program: str = WAITS) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with its stdin. `WAITS` has said `up` when this begins."""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout is not None
            if program is WAITS:
                assert process.stdout.readline() == b"up\n"
            yield process
        finally:
            process.kill()


def dead_pid() -> int:
    """A pid that no process has: its own has ended and was waited for."""
    with child() as process:
        process.kill()
        process.wait()
        return process.pid


class Echo:
    """Sends everything back. `got`: bytes that came."""

    def __init__(self) -> None:
        self.got = 0
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(65536):
                self.got += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def echo_behind(listen: str = "127.0.0.1:0", unix: str | None = None) -> AsyncIterator[tuple[LinkProxy, Echo]]:
    """A proxy before an echo."""
    echo = Echo()
    if unix is None:
        server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
        upstream = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await asyncio.start_unix_server(echo.serve, unix)
        upstream = f"unix:{unix}"
    proxy = LinkProxy("link", listen, upstream)
    await proxy.start()
    try:
        yield proxy, echo
    finally:
        await proxy.close()
        server.close()
        await server.wait_closed()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(address: str) -> Streams:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def talk(streams: Streams, data: bytes) -> bytes:
    """Send, and read as much."""
    reader, writer = streams
    writer.write(data)
    return await reader.readexactly(len(data))


async def hang_up(*all_streams: Streams) -> None:
    for _, writer in all_streams:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP server: request head to the whole answer, None: never. Its address, and the heads that came."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            said = answer(head)
            if said is None:
                await reader.read()
            else:
                writer.write(said)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()
        await server.wait_closed()


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
