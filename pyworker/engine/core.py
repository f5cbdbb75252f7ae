"""The engine: one step after another, and what happens when one fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyworker.engine.interface import EngineStats
from pyworker.engine.metrics import EngineMetrics
from pyworker.engine.outcome import INTERNAL
from pyworker.engine.outputs import ModelRunnerOutput, RowResult, SchedulerOutput, StepOutputs
from pyworker.engine.scheduler import Scheduler
from pyworker.errors import EngineFailed, SlackwaterError
from pyworker.kvcache.manager import KVCacheManager

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.interface import Clock, EngineCapabilities, EngineHost, ModelRunner
    from pyworker.engine.queue import OrderPolicy
    from pyworker.engine.request import Request

_logger = logging.getLogger(__name__)


class EngineCore:
    """An `Engine`: scheduler, paged KV cache and a runner. After it has raised from `step` it takes nothing more."""

    def __init__(
        self,
        config: EngineConfig,
        runner: ModelRunner,
        clock: Clock,
        capabilities: EngineCapabilities,
        policy: OrderPolicy | None = None,
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._capabilities = capabilities
        self._window_micros = config.failure_window_micros
        self._metrics = EngineMetrics()
        self._kv_cache = KVCacheManager(
            config.num_blocks, config.block_size, enable_prefix_caching=config.enable_prefix_caching
        )
        self._scheduler = Scheduler(config, self._kv_cache, self._metrics, policy)
        self._host: EngineHost | None = None
        self._failed_at: int | None = None
        self._failure: SlackwaterError | None = None
        self._checked = False
        self._closed = False

    def attach(self, host: EngineHost) -> EngineCapabilities:
        """Take the host and say what this engine is."""
        self._host = host
        return self._capabilities

    def submit(self, request: Request) -> None:
        """Take a request; a higher attempt replaces a lower one without a word, a lower one is ignored.

        Raises:
            InvalidRequest: no engine with this model would take it.
            DuplicateAttempt: this very attempt is here already.
            SlackwaterError: the engine has failed before.
        """
        self._raise_if_failed()
        self._scheduler.add(request)
        self._checked = False

    def grant(self, request_id: str, up_to: int) -> None:
        """Let a request go on to this output position. Unknown ids are ignored."""
        self._scheduler.grant(request_id, up_to)

    def cancel(self, request_id: str) -> None:
        """End a request at the next step boundary. Idempotent; unknown ids are ignored."""
        self._scheduler.cancel(request_id)

    def step(self) -> bool:
        """Schedule, run, update, send. False: there was nothing to do, and the books were found in order.

        Raises:
            IntegrityError: the books do not add up.
            EngineFailed: two steps have failed within the window.
        """
        self._raise_if_failed()
        host = self._attached_host()
        try:
            out = self._scheduler.schedule(self._clock.now())
            if not out.num_scheduled_tokens:
                return self._idle(host)
            self._checked = False
            result = self._run(out, host)
            steps = self._scheduler.update_from_output(out, result)
        except SlackwaterError as error:
            self._failure = error
            raise
        host.send(steps)
        return True

    def stats(self) -> EngineStats:
        """State and metrics. `kv_blocks_total` leaves the null block out, so that used and total can be compared."""
        usage = self._kv_cache.usage()
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            kv_blocks_used=usage.used,
            kv_blocks_total=usage.total,
            metrics=self._metrics.snapshot(self._runner.memory_bytes()),
        )

    def close(self) -> None:
        """Free the runner's buffers. Idempotent."""
        if not self._closed:
            self._closed = True
            self._runner.close()

    def _idle(self, host: EngineHost) -> bool:
        outputs = self._scheduler.take_outputs()
        if outputs:
            host.send(StepOutputs(outputs))
            self._checked = False
        if not self._checked:
            self._scheduler.check()
            self._checked = True
        return bool(outputs)

    def _run(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        try:
            return self._runner.execute(out, host)
        except SlackwaterError:
            raise
        except Exception as error:
            _logger.exception("a step of %d requests failed", len(out.num_scheduled_tokens))
            now, before = self._clock.now(), self._failed_at
            self._failed_at = now
            if before is not None and now - before < self._window_micros:
                raise EngineFailed(repr(error), self._window_micros) from error
        return self._run_one_by_one(out, host)

    def _run_one_by_one(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Run a failed step again, each request alone. Nothing of it has been counted as computed, so it may be."""
        result = ModelRunnerOutput(rows={})
        finished_ids = out.finished_ids
        for request_id, num_tokens in out.num_scheduled_tokens.items():
            alone = SchedulerOutput(
                num_scheduled_tokens={request_id: num_tokens},
                requests={request_id: out.requests[request_id]},
                new_requests=[request_id] if request_id in out.new_requests else [],
                finished_ids=finished_ids,
            )
            finished_ids = []
            try:
                part = self._runner.execute(alone, host)
            except SlackwaterError:
                raise
            except Exception:
                _logger.exception("request %s fails alone too, and ends", request_id)
                result.rows[request_id] = RowResult(error=INTERNAL, message="the worker failed on this request")
            else:
                result.rows.update(part.rows)
                result.step_micros += part.step_micros
        return result

    def _attached_host(self) -> EngineHost:
        if self._host is None:
            raise RuntimeError("attach a host before the first step")
        return self._host

    def _raise_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure
