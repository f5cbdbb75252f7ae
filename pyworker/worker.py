"""`Worker`: puts an engine behind a router.

Two threads: the one that calls `run` drives the engine and sleeps on the inbox while there is nothing to do; another
one owns the link. The engine never waits for the link, and the link answers while a step runs.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol, Self, runtime_checkable

from pyworker.transport.host import LinkHost
from pyworker.transport.launch import resolve_endpoint, resolve_token
from pyworker.transport.link import Waker
from pyworker.transport.loop import LinkLoop, LinkSettings
from pyworker.transport.mailbox import Inbox, Outbox, Stop
from pyworker.transport.session import Pulse
from pyworker.transport.zmq import ZmqLinks

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from pyworker.engine.interface import Engine, EngineCapabilities
    from pyworker.runner.safepoint import Safepoint
    from pyworker.transport.link import LinkFactory
    from pyworker.transport.loop import LinkCounters, TokenSource

_logger = logging.getLogger(__name__)

_OUTBOX_MESSAGES: Final = 1_024
_STATS_SECONDS: Final = 1.0
_DRAIN_SECONDS: Final = 30.0


@runtime_checkable
class GivesWay(Protocol):
    """An engine whose offline rows can leave a step in the middle."""

    @property
    def safepoint(self) -> Safepoint | None:
        """The byte that asks them to; none where its runner has none."""


class Worker:
    """One worker of a running router.

    Either `model` (with options as of `slackwater-worker`, by name: `max_num_seqs=8`) or an `engine` of one's own.
    `router` is a path, `ipc://PATH` or nothing for the usual socket. Without `token` the file `worker.token` beside the
    socket is read, again at each try to join.

    Raises:
        ConfigError: options that cannot work.
        ModelLoadError: a model that cannot be had.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        engine: Engine | None = None,
        router: str | None = None,
        token: str | TokenSource | None = None,
        settings: LinkSettings | None = None,
        connect: LinkFactory | None = None,
        **options: object,
    ) -> None:
        endpoint = resolve_endpoint(router) if connect is None else router or "(given)"
        tokens = resolve_token(endpoint, token) if token is None or isinstance(token, str) else token
        self._engine = _engine(model, engine, options)
        self._waker = Waker()
        outbox = Outbox(_OUTBOX_MESSAGES)
        self._host = LinkHost(self._engine, outbox, self._waker)
        self._capabilities = self._engine.attach(self._host)
        safepoint = self._engine.safepoint if isinstance(self._engine, GivesWay) else None
        self._inbox = Inbox(max(1, self._capabilities.slots), safepoint)
        self._zmq = ZmqLinks()
        self._loop = LinkLoop(
            endpoint,
            tokens,
            connect or self._zmq,
            (self._inbox, outbox),
            self._waker,
            settings or LinkSettings(),
        )
        self._closed = False

    @property
    def capabilities(self) -> EngineCapabilities:
        """What the engine says of itself, and the router is told."""
        return self._capabilities

    @property
    def counters(self) -> LinkCounters:
        """What happened on the links so far."""
        return self._loop.counters

    def run(self) -> None:
        """Serve until `stop` is called or the router says goodbye; then what is running is finished first.

        Raises:
            LinkError: the router refuses this worker.
            SlackwaterError: the engine has failed.
        """
        pulse = Pulse(self._host.progress_count, lambda: self._inbox.busy)
        with ThreadPoolExecutor(1, "slackwater-link") as thread:
            link = thread.submit(self._loop.run, self._capabilities, pulse)
            link.add_done_callback(self._end_with_link)
            orderly = False
            try:
                self._drive()
                orderly = True
            finally:
                # An engine that has failed says no goodbye: the router must see a death.
                self._loop.finish(bye=orderly)
            link.result()

    def stop(self) -> None:
        """End `run`: finish what is running and refuse the rest. A second call ends it after the current step.

        From any thread, and from a signal handler.
        """
        self._inbox.end(Stop.NOW if self._inbox.stop else Stop.DRAIN)

    def abandon(self) -> None:
        """End `run` after the current step, whatever is running: there is nobody left to serve."""
        self._inbox.end(Stop.NOW)

    def close(self) -> None:
        """Let go of the engine and of ZeroMQ. Idempotent; not while `run` runs."""
        if not self._closed:
            self._closed = True
            self._engine.close()
            self._zmq.close()
            self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_with_link(self, link: Future[None]) -> None:
        del link
        self._inbox.end(Stop.NOW)

    def _drive(self) -> None:
        """Take orders, step, and say once a second how it is; until told to stop."""
        next_stats = time.monotonic()
        give_up: float | None = None
        worked = True
        while True:
            until = next_stats if give_up is None else min(next_stats, give_up)
            batch = self._inbox.take(0.0 if worked else until - time.monotonic())
            self._host.apply(batch)
            if batch.stop is Stop.NOW:
                return
            if batch.stop is Stop.DRAIN:
                if give_up is None:
                    _logger.info("draining %d requests", self._host.num_live)
                    give_up = time.monotonic() + _DRAIN_SECONDS
                    self._loop.drain()
                if self._host.num_live == 0 or time.monotonic() >= give_up:
                    return
            stepped = self._engine.step()
            worked = self._host.settle() or stepped
            self._host.progress()
            if (now := time.monotonic()) >= next_stats:
                self._host.say_stats()
                next_stats = now + _STATS_SECONDS


def _engine(model: str | None, engine: Engine | None, options: dict[str, object]) -> Engine:
    if engine is not None:
        if model is not None or options:
            raise TypeError("an engine of one's own takes neither a model nor options")
        return engine
    from pyworker.config import build_engine, options_of
    from pyworker.models.prepare import prepare

    chosen = options_of(options)
    return build_engine(prepare(model or "smollm2"), chosen)
