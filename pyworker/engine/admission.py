"""Whether a waiting request may take blocks: only if nobody who runs is likely to run short before others have ended.

The coming steps are simulated in rounds of one block. In each round every request takes a block, until it has all that
its expected output needs; one round later it gives back what it does not share. Blocks are counted up to each
give-back, and must suffice. A real request is never behind the simulated one in giving back, nor ahead in taking, as
long as it gives one token a step and its output is not longer than expected. Borders of blocks lie anywhere within a
round, which is what the one round more is for.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.engine.config import CHUNK_GRAIN
from pyworker.engine.request import RequestClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.request import Request
    from pyworker.kvcache.manager import KVCacheManager

EXPECTED_OUTPUT = 256
"""Tokens of output that a request is expected to have while too few of its class have been seen."""

_MOST_USED = 0.95
_MOST_SEEN = 256
_LEAST_SEEN = 16


@dataclass(frozen=True, slots=True)
class Need:
    """A request's future: blocks it will still take, the round in which it gives back, and how many it gives back."""

    blocks: int
    ends: int
    gives_back: int


def runs_short(needs: Iterable[Need], free: int) -> bool:
    """Whether some request finds no block in some round, with `free` blocks now."""
    ordered = sorted(needs, key=lambda need: need.ends)
    for index, need in enumerate(ordered):
        # Those before it in the order have taken all they need, and have given back.
        taken = sum(min(other.blocks, need.ends) for other in ordered[index:])
        if taken > free:
            return True
        free += need.gives_back - need.blocks
    return False


class OutputLengths:
    """How long the outputs of each class have been: of the last 256 that ended, the length that nine of ten reach at
    most.
    """

    def __init__(self) -> None:
        self._latest: dict[RequestClass, deque[int]] = {klass: deque() for klass in RequestClass}
        self._sorted: dict[RequestClass, list[int]] = {klass: [] for klass in RequestClass}

    def observe(self, request: Request) -> None:
        """Count a request that has ended."""
        latest, ordered = self._latest[request.klass], self._sorted[request.klass]
        latest.append(len(request.output_ids))
        insort(ordered, latest[-1])
        if len(latest) > _MOST_SEEN:
            del ordered[bisect_left(ordered, latest.popleft())]

    def expected(self, request: Request, block_size: int) -> int:
        """Tokens of output that the request is expected to have in the end; one that has outlived what was expected
        of it will need another block.
        """
        ordered = self._sorted[request.klass]
        if request.expected_output is not None:
            guess = request.expected_output
        elif len(ordered) >= _LEAST_SEEN:
            guess = ordered[-(-len(ordered) * 9 // 10) - 1]
        else:
            guess = EXPECTED_OUTPUT
        generated = len(request.output_ids)
        if guess <= generated:
            guess = generated + block_size
        return min(guess, request.params.max_tokens)


class Admission:
    """Knows what each running request will still need."""

    def __init__(self, config: EngineConfig, kv_cache: KVCacheManager, lengths: OutputLengths) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._lengths = lengths

    def allows(self, request: Request, taken: int, stay: Sequence[Request], yielding: Iterable[Request]) -> bool:
        """Whether a waiting request may take `taken` blocks now, all that its known tokens need beyond shared ones.

        `stay` run on; `yielding` would give way to it, so their blocks count as free. Where nobody stays, it may: it
        would never have more room than now.
        """
        if not stay:
            return True
        kv_cache = self._kv_cache
        free = kv_cache.num_free - taken
        missing = [self.missing_blocks(other) for other in stay]
        own = self._own_missing(request)
        total = kv_cache.usage().total
        if free >= sum(missing) + own and total - free <= _MOST_USED * total:
            return True
        free += sum(kv_cache.num_unshared(other) for other in yielding)
        if free < 0 or total - free > _MOST_USED * total:
            return False
        delay = self._prefill_rounds([*stay, request])
        needs = [
            Need(blocks, blocks + 1 + delay, kv_cache.num_unshared(other) + blocks)
            for other, blocks in zip(stay, missing, strict=True)
        ]
        needs.append(Need(own, own + 1 + delay, taken + own))
        return not runs_short(needs, free)

    def is_ample(self, running: Iterable[Request]) -> bool:
        """Whether there are free blocks for all that running requests are expected to need, whoever ends first."""
        return sum(self.missing_blocks(request) for request in running) <= self._kv_cache.num_free

    def missing_blocks(self, request: Request) -> int:
        """Blocks that a running request is expected to need beyond those it has."""
        return max(0, self._final_blocks(request) - len(request.block_table))

    def _own_missing(self, request: Request) -> int:
        return max(0, self._final_blocks(request) - self._kv_cache.blocks_for(request.num_tokens))

    def _final_blocks(self, request: Request) -> int:
        """Blocks at the end; the last token of all is never computed."""
        expected = self._lengths.expected(request, self._config.block_size)
        num_tokens = min(len(request.prompt_ids) + expected, self._config.max_model_len) - 1
        return self._kv_cache.blocks_for(max(num_tokens, request.num_tokens))

    def _prefill_rounds(self, requests: Iterable[Request]) -> int:
        """By how many rounds prompts that are still to be computed may put off the ends; each step computes 16 tokens
        of them at least.
        """
        steps = 0
        for request in requests:
            rest = request.num_tokens - request.num_computed_tokens
            steps += -(-rest // CHUNK_GRAIN) if rest > 1 else 0
        return -(-steps // self._config.block_size)
