"""Starts the mock: the listening sockets, the event loop, several processes on one port."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import orjson
import uvloop

from loadgen.drive.clock import MonotonicClock
from loadgen.errors import BadInput, ExitCode
from loadgen.mock.app import MockApp
from loadgen.mock.http import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.mock.kv_events import KvPublisher
    from loadgen.mock.options import MockOptions

_BACKLOG = 4_096


class MockServer:
    """One mock on the running event loop. `port` and `control_port` are known after `start`."""

    def __init__(self, options: MockOptions) -> None:
        self.options = options
        self.app: MockApp | None = None
        self.port = self.control_port = 0
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._publisher: KvPublisher | None = None

    async def start(self, shared: socket.socket | None = None) -> None:
        """Listen. `shared`: a socket of several processes; then a port of one's own serves `/mock/...` of this one.

        Raises:
            BadInput: the address cannot be had.
        """
        if self.options.kv_events is not None:
            self._publisher = _publisher(self.options)
        app = self.app = MockApp(
            self.options, MonotonicClock(), None if self._publisher is None else self._publisher.publish
        )
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(app, self._connections, self.options.max_connections)

        listening = listen(self.options.listen) if shared is None else shared
        self.port = self.control_port = listening.getsockname()[1]
        self._servers.append(await loop.create_server(connect, sock=listening, backlog=_BACKLOG))
        if shared is not None:
            own = listen(("127.0.0.1", 0))
            self.control_port = own.getsockname()[1]
            self._servers.append(await loop.create_server(connect, sock=own, backlog=_BACKLOG))

    async def stop(self) -> None:
        """Close everything."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close()
        if self.app is not None:
            self.app.close()
        if self._publisher is not None:
            self._publisher.close()
        await asyncio.sleep(0)


def listen(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """A listening socket.

    Raises:
        BadInput: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise BadInput("--listen", "", f"{address[0]}:{address[1]}", error.strerror or str(error)) from error
    made.setblocking(False)
    return made


def run(options: MockOptions, say: Callable[[str], None]) -> ExitCode:
    """`slackwater-loadgen mock`: serve until a signal comes. `say` gets one line of JSON once all listen.

    Raises:
        BadInput: an address that cannot be had, a folder that is none.
        Unreachable: the router of `--wire` refuses.
    """
    if options.wire is not None:
        from loadgen.mock.wire import run_workers

        return run_workers(options, options.wire, options.workers, options.model_dir)
    if options.procs == 1:
        uvloop.run(_serve(options, None, lambda port: say(_line(options, port, [port]))))
        return ExitCode.OK
    return _run_processes(options, options.procs, say)


async def _serve(options: MockOptions, shared: socket.socket | None, ready: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    server = MockServer(options)
    await server.start(shared)
    gc.collect()
    gc.freeze()
    ready(server.control_port)
    await ended.wait()
    await server.stop()


def _run_processes(options: MockOptions, procs: int, say: Callable[[str], None]) -> ExitCode:
    """The kernel deals connections out among the children. Each tells its own control port by a pipe."""
    sockets = [listen(options.listen, shared=True)]
    port = sockets[0].getsockname()[1]
    sockets += [listen((options.listen[0], port), shared=True) for _ in range(procs - 1)]
    children, pipes = [], []
    for own in sockets:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(options, own, sockets, write)
        os.close(write)
        children.append(child)
        pipes.append(read)
    for own in sockets:
        own.close()
    controls = [int(os.read(pipe, 16) or b"0") for pipe in pipes]

    def stop_all(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_all)
    say(_line(options, port, controls))
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return ExitCode.OK if not any(statuses) else ExitCode.UNREACHABLE


def _child(options: MockOptions, own: socket.socket, sockets: list[socket.socket], write: int) -> None:
    for other in sockets:
        if other is not own:
            other.close()
    uvloop.run(_serve(options, own, lambda port: _tell(write, port)))
    sys.stdout.flush()
    os._exit(0)


def _tell(write: int, port: int) -> None:
    os.write(write, b"%d" % port)
    os.close(write)


def _line(options: MockOptions, port: int, controls: list[int]) -> str:
    host = options.listen[0]
    value = {"listening": f"{host}:{port}", "control": [f"127.0.0.1:{each}" for each in controls], "pid": os.getpid()}
    return orjson.dumps(value).decode()


def _publisher(options: MockOptions) -> KvPublisher:
    from loadgen.mock.engine import PRESETS
    from loadgen.mock.kv_events import KvPublisher

    if options.mode != "engine" or options.ttft is not None or options.tpot is not None or options.kv_events is None:
        raise BadInput("--kv-events", "", str(options.kv_events), "needs --mode engine with a preset")
    return KvPublisher(options.kv_events, PRESETS[options.preset].block)
