"""A byte proxy that can hold, slow, cut and reset what passes it. It knows nothing of what the bytes mean.

Every buffer is bounded: a side that is not read from pushes back on the one that writes, as a plain link does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from loadgen.errors import BadInput
from loadgen.faults.link import PASS, Counters, Mode
from loadgen.faults.pipe import Bucket, Passing

if TYPE_CHECKING:
    from loadgen.spec import ProxySpec

MOST_CONNECTIONS = 8_192
_SAMPLE_SECONDS = 0.05
_BACKLOG = 1_024


class LinkProxy:
    """The proxy in the event loop that runs: for tests, and inside its own process in a run."""

    def __init__(self, name: str, listen: str, upstream: str) -> None:
        """`listen` and `upstream`: `host:port` or `unix:PATH`. Port 0 takes a free one."""
        self.name, self.address = name, listen
        self._upstream = upstream
        self.count = Counters()
        self.mode = PASS
        """Of connections that come."""
        self.passing: set[Passing] = set()
        self.buckets = {"up": Bucket(), "down": Bucket()}
        """A rate is the link's, not a connection's."""
        self._server: asyncio.Server | None = None
        self._sampler: asyncio.TimerHandle | None = None
        self._opened = asyncio.Event()
        self._opened.set()

    @classmethod
    def of(cls, spec: ProxySpec) -> LinkProxy:
        """As `--proxy` says."""
        return cls(spec.name, spec.listen, spec.upstream)

    async def start(self) -> None:
        """Listen.

        Raises:
            BadInput: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        try:
            if self.address.startswith("unix:"):
                path = self.address.removeprefix("unix:")
                _clear(Path(path))
                self._server = await loop.create_unix_server(lambda: Passing(self).client, path, backlog=_BACKLOG)
            else:
                host, port = _host_port(self.address)
                self._server = await loop.create_server(lambda: Passing(self).client, host, port, backlog=_BACKLOG)
                bound = self._server.sockets[0].getsockname()
                self.address = f"{self.address.rpartition(':')[0]}:{bound[1]}"
        except OSError as error:
            raise BadInput("--proxy", self.name, self.address, error.strerror or str(error)) from error

    @property
    def pid(self) -> None:
        """It has no process of its own."""
        return

    async def set(self, mode: Mode) -> Counters:
        """From now on do this; the counters of just before."""
        before = await self.counters()
        self.mode = PASS if mode.standing else mode
        self.buckets = {"up": Bucket(), "down": Bucket()}
        for each in list(self.passing):
            each.change(mode)
        if self.is_dark:
            self._opened.clear()
        else:
            self._opened.set()
        if mode.kind == "blackhole":
            self._sample()
        elif self._sampler is not None:
            self._sampler.cancel()
            self._sampler = None
        return before

    async def counters(self) -> Counters:
        """A copy of them."""
        for each in self.passing:
            each.look()
        return msgspec.structs.replace(self.count, open=len(self.passing))

    async def close(self) -> None:
        """Stop listening, and hang up on all."""
        if self._sampler is not None:
            self._sampler.cancel()
            self._sampler = None
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for each in list(self.passing):
            each.cut(hard=True)
        await asyncio.gather(*(each.ended() for each in list(self.passing)))
        await server.wait_closed()
        if self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)

    # A connection that passes calls these.

    @property
    def is_dark(self) -> bool:
        """Whether nothing that comes is passed on."""
        return self.mode.kind == "blackhole" and self.mode.way != "down"

    @property
    def has_room(self) -> bool:
        """Whether the one that came last may pass."""
        return len(self.passing) <= MOST_CONNECTIONS

    async def connect(self, end: asyncio.Protocol) -> None:
        """Connect `end` to where the link leads, once it leads anywhere.

        Raises:
            OSError: nobody answers there.
        """
        await self._opened.wait()
        loop = asyncio.get_running_loop()
        if self._upstream.startswith("unix:"):
            await loop.create_unix_connection(lambda: end, self._upstream.removeprefix("unix:"))
        else:
            await loop.create_connection(lambda: end, *_host_port(self._upstream))

    def _sample(self) -> None:
        """A socket that is closed by its other side may lose what waited in it, so look often."""
        for each in self.passing:
            each.look()
        self._sampler = asyncio.get_running_loop().call_later(_SAMPLE_SECONDS, self._sample)


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _clear(path: Path) -> None:
    """Remove the socket of a program that ended; never one that is used, and nothing else.

    Raises:
        OSError: something is there.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(17, "is there already, and is no socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise FileExistsError(17, "is in use")
