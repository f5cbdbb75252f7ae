"""A scheduler in a small world: no engine around it, and all its limits checked at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from pyworker.engine.metrics import EngineMetrics
from pyworker.engine.outputs import StepOutputs
from pyworker.engine.request import Request, RequestStatus
from pyworker.engine.scheduler import Scheduler
from pyworker.kvcache.manager import KVCacheManager
from pyworker.runner.sim import SimRunner
from support.engine_rig import ConfigOverrides, RecordingHost, config_for_test

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.outputs import SchedulerOutput


class World:
    """A scheduler over the simulated model. Every request that was submitted is kept by id and attempt."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.kv_cache = KVCacheManager(
            config.num_blocks, config.block_size, enable_prefix_caching=config.enable_prefix_caching
        )
        self.metrics = EngineMetrics()
        self.scheduler = Scheduler(config, self.kv_cache, self.metrics)
        self.runner = SimRunner(config)
        self.host = RecordingHost()
        self.requests: dict[tuple[str, int], Request] = {}

    def add(self, request: Request) -> None:
        """Submit, and remember."""
        self.scheduler.add(request)
        self.requests[request.request_id, request.attempt] = request

    def step(self) -> SchedulerOutput:
        """One step; everything that must hold between two steps is checked."""
        out = self.scheduler.schedule(0)
        self.check_limits(out)
        if out.num_scheduled_tokens:
            self.host.send(self.scheduler.update_from_output(out, self.runner.execute(out, self.host)))
        elif outputs := self.scheduler.take_outputs():
            self.host.send(StepOutputs(outputs))
        self.scheduler.check()
        return out

    def run(self) -> list[dict[str, int]]:
        """Step until nothing is scheduled; what each step gave to whom."""
        steps = []
        while (out := self.step()).num_scheduled_tokens:
            steps.append(dict(out.num_scheduled_tokens))
            assert len(steps) < 5000
        return steps

    def live(self) -> list[Request]:
        """All that have not ended."""
        return [request for request in self.requests.values() if not request.status.is_finished]

    def check_limits(self, out: SchedulerOutput) -> None:
        """Rows, tokens, blocks and credit within limits; no decode with credit left out; nobody stuck."""
        config, given = self.config, out.num_scheduled_tokens
        assert list(out.requests) == [name for name in out.requests if name in given]
        assert out.total_tokens <= config.max_num_batched_tokens
        assert self.scheduler.num_running <= config.max_num_seqs
        decodes = chunks = 0
        for request in self.live():
            missing = request.num_tokens - request.num_computed_tokens
            num_tokens = given.get(request.request_id, 0)
            assert num_tokens <= missing - (not request.has_credit)
            if num_tokens:
                assert request.status is RequestStatus.RUNNING
                computed = request.num_computed_tokens + num_tokens
                assert len(request.block_table) * config.block_size >= computed
            # One that was let in with all but its last token in the cache is a chunk of one token, not a decode.
            was_running = request.status is RequestStatus.RUNNING and request.request_id not in out.new_requests
            if was_running and request.has_credit and missing == 1:
                assert num_tokens == 1
                decodes += 1
            else:
                chunks += num_tokens
        if decodes:
            assert chunks < config.decode_chunk + 16
        if not given:
            assert [request for request in self.live() if request.has_credit] == []


def world_for_test(**overrides: Unpack[ConfigOverrides]) -> World:
    """A world of the rig's small numbers."""
    return World(config_for_test(**overrides))
