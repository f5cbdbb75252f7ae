"""What the scheduler knows of the KV cache: how much of a request is there already, and room for more.

A hit in the prefix cache counts only where salt, whole prefix and token ids are equal by value; the hash only says
where to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.engine.outputs import KVEvents
from pyworker.errors import IntegrityError
from pyworker.kvcache.block_hash import block_hash
from pyworker.kvcache.block_pool import BlockPool, KVCacheBlock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyworker.engine.request import Request


@dataclass(frozen=True, slots=True)
class KVCacheBlocks:
    """Blocks on their way between manager and scheduler, which only passes them on."""

    blocks: tuple[KVCacheBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class KVUsage:
    """Blocks held by requests, and blocks that requests can hold (the null block is in neither)."""

    used: int
    total: int


_NONE = KVCacheBlocks()


class KVCacheManager:
    """Block tables of requests over one pool. All methods are O(blocks of the request) or better."""

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True) -> None:
        """`num_blocks` counts the null block; `block_size` is in tokens."""
        self._pool = BlockPool(num_blocks)
        self._block_size = block_size
        self._enable_prefix_caching = enable_prefix_caching
        self._pins: dict[int, int] = {}  # by block id

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self._block_size

    @property
    def shares_prefixes(self) -> bool:
        """Whether what one request has computed is found by others."""
        return self._enable_prefix_caching

    @property
    def num_free(self) -> int:
        """Blocks that can be taken."""
        return self._pool.num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that this many tokens take."""
        return -(-num_tokens // self._block_size)

    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int]:
        """The longest prefix of a request without blocks that is in the cache, and its length in tokens.

        At most `num_tokens - 1` rounded down to a block: the last token's logits are needed, so it must be computed.
        The blocks are not held until `allocate_slots` is given them. Nothing is found for a request that is still owed
        logprobs of its prompt: every position must be computed for them.
        """
        if not self._enable_prefix_caching or request.owes_prompt_logprobs:
            return _NONE, 0
        found: list[KVCacheBlock] = []
        parent_hash, parent_id = request.salt, 0
        for index in range((request.num_tokens - 1) // self._block_size):
            token_ids = request.token_ids(index * self._block_size, (index + 1) * self._block_size)
            parent_hash = block_hash(parent_hash, token_ids)
            block = self._pool.lookup(request.salt, parent_hash)
            if block is None or block.content is None or not block.content.equals(request.salt, parent_id, token_ids):
                break
            parent_id = block.content.content_id
            found.append(block)
        return KVCacheBlocks(tuple(found)), len(found) * self._block_size

    def allocate_slots(
        self, request: Request, num_new: int, lookahead: int = 0, cached: KVCacheBlocks = _NONE
    ) -> KVCacheBlocks | None:
        """Make room for `num_new` tokens after those computed, and for `lookahead` more that may come after them.

        `cached` are blocks from `get_computed_blocks`, for a request that has no blocks yet; they are held from now on
        and count as computed. Returns the blocks that were added to the block table, or `None` where the pool cannot
        give them; then nothing has changed.
        """
        table, hits = request.block_table, cached.blocks
        computed = len(hits) * self._block_size if hits else request.num_computed_tokens
        missing = max(0, self.blocks_for(computed + num_new + lookahead) - len(table) - len(hits))
        if missing > self._pool.num_free - sum(block.ref_count == 0 for block in hits):
            return None
        self._pool.touch(hits)
        added = (*hits, *self._pool.get(missing))
        table.extend(added)
        return KVCacheBlocks(added)

    def cache_blocks(self, request: Request) -> None:
        """Hash the blocks that are full of computed tokens. Call it only when these tokens are accepted ones."""
        if not self._enable_prefix_caching:
            return
        table = request.block_table
        full = start = request.num_computed_tokens // self._block_size
        while start > 0 and table[start - 1].content is None:
            start -= 1
        for index in range(start, full):
            before = table[index - 1].content if index else None
            token_ids = request.token_ids(index * self._block_size, (index + 1) * self._block_size)
            hashed = block_hash(before.block_hash if before else request.salt, token_ids)
            self._pool.store(table[index], hashed, (request.salt, before), token_ids)

    def free(self, request: Request) -> None:
        """Give up all blocks of a request, tail first, so that the end of a chain is evicted before its root. What is
        pinned stays.
        """
        self._pool.release(request.block_table[::-1])
        request.block_table.clear()

    def fork(
        self, parent: Request, child: Request, num_computed: int, num_new: int, lookahead: int = 0
    ) -> list[tuple[int, int]] | None:
        """Let a request without blocks begin with the first `num_computed` tokens that another has computed.

        It shares the blocks that these tokens fill, and gets blocks of its own for `num_new` tokens after them and
        `lookahead` more. Returns what must be copied before anything is computed, as (from, to): the block that they
        fill in part, if there is one. It is pinned, so that nobody is given it before; the caller unpins it. `None`:
        the pool cannot give the blocks, and nothing has changed.
        """
        num_full, in_tail = divmod(num_computed, self._block_size)
        missing = self.blocks_for(num_computed + num_new + lookahead) - num_full
        if missing > self._pool.num_free:
            return None
        shared = parent.block_table[:num_full]
        self._pool.touch(shared)
        child.block_table.extend(shared)
        child.block_table.extend(self._pool.get(missing))
        if not in_tail:
            return []
        tail = parent.block_table[num_full]
        self._pin(tail)
        return [(tail.block_id, child.block_table[num_full].block_id)]

    def pin(self, request: Request) -> list[int]:
        """Keep the blocks that a request has now, whatever becomes of it, until these ids are unpinned."""
        for block in request.block_table:
            self._pin(block)
        return [block.block_id for block in request.block_table]

    def unpin(self, block_ids: Iterable[int]) -> None:
        """Take one pin from each of these blocks.

        Raises:
            IntegrityError: a block was not pinned.
        """
        for block_id in block_ids:
            count = self._pins.pop(block_id, 0)
            if count <= 0:
                raise IntegrityError("a block was unpinned that was not pinned", {"block_id": block_id})
            if count > 1:
                self._pins[block_id] = count - 1
            self._pool.release([self._pool.blocks[block_id]])

    def num_unshared(self, request: Request) -> int:
        """Blocks that would be free if this request gave up its own, and its pins with them."""
        pins = self._pins
        return sum(block.ref_count - pins.get(block.block_id, 0) == 1 for block in request.block_table)

    def take_events(self) -> KVEvents:
        """What the prefix cache has gained and lost since this was last asked, netted."""
        return self._pool.take_events()

    def snapshot(self) -> KVEvents:
        """Events that make the cache's exact content out of nothing; what `take_events` would have said is in them."""
        return KVEvents(cleared=True, stored=self._pool.snapshot())

    def usage(self) -> KVUsage:
        """How full the cache is; content that nobody holds does not count."""
        total = len(self._pool.blocks) - 1
        return KVUsage(used=total - self._pool.num_free, total=total)

    def _pin(self, block: KVCacheBlock) -> None:
        self._pool.touch([block])
        self._pins[block.block_id] = self._pins.get(block.block_id, 0) + 1

    def check(self, requests: Iterable[Request]) -> None:
        """Compare the pool's books with the pins and the block tables of all requests that have one.

        Raises:
            IntegrityError: they do not add up.
        """
        held = dict(self._pins)
        for request in requests:
            for block in request.block_table:
                held[block.block_id] = held.get(block.block_id, 0) + 1
        self._pool.check(held)
