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
from pyworker.engine.request import Request
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


class CacheMachine(RuleBasedStateMachine):
    """Requests come, grow, are computed and leave. `texts` is the model: what each block id holds, by whole prefix."""

    num_blocks = 8

    def __init__(self) -> None:
        super().__init__()
        self.manager = KVCacheManager(self.num_blocks, BLOCK)
        self.live: list[Request] = []
        self.texts: dict[int, tuple[int, list[int]]] = {}
        self.count = 0

    def prefix(self, request: Request, index: int) -> tuple[int, list[int]]:
        return request.salt, request.token_ids(0, (index + 1) * BLOCK)

    def computed(self, request: Request, upto: int) -> None:
        for index, block in enumerate(request.block_table[: upto // BLOCK]):
            self.texts[block.block_id] = self.prefix(request, index)
        request.num_computed_tokens = upto
        self.manager.cache_blocks(request)

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
    @rule(pick=st.integers(0, 99), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def grow(self, pick: int, tokens: list[int]) -> None:
        request = self.live[pick % len(self.live)]
        request.output_ids.extend(tokens)
        before = list(request.block_table)
        if self.manager.allocate_slots(request, request.num_tokens - request.num_computed_tokens) is None:
            assert request.block_table == before
            return
        self.computed(request, request.num_tokens)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 99))
    def leave(self, pick: int) -> None:
        self.manager.free(self.live.pop(pick % len(self.live)))

    @invariant()
    def books_add_up(self) -> None:
        self.manager.check(self.live)
        held = {block.block_id for request in self.live for block in request.block_table}
        assert self.manager.usage() == KVUsage(used=len(held), total=self.num_blocks - 1)
        assert 0 not in held

    @invariant()
    def every_block_in_a_table_holds_that_requests_text(self) -> None:
        for request in self.live:
            for index, block in enumerate(request.block_table[: request.num_computed_tokens // BLOCK]):
                assert self.texts[block.block_id] == self.prefix(request, index)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


@pytest.fixture
def weak_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "block_hash", lambda parent, ids, extra=b"": block_hash(parent, ids, extra) % 3)


@pytest.mark.usefixtures("weak_hash")
class TestCacheMachineWithCollisions(CacheMachine.TestCase):
    """The same with three hashes in all, so that almost every lookup meets another text."""

    settings = settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
