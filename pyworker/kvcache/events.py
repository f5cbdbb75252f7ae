"""What the prefix cache has gained and lost since somebody was last told, netted: there and back again is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.engine.outputs import KVEvents, StoredBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyworker.kvcache.block_pool import BlockContent

Key = tuple[int, int]
"""Salt and hash."""


class EventLog:
    """Remembers, for each key that was touched, what was found under it when the log was last emptied."""

    def __init__(self) -> None:
        self._before: dict[Key, StoredBlock | None] = {}

    def touch(self, key: Key, content: BlockContent | None) -> None:
        """Note what was found under this key, before it changes."""
        if key not in self._before:
            self._before[key] = None if content is None else stored_block(content)

    def take(self, find: Callable[[Key], BlockContent | None]) -> KVEvents:
        """The difference between then and now, where `find` says what is found now; the log is empty afterwards.

        Under one key another block may be found now than then, for hashes can collide. It counts as one that went and
        one that came.
        """
        events = KVEvents()
        stored = []
        for key, before in self._before.items():
            content = find(key)
            now = None if content is None else stored_block(content)
            if before == now:
                continue
            if before is not None:
                events.removed.append(key)
            if now is not None:
                stored.append(now)
        self._before.clear()
        events.stored = parents_first(stored)
        return events

    def clear(self) -> None:
        """Forget everything: whoever listens has been told the whole content."""
        self._before.clear()


def stored_block(content: BlockContent) -> StoredBlock:
    """The block as those outside know it."""
    return StoredBlock(content.block_hash, content.parent_hash, content.salt)


def parents_first(blocks: Iterable[StoredBlock]) -> list[StoredBlock]:
    """The blocks in an order in which each stands behind its parent, where that is among them.

    Colliding hashes can make a circle of parents; it is then cut somewhere.
    """
    waiting = {(block.salt, block.block_hash): block for block in blocks}
    ordered: list[StoredBlock] = []
    while waiting:
        chain = [waiting.pop(next(iter(waiting)))]
        while (parent := waiting.pop((chain[-1].salt, chain[-1].parent_hash), None)) is not None:
            chain.append(parent)
        ordered += reversed(chain)
    return ordered
