"""Who is let in: nobody for whom somebody would have to be turned out again, if outputs are as long as expected."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine_rig import UNLIMITED, oracle_of, request_for_test
from support.scheduler_world import World, world_for_test

from pyworker.engine.admission import Need, OutputLengths, runs_short
from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import RequestClass, RequestStatus, SamplingParams


def eight(name: str, num_prompt: int, max_tokens: int) -> tuple[list[int], SamplingParams]:
    return [*name.encode(), *range(100)][:num_prompt], SamplingParams(max_tokens=max_tokens, seed=1)


def short_by_rounds(needs: list[Need], free: int) -> bool:
    """The same as `runs_short`, round by round."""
    for number in range(1, max((need.ends for need in needs), default=0) + 1):
        for need in needs:
            free -= number <= need.blocks and number <= need.ends
        if free < 0:
            return True
        free += sum(need.gives_back for need in needs if need.ends == number)
    return False


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.builds(
            lambda blocks, later, shared: Need(blocks, blocks + later, blocks + shared),
            st.integers(0, 6),
            st.integers(1, 3),
            st.integers(0, 4),
        ),
        max_size=6,
    ),
    st.integers(0, 20),
)
def test_the_simulation_is_that_of_single_rounds(needs: list[Need], free: int) -> None:
    assert runs_short(needs, free) is short_by_rounds(needs, free)


def test_one_waits_until_another_has_given_back() -> None:
    w = world_for_test(num_blocks=11)  # ten
    prompt, params = eight("a", 12, 16)
    w.add(request_for_test("a", prompt, params=params))  # three blocks now, seven in the end
    prompt, params = eight("b", 8, 12)
    w.add(request_for_test("b", prompt, params=params))  # two now, five in the end
    steps = w.run()
    assert "b" not in steps[0]
    first = next(index for index, step in enumerate(steps) if "b" in step)
    # Let in as soon as what both will need is there, which is before "a" has ended.
    assert 0 < first <= 16
    assert w.counters()["preemptions"] == 0


def test_one_that_ends_before_blocks_run_short_is_let_in() -> None:
    w = world_for_test(num_blocks=10)  # nine: together they would take ten, but never at the same time
    prompt, params = eight("long", 4, 21)
    w.add(request_for_test("long", prompt, params=params))  # six in the end
    prompt, params = eight("short", 12, 1)
    w.add(request_for_test("short", prompt, params=params))  # three now, and done
    assert w.run()[0] == {"long": 4, "short": 12}
    assert w.counters()["preemptions"] == 0


@pytest.mark.parametrize(("expected", "together"), [(4, True), (40, False), (None, False)])
def test_what_is_expected_decides_and_not_what_is_allowed(expected: int | None, together: bool) -> None:
    w = world_for_test(num_blocks=11)
    for name in ("a", "b"):
        prompt, params = eight(name, 4, 32)
        w.add(request_for_test(name, prompt, params=params, expected=expected))
    assert (len(w.run()[0]) == 2) is together


def test_lengths_that_were_seen_are_expected_per_class() -> None:
    lengths = OutputLengths()
    fresh = request_for_test("a", [1], params=SamplingParams(max_tokens=1000, seed=1))
    for length in [*range(1, 16)]:
        ended = request_for_test("x", [1], output_ids=[1] * length)
        lengths.observe(ended)
    assert lengths.expected(fresh, 4) == 256
    lengths.observe(request_for_test("x", [1], output_ids=[1] * 100))
    assert lengths.expected(fresh, 4) == 15
    assert lengths.expected(request_for_test("o", [1], params=fresh.params, klass=RequestClass.OFFLINE), 4) == 256
    assert lengths.expected(request_for_test("o", [1], params=SamplingParams(max_tokens=9, seed=1)), 4) == 9
    assert lengths.expected(request_for_test("o", [1], params=fresh.params, expected=77), 4) == 77
    outlived = request_for_test("o", [1], params=fresh.params, output_ids=[1] * 20)
    assert lengths.expected(outlived, 4) == 24
    for _ in range(256):
        lengths.observe(request_for_test("x", [1], output_ids=[1] * 3))
    assert lengths.expected(fresh, 4) == 3


def test_offline_rows_are_no_obstacle_and_yield_before_anybody_else() -> None:
    w = world_for_test(num_blocks=11, max_num_seqs=2)
    prompt, params = eight("o", 20, 12)
    w.add(request_for_test("o", prompt, params=params, klass=RequestClass.OFFLINE))
    w.add(request_for_test("p", [1, 2], klass=RequestClass.OFFLINE))
    w.step()
    w.add(request_for_test("stalled", [5, 6, 7], credit=1))
    w.step()
    w.add(request_for_test("online", prompt, params=params))
    out = w.step()
    assert out.new_requests == ["online"]
    assert w.requests["o", 0].status is RequestStatus.PREEMPTED
    assert w.requests["stalled", 0].status is RequestStatus.RUNNING
    w.scheduler.grant("stalled", UNLIMITED)
    w.run()
    for key in w.requests:
        assert w.host.tokens(*key) == oracle_of(w.requests[key])


def test_an_offline_request_waits_for_room_that_nobody_will_want_back() -> None:
    w = world_for_test(num_blocks=11)
    prompt, params = eight("a", 12, 17)
    w.add(request_for_test("a", prompt, params=params))  # seven in the end
    prompt, params = eight("o", 12, 8)
    w.add(request_for_test("o", prompt, params=params, klass=RequestClass.OFFLINE))  # five in the end
    assert "o" not in w.run()[0]
    assert w.counters()["preemptions"] == 0


def test_the_last_twentieth_is_for_those_that_run() -> None:
    w = world_for_test(num_blocks=41, max_num_batched_tokens=200)
    for name, num_prompt in (("a", 148), ("b", 8)):  # 37 and two blocks of 40, and neither needs more
        prompt, params = eight(name, num_prompt, 1)
        prompt += range(300, 300 + num_prompt - len(prompt))
        w.add(request_for_test(name, prompt, params=params))
    assert [list(step) for step in w.run()] == [["a"], ["b"]]


def test_alone_even_the_last_block_is_there() -> None:
    w = world_for_test(num_blocks=41, max_num_batched_tokens=200)
    w.add(request_for_test("a", list(range(152))))
    assert w.run()[0] == {"a": 152}
    assert w.host.finish("a") is FinishReason.LENGTH


def crowded(seed: int) -> World:
    """A load that is always more than there are blocks for, of outputs that are as long as was said."""
    rng = Random(seed)
    block_size = rng.choice([4, 8])
    w = world_for_test(
        block_size=block_size,
        num_blocks=rng.choice([20, 28, 40]),
        max_num_seqs=rng.choice([6, 12, 20]),
        max_model_len=80,
        max_num_batched_tokens=rng.choice([36, 64]),
        enable_prefix_caching=rng.random() < 0.5,
    )
    shortest = rng.choice([1, block_size, 12])
    longest = shortest + rng.choice([1, block_size, 2 * block_size])
    for index in range(rng.randint(20, 40)):
        prompt = [rng.randint(1, 99) for _ in range(rng.randint(1, rng.choice([3, 12, 40])))]
        params = SamplingParams(max_tokens=rng.randint(shortest, longest), seed=1)
        w.add(request_for_test(f"r{index}", prompt, params=params))
        for _ in range(rng.choice([0, 0, 0, 1, 3])):
            w.step()
    return w


@pytest.mark.parametrize("seeds", [range(50, 65), range(76, 82), [115, 203, 222, 231]], ids=str)
def test_nobody_is_turned_out_if_outputs_are_as_long_as_expected(seeds: Sequence[int]) -> None:
    """Some of these loads need the round more for borders of blocks, or the delay for prompts."""
    for seed in seeds:
        w = crowded(seed)
        assert w.scheduler.num_waiting > 0
        w.run()
        assert w.counters()["preemptions"] == 0, f"seed {seed}"
        assert all(w.host.finish(name) is FinishReason.LENGTH for name, _ in w.requests)


def test_the_one_with_least_slack_is_next_and_one_without_a_deadline_is_not_forgotten() -> None:
    w = world_for_test(max_num_seqs=1)
    one = SamplingParams(max_tokens=1, seed=1)
    w.add(request_for_test("patient", [1], params=one))
    w.add(request_for_test("late", [2], params=one, deadline=20_000_000))
    w.add(request_for_test("soon", [3], params=one, deadline=5_000_000))
    w.add(request_for_test("interactive", [4], params=one, deadline=90_000_000, klass=RequestClass.INTERACTIVE))
    assert [list(step) for step in w.run()] == [["interactive"], ["soon"], ["patient"], ["late"]]


def test_a_prompt_moves_on_though_all_others_decode() -> None:
    w = world_for_test(max_num_batched_tokens=24, decode_chunk=16, max_num_seqs=8, num_blocks=200)
    for name in "abcdefg":
        w.add(request_for_test(name, [*name.encode()], params=SamplingParams(max_tokens=40, seed=1)))
    w.step()
    w.add(request_for_test("long", list(range(60))))
    assert [w.step().num_scheduled_tokens["long"] for _ in range(4)] == [16, 16, 16, 12]


def test_one_with_the_same_beginning_waits_a_step_and_then_finds_it() -> None:
    w = world_for_test()
    w.add(request_for_test("a", list(range(30))))
    w.add(request_for_test("b", [*range(24), 99, 98]))
    w.add(request_for_test("c", list(range(50, 70))))  # nobody computes its beginning
    w.add(request_for_test("d", list(range(30)), salt=1))  # nor this one's
    steps = w.run()
    assert steps[0] == {"a": 30, "c": 20}
    assert steps[1] == {"a": 1, "c": 1, "b": 2}
    assert w.host.outputs("b")[0].num_cached_tokens == 24


def test_without_a_cache_nobody_waits_for_what_cannot_be_found() -> None:
    w = world_for_test(enable_prefix_caching=False)
    for name in ("a", "b"):
        w.add(request_for_test(name, list(range(30))))
    assert w.run()[0] == {"a": 30, "b": 30}


@pytest.mark.parametrize(("micros", "waits"), [(7_000, False), (90_000, True)])
def test_one_that_is_in_a_hurry_does_not_wait_for_it(micros: int, waits: bool) -> None:
    w = world_for_test()
    w.add(request_for_test("warm", list(range(100, 150)), params=SamplingParams(max_tokens=1, seed=1)))
    w.run()
    assert w.host.steps[-1].step_micros == 5900  # two of these are more than 7000
    w.add(request_for_test("a", list(range(30)), deadline=w.now))
    w.add(request_for_test("b", list(range(30)), deadline=w.now + micros))
    assert ("b" not in w.run()[0]) is waits
