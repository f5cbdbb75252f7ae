"""Rows that leave in the middle of a step: kept, brought back, or dropped, and their tokens are the same."""

from __future__ import annotations

import pytest
from support.engine_rig import ConfigOverrides, oracle_of, request_for_test
from support.scheduler_stubs import Pressure, StubSpeculator, right_drafts
from support.scheduler_world import World, world_for_test

from pyworker.engine.outputs import FinishReason, ParkedSlice
from pyworker.engine.policies import Policies
from pyworker.engine.request import RequestClass, RequestStatus, SamplingParams
from pyworker.runner.safepoint import Yield

LAYERS = 4
LONG = SamplingParams(max_tokens=12, seed=7)


def parking_world(**limits: int) -> tuple[World, Pressure]:
    pressure = Pressure()
    speculator = StubSpeculator(lambda request: right_drafts(request, 2))
    changed: ConfigOverrides = limits  # type: ignore[assignment]
    w = world_for_test(Policies(joins=pressure, speculator=speculator), layers=LAYERS, **changed)
    w.add(request_for_test("on", [1, 2, 3], params=LONG))
    for index, length in enumerate((3, 20)):
        prompt = [9 + index, *range(length)]
        w.add(request_for_test(f"off{index}", prompt, params=LONG, klass=RequestClass.OFFLINE))
    return w, pressure


def park(w: World, layer: int = 2) -> None:
    """One step in whose middle offline rows leave."""
    w.runner.ask_at(layer)
    w.step()
    w.runner.safepoint.clear()


def check_all(w: World) -> None:
    w.run()
    for (name, attempt), request in w.requests.items():
        if w.host.finish(name, attempt) is not FinishReason.CANCELLED:
            assert w.host.tokens(name, attempt) == oracle_of(request)
            assert w.host.finish(name, attempt) is FinishReason.LENGTH
    assert (w.scheduler.num_parked, w.kv_cache.usage().used) == (0, 0)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_rows_go_on_from_where_they_were(layer: int, steps: int) -> None:
    """In prefill, in decode and while drafts are verified."""
    w, _ = parking_world()
    for _ in range(steps):
        w.step()
    before = [
        (len(w.requests[name, 0].output_ids), w.requests[name, 0].num_computed_tokens) for name in ("off0", "off1")
    ]
    online = len(w.requests["on", 0].output_ids)
    park(w, layer)
    after = [
        (len(w.requests[name, 0].output_ids), w.requests[name, 0].num_computed_tokens) for name in ("off0", "off1")
    ]
    assert (after, w.scheduler.num_parked) == (before, 1)
    assert len(w.requests["on", 0].output_ids) > online
    assert all(output.request_id == "on" for output in w.host.steps[-1].outputs)
    out = w.step()
    assert [parked.layer for parked in out.joins] == [layer]
    assert set(out.num_scheduled_tokens) == {"on", "off0", "off1"}
    check_all(w)
    assert (w.counters()["parked_slices"], w.counters()["parked_tokens_wasted"]) == (1, 0)


def test_parked_blocks_are_pinned_and_rows_stay_out_while_pressed() -> None:
    w, pressure = parking_world()
    w.step()
    park(w)
    pressure.on = True
    row = w.requests["off1", 0]
    assert [block.ref_count for block in row.block_table] == [2] * len(row.block_table)
    for _ in range(2):
        assert set(w.step().num_scheduled_tokens) == {"on"}
    pressure.on = False
    assert set(w.step().num_scheduled_tokens) == {"on", "off0", "off1"}
    assert [block.ref_count for block in row.block_table] == [1] * len(row.block_table)
    check_all(w)


@pytest.mark.parametrize("how", ["cancelled", "replaced", "turned out"])
def test_a_slice_that_is_no_longer_whole_is_dropped_and_run_again(how: str) -> None:
    w, pressure = parking_world(num_blocks=18 if how == "turned out" else 65)
    w.step()
    park(w)
    pressure.on = True
    if how == "cancelled":
        w.scheduler.cancel("off0")
    elif how == "replaced":
        prompt = w.requests["off0", 0].prompt_ids
        w.add(request_for_test("off0", prompt, params=LONG, attempt=1, klass=RequestClass.OFFLINE))
        del w.requests["off0", 0]
    else:
        w.add(request_for_test("big", list(range(30)), params=SamplingParams(max_tokens=1, seed=1)))
    w.step()
    assert (w.scheduler.num_parked, w.counters()["parked_tokens_wasted"]) == (0, 6)
    if how == "turned out":
        assert RequestStatus.PREEMPTED in [w.requests[name, 0].status for name in ("off0", "off1")]
    check_all(w)


