"""Choices of one prompt: it is computed once, and each choice goes on from it as if it had been alone."""

from __future__ import annotations

import pytest
from support.engine_rig import UNLIMITED, oracle_of, request_for_test
from support.scheduler_world import World, world_for_test

from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import Request, RequestClass, SamplingParams


def choice(index: int, prompt: list[int], *, length: int = 8, credit: int = UNLIMITED) -> Request:
    params = SamplingParams(max_tokens=length, seed=index + 1)
    return request_for_test(f"c{index}", prompt, params=params, group=("g", index), credit=credit)


def check_tokens(w: World) -> None:
    for (name, attempt), request in w.requests.items():
        assert w.host.tokens(name, attempt) == oracle_of(request)
        assert w.host.finish(name, attempt) is FinishReason.LENGTH
    w.scheduler.check()
    assert w.kv_cache.usage().used == 0


@pytest.mark.parametrize("num_prompt", [2, 4, 5, 13, 14, 16, 40])
@pytest.mark.parametrize("caching", [True, False])
def test_one_prefill_and_then_each_choice_computes_one_token(num_prompt: int, caching: bool) -> None:
    w = world_for_test(enable_prefix_caching=caching)
    for index in range(4):
        w.add(choice(index, list(range(num_prompt))))
    steps = w.run()
    assert steps[:3] == [{"c0": num_prompt}, dict.fromkeys(("c0", "c1", "c2", "c3"), 1), steps[2]]
    assert w.counters()["forks"] == 3
    assert w.host.outputs("c1")[0].num_cached_tokens == num_prompt - 1
    check_tokens(w)


def test_with_a_prompt_of_one_token_there_is_nothing_to_wait_for() -> None:
    w = world_for_test()
    for index in range(3):
        w.add(choice(index, [7]))
    assert w.run()[0] == {"c0": 1, "c1": 1, "c2": 1}
    check_tokens(w)


def test_full_blocks_are_shared_and_the_rest_is_copied() -> None:
    w = world_for_test()
    for index in range(3):
        w.add(choice(index, list(range(14))))
    assert w.step().block_copies == []
    out = w.step()
    tables = [[block.block_id for block in w.requests[f"c{index}", 0].block_table] for index in range(3)]
    assert tables[0][:3] == tables[1][:3] == tables[2][:3]
    assert len({table[3] for table in tables}) == 3
    assert out.block_copies == [(tables[0][3], tables[1][3]), (tables[0][3], tables[2][3])]
    w.run()
    check_tokens(w)


def test_a_long_prompt_is_waited_for_chunk_by_chunk_and_others_pass() -> None:
    w = world_for_test(max_num_batched_tokens=32)
    for index in range(3):
        w.add(choice(index, list(range(100))))
    w.add(request_for_test("other", [200, 201]))
    steps = w.run()
    assert [sorted(step) for step in steps[:4]] == [["c0"]] * 3 + [["c0", "other"]]
    assert sorted(steps[4]) == ["c0", "c1", "c2", "other"]
    check_tokens(w)


def test_choice_0_without_credit_is_forked_all_the_same() -> None:
    w = world_for_test()
    w.add(choice(0, list(range(14)), credit=0))
    w.add(choice(1, list(range(14))))
    w.add(choice(2, list(range(14)), credit=0))
    assert w.run()[:2] == [{"c0": 13}, {"c1": 1}]
    w.scheduler.grant("c0", UNLIMITED)
    w.scheduler.grant("c2", UNLIMITED)
    assert w.run()[0] == {"c0": 1, "c2": 1}
    check_tokens(w)


@pytest.mark.parametrize("how", ["never came", "cancelled", "has ended", "has another prompt", "has another salt"])
def test_without_choice_0_the_others_run_alone(how: str) -> None:
    w = world_for_test()
    prompt = list(range(14))
    if how == "has another prompt":
        w.add(choice(0, [99, *prompt]))
    elif how != "never came":
        w.add(choice(0, prompt, length=1))
        w.requests["c0", 0].salt = int(how == "has another salt")
    if how == "has ended":
        w.step()
        w.step()
        assert w.host.finish("c0") is FinishReason.LENGTH
    w.add(choice(1, prompt))
    if how == "cancelled":
        w.scheduler.cancel("c0")
    first = w.run()[0]
    assert first["c1"] == (2 if how == "has ended" else 14)  # what has ended is in the cache
    assert w.counters()["forks"] == 0
    w.requests.pop(("c0", 0), None)
    check_tokens(w)


def test_a_choice_with_a_history_or_that_wants_logprobs_of_the_prompt_runs_alone() -> None:
    w = world_for_test()
    prompt = list(range(14))
    w.add(choice(0, prompt))
    resumed = choice(1, prompt)
    whole = oracle_of(resumed)
    resumed.output_ids = whole[:3]
    asks = request_for_test(
        "c2", prompt, params=SamplingParams(max_tokens=8, seed=3, prompt_logprobs=1), group=("g", 2)
    )
    w.add(resumed)
    w.add(asks)
    assert w.step().num_scheduled_tokens["c2"] == 14
    w.run()
    assert w.counters()["forks"] == 0
    assert [w.host.tokens(name) for name in ("c1", "c2")] == [whole[3:], oracle_of(asks)]


def test_a_choice_that_cannot_share_for_lack_of_room_may_turn_out_a_stalled_choice_0() -> None:
    w = world_for_test(num_blocks=9)
    w.add(choice(0, list(range(20)), length=12, credit=1))
    w.run()
    w.add(choice(1, list(range(20)), length=12))
    w.run()
    assert w.host.finish("c1") is FinishReason.LENGTH
    w.scheduler.grant("c0", UNLIMITED)
    w.run()
    check_tokens(w)


def test_the_wait_is_bounded() -> None:
    """Choice 0 holds a place but does not get on: after two seconds the others do without it."""
    w = world_for_test(max_num_seqs=1)
    w.add(request_for_test("busy", [9], params=SamplingParams(max_tokens=200, seed=1), klass=RequestClass.INTERACTIVE))
    w.step()
    w.add(choice(0, list(range(14))))
    w.add(choice(1, list(range(14))))
    w.requests["c1", 0].klass = RequestClass.INTERACTIVE
    for _ in range(3):
        w.step()
    assert w.requests["c1", 0].queued_micros is not None
    w.scheduler.cancel("busy")
    w.now += 2_000_001
    assert w.step().num_scheduled_tokens == {"c1": 14}
