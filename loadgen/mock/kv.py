"""The engine mode's KV memory: blocks, and the prefix cache among them. Pure.

A full block is known by a hash of itself and everything before it. Nobody's blocks stay findable until their room is
needed; then the least recently used one goes that no cached block builds upon.
"""

from __future__ import annotations

import heapq
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(eq=False, slots=True)
class Block:
    """`key`: its hash while the cache can find it. `children`: cached blocks that build upon it."""

    users: int = 1
    key: int | None = None
    parent: Block | None = None
    children: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class KvEvent:
    """What became of the prefix cache. `kind`: stored, removed, cleared. `parent` None: a first block."""

    kind: str
    hashes: tuple[int, ...] = ()
    parent: int | None = None
    token_ids: tuple[int, ...] = ()


def block_hash(parent: int, ids: Sequence[int]) -> int:
    """Hash of a full block; `parent` is the salt for a first one."""
    return xxhash.xxh3_64_intdigest(struct.pack(f"<Q{len(ids)}I", parent, *ids))


@dataclass(slots=True)
class BlockPool:
    """`total` blocks of `size` tokens. `events` fills only where `with_events`, and the owner empties it."""

    total: int
    size: int
    with_events: bool = False
    events: list[KvEvent] = field(default_factory=list)
    _free: int = field(init=False)
    _cached: dict[int, Block] = field(default_factory=dict)
    _idle: int = 0
    """Cached blocks that nobody uses."""
    _leaves: list[tuple[int, int, Block]] = field(default_factory=list)
    _tick: int = 0

    def __post_init__(self) -> None:
        self._free = self.total

    @property
    def available(self) -> int:
        """Blocks that can be had now."""
        return self._free + self._idle

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return self.total - self.available

    @property
    def num_cached(self) -> int:
        """Blocks that the cache can find."""
        return len(self._cached)

    def find(self, ids: Sequence[int], salt: int) -> list[Block]:
        """The cached blocks at the beginning of a prompt. Its last token is never found: it must be computed."""
        found: list[Block] = []
        parent = salt
        for start in range(0, (len(ids) - 1) // self.size * self.size, self.size):
            parent = block_hash(parent, ids[start : start + self.size])
            block = self._cached.get(parent)
            if block is None:
                break
            found.append(block)
        return found

    def idle_among(self, blocks: Sequence[Block]) -> int:
        """How many of them nobody uses: taking those leaves so much less to be had."""
        return sum(block.users == 0 for block in blocks)

    def take_found(self, blocks: Sequence[Block]) -> None:
        """Use blocks that `find` gave."""
        self._tick += 1
        for block in blocks:
            self._idle -= block.users == 0
            block.users += 1
            block.used = self._tick

    def take_new(self) -> Block | None:
        """An empty block; `None` where all are in use."""
        if self._free:
            self._free -= 1
            return Block()
        return Block() if self._evict() else None

    def store(self, block: Block, parent_key: int | None, key: int, ids: Sequence[int]) -> None:
        """Let the cache find a block that is full. `parent_key` None: a first one.

        One with the same content may be there, or the one before it may be gone: then nothing changes.
        """
        parent = None if parent_key is None else self._cached.get(parent_key)
        if key in self._cached or (parent is None and parent_key is not None):
            return
        block.key, block.parent = key, parent
        self._tick += 1
        block.used = self._tick
        self._cached[key] = block
        if parent is not None:
            parent.children += 1
        if self.with_events:
            self.events.append(KvEvent("stored", (key,), parent_key, tuple(ids)))

    def give_back(self, blocks: Sequence[Block]) -> None:
        """Blocks that a request does not need any more, in their order."""
        self._tick += 1
        for block in reversed(blocks):
            block.users -= 1
            if block.users:
                continue
            if block.key is None:
                self._free += 1
            else:
                block.used = self._tick
                self._idle += 1
                self._note_leaf(block)

    def clear(self) -> None:
        """Forget the cache's content; blocks in use stay in use."""
        for block in self._cached.values():
            block.key, block.parent, block.children = None, None, 0
            self._free += block.users == 0
        self._cached.clear()
        self._leaves.clear()
        self._idle = 0
        if self.with_events:
            self.events.append(KvEvent("cleared"))

    def _note_leaf(self, block: Block) -> None:
        if block.users == 0 and block.children == 0 and block.key is not None:
            heapq.heappush(self._leaves, (block.used, block.key, block))

    def _evict(self) -> bool:
        """Make room for one block: False where everything is in use."""
        while self._leaves:
            used, key, block = heapq.heappop(self._leaves)
            if block.key != key or block.users or block.children or block.used != used:
                continue  # it has been used since, and was or will be noted anew
            del self._cached[key]
            self._idle -= 1
            parent, block.key, block.parent = block.parent, None, None
            if parent is not None:
                parent.children -= 1
                self._note_leaf(parent)
            if self.with_events:
                self.events.append(KvEvent("removed", (key,)))
            return True
        return False
