"""The proxy as a process of its own, and the parent's end of it.

The parent of a run folds histograms and draws the live view; each such pause would be added to every byte that passes
a proxy in its loop, and would be taken for the server's. Orders and counters go over a pipe, a JSON line each; the
process ends when that pipe does.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from loadgen.errors import BadInput, Unreachable
from loadgen.faults.link import Counters, Link, Mode
from loadgen.faults.link_proxy import LinkProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from loadgen.spec import ProxySpec

__all__ = ["Link", "ProxyProcess", "start_links", "started"]

ANSWER_SECONDS = 10.0
_MOST_LINE = 1 << 16


class Order(msgspec.Struct, omit_defaults=True):
    """To the process: a new mode, or None to be told the counters."""

    mode: Mode | None = None


class Said(msgspec.Struct, omit_defaults=True):
    """By the process. `error`: it cannot listen, and ends."""

    address: str | None = None
    counters: Counters | None = None
    error: str | None = None


class ProxyProcess:
    """A link whose bytes pass another process."""

    def __init__(self, spec: ProxySpec) -> None:
        self.name, self.address = spec.name, spec.listen
        self._spec = spec
        self._process: asyncio.subprocess.Process | None = None
        self._one = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Of the process while it runs."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            BadInput: the address cannot be had.
            Unreachable: it said nothing.
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadgen.faults.proxy",
            self._spec.name,
            self._spec.listen,
            self._spec.upstream,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MOST_LINE,
            # Ctrl-C at a terminal goes to the parent, which ends this one when it has drained.
            start_new_session=True,
        )
        try:
            said = await self._hear()
        except BaseException:
            await self.close()
            raise
        if said.error is not None or said.address is None:
            await self.close()
            raise BadInput("--proxy", self.name, self._spec.listen, said.error or "it does not listen")
        self.address = said.address

    async def set(self, mode: Mode) -> Counters:
        """From now on do this; the counters of just before.

        Raises:
            Unreachable: the process has ended.
        """
        return await self._ask(Order(mode))

    async def counters(self) -> Counters:
        """As they stand.

        Raises:
            Unreachable: the process has ended.
        """
        return await self._ask(Order())

    async def close(self) -> None:
        """End it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _ask(self, order: Order) -> Counters:
        async with self._one:
            process = self._process
            if process is None or process.stdin is None:
                raise Unreachable(f"proxy {self.name}", "its process was ended")
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            try:
                await process.stdin.drain()
            except OSError as error:
                raise Unreachable(f"proxy {self.name}", "its process has ended") from error
            said = await self._hear()
        if said.counters is None:
            raise Unreachable(f"proxy {self.name}", said.error or "it answers without counters")
        return said.counters

    async def _hear(self) -> Said:
        process = self._process
        if process is None or process.stdout is None:
            raise Unreachable(f"proxy {self.name}", "its process was ended")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                line = await process.stdout.readline()
        except TimeoutError:
            raise Unreachable(f"proxy {self.name}", f"its process says nothing for {ANSWER_SECONDS:g} s") from None
        if not line:
            raise Unreachable(f"proxy {self.name}", "its process has ended")
        return msgspec.json.decode(line, type=Said)


async def start_links(specs: Sequence[ProxySpec]) -> dict[str, Link]:
    """One process a proxy, by name; all of them or none.

    Raises:
        BadInput: an address cannot be had.
        Unreachable: a process said nothing.
    """
    started: dict[str, Link] = {}
    try:
        for spec in specs:
            process = ProxyProcess(spec)
            await process.start()
            started[spec.name] = process
    except BaseException:
        for link in started.values():
            await link.close()
        raise
    return started


@asynccontextmanager
async def started(specs: Sequence[ProxySpec]) -> AsyncIterator[dict[str, Link]]:
    """The same for the length of a block.

    Raises:
        BadInput, Unreachable: as `start_links`.
    """
    links = await start_links(specs)
    try:
        yield links
    finally:
        for link in links.values():
            await link.close()


async def serve(proxy: LinkProxy) -> None:
    """The process: obey lines of stdin until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_MOST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        await proxy.start()
    except BadInput as error:
        _say(Said(error=error.why))
        return
    _say(Said(address=proxy.address))
    try:
        while line := await reader.readline():
            order = msgspec.json.decode(line, type=Order)
            counters = await (proxy.counters() if order.mode is None else proxy.set(order.mode))
            _say(Said(counters=counters))
    finally:
        await proxy.close()


def _say(said: Said) -> None:
    # A line is far below what a pipe holds, and the parent reads each before it orders the next.
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def main(arguments: Sequence[str]) -> None:
    """`NAME LISTEN UPSTREAM`."""
    name, listen, upstream = arguments
    with suppress(BrokenPipeError):
        asyncio.run(serve(LinkProxy(name, listen, upstream)))


if __name__ == "__main__":
    main(sys.argv[1:])
