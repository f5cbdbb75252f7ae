"""All KV blocks, each with its count of holders, and the free ones in the order in which they are used again.

A free block keeps its content until it is taken, so the list of free blocks is also the prefix cache's list of what to
evict next: its head goes first. Block 0 is the null block: it pads block tables and is never handed out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.errors import IntegrityError
from pyworker.kvcache.events import EventLog, parents_first, stored_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyworker.engine.outputs import KVEvents, StoredBlock


@dataclass(frozen=True, slots=True)
class BlockContent:
    """What a full block holds.

    `content_id` is unique to (salt, all tokens up to and including this block) for as long as any block holds it.
    `parent_id` is the content id of the block before, 0 for the first block: comparing it compares the whole prefix,
    which comparing the parent's hash would not do, since hashes can be made to collide. `parent_hash` is the salt for a
    first block.
    """

    block_hash: int
    parent_hash: int
    salt: int
    parent_id: int
    token_ids: tuple[int, ...]
    content_id: int

    def equals(self, salt: int, parent_id: int, token_ids: Sequence[int]) -> bool:
        """Whether this is that block of that prefix, compared by value."""
        return self.salt == salt and self.parent_id == parent_id and self.token_ids == tuple(token_ids)


@dataclass(eq=False, slots=True)
class KVCacheBlock:
    """One block. `content` is set once the block is full of accepted tokens; the pool owns every field."""

    block_id: int
    ref_count: int = 0
    content: BlockContent | None = None
    prev_free: KVCacheBlock | None = None
    next_free: KVCacheBlock | None = None

    def __repr__(self) -> str:
        return f"KVCacheBlock(block_id={self.block_id}, ref_count={self.ref_count}, content={self.content})"


class FreeList:
    """Doubly linked list through the blocks themselves: append, prepend, pop and remove are all O(1)."""

    def __init__(self) -> None:
        self._head = KVCacheBlock(-1)
        self._tail = KVCacheBlock(-2)
        self._head.next_free = self._tail
        self._tail.prev_free = self._head
        self.length = 0

    def append(self, block: KVCacheBlock) -> None:
        """Make this block the last to be used again."""
        self._insert(block, self._tail.prev_free, self._tail)

    def prepend(self, block: KVCacheBlock) -> None:
        """Make this block the next to be used again."""
        self._insert(block, self._head, self._head.next_free)

    def pop(self) -> KVCacheBlock:
        """Take the block that has been free for longest.

        Raises:
            IntegrityError: the list is empty; callers look at `length` first.
        """
        first = self._head.next_free
        if first is None or first is self._tail:
            raise IntegrityError("a block was taken from an empty free list", {"length": self.length})
        self.remove(first)
        return first

    def remove(self, block: KVCacheBlock) -> None:
        """Take this block out, wherever it stands."""
        before, after = block.prev_free, block.next_free
        if before is None or after is None:
            raise IntegrityError("a block was not in the free list", {"block_id": block.block_id})
        before.next_free, after.prev_free = after, before
        block.prev_free = block.next_free = None
        self.length -= 1

    def __iter__(self) -> Iterator[KVCacheBlock]:
        block = self._head.next_free
        while block is not None and block is not self._tail:
            yield block
            block = block.next_free

    def _insert(self, block: KVCacheBlock, before: KVCacheBlock | None, after: KVCacheBlock | None) -> None:
        if before is None or after is None or block.prev_free is not None:
            raise IntegrityError("a block was put into the free list twice", {"block_id": block.block_id})
        before.next_free = after.prev_free = block
        block.prev_free, block.next_free = before, after
        self.length += 1


class BlockPool:
    """Hands out blocks and finds those whose content is known."""

    def __init__(self, num_blocks: int) -> None:
        """`num_blocks` counts the null block too and is at least 2."""
        self.blocks = [KVCacheBlock(block_id) for block_id in range(num_blocks)]
        self.free_list = FreeList()
        for block in self.blocks[1:]:
            self.free_list.append(block)
        self._by_hash: dict[tuple[int, int], KVCacheBlock] = {}
        self._copies: dict[int, dict[int, KVCacheBlock]] = {}  # by content id and block id, without the one in _by_hash
        self._last_content_id = 0
        self._log = EventLog()

    @property
    def num_free(self) -> int:
        """Blocks that can be taken, cached content included."""
        return self.free_list.length

    @property
    def num_cached(self) -> int:
        """Blocks that `lookup` can find."""
        return len(self._by_hash)

    def get(self, n: int) -> list[KVCacheBlock]:
        """Take `n` blocks, each with one holder; what they held is forgotten.

        Raises:
            IntegrityError: fewer than `n` are free; nothing was taken.
        """
        if n > self.num_free:
            raise IntegrityError("more blocks were asked for than are free", {"asked": n, "free": self.num_free})
        taken = [self.free_list.pop() for _ in range(n)]
        for block in taken:
            self._forget(block)
            block.ref_count = 1
        return taken

    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Add one holder to each block; a free one leaves the free list and keeps its content."""
        for block in blocks:
            if block.ref_count == 0:
                self.free_list.remove(block)
            block.ref_count += 1

    def release(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Take one holder from each block, in the order given.

        A block that nobody holds any more is free: behind all others if its content may be wanted again, before all
        others if it has none that could be found.

        Raises:
            IntegrityError: a block had no holder.
        """
        for block in blocks:
            if block.ref_count <= 0:
                raise IntegrityError("a block was released that nobody held", {"block_id": block.block_id})
            block.ref_count -= 1
            if block.ref_count == 0:
                (self.free_list.prepend if block.content is None else self.free_list.append)(block)

    def lookup(self, salt: int, block_hash: int) -> KVCacheBlock | None:
        """The block that is known under this hash. The caller must still compare its content."""
        return self._by_hash.get((salt, block_hash))

    def store(
        self,
        block: KVCacheBlock,
        block_hash: int,
        parent: tuple[int, BlockContent | None],
        token_ids: Sequence[int],
    ) -> None:
        """Say what a full block holds. `parent` is the salt, and what the block before it holds.

        Of blocks with equal content the oldest is found, and the next one after it is gone. Where another content has
        the hash already, the block is never found.
        """
        salt, before = parent
        parent_id, parent_hash = (before.content_id, before.block_hash) if before else (0, salt)
        key = (salt, block_hash)
        known = self._by_hash.get(key)
        if known is not None and known.content is not None and known.content.equals(salt, parent_id, token_ids):
            block.content = known.content
            self._copies.setdefault(known.content.content_id, {})[block.block_id] = block
            return
        self._last_content_id += 1
        block.content = BlockContent(block_hash, parent_hash, salt, parent_id, tuple(token_ids), self._last_content_id)
        if known is None:
            self._log.touch(key, None)
            self._by_hash[key] = block

    def take_events(self) -> KVEvents:
        """What `lookup` finds now and did not find before, or no longer finds, since this was last asked."""
        return self._log.take(self._content_of)

    def snapshot(self) -> list[StoredBlock]:
        """All that `lookup` finds, parents first. What `take_events` would have said is in it and is forgotten."""
        self._log.clear()
        found = (block.content for block in self._by_hash.values())
        return parents_first(stored_block(content) for content in found if content is not None)

    def _content_of(self, key: tuple[int, int]) -> BlockContent | None:
        block = self._by_hash.get(key)
        return None if block is None else block.content

    def check(self, held: dict[int, int]) -> None:
        """Compare the books with `held`, the number of block-table entries for each block id that has any.

        Raises:
            IntegrityError: free + in use + null is not the total, a block is free and held (or neither), a count of
                holders is wrong, or the cache names a block that does not hold what it is named for.
        """
        free = {block.block_id for block in self.free_list}
        in_use = [block.block_id for block in self.blocks[1:] if block.ref_count != 0]
        state: dict[str, object] = {"free": len(free), "in_use": len(in_use), "total": len(self.blocks)}
        if len(free) != self.num_free or len(free) + len(in_use) + 1 != len(self.blocks):
            raise IntegrityError("free, used and null blocks do not add up", state | {"length": self.num_free})
        for block in self.blocks:
            listed, wanted = block.block_id in free, block.ref_count == 0 and block.block_id != 0
            if block.ref_count != held.get(block.block_id, 0) or listed != wanted:
                detail = {"block": repr(block), "held": held.get(block.block_id, 0), "listed": listed}
                raise IntegrityError("a block's holders are not those that its count says", state | detail)
        for (salt, known_hash), block in self._by_hash.items():
            content = block.content
            if content is None or (content.salt, content.block_hash) != (salt, known_hash):
                raise IntegrityError("the prefix cache names a block that holds something else", {"block": repr(block)})
        for content_id, copies in self._copies.items():
            for block in copies.values():
                if block.content is None or block.content.content_id != content_id:
                    raise IntegrityError("a block is listed as a copy of what it does not hold", {"block": repr(block)})

    def _forget(self, block: KVCacheBlock) -> None:
        content, block.content = block.content, None
        if content is None:
            return
        key, copies = (content.salt, content.block_hash), self._copies.get(content.content_id, {})
        if self._by_hash.get(key) is not block:
            copies.pop(block.block_id, None)
        elif copies:
            self._by_hash[key] = copies.pop(next(iter(copies)))
        else:
            self._log.touch(key, content)
            del self._by_hash[key]
        if not copies:
            self._copies.pop(content.content_id, None)
