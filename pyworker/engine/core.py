"""The engine: one step after another, and what happens when one fails."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from pyworker.engine.interface import ConcurrentHost, EngineStats
from pyworker.engine.metrics import EngineMetrics
from pyworker.engine.orders import Orders
from pyworker.engine.outcome import INTERNAL
from pyworker.engine.outputs import ModelRunnerOutput, RowResult, SchedulerOutput, StepOutputs
from pyworker.engine.planner import InlinePlanner
from pyworker.engine.scheduler import Scheduler
from pyworker.errors import EngineFailed, SlackwaterError
from pyworker.kvcache.manager import KVCacheManager

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.interface import Clock, EngineCapabilities, EngineHost, ModelRunner
    from pyworker.engine.planner import Planner
    from pyworker.engine.policies import Policies
    from pyworker.engine.request import Request
    from pyworker.runner.safepoint import Safepoint

_logger = logging.getLogger(__name__)

_COMPILE_WAIT_MICROS = 20_000


class EngineCore:
    """An `Engine`: scheduler, paged KV cache and a runner. After it has raised from `step` it takes nothing more.

    While the runner computes, the `planner` sends the outputs of the step before, where the host can have them late,
    takes in what has come, and plans the next step.
    """

    def __init__(
        self,
        config: EngineConfig,
        runner: ModelRunner,
        clock: Clock,
        capabilities: EngineCapabilities,
        policies: Policies | None = None,
        planner: Planner | None = None,
    ) -> None:
        """`planner` is the engine's own from now on; without one, planning is done on the engine's thread."""
        self._runner = runner
        self._clock = clock
        self._capabilities = capabilities
        self._window_micros = config.failure_window_micros
        self._metrics = EngineMetrics()
        self._kv_cache = KVCacheManager(
            config.num_blocks, config.block_size, enable_prefix_caching=config.enable_prefix_caching
        )
        self._scheduler = Scheduler(config, self._kv_cache, self._metrics, policies)
        self._orders = Orders(self._scheduler)
        self._planner = (planner or InlinePlanner()) if config.async_scheduling else None
        self._is_ahead = self._is_worth_planning(0)  # whether the next step has the planner beside it
        self._held: StepOutputs | None = None  # sent when the next step has begun
        self._grammar = policies.grammar if policies else None
        self._asked_blocks = False
        self._host: EngineHost | None = None
        self._concurrent: ConcurrentHost | None = None  # the same host, if it is one
        self._failed_at: int | None = None
        self._failure: SlackwaterError | None = None
        self._checked = False
        self._closed = False

    def attach(self, host: EngineHost) -> EngineCapabilities:
        """Take the host and say what this engine is."""
        self._host = host
        self._concurrent = host if isinstance(host, ConcurrentHost) else None
        return self._capabilities

    @property
    def safepoint(self) -> Safepoint | None:
        """What asks rows to leave a step in progress; none where the runner has no such thing."""
        found: Safepoint | None = getattr(self._runner, "safepoint", None)
        return found

    def submit(self, request: Request) -> None:
        """Take a request; a higher attempt replaces a lower one without a word, a lower one is ignored.

        Raises:
            InvalidRequest: no engine with this model would take it.
            DuplicateAttempt: this very attempt is here already.
            SlackwaterError: the engine has failed before.
        """
        self._raise_if_failed()
        self._orders.add(request)
        self._checked = False

    def grant(self, request_id: str, up_to: int) -> None:
        """Let a request go on to this output position. Unknown ids are ignored."""
        self._orders.grant(request_id, up_to)

    def cancel(self, request_id: str) -> None:
        """End a request at the next step boundary. Idempotent; unknown ids are ignored."""
        self._orders.cancel(request_id)

    def ask_blocks(self) -> None:
        """Have the prefix cache's whole content sent with the next step's outputs, in place of its latest changes."""
        self._asked_blocks = True

    def step(self) -> bool:
        """Schedule, run, update, send. False: there was nothing to do, and the books were found in order.

        Waits up to 20 ms where all that can be done is to wait for a grammar.

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
            self._orders.settle()
        except Exception as error:
            # Whatever it was, the step may have been counted in part.
            self._failure = error if isinstance(error, SlackwaterError) else SlackwaterError(f"a bug: {error!r}")
            self.flush()
            raise
        self._add_snapshot(steps)
        self._is_ahead = self._is_worth_planning(steps.step_micros)
        if self._is_ahead and self._concurrent is not None and self._scheduler.has_plan:
            self._held = steps
        else:
            host.send(steps)
        return True

    def flush(self) -> None:
        """Send outputs that are held until the next step begins. Not while a step runs."""
        steps, self._held = self._held, None
        if steps is not None and self._host is not None:
            self._host.send(steps)

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
        """End the threads and free the runner's buffers. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._planner is not None:
                self._planner.close()
            if self._grammar is not None:
                self._grammar.close()
            self._runner.close()

    def _idle(self, host: EngineHost) -> bool:
        self.flush()
        steps = StepOutputs(self._scheduler.take_outputs())
        self._add_snapshot(steps)
        is_said = bool(steps.outputs or steps.kv_events)
        if is_said:
            host.send(steps)
            self._checked = False
        if not self._checked:
            self._scheduler.check()
            self._checked = True
        if not is_said and self._grammar is not None and self._scheduler.num_compiling:
            self._grammar.wait(_COMPILE_WAIT_MICROS)
            return True
        return is_said

    def _add_snapshot(self, steps: StepOutputs) -> None:
        if self._asked_blocks:
            self._asked_blocks = False
            steps.kv_events = self._kv_cache.snapshot()

    def _run(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Run a step, with everything else that can be done beside it; one by one if it fails."""
        if self._planner is None or not self._is_ahead:
            result = self._run_at_once(out, host)
        else:
            self._orders.defer(out)
            self._planner.start(partial(self._beside, out))
            try:
                result = self._run_at_once(out, host)
            finally:
                self._planner.finish()
        if result is None:
            self._scheduler.forget_plan()
            result = self._run_one_by_one(out, host)
        return result

    def _beside(self, out: SchedulerOutput) -> None:
        """What is done while `out` runs, perhaps on another thread. What somebody waits for comes first."""
        self.flush()
        if self._concurrent is not None:
            self._concurrent.drain()
        self._scheduler.plan_ahead(out)

    def _is_worth_planning(self, last_micros: int) -> bool:
        return self._planner is not None and self._planner.is_worth(last_micros)

    def _run_at_once(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput | None:
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
            return None

    def _run_one_by_one(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Run a failed step again, each request alone, without drafts and without what was parked before.

        Nothing of the step has been counted as computed, so it may be. `out` is then what was really run.
        """
        result = ModelRunnerOutput(rows={})
        _without_extras(out)
        finished_ids = out.finished_ids
        for request_id in out.num_scheduled_tokens:
            try:
                part = self._runner.execute(_alone(out, request_id, finished_ids), host)
            except SlackwaterError:
                raise
            except Exception:
                _logger.exception("request %s fails alone too, and ends", request_id)
                result.rows[request_id] = RowResult(error=INTERNAL, message="the worker failed on this request")
            else:
                result.rows.update(part.rows)
                result.parked += part.parked
                result.step_micros += part.step_micros
            finished_ids = []
        return result

    def _attached_host(self) -> EngineHost:
        if self._host is None:
            raise RuntimeError("attach a host before the first step")
        return self._host

    def _raise_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure


def _without_extras(out: SchedulerOutput) -> None:
    for request_id, drafts in out.drafts.items():
        out.num_scheduled_tokens[request_id] -= len(drafts)
    out.drafts.clear()
    out.forced.clear()
    out.joins.clear()


def _alone(out: SchedulerOutput, request_id: str, finished_ids: list[str]) -> SchedulerOutput:
    """One request's part of a step. A block is copied only with the request that it is for, which may have written to
    it when the others' turn comes.
    """
    request = out.requests[request_id]
    own = {block.block_id for block in request.block_table}
    return SchedulerOutput(
        num_scheduled_tokens={request_id: out.num_scheduled_tokens[request_id]},
        requests={request_id: request},
        new_requests=[request_id] if request_id in out.new_requests else [],
        finished_ids=finished_ids,
        block_copies=[(source, target) for source, target in out.block_copies if target in own],
        masks=out.masks,
    )
