"""With how much of it computed already a waiting request begins, and whether it should wait for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.engine.groups import can_fork, must_wait
from pyworker.kvcache.manager import KVCacheBlocks

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.groups import Groups
    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.engine.request import Request
    from pyworker.kvcache.manager import KVCacheManager


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first `num_computed` tokens are there: as blocks of the prefix cache, or in the blocks of choice 0."""

    num_computed: int
    cached: KVCacheBlocks
    leader: Request | None = None


class Entrance:
    """Looks for what need not be computed, and takes blocks accordingly."""

    def __init__(self, config: EngineConfig, kv_cache: KVCacheManager, groups: Groups) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._groups = groups
        self._step_micros = 0

    def observe_step(self, step_micros: int) -> None:
        """Learn how long a step takes; the average forgets half in about five steps."""
        self._step_micros = (7 * self._step_micros + step_micros) // 8 if self._step_micros else step_micros

    def beginning(self, request: Request, out: SchedulerOutput, now: int) -> Beginning | None:
        """Where the request would begin; `None` if it does better to wait for the next step.

        That is while choice 0 of its group, or another request in this step, computes what both begin with, unless it
        has too little time left to wait.
        """
        may_wait = not self._is_urgent(request, now)
        leader = self._groups.leader_of(request)
        if leader is not None:
            if can_fork(leader):
                return Beginning(len(request.prompt_ids) - 1, KVCacheBlocks(), leader)
            if may_wait and must_wait(request, leader, now):
                return None
        beginning = self.from_cache(request)
        if may_wait and self._is_being_computed(request, beginning.num_computed, out):
            return None
        return beginning

    def from_cache(self, request: Request) -> Beginning:
        """Where the request would begin by itself."""
        cached, num_cached = self._kv_cache.get_computed_blocks(request)
        return Beginning(num_cached, cached)

    def taken_blocks(self, request: Request, beginning: Beginning) -> int:
        """Blocks that leave the free list when the request begins and has room for all its known tokens."""
        shared = beginning.num_computed // self._config.block_size
        revived = sum(block.ref_count == 0 for block in beginning.cached.blocks)
        return self._kv_cache.blocks_for(request.num_tokens) - shared + revived

    def allocate(self, request: Request, num_tokens: int, beginning: Beginning, out: SchedulerOutput) -> bool:
        """Take blocks for all known tokens at once, so that two half-computed prompts cannot wait for each other.
        False: there are too few, and nothing has changed.
        """
        rest = request.num_tokens - beginning.num_computed - num_tokens
        if beginning.leader is None:
            return self._kv_cache.allocate_slots(request, num_tokens, rest, beginning.cached) is not None
        copies = self._kv_cache.fork(beginning.leader, request, beginning.num_computed, num_tokens, rest)
        if copies is None:
            return False
        out.block_copies += copies
        return True

    def _is_urgent(self, request: Request, now: int) -> bool:
        return request.deadline_micros is not None and request.deadline_micros - now < 2 * self._step_micros

    def _is_being_computed(self, request: Request, num_cached: int, out: SchedulerOutput) -> bool:
        """Whether the first block that the request lacks is filled in this step by another one with equal text."""
        if not self._kv_cache.shares_prefixes or request.owes_prompt_logprobs:
            return False
        end = num_cached + self._config.block_size
        if end >= request.num_tokens:
            return False
        wanted = request.token_ids(num_cached, end)
        for name, other in out.requests.items():
            computed = other.num_computed_tokens
            if other.salt == request.salt and computed < end <= computed + out.num_scheduled_tokens[name]:
                same = other.token_ids(num_cached, end) == wanted
                if same and other.token_ids(0, num_cached) == request.token_ids(0, num_cached):
                    return True
        return False
