"""Every live request: it waits and holds no blocks, or runs and holds blocks. All changes from one to the other."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from pyworker.engine.admission import OutputLengths
from pyworker.engine.groups import Groups
from pyworker.engine.outcome import failed
from pyworker.engine.outputs import RequestOutput, cancelled_output
from pyworker.engine.parking import ParkingLot
from pyworker.engine.queue import WaitingQueue
from pyworker.engine.request import RequestStatus
from pyworker.engine.validation import check_request
from pyworker.engine.yielding import standing
from pyworker.errors import DuplicateAttempt, IntegrityError, InvalidRequest

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.metrics import EngineMetrics
    from pyworker.engine.policies import Policies
    from pyworker.engine.request import Request
    from pyworker.kvcache.manager import KVCacheManager


class Roster:
    """The books of the scheduler. Its parts may be read by all; requests come, go and change places only here.

    `running` is by class, inside a class the oldest first; the last one yields first. `compiling` are those of the
    waiting whose grammars are not ready.
    """

    def __init__(
        self, config: EngineConfig, kv_cache: KVCacheManager, metrics: EngineMetrics, policies: Policies
    ) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._metrics = metrics
        self._grammar = policies.grammar
        self._speculator = policies.speculator
        self.waiting = WaitingQueue(policies.order)
        self.running: list[Request] = []
        self.compiling: dict[str, Request] = {}
        self.lengths = OutputLengths()
        self.groups = Groups()
        self.parking = ParkingLot(config, kv_cache, metrics)
        self._requests: dict[str, Request] = {}
        self._cancelled: dict[str, None] = {}  # a set that keeps its order
        self._outputs: list[RequestOutput] = []  # made outside a step, not handed out yet
        self._finished_ids: list[str] = []  # not told to the runner yet
        self._arrivals = 0

    @property
    def is_full(self) -> bool:
        """Whether as many run as may."""
        return len(self.running) >= self._config.max_num_seqs

    def is_live(self, request: Request) -> bool:
        """Whether this very attempt has not ended."""
        return self._requests.get(request.request_id) is request

    def is_running(self, request: Request) -> bool:
        """Whether this very attempt holds blocks."""
        return self.is_live(request) and request.status is RequestStatus.RUNNING

    def add(self, request: Request) -> bool:
        """Let a request wait. See `Scheduler.add`."""
        known = self._requests.get(request.request_id)
        if known is not None:
            if known.attempt == request.attempt:
                raise DuplicateAttempt(request.request_id, request.attempt)
            if known.attempt > request.attempt:
                return False
            self.drop(known, RequestStatus.FINISHED_CANCELLED)
        self.check_new(request)
        if self._grammar is not None and request.params.grammar is not None:
            self._grammar.begin(request)
            self.compiling[request.request_id] = request
        self._arrivals += 1
        request.arrival = self._arrivals
        self._requests[request.request_id] = request
        self.groups.add(request)
        self.waiting.add(request)
        return True

    def check_new(self, request: Request) -> None:
        """Refuse what can never run.

        Raises:
            InvalidRequest: no engine with this model would take it.
        """
        check_request(request, self._config)
        if request.params.grammar is not None and self._grammar is None:
            raise InvalidRequest("unsupported_parameter", "grammar: this engine has none", param="grammar")

    def cancel(self, request_id: str) -> None:
        """End a request when `end_cancelled` is called. Unknown ids are ignored."""
        if request_id in self._requests:
            self._cancelled[request_id] = None

    def grant(self, request_id: str, up_to: int) -> None:
        """Raise a request's credit. Unknown ids are ignored."""
        request = self._requests.get(request_id)
        if request is not None:
            request.credit_up_to = max(request.credit_up_to, up_to)

    def end_cancelled(self) -> None:
        """End those that were cancelled."""
        cancelled, self._cancelled = self._cancelled, {}
        for request_id in cancelled:
            request = self._requests[request_id]
            self.drop(request, RequestStatus.FINISHED_CANCELLED)
            self._outputs.append(cancelled_output(request_id, request.attempt, len(request.output_ids)))

    def poll_grammars(self) -> None:
        """Let those in whose grammars are ready; end those whose grammars cannot be."""
        if self._grammar is None:
            return
        for request in list(self.compiling.values()):
            state = self._grammar.poll(request)
            if state is None:
                continue
            del self.compiling[request.request_id]
            if state != "ready":
                message = self._grammar.message(request.request_id) or "the grammar cannot be used"
                output = RequestOutput(request.request_id, request.attempt, len(request.output_ids))
                self._outputs.append(failed(output, state, message))
                self.drop(request, RequestStatus.FINISHED_ERROR)

    def start(self, request: Request, num_cached: int) -> None:
        """Let a waiting request run; it has its blocks already, of which so many tokens are computed."""
        self.waiting.remove(request)
        insort(self.running, request, key=standing)
        request.num_computed_tokens = num_cached
        if request.status is RequestStatus.WAITING:
            request.num_cached_tokens = num_cached
            self._metrics.add("prompt_tokens", len(request.prompt_ids))
            self._metrics.add("prefix_cache_queries", request.num_tokens)
            self._metrics.add("prefix_cache_hits", num_cached)
        request.status = RequestStatus.RUNNING

    def preempt(self, request: Request) -> None:
        """Take a running request's blocks; its tokens stay. The blocks keep their content until others need them."""
        self._metrics.add("preemptions", 1)
        self._stop_running(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        self.waiting.add(request)
        if self._speculator is not None:
            self._speculator.forget(request.request_id)

    def drop(self, request: Request, status: RequestStatus) -> None:
        """Remove a request for good, whether it runs or waits."""
        if request.status is RequestStatus.RUNNING:
            self._stop_running(request)
        self.waiting.remove(request)
        self.groups.remove(request)
        del self._requests[request.request_id]
        self._cancelled.pop(request.request_id, None)
        self.compiling.pop(request.request_id, None)
        request.status = status
        if request.output_ids and status is not RequestStatus.FINISHED_ERROR:
            self.lengths.observe(request)
        if self._speculator is not None:
            self._speculator.forget(request.request_id)
        if self._grammar is not None and request.params.grammar is not None:
            self._grammar.forget(request.request_id)

    def take_outputs(self) -> list[RequestOutput]:
        """Outputs that came about outside a step, each handed out once."""
        taken, self._outputs = self._outputs, []
        return taken

    def take_finished(self) -> list[str]:
        """Ids whose rows the runner can free, each told once."""
        taken, self._finished_ids = self._finished_ids, []
        return taken

    def check(self) -> None:
        """Compare all books.

        Raises:
            IntegrityError: blocks or requests do not add up.
        """
        counts: dict[str, object] = {
            "requests": len(self._requests),
            "running": len(self.running),
            "waiting": len(self.waiting),
        }
        if len(self._requests) != len(self.running) + len(self.waiting):
            raise IntegrityError("a request neither runs nor waits, or does both", counts)
        if any(not request.block_table for request in self.running):
            raise IntegrityError("a running request holds no blocks", counts)
        self._kv_cache.check(self._requests.values())

    def _stop_running(self, request: Request) -> None:
        self.parking.drop_with(request)
        self.running.remove(request)
        self._kv_cache.free(request)
        self._finished_ids.append(request.request_id)
