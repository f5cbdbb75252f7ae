"""Pool and manager against a naive model that knows each request's text, with conservation after every operation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.engine_rig import request_for_test

import pyworker.kvcache.manager as manager_module
from pyworker.engine.outputs import KVEvents
from pyworker.engine.request import Request, SamplingParams
from pyworker.errors import IntegrityError
from pyworker.kvcache.block_hash import block_hash
from pyworker.kvcache.manager import KVCacheManager, KVUsage

GOLDEN = Path(__file__).parents[1] / "wire" / "golden_block_hash.json"
BLOCK = 4


def test_golden_vectors() -> None:
    cases = json.loads(GOLDEN.read_text())["cases"]
    assert len(cases) >= 6
    for case in cases:
        hashes, parent = [], int(case["salt"])
        for token_ids in case["blocks"]:
            parent = block_hash(parent, token_ids, bytes.fromhex(case["extra_hex"]))
            hashes.append(f"{parent:016x}")
        assert hashes == case["hashes"], case["name"]


def run(manager: KVCacheManager, request: Request) -> int:
    """Let a request in and compute all it has; the tokens found in the cache."""
    cached, num_cached = manager.get_computed_blocks(request)
    assert manager.allocate_slots(request, request.num_tokens - num_cached, 0, cached) is not None
    request.num_computed_tokens = request.num_tokens
    manager.cache_blocks(request)
    return num_cached


@pytest.mark.parametrize(
    ("num_tokens", "found"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8)], ids=lambda value: str(value)
)
def test_at_most_all_but_the_last_token_rounded_down_to_a_block_are_found(num_tokens: int, found: int) -> None:
    manager = KVCacheManager(10, BLOCK)
    text = list(range(12))
    first = request_for_test("first", text)
    assert run(manager, first) == 0
    manager.free(first)
    assert run(manager, request_for_test("second", text[:num_tokens])) == found


def test_another_salt_or_another_first_block_shares_nothing() -> None:
    manager = KVCacheManager(30, BLOCK)
    run(manager, request_for_test("a", list(range(9)), salt=1))
    assert run(manager, request_for_test("b", list(range(9)), salt=2)) == 0
    assert run(manager, request_for_test("c", [9, *range(1, 9)], salt=1)) == 0
    assert run(manager, request_for_test("d", list(range(9)), salt=1)) == 8


def test_output_tokens_are_hashed_like_prompt_tokens() -> None:
    manager = KVCacheManager(30, BLOCK)
    run(manager, request_for_test("a", list(range(6)), output_ids=list(range(6, 10))))
    assert run(manager, request_for_test("b", list(range(12)))) == 8


def test_too_few_blocks_change_nothing() -> None:
    manager = KVCacheManager(5, BLOCK)
    run(manager, request_for_test("a", list(range(8))))
    late = request_for_test("b", list(range(13)))
    cached, num_cached = manager.get_computed_blocks(late)
    assert (num_cached, manager.allocate_slots(late, 5, 4, cached)) == (8, None)
    assert (late.block_table, manager.usage()) == ([], KVUsage(used=2, total=4))
    assert manager.allocate_slots(late, 5, 0, cached) is not None
    assert [block.ref_count for block in late.block_table] == [2, 2, 1, 1]


def test_without_prefix_caching_nothing_is_found() -> None:
    manager = KVCacheManager(30, BLOCK, enable_prefix_caching=False)
    run(manager, request_for_test("a", list(range(9))))
    assert run(manager, request_for_test("b", list(range(9)))) == 0


def test_crafted_collisions_are_no_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "block_hash", lambda _, token_ids: sum(token_ids))
    manager = KVCacheManager(30, BLOCK)
    run(manager, request_for_test("a", [1, 1, 1, 1, 5, 5, 5, 5, 9]))
    run(manager, request_for_test("b", [2, 2, 2, 2, 7]))
    # The second block has the same tokens and the same hash as one in the cache, but another first block.
    assert run(manager, request_for_test("c", [2, 2, 2, 2, 5, 5, 5, 5, 9])) == 4
    assert run(manager, request_for_test("d", [0, 1, 1, 2, 7])) == 0
    assert run(manager, request_for_test("e", [1, 1, 1, 1, 5, 5, 5, 5, 8])) == 8


def test_blocks_that_a_hit_takes_out_of_the_free_list_are_not_there_to_be_taken() -> None:
    manager = KVCacheManager(4, BLOCK)
    first = request_for_test("first", list(range(8)))
    run(manager, first)
    manager.free(first)
    late = request_for_test("late", list(range(14)))
    cached, num_cached = manager.get_computed_blocks(late)
    assert num_cached == 8
    assert manager.allocate_slots(late, 6, 0, cached) is None
    assert (late.block_table, manager.usage()) == ([], KVUsage(used=0, total=3))
    manager.check([])


def test_a_request_that_is_owed_logprobs_of_its_prompt_finds_nothing_until_it_has_them() -> None:
    manager = KVCacheManager(30, BLOCK)
    run(manager, request_for_test("a", list(range(9))))
    asks = request_for_test("b", list(range(9)), params=SamplingParams(prompt_logprobs=0, seed=1))
    assert manager.get_computed_blocks(asks)[1] == 0
    asks.num_prompt_logprobs = 8
    assert manager.get_computed_blocks(asks)[1] == 8


@pytest.mark.parametrize(
    ("num_prompt", "shared", "copies"), [(9, 2, 0), (10, 2, 1), (12, 2, 1), (13, 3, 0), (2, 0, 1), (1, 0, 0)]
)
def test_a_fork_shares_full_blocks_and_copies_the_rest(num_prompt: int, shared: int, copies: int) -> None:
    manager = KVCacheManager(30, BLOCK)
    parent = request_for_test("parent", list(range(num_prompt)), output_ids=[50, 51])
    run(manager, parent)
    child = request_for_test("child", list(range(num_prompt)))
    made = manager.fork(parent, child, num_prompt - 1, 1)
    assert made is not None
    common = [a is b for a, b in zip(parent.block_table, child.block_table, strict=False)]
    assert common == [True] * shared + [False] * (len(common) - shared)
    assert len(child.block_table) == manager.blocks_for(num_prompt)
    assert made == [(parent.block_table[shared].block_id, child.block_table[shared].block_id)] * copies
    manager.check([parent, child])
    manager.free(parent)
    free = manager.num_free
    manager.check([child])  # what is to be copied is still held
    manager.unpin(source for source, _ in made)
    assert manager.num_free == free + copies
    manager.check([child])


def test_a_fork_without_room_changes_nothing() -> None:
    manager = KVCacheManager(4, BLOCK)
    parent = request_for_test("parent", list(range(9)))
    run(manager, parent)
    child = request_for_test("child", list(range(9)))
    assert manager.fork(parent, child, 8, 1) is None
    assert (child.block_table, [block.ref_count for block in parent.block_table]) == ([], [1, 1, 1])
    manager.check([parent])


def test_unpinning_what_is_not_pinned_is_refused() -> None:
    manager = KVCacheManager(4, BLOCK)
    request = request_for_test("a", [1])
    run(manager, request)
    with pytest.raises(IntegrityError):
        manager.unpin([request.block_table[0].block_id])
    manager.check([request])


def replay(told: dict[tuple[int, int], int], events: KVEvents) -> None:
    """Apply events to what somebody outside knows: the parent by salt and hash. Nothing may go that is not there."""
    if events.cleared:
        told.clear()
    for key in events.removed:
        del told[key]
    for block in events.stored:
        key = (block.salt, block.block_hash)
        assert key not in told
        told[key] = block.parent_hash


class CacheMachine(RuleBasedStateMachine):
    """Requests come, fork, grow, are computed and leave. `texts` is the model: what each block id holds, by whole
    prefix. `told` is what somebody knows who has only heard the events.
    """

    num_blocks = 8
    checks_parents = True

    def __init__(self) -> None:
        super().__init__()
        self.manager = KVCacheManager(self.num_blocks, BLOCK)
        self.live: list[Request] = []
        self.pins: list[list[int]] = []
        self.texts: dict[int, tuple[int, list[int]]] = {}
        self.told: dict[tuple[int, int], int] = {}
        self.count = 0

    def prefix(self, request: Request, index: int) -> tuple[int, list[int]]:
        return request.salt, request.token_ids(0, (index + 1) * BLOCK)

    def computed(self, request: Request, upto: int) -> None:
        for index, block in enumerate(request.block_table[: upto // BLOCK]):
            self.texts[block.block_id] = self.prefix(request, index)
        request.num_computed_tokens = upto
        self.manager.cache_blocks(request)

    def found(self) -> dict[tuple[int, int], int]:
        """What can be found, read from the blocks themselves."""
        pool = self.manager._pool
        contents = [block.content for block in pool.blocks if block.content is not None]
        found = {(content.salt, content.block_hash): content for content in contents}
        kept = {key: pool.lookup(*key) for key in found}
        return {key: block.content.parent_hash for key, block in kept.items() if block and block.content}

    @rule(text=st.lists(st.integers(0, 1), min_size=1, max_size=18), salt=st.integers(0, 1), part=st.integers(1, 18))
    def admit(self, text: list[int], salt: int, part: int) -> None:
        self.count += 1
        request = request_for_test(f"r{self.count}", text, salt=salt)
        free_before = self.manager.usage()
        cached, num_cached = self.manager.get_computed_blocks(request)
        assert num_cached == len(cached.blocks) * BLOCK <= len(text) - 1
        for index, block in enumerate(cached.blocks):
            assert self.texts[block.block_id] == self.prefix(request, index)
        num_new = min(part, len(text) - num_cached)
        given = self.manager.allocate_slots(request, num_new, 0, cached)
        revived = sum(block.ref_count == 0 for block in cached.blocks)
        if given is None:
            missing = self.manager.blocks_for(num_cached + num_new) - len(cached.blocks)
            assert missing > free_before.total - free_before.used - revived
            assert (request.block_table, self.manager.usage()) == ([], free_before)
            return
        assert tuple(request.block_table) == given.blocks
        assert len(given.blocks) == self.manager.blocks_for(num_cached + num_new)
        self.live.append(request)
        self.computed(request, num_cached + num_new)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 99), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=6), drafts=st.integers(0, 5))
    def grow(self, pick: int, tokens: list[int], drafts: int) -> None:
        """Blocks for drafts may be there too; what is computed of them is not accepted, and leaves no trace."""
        request = self.live[pick % len(self.live)]
        request.output_ids.extend(tokens)
        before = list(request.block_table)
        if self.manager.allocate_slots(request, request.num_tokens - request.num_computed_tokens, drafts) is None:
            assert request.block_table == before
            return
        self.computed(request, request.num_tokens)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 99))
    def fork(self, pick: int) -> None:
        parent = self.live[pick % len(self.live)]
        if parent.num_computed_tokens < len(parent.prompt_ids) - 1 or len(parent.prompt_ids) < 2:
            return
        self.count += 1
        child = request_for_test(f"r{self.count}", parent.prompt_ids, salt=parent.salt)
        num_computed = len(child.prompt_ids) - 1
        copies = self.manager.fork(parent, child, num_computed, 1)
        if copies is None:
            assert child.block_table == []
            return
        assert len(copies) == (num_computed % BLOCK > 0)
        self.manager.unpin(source for source, _ in copies)
        self.live.append(child)
        written = child.block_table[num_computed // BLOCK]
        assert all(written not in other.block_table for other in self.live if other is not child)
        self.computed(child, len(child.prompt_ids))

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 99))
    def pin(self, pick: int) -> None:
        self.pins.append(self.manager.pin(self.live[pick % len(self.live)]))

    @precondition(lambda self: self.pins)
    @rule(pick=st.integers(0, 99))
    def unpin(self, pick: int) -> None:
        self.manager.unpin(self.pins.pop(pick % len(self.pins)))

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 99))
    def leave(self, pick: int) -> None:
        self.manager.free(self.live.pop(pick % len(self.live)))

    @rule()
    def tell(self) -> None:
        events = self.manager.take_events()
        replay(self.told, events)
        assert self.told == self.found()
        assert not self.manager.take_events()
        if self.checks_parents:
            stored = [(block.salt, block.block_hash) for block in events.stored]
            for index, block in enumerate(events.stored):
                assert (block.salt, block.parent_hash) not in stored[index:]

    @rule()
    def tell_all(self) -> None:
        snapshot = self.manager.snapshot()
        assert snapshot.cleared
        replay(self.told, snapshot)
        assert self.told == self.found()
        known = set()
        for block in snapshot.stored:
            known.add((block.salt, block.block_hash))
            if self.checks_parents:
                assert block.parent_hash == block.salt or (block.salt, block.parent_hash) in known

    @invariant()
    def books_add_up(self) -> None:
        self.manager.check(self.live)
        held = {block.block_id for request in self.live for block in request.block_table}
        held.update(block_id for pin in self.pins for block_id in pin)
        assert self.manager.usage() == KVUsage(used=len(held), total=self.num_blocks - 1)
        assert 0 not in held
        own = [[block.block_id for block in request.block_table] for request in self.live]
        for request, ids in zip(self.live, own, strict=True):
            alone = [name for name in ids if sum(name in other for other in own) == 1]
            assert self.manager.num_unshared(request) == len(alone)

    @invariant()
    def every_block_in_a_table_holds_that_requests_text(self) -> None:
        for request in self.live:
            for index, block in enumerate(request.block_table[: request.num_computed_tokens // BLOCK]):
                assert self.texts[block.block_id] == self.prefix(request, index)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


class CollidingMachine(CacheMachine):
    """Where hashes collide, parents may stand in a circle."""

    checks_parents = False


@pytest.fixture
def weak_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "block_hash", lambda parent, ids, extra=b"": block_hash(parent, ids, extra) % 3)


@pytest.mark.usefixtures("weak_hash")
class TestCacheMachineWithCollisions(CollidingMachine.TestCase):
    """The same with three hashes in all, so that almost every lookup meets another text."""

    settings = settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
