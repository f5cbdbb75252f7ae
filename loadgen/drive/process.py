"""One load process: `python -m loadgen.drive.process --summaries FD`.

It takes commands by stdin and reports by stdout (`messages.py`), and writes summaries to a pipe that it never waits
for. When its stdin ends, the parent has died, and it stops.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import mmap
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from loadgen.drive import messages
from loadgen.drive.clock import MonotonicClock
from loadgen.drive.gauge import Gauge
from loadgen.drive.live_turns import LiveTurns, Turn
from loadgen.drive.pool import ConnectionPool, QueueWatch, Target
from loadgen.drive.schedule import ClassRules, Lane, Request, Schedule
from loadgen.drive.sender import Sender
from loadgen.drive.spool import SpoolWriter
from loadgen.drive.summary_pipe import SummaryPipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.drive.exchange import Exchange
    from loadgen.drive.orders import Orders

_MOST_LINE = 1 << 30
_READ = 1 << 20
_CONNECT_SECONDS = 10.0


class Requests:
    """The requests of an index, with their bytes as slices of the mapped payload."""

    def __init__(self, orders: Orders) -> None:
        """Raises OSError or ValueError: the files are not what the orders say."""
        self._orders = orders
        self._index = np.load(orders.index, mmap_mode="r", allow_pickle=False)
        with Path(orders.payload).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._view = memoryview(self._map)

    def at(self, places: Sequence[int]) -> list[Request]:
        """Those at these places."""
        rows = self._index[np.asarray(places, dtype=np.int64)]
        names = ("id", "cls", "due", "offset", "length")
        columns = [rows[name].tolist() for name in names]
        cancels, slows = self._orders.cancels, self._orders.slows
        return [
            Request(number, cls, due, self._view[offset : offset + length], cancels.get(number), slows.get(number))
            for number, cls, due, offset, length in zip(*columns, strict=True)
        ]


class Round:
    """One set of orders, from the preparation to the closed spool."""

    def __init__(self, orders: Orders, key: str | None) -> None:
        """Map, and build the schedule.

        Raises:
            OSError, ValueError: files that cannot be read or written.
        """
        self.orders = orders
        self.spool = SpoolWriter(orders.spool)
        self.sender: Sender | None = None
        self.gauge: Gauge | None = None
        self.trouble = ""
        requests = Requests(orders)
        self._schedule = Schedule(
            requests.at(orders.places),
            [Lane(lane.start, lane.slots, requests.at(lane.places), lane.stop) for lane in orders.lanes],
            orders.window,
        )
        self._turns = _turns(orders, requests)
        self._rules = [ClassRules(each.inflight, each.fresh, each.timeout, each.retry) for each in orders.classes]
        self._watch = QueueWatch()
        target = Target(orders.host, orders.port, orders.tls, orders.insecure)
        self.pool = ConnectionPool(MonotonicClock(), target, watch=self._watch)
        self.pool.on_exhausted = self._give_up
        if key is not None:
            self.pool.key_line = f"authorization: Bearer {key}\r\n".encode("latin-1")
            self.pool.key_at = orders.key_at

    def start(self, t0: int, pipe: SummaryPipe | None, say: Say) -> None:
        """Send; t0 lies a little ahead."""
        clock = MonotonicClock(t0)
        self.pool.use_clock(clock)
        sender = self.sender = Sender(self._schedule, self._rules, clock, self.pool, self._keep, self._turns)
        self.gauge = Gauge(clock, self.orders, sender, self.spool, None if pipe is None else pipe.put)
        said = False

        def tell() -> None:
            nonlocal said
            if not said:
                said = True
                say(messages.Ended())

        sender.on_done = tell
        sender.start()
        self.gauge.start()
        if sender.is_done:
            tell()

    def finish(self) -> messages.Finished:
        """Hang up on everything, and close the spool."""
        if self.sender is not None:
            self.sender.abandon()
            self.sender.close()
        self.pool.close()
        try:
            self.spool.close()
        except OSError as error:
            self.trouble = self.trouble or f"the spool cannot be written: {error.strerror}"
        meters = Gauge.none(self.orders.process) if self.gauge is None else self.gauge.finish()
        meters.trouble = self.trouble
        meters.queue_seconds = self._watch.longest / 1e6
        if self.sender is not None:
            meters.dry = [self.orders.classes[cls].name for cls in sorted(self.sender.dry)]
        return messages.Finished(meters)

    def _keep(self, exchange: Exchange) -> None:
        if not self.trouble.startswith("the spool"):
            try:
                self.spool.add(exchange)
            except OSError as error:
                self._give_up(f"the spool cannot be written: {error.strerror}")

    def _give_up(self, why: str) -> None:
        """Stop issuing once this call is over: it comes from the middle of a sender's work."""
        first, self.trouble = not self.trouble, self.trouble or why
        if first and self.sender is not None:
            asyncio.get_running_loop().call_soon(self.sender.stop)


