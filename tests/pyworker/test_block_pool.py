"""The pool alone: order of the free list, holders, what is found, and what the books refuse."""

from __future__ import annotations

import pytest

from pyworker.errors import IntegrityError
from pyworker.kvcache.block_pool import BlockPool


def free_ids(pool: BlockPool) -> list[int]:
    return [block.block_id for block in pool.free_list]


def test_the_null_block_is_never_handed_out() -> None:
    pool = BlockPool(4)
    assert [block.block_id for block in pool.get(3)] == [1, 2, 3]
    assert pool.num_free == 0


def test_asking_for_more_than_is_free_takes_nothing() -> None:
    pool = BlockPool(4)
    pool.get(1)
    with pytest.raises(IntegrityError):
        pool.get(3)
    assert free_ids(pool) == [2, 3]


def test_known_content_goes_behind_all_free_blocks_and_unknown_content_before_them() -> None:
    pool = BlockPool(6)
    known, unknown, _ = pool.get(3)
    pool.store(known, 11, (0, None), [1, 2])
    pool.release([known, unknown])
    assert free_ids(pool) == [2, 4, 5, 1]


def test_a_touched_block_leaves_the_free_list_and_keeps_its_content_until_it_is_taken() -> None:
    pool = BlockPool(3)
    (block,) = pool.get(1)
    pool.store(block, 11, (5, None), [1, 2])
    pool.release([block])
    assert pool.lookup(5, 11) is block
    assert pool.lookup(0, 11) is None
    pool.touch([block])
    assert (free_ids(pool), block.ref_count) == ([2], 1)
    pool.release([block])
    assert [taken.block_id for taken in pool.get(2)] == [2, 1]
    assert (pool.lookup(5, 11), block.content, pool.num_cached) == (None, None, 0)


def test_equal_content_has_one_content_id_and_the_first_block_is_found() -> None:
    pool = BlockPool(5)
    first, second, other = pool.get(3)
    pool.store(first, 11, (0, None), [1, 2])
    pool.store(second, 11, (0, None), [1, 2])
    pool.store(other, 11, (0, None), [3, 4])  # a collision: another text under the same hash
    contents = [block.content.content_id for block in (first, second, other) if block.content]
    assert contents == [1, 1, 2]
    assert pool.lookup(0, 11) is first
    pool.release([second, other])
    pool.get(4 - 1)
    assert pool.lookup(0, 11) is first


def test_a_copy_is_found_when_the_first_block_is_gone() -> None:
    pool = BlockPool(5)
    first, second, third, fourth = pool.get(4)
    for block in (first, second, third):
        pool.store(block, 11, (0, None), [1, 2])
    pool.release([second])
    assert pool.get(1) == [second]  # a copy that is itself gone is not found
    pool.release([first])
    assert pool.get(1) == [first]
    assert (pool.lookup(0, 11), pool.num_cached) == (third, 1)
    pool.store(fourth, 12, (0, third.content), [3, 4])
    pool.check({block.block_id: 1 for block in (first, second, third, fourth)})
    pool.release([third])
    pool.get(1)
    assert (pool.lookup(0, 11), pool.num_cached) == (None, 1)


def test_releasing_what_nobody_holds_is_refused() -> None:
    pool = BlockPool(3)
    (block,) = pool.get(1)
    pool.release([block])
    with pytest.raises(IntegrityError):
        pool.release([block])


@pytest.mark.parametrize(
    "breach", ["held_but_free", "leaked", "counted_twice", "off_the_list", "wrong_name", "wrong_copy"]
)
def test_check_sees_each_kind_of_breach(breach: str) -> None:
    pool = BlockPool(4)
    one, two = pool.get(2)
    pool.store(one, 11, (0, None), [1, 2])
    pool.store(two, 11, (0, None), [1, 2])
    held = {one.block_id: 1, two.block_id: 1}
    pool.check(held)
    if breach == "held_but_free":
        pool.release([two])
    elif breach == "leaked":
        del held[two.block_id]
    elif breach == "counted_twice":
        two.ref_count = 2
    elif breach == "off_the_list":
        pool.free_list.remove(pool.blocks[3])
    elif breach == "wrong_copy":
        two.content = None
    else:
        one.content = None
    with pytest.raises(IntegrityError):
        pool.check(held)


def events(pool: BlockPool) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    taken = pool.take_events()
    assert not taken.cleared
    return taken.removed, [(block.block_hash, block.parent_hash, block.salt) for block in taken.stored]


def test_events_name_the_parent_and_come_once() -> None:
    pool = BlockPool(4)
    first, second = pool.get(2)
    pool.store(first, 11, (5, None), [1, 2])
    pool.store(second, 12, (5, first.content), [3, 4])
    assert events(pool) == ([], [(11, 5, 5), (12, 11, 5)])
    assert events(pool) == ([], [])
    pool.release([second, first])
    assert events(pool) == ([], [])
    pool.get(2)
    assert events(pool) == ([(5, 12)], [])


def test_what_comes_back_or_goes_again_within_a_step_is_no_event() -> None:
    pool = BlockPool(2)
    (block,) = pool.get(1)
    pool.store(block, 11, (0, None), [1, 2])
    pool.release([block])
    pool.get(1)
    assert events(pool) == ([], [])
    pool.store(block, 11, (0, None), [1, 2])
    assert events(pool) == ([], [(11, 0, 0)])
    pool.release([block])
    pool.get(1)
    pool.store(block, 11, (0, None), [1, 2])
    assert events(pool) == ([], [])


def test_only_what_can_be_found_has_events() -> None:
    pool = BlockPool(4)
    first, copy, other = pool.get(3)
    pool.store(first, 11, (0, None), [1, 2])
    events(pool)
    pool.store(copy, 11, (0, None), [1, 2])
    pool.store(other, 11, (0, None), [3, 4])  # a collision: it is never found
    pool.release([other, first])
    pool.get(2)
    assert events(pool) == ([], [])  # the copy is found now
    pool.release([copy])
    pool.get(1)
    assert events(pool) == ([(0, 11)], [])


def test_another_block_under_the_same_hash_is_one_that_went_and_one_that_came() -> None:
    pool = BlockPool(3)
    one, two = pool.get(2)
    pool.store(one, 11, (0, None), [1, 2])
    pool.store(two, 12, (0, None), [3, 4])
    events(pool)
    pool.release([one])
    pool.get(1)
    pool.store(one, 11, (0, two.content), [5, 6])  # a collision, in another place
    assert events(pool) == ([(0, 11)], [(11, 12, 0)])


def test_a_snapshot_names_parents_first_and_forgets_what_it_tells() -> None:
    pool = BlockPool(6)
    blocks = pool.get(5)
    pool.store(blocks[0], 11, (0, None), [1])
    pool.store(blocks[1], 12, (0, blocks[0].content), [2])
    pool.store(blocks[2], 21, (7, None), [1])
    pool.store(blocks[3], 13, (0, blocks[1].content), [3])
    copy = blocks[4]
    pool.store(copy, 11, (0, None), [1])
    pool.release([blocks[0]])
    pool.get(1)  # the copy has taken its place, and stands last in the books
    found = pool.snapshot()
    assert sorted((block.salt, block.block_hash) for block in found) == [(0, 11), (0, 12), (0, 13), (7, 21)]
    order = [block.block_hash for block in found]
    assert order.index(11) < order.index(12) < order.index(13)
    assert events(pool) == ([], [])