@pytest.mark.parametrize("limit", ["park_max_slices", "park_max_bytes"])
def test_beyond_the_bounds_the_oldest_is_dropped(limit: str) -> None:
    w, pressure = parking_world(**{limit: 1 if limit == "park_max_slices" else 20})
    park(w)  # 4 + 21 tokens
    if limit == "park_max_bytes":
        assert (w.scheduler.num_parked, w.counters()["parked_tokens_wasted"]) == (0, 25)
        check_all(w)
        return
    pressure.on = True
    w.add(request_for_test("off2", [77, 78], params=LONG, klass=RequestClass.OFFLINE))
    park(w)
    assert (w.scheduler.num_parked, w.counters()["parked_tokens_wasted"]) == (1, 25)
    check_all_after(w, pressure)


def test_a_slice_that_is_too_old_is_dropped() -> None:
    w, pressure = parking_world(park_max_micros=5_000)
    park(w)
    pressure.on = True
    w.step()
    assert w.scheduler.num_parked == 1
    w.now += 5_000
    out = w.step()
    assert (w.scheduler.num_parked, w.counters()["parked_tokens_wasted"]) == (0, 25)
    assert (out.joins, "off0" in out.num_scheduled_tokens) == ([], True)
    check_all_after(w, pressure)


def check_all_after(w: World, pressure: Pressure) -> None:
    pressure.on = False
    check_all(w)


def test_a_slice_stays_where_a_step_has_no_room_for_all_of_it() -> None:
    w, _ = parking_world(max_num_batched_tokens=30)
    park(w)
    assert w.scheduler.num_parked == 1
    w.add(request_for_test("long", list(range(100, 140)), params=SamplingParams(max_tokens=1, seed=1)))
    out = w.step()
    assert (w.scheduler.num_parked, "long" in out.num_scheduled_tokens) == (1, True)
    check_all(w)


def test_rows_that_stopped_without_a_slice_are_run_again() -> None:
    w, _ = parking_world()
    w.step()
    w.runner.ask_at(1, Yield.STOP)
    before = [len(request.output_ids) for request in w.requests.values()]
    w.step()
    assert [len(request.output_ids) for request in w.requests.values()] == before
    assert w.scheduler.num_parked == 0
    w.runner.safepoint.clear()
    check_all(w)


def test_a_slice_with_a_row_that_somebody_waits_for_goes_on_at_once() -> None:
    w = world_for_test(Policies(joins=Pressure(on=True)), layers=LAYERS)
    w.add(request_for_test("a", [1, 2, 3], params=LONG))
    out = w.scheduler.schedule(0)
    result = w.runner.execute(out, w.host)
    state = {"a": list(range(3))}
    result.rows["a"].parked = True
    result.parked.append(ParkedSlice(1, {"a": 3}, state))
    w.scheduler.update_from_output(out, result)
    again = w.scheduler.schedule(0)
    assert (again.num_scheduled_tokens, [parked.state for parked in again.joins]) == ({"a": 3}, [state])


def test_a_step_that_rows_have_left_tells_the_speculator_no_size() -> None:
    speculator = StubSpeculator(lambda _: [])
    w = world_for_test(Policies(joins=Pressure(), speculator=speculator), LAYERS)
    for name, klass in (("on", RequestClass.STANDARD), ("off", RequestClass.OFFLINE)):
        w.add(request_for_test(name, [1, 2, 3], params=LONG, klass=klass))
    w.step()
    park(w)
    w.step()
    assert [(num_tokens, num_rows) for num_tokens, num_rows, _ in speculator.steps] == [(6, 2), (0, 2), (2, 2)]
    check_all(w)