def _turns(orders: Orders, requests: Requests) -> LiveTurns:
    """Which request follows which; first turns are in the schedule already."""
    following: dict[int, Turn] = {}
    for talk in orders.conversations:
        made = requests.at(talk.places)
        for before, after, think in zip(made, made[1:], talk.thinks[1:], strict=False):
            following[before.id] = Turn(after, think)
    return LiveTurns(following)


class Say:
    """Writes reports to the parent."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, report: messages.Report) -> None:
        """Reports are few; the parent reads them always."""
        view = memoryview(msgspec.json.encode(report) + b"\n")
        while view:
            view = view[os.write(self._fd, view) :]


class Service:
    """Carries out commands until stdin ends."""

    def __init__(self, say: Say, summaries: int | None) -> None:
        self._say = say
        self._pipe = None if summaries is None else SummaryPipe(summaries)
        self._decoder = msgspec.json.Decoder(messages.Command)
        self._buffer = bytearray()
        self._round: Round | None = None
        self._task: asyncio.Task[None] | None = None
        self.over = asyncio.Event()

    def start(self, fd: int) -> None:
        """Read commands from `fd`."""
        self._fd = fd
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        if not data or len(self._buffer) > _MOST_LINE:
            asyncio.get_running_loop().remove_reader(self._fd)
            if self._round is not None:
                self._round.finish()
            self.over.set()
            return
        scanned = len(self._buffer)
        self._buffer += data
        while (end := self._buffer.find(b"\n", scanned)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            scanned = 0
            self._do(self._decoder.decode(line))

    def _do(self, command: messages.Command) -> None:
        current = self._round
        if isinstance(command, messages.Prepare):
            self._task = asyncio.get_running_loop().create_task(self._prepare(command))
        elif current is None:
            return
        elif isinstance(command, messages.Go):
            current.start(command.t0, self._pipe if current.orders.summaries else None, self._say)
        elif isinstance(command, messages.Finish):
            self._round = None
            self._say(current.finish())
            gc.unfreeze()
        elif current.sender is not None:
            self._steer(current, current.sender, command)

    def _steer(self, current: Round, sender: Sender, command: messages.Command) -> None:
        if isinstance(command, messages.Stop):
            sender.stop()
        elif isinstance(command, messages.Abandon):
            sender.abandon()
        elif isinstance(command, messages.HangUp):
            names = [each.name for each in current.orders.classes]
            gone = sender.hang_up(names.index(command.cls), command.share) if command.cls in names else 0
            self._say(messages.HungUp(gone))

    async def _prepare(self, command: messages.Prepare) -> None:
        if self._round is not None:  # another process could not be prepared, and this is the next try
            self._round.finish()
            self._round = None
        try:
            prepared = Round(command.orders, command.key)
        except (OSError, ValueError) as error:
            self._say(messages.Failed(str(error), unreachable=False))
            return
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await prepared.pool.open(command.orders.connections)
        except OSError as error:
            prepared.finish()
            why = error.strerror or str(error) or "no connection in 10 s"
            self._say(messages.Failed(why, unreachable=True))
            return
        self._round = prepared
        gc.collect()
        gc.freeze()
        gc.disable()
        self._say(messages.Ready())


async def _serve(summaries: int | None) -> None:
    service = Service(Say(sys.stdout.fileno()), summaries)
    service.start(sys.stdin.fileno())
    await service.over.wait()


def main() -> int:
    """Serve one parent."""
    parser = argparse.ArgumentParser("loadgen.drive.process")
    parser.add_argument("--summaries", type=int)
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--nice", type=int, default=0)
    args = parser.parse_args()
    # Ctrl-C goes to all of the terminal's processes: what it means is the parent's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _raise_limit()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    if args.nice:
        try:
            os.nice(args.nice)
        except PermissionError:
            sys.stderr.write("load process: not permitted to raise its priority\n")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(args.summaries))
    return 0


def _raise_limit() -> None:
    """As many sockets as the host permits: the usual 1,024 would be a cap on what is in flight."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Loops of uvloop where it is installed, else the usual ones."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


if __name__ == "__main__":
    sys.exit(main())
