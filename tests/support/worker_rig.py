"""A worker on a thread of the test, engines whose pace the test sets, and folders short enough for sockets."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyworker.engine.core import EngineCore
from pyworker.runner.sim import SimRunner, sim_capabilities
from pyworker.transport.loop import LinkSettings
from pyworker.worker import Worker
from support.engine_rig import VOCAB, config_for_test
from support.fake_router import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyworker.engine.interface import Engine, EngineCapabilities, EngineHost, EngineStats
    from pyworker.engine.request import Request
    from support.fake_router import FakeRouter

SETTINGS = LinkSettings(handshake_seconds=PATIENCE, retry_seconds=0.001, retry_seconds_max=0.01, bye_seconds=PATIENCE)
"""Quick to try again, slow to give up: a test never waits for the first and never meets the second."""


class StoppedClock:
    """The engine's clock where no test needs one."""

    def now(self) -> int:
        """Always the same."""
        return 0


def oracle_engine(slots: int = 8, num_blocks: int = 2_049, *, layers: int = 1) -> EngineCore:
    """An engine whose tokens are the oracle's, of `VOCAB` ids and a context of 256."""
    config = config_for_test(max_num_seqs=slots, num_blocks=num_blocks, max_num_batched_tokens=slots + 64)
    capabilities = sim_capabilities(config, text_hash="0123456789abcdef")
    return EngineCore(config, SimRunner(config, layers=layers), StoppedClock(), capabilities)


class GatedEngine:
    """An engine that waits before each step with work until the test lets it, and counts its steps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._permits = threading.Semaphore(0)
        self._open = False
        self.steps = 0
        self._arrivals = threading.Semaphore(0)
        self.fails: Exception | None = None

    def await_gate(self) -> None:
        """Wait until the engine stands at the gate, once more for each call."""
        assert self._arrivals.acquire(timeout=PATIENCE)

    def allow(self, steps: int) -> None:
        """Let it do so many steps more."""
        self._permits.release(steps)

    def open(self) -> None:
        """Let it run from now on."""
        self._open = True
        self._permits.release()

    def attach(self, host: EngineHost) -> EngineCapabilities:
        """See `Engine`."""
        return self._engine.attach(host)

    def submit(self, request: Request) -> None:
        """See `Engine`."""
        self._engine.submit(request)

    def grant(self, request_id: str, up_to: int) -> None:
        """See `Engine`."""
        self._engine.grant(request_id, up_to)

    def cancel(self, request_id: str) -> None:
        """See `Engine`."""
        self._engine.cancel(request_id)

    def step(self) -> bool:
        """See `Engine`."""
        self.steps += 1
        if self.fails is not None:
            raise self.fails
        stats = self._engine.stats()
        if not self._open and stats.num_running + stats.num_waiting:
            self._arrivals.release()
            assert self._permits.acquire(timeout=PATIENCE)
        return self._engine.step()

    def stats(self) -> EngineStats:
        """See `Engine`."""
        return self._engine.stats()

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose sockets' paths fit into 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="sw", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def running(router: FakeRouter, engine: Engine, settings: LinkSettings = SETTINGS) -> Iterator[RunningWorker]:
    """A worker of `router` that runs on a thread until the block ends."""
    with Worker(engine=engine, router=router.endpoint, settings=settings) as worker, ThreadPoolExecutor(1) as thread:
        held = RunningWorker(worker, thread.submit(worker.run))
        try:
            yield held
        finally:
            worker.abandon()
            if isinstance(engine, GatedEngine):
                engine.open()
            router.cut()  # a router hangs up when it is told Bye


class RunningWorker:
    """A worker and the result of its `run`."""

    def __init__(self, worker: Worker, done: Future[None]) -> None:
        self.worker = worker
        self.done = done

    def ends(self) -> None:
        """Wait until `run` has returned; raises what it raised."""
        self.done.result(timeout=PATIENCE)


__all__ = ["SETTINGS", "VOCAB", "GatedEngine", "RunningWorker", "oracle_engine", "running", "short_folder"]
