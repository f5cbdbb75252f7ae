"""The scheduler's rules, one by one, on the simulated model."""

from __future__ import annotations

import pytest
from support.engine_rig import UNLIMITED, ConfigOverrides, config_for_test, oracle_of, request_for_test
from support.scheduler_world import world_for_test

from pyworker.engine.budget import ChunkBudget
from pyworker.engine.config import EngineConfig
from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import RequestStatus, SamplingParams
from pyworker.errors import ConfigError, InvalidRequest


def test_decodes_come_first_and_chunks_share_what_is_left() -> None:
    w = world_for_test()
    w.add(request_for_test("early", [1, 2]))
    w.add(request_for_test("long", list(range(100)), params=SamplingParams(max_tokens=1, seed=1)))
    w.add(request_for_test("late", list(range(100, 150)), params=SamplingParams(max_tokens=1, seed=1)))
    steps = w.run()
    assert steps[:8] == [
        {"early": 2, "long": 48},
        {"early": 1, "long": 16},
        {"early": 1, "long": 16},
        {"early": 1, "long": 20},  # a rest under 16 joins
        {"early": 1, "late": 16},
        {"early": 1, "late": 16},
        {"early": 1, "late": 18},
        {"early": 1},
    ]


@pytest.mark.parametrize(
    ("num_decodes", "wanted", "given"),
    [
        (0, 500, 500),
        (0, 600, 512),
        (1, 128, 128),
        (1, 200, 128),
        (1, 143, 143),
        (1, 144, 128),
        (450, 70, 32),  # ends on a border of blocks
        (0, 530, 512),
        (0, 524, 512),
        (495, 20, 16),
    ],
)
def test_chunk_sizes_at_the_defaults(num_decodes: int, wanted: int, given: int) -> None:
    config = EngineConfig(num_blocks=9, max_model_len=256, vocab_size=300, max_num_seqs=496)
    assert ChunkBudget(config, num_decodes).fit(wanted) == given


def test_without_credit_all_but_the_last_token_is_computed() -> None:
    w = world_for_test()
    w.add(request_for_test("a", list(range(10)), credit=0))
    assert w.run() == [{"a": 9}]
    w.scheduler.grant("a", 2)
    assert w.run() == [{"a": 1}, {"a": 1}]
    assert w.host.tokens("a") == oracle_of(w.requests["a", 0])[:2]
    w.scheduler.grant("a", 1)
    assert w.run() == []


def test_nobody_overtakes_the_first_that_does_not_fit() -> None:
    w = world_for_test(num_blocks=9)
    w.add(request_for_test("first", list(range(20))))
    w.add(request_for_test("big", list(range(100, 117)), credit=1))
    w.add(request_for_test("small", [7]))
    steps = w.run()
    assert steps[:8] == [{"first": 20}] + [{"first": 1}] * 7
    assert steps[8:10] == [{"big": 17, "small": 1}, {"small": 1}]


def test_one_without_credit_that_does_not_fit_holds_up_nobody() -> None:
    w = world_for_test(num_blocks=9)
    w.add(request_for_test("first", list(range(20))))
    w.add(request_for_test("big", list(range(100, 117)), credit=0))
    w.add(request_for_test("small", [7], params=SamplingParams(max_tokens=1, seed=1)))
    assert w.run()[0] == {"first": 20, "small": 1}


def test_a_row_without_credit_is_given_to_one_that_can_go_on() -> None:
    w = world_for_test(max_num_seqs=2)
    for name in ("a", "b"):
        w.add(request_for_test(name, [*name.encode(), 1], credit=1))
    w.run()
    for name in ("c", "d"):
        w.add(request_for_test(name, [*name.encode(), 1], credit=2))
    assert w.run() == [{"c": 2, "d": 2}, {"c": 1, "d": 1}]
    assert [w.requests[name, 0].status.name for name in "abcd"] == ["PREEMPTED"] * 2 + ["RUNNING"] * 2


def test_the_youngest_yields_and_goes_on_later_with_the_same_tokens() -> None:
    w = world_for_test(num_blocks=7)
    params = SamplingParams(max_tokens=12, seed=7)
    for name in ("old", "young"):
        w.add(request_for_test(name, [*name.encode(), 1, 2, 3, 4, 5][:6], params=params, expected=1))
    outs = []
    while (out := w.step()).num_scheduled_tokens:
        outs.append(out)
    yielded = [index for index, out in enumerate(outs) if "young" in out.finished_ids]
    resumed = [index for index, out in enumerate(outs) if "young" in out.new_requests]
    assert (len(yielded), len(resumed)) == (1, 2)
    assert resumed[1] > yielded[0]
    assert all("old" not in out.finished_ids for out in outs[: resumed[1]])
    for name in ("old", "young"):
        assert w.host.tokens(name) == oracle_of(w.requests[name, 0])
    counters = w.counters()
    assert (counters["preemptions"], counters["prompt_tokens"], counters["generation_tokens"]) == (1, 12, 24)


def test_one_that_may_not_go_on_yields_to_one_that_waits() -> None:
    w = world_for_test(num_blocks=9)
    w.add(request_for_test("stalled", list(range(20)), credit=1))
    w.run()
    w.add(request_for_test("waiting", list(range(100, 120))))
    w.run()
    assert w.host.finish("waiting") is FinishReason.LENGTH
    assert w.requests["stalled", 0].status is RequestStatus.PREEMPTED
    w.scheduler.grant("stalled", UNLIMITED)
    w.run()
    assert w.host.tokens("stalled") == oracle_of(w.requests["stalled", 0])


