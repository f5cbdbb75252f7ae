"""What the scheduler knows of the KV cache: how much of a request is there already, and room for more.

A hit in the prefix cache counts only where salt, whole prefix and token ids are equal by value; the hash only says
where to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that this many tokens take."""
        return -(-num_tokens // self._block_size)

    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int]:
        """The longest prefix of a request without blocks that is in the cache, and its length in tokens.

        At most `num_tokens - 1` rounded down to a block: the last token's logits are needed, so it must be computed.
        The blocks are not held until `allocate_slots` is given them.
        """
        if not self._enable_prefix_caching:
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
            parent_hash, parent_id = (before.block_hash, before.content_id) if before else (request.salt, 0)
            token_ids = request.token_ids(index * self._block_size, (index + 1) * self._block_size)
            hashed = block_hash(parent_hash, token_ids)
            self._pool.store(table[index], hashed, request.salt, parent_id, token_ids)

    def free(self, request: Request) -> None:
        """Give up all blocks of a request, tail first, so that the end of a chain is evicted before its root."""
        self._pool.release(request.block_table[::-1])
        request.block_table.clear()

    def usage(self) -> KVUsage:
        """How full the cache is; content that nobody holds does not count."""
        total = len(self._pool.blocks) - 1
        return KVUsage(used=total - self._pool.num_free, total=total)

    def check(self, requests: Iterable[Request]) -> None:
        """Compare the pool's books with the block tables of all requests that have one.

        Raises:
            IntegrityError: they do not add up.
        """
        held: dict[int, int] = {}
        for request in requests:
            for block in request.block_table:
                held[block.block_id] = held.get(block.block_id, 0) + 1
        self._pool.check(held)
