"""A scheduler in a small world: no engine around it, and all its limits checked at every step."""

from __future__ import annotations

from collections import Counter
from functools import partial
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
    from pyworker.engine.planner import Planner
    from pyworker.engine.policies import Policies


class World:
    """A scheduler over the simulated model. Every request that was submitted is kept by id and attempt."""

    def __init__(self, config: EngineConfig, policies: Policies | None = None, layers: int = 1) -> None:
        self.config = config
        self.kv_cache = KVCacheManager(
            config.num_blocks, config.block_size, enable_prefix_caching=config.enable_prefix_caching
        )
        self.metrics = EngineMetrics()
        self.scheduler = Scheduler(config, self.kv_cache, self.metrics, policies)
        self.runner = SimRunner(config, step_micros=(900, 100), layers=layers)
        self.now = 0
        self.host = RecordingHost()
        self.planner: Planner | None = None
        self.requests: dict[tuple[str, int], Request] = {}
        self._live: list[Request] = []

    def add(self, request: Request) -> None:
        """Submit, and remember."""
        self.scheduler.add(request)
        self.requests[request.request_id, request.attempt] = request
        self._live.append(request)

    def step(self) -> SchedulerOutput:
        """One step; everything that must hold between two steps is checked."""
        out = self.scheduler.schedule(self.now)
        self.check_limits(out)
        if out.num_scheduled_tokens:
            if self.planner is not None:
                self.planner.start(partial(self.scheduler.plan_ahead, out))
            result = self.runner.execute(out, self.host)
            if self.planner is not None:
                self.planner.finish()
            self.now += result.step_micros
            self.host.send(self.scheduler.update_from_output(out, result))
        else:
            self.now += 1000
            if outputs := self.scheduler.take_outputs():
                self.host.send(StepOutputs(outputs))
        self.scheduler.check()
        return out

    def run(self) -> list[dict[str, int]]:
        """Step until nothing is scheduled; what each step gave to whom."""
        steps = []
        while (out := self.step()).num_scheduled_tokens or self.scheduler.num_compiling:
            steps.append(dict(out.num_scheduled_tokens))
            assert len(steps) < 5000
        return steps

    def live(self) -> list[Request]:
        """All that have not ended."""
        self._live = [request for request in self._live if not request.status.is_finished]
        return list(self._live)

    def counters(self) -> dict[str, float]:
        """The engine's counters by name."""
        return {name: value for name, label, value in self.metrics.snapshot({}) if label is None}

    def check_limits(self, out: SchedulerOutput) -> None:
        """Rows, tokens, blocks and credit within limits; no online decode with credit left out; nobody stuck."""
        config, given = self.config, out.num_scheduled_tokens
        assert sorted(out.requests) == sorted(given)
        assert [request_id in out.num_scheduled_tokens for request_id in out.drafts] == [True] * len(out.drafts)
        assert out.total_tokens <= config.max_num_batched_tokens
        assert out.num_drafts <= config.max_step_drafts
        assert self.scheduler.num_running <= config.max_num_seqs
        offline = [out.requests[name].is_offline for name in given]
        assert offline == sorted(offline)
        holders = Counter(block.block_id for request in self.live() for block in request.block_table)
        decodes = chunks = 0
        for request in self.live():
            drafts = out.drafts.get(request.request_id, [])
            num_tokens = given.get(request.request_id, 0) - len(drafts)
            self.check_row(request, num_tokens, drafts, holders)
            # One that was let in with all but its last token in the cache is a chunk of one token, not a decode.
            was_running = request.status is RequestStatus.RUNNING and request.request_id not in out.new_requests
            if was_running and request.has_credit and request.num_tokens - request.num_computed_tokens == 1:
                assert num_tokens == 1 or request.is_offline
                decodes += not request.is_offline
            elif not request.is_offline:
                chunks += num_tokens
        if decodes:
            assert chunks < config.decode_chunk + 16
        if not given and not self.scheduler.num_compiling:
            assert [request for request in self.live() if request.has_credit and self.may_run(request)] == []

    def may_run(self, request: Request) -> bool:
        """Whether nothing outside the scheduler holds the request up. Parked rows may be kept away, and other offline
        requests wait for them.
        """
        return not (request.is_offline and self.scheduler.num_parked)

    def check_row(self, request: Request, num_tokens: int, drafts: list[int], holders: Counter[int]) -> None:
        """What a request gets in a step is known, has room of its own and stays within its credit and its lengths."""
        assert num_tokens <= request.num_tokens - request.num_computed_tokens - (not request.has_credit)
        if not num_tokens:
            assert not drafts
            return
        assert request.status is RequestStatus.RUNNING
        end = request.num_computed_tokens + num_tokens + len(drafts)
        assert len(request.block_table) * self.config.block_size >= end
        written = range(request.num_computed_tokens // self.config.block_size, -(-end // self.config.block_size))
        assert all(holders[request.block_table[index].block_id] == 1 for index in written)
        if drafts:
            longest = len(request.output_ids) + len(drafts) + 1
            assert longest <= min(request.credit_up_to, request.params.max_tokens)
            assert request.num_tokens + len(drafts) + 1 <= self.config.max_model_len


def world_for_test(policies: Policies | None = None, layers: int = 1, **overrides: Unpack[ConfigOverrides]) -> World:
    """A world of the rig's small numbers."""
    return World(config_for_test(**overrides), policies, layers)