def test_one_that_comes_back_is_as_old_as_it_was() -> None:
    w = world_for_test(num_blocks=9, max_num_seqs=2)
    params = SamplingParams(max_tokens=20, seed=7)
    w.add(request_for_test("old", [1, 2, 3], credit=1, params=params, expected=1))
    w.add(request_for_test("young", [4, 5, 6], params=params, expected=1))
    w.step()
    w.add(request_for_test("short", [7], params=SamplingParams(max_tokens=1, seed=7)))
    assert w.step().finished_ids == ["old"]
    w.scheduler.grant("old", UNLIMITED)
    outs = []
    while (out := w.step()).num_scheduled_tokens:
        outs.append(out)
    yielded = [name for out in outs[1:] for name in out.finished_ids]
    assert yielded == ["young", "old"]  # blocks ran short; then the older one ended
    assert [w.host.tokens(name) for name in ("old", "young")] == [
        oracle_of(w.requests[name, 0]) for name in ("old", "young")
    ]


def test_those_that_were_under_way_go_before_fresh_ones() -> None:
    w = world_for_test(max_num_seqs=1)
    resumed = request_for_test("resumed", [1, 2])
    resumed.output_ids = oracle_of(resumed)[:3]
    w.add(request_for_test("fresh", [3, 4]))
    w.add(request_for_test("other", [5, 6]))
    w.add(resumed)
    order = [next(iter(step)) for step in w.run()]
    assert order == ["resumed"] * 5 + ["fresh"] * 8 + ["other"] * 8
    assert w.host.tokens("resumed") == oracle_of(resumed)[3:]


def test_a_prompt_seen_before_is_not_computed_again() -> None:
    w = world_for_test()
    w.add(request_for_test("a", list(range(30))))
    w.run()
    w.add(request_for_test("b", list(range(30)), salt=0))
    w.add(request_for_test("c", list(range(30)), salt=1))
    assert w.run()[0] == {"b": 2, "c": 30}
    assert [w.host.outputs(name)[0].num_cached_tokens for name in "abc"] == [0, 28, 0]


def test_the_longest_request_that_fits_is_taken_and_ends() -> None:
    w = world_for_test(num_blocks=11, max_model_len=64)
    request = request_for_test("a", [1] * 33)  # 33 + 8 - 1 tokens are ten blocks of four
    with pytest.raises(InvalidRequest) as caught:
        world_for_test(num_blocks=10, max_model_len=64).add(request)
    assert str(caught.value) == "the request may need 10 KV blocks, and the worker has 9"
    w.add(request)
    w.run()
    assert w.host.finish("a") is FinishReason.LENGTH


@pytest.mark.parametrize("num_blocks", [3, 11])
def test_a_refused_higher_attempt_has_still_ended_the_lower_one(num_blocks: int) -> None:
    w = world_for_test(num_blocks=num_blocks)
    w.add(request_for_test("a", [1], params=SamplingParams(max_tokens=4, seed=1)))
    w.step()
    with pytest.raises(InvalidRequest):
        w.add(request_for_test("a", [], attempt=1))
    assert w.run() == []
    assert (w.scheduler.num_running, w.scheduler.num_waiting) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_blocks": 1},
        {"max_model_len": 1},
        {"vocab_size": 0},
        {"block_size": 0},
        {"max_num_seqs": 0},
        {"decode_chunk": 15},
        {"max_num_seqs": 49, "max_num_batched_tokens": 64},
        {"eos_ids": frozenset({1000})},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_limits_that_cannot_work_together_are_refused(wrong: ConfigOverrides) -> None:
    with pytest.raises(ConfigError) as caught:
        config_for_test(**wrong)
    assert caught.value.flag in {*wrong, "max_num_batched_tokens"}


def test_a_resume_from_every_position_goes_on_as_if_unbroken() -> None:
    params = SamplingParams(max_tokens=20, seed=3)
    whole = oracle_of(request_for_test("a", list(range(11)), params=params))
    w = world_for_test()
    for position in range(20):
        w.add(request_for_test(f"r{position}", list(range(11)), output_ids=whole[:position], params=params))
    w.run()
    for position in range(20):
        assert w.host.tokens(f"r{position}") == whole[position:]
        assert w.host.outputs(f"r{position}")[0].start == position


def test_credit_never_shrinks() -> None:
    w = world_for_test()
    w.add(request_for_test("a", [1, 2], credit=0))
    w.scheduler.grant("a", 5)
    w.scheduler.grant("a", 2)
    w.run()
    assert len(w.host.tokens("a")) == 5


def test_what_is_replaced_or_ended_in_the_middle_of_a_step_gets_none_of_it() -> None:
    w = world_for_test()
    w.add(request_for_test("a", [1, 2]))
    w.add(request_for_test("b", [3, 4]))
    out = w.scheduler.schedule(0)
    result = w.runner.execute(out, w.host)
    w.add(request_for_test("a", [5, 6, 7], attempt=1))
    w.scheduler.cancel("b")
    w.host.send(w.scheduler.update_from_output(out, result))
    w.run()
    assert (w.host.outputs("a", 0), w.requests["a", 0].output_ids) == ([], [])
    assert w.host.tokens("a", 1) == oracle_of(w.requests["a", 1])
    assert (len(w.host.tokens("b")), w.host.finish("b")) == (1, FinishReason.CANCELLED)
