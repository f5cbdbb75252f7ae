"""One step ahead: what is planned, what comes true of it, and when outputs are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pytest
from support.engine_rig import BusyHost, RecordingHost, Rig, oracle_of, request_for_test, rig_for_test
from support.scheduler_stubs import StubGrammar, StubSpeculator, right_drafts
from support.scheduler_world import World, world_for_test

from pyworker.engine.config import EngineConfig
from pyworker.engine.interface import EngineHost
from pyworker.engine.outputs import FinishReason, ModelRunnerOutput, SchedulerOutput
from pyworker.engine.planner import InlinePlanner
from pyworker.engine.policies import Policies
from pyworker.engine.queue import ClassOrder
from pyworker.engine.request import Grammar, GrammarKind, Request, RequestClass, SamplingParams
from pyworker.errors import EngineFailed, IntegrityError, InvalidRequest
from pyworker.runner.safepoint import Yield
from pyworker.runner.sim import SimRunner

LONG = SamplingParams(max_tokens=40, seed=7)


class WatchedRunner:
    """A simulated runner; `during` is called in the middle of each step."""

    def __init__(self, config: EngineConfig, during: Callable[[SchedulerOutput], None] = lambda _: None) -> None:
        self.sim = SimRunner(config)
        self.during = during
        self.steps: list[SchedulerOutput] = []

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        self.steps.append(out)
        result = self.sim.execute(out, host)
        self.during(out)
        return result

    def memory_bytes(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self.sim.close()


def busy_rig(during: Callable[[SchedulerOutput], None] = lambda _: None, late: bool = False) -> tuple[Rig, BusyHost]:
    host = BusyHost()
    runner = WatchedRunner(rig_for_test().config, during)
    return rig_for_test(runner, planner=InlinePlanner(late=late), host=host), host


def planned_world(*names: str, policies: Policies | None = None, params: SamplingParams = LONG) -> World:
    """A world in which these requests decode, and the next step is planned."""
    world = world_for_test(policies)
    world.planner = InlinePlanner()
    for name in names:
        world.add(request_for_test(name, [*name.encode(), 1, 2, 3], params=params))
    world.step()
    assert world.scheduler.has_plan
    return world


@pytest.mark.parametrize("klass", [RequestClass.STANDARD, RequestClass.OFFLINE])
def test_a_step_of_decodes_is_the_plan(klass: RequestClass) -> None:
    world = world_for_test()
    world.planner = InlinePlanner()
    for name in "ab":
        world.add(request_for_test(name, [1, 2, 3, *name.encode()], params=LONG, klass=klass))
    world.step()
    world.kv_cache.allocate_slots = None
    assert world.scheduler.schedule(world.now).num_scheduled_tokens == {"a": 1, "b": 1}


def test_rows_that_will_have_ended_are_left_out() -> None:
    world = world_for_test(max_model_len=12)
    world.planner = InlinePlanner()
    world.add(request_for_test("max", [1], params=SamplingParams(max_tokens=1)))
    world.add(request_for_test("context", [2] * 11, params=LONG))
    world.add(request_for_test("credit", [3], params=LONG, credit=1))
    world.step()
    assert not world.scheduler.has_plan
    assert world.live() == [world.requests["credit", 0]]
    assert len(world.requests["credit", 0].block_table) == 1


def test_what_was_not_expected_is_scheduled_all_the_same() -> None:
    world = planned_world("a", "b")
    world.scheduler.cancel("a")
    world.add(request_for_test("c", [9] * 6))
    assert world.step().num_scheduled_tokens == {"b": 1, "c": 6}


def test_a_row_that_stops_is_not_in_the_next_step() -> None:
    first = oracle_of(request_for_test("a", [*b"a", 1, 2, 3], params=LONG))[0]
    world = world_for_test(eos_ids=frozenset({first}))
    world.planner = InlinePlanner()
    for name in "ab":
        world.add(request_for_test(name, [*name.encode(), 1, 2, 3], params=LONG))
    world.step()
    assert world.host.finish("a") is FinishReason.STOP
    assert world.step().num_scheduled_tokens == {"b": 1}


def test_granted_rows_join_the_planned_ones() -> None:
    world = world_for_test()
    world.planner = InlinePlanner()
    world.add(request_for_test("a", [1, 2, 3], params=LONG, credit=1))
    world.add(request_for_test("b", [1, 2, 4], params=LONG))
    world.step()
    assert world.step().num_scheduled_tokens == {"b": 1}
    world.scheduler.grant("a", 9)
    assert world.step().num_scheduled_tokens == {"a": 1, "b": 1}


def test_offline_rows_of_a_plan_stand_back_for_those_who_come() -> None:
    world = world_for_test(max_num_seqs=2)
    world.planner = InlinePlanner()
    for name in "ab":
        world.add(request_for_test(name, [1, 2, 3, *name.encode()], params=LONG, klass=RequestClass.OFFLINE))
    world.step()
    assert world.scheduler.has_plan
    world.add(request_for_test("c", [9] * 6))
    assert world.step().num_scheduled_tokens == {"c": 6, "a": 1}


def test_a_full_house_does_not_look_at_the_queue() -> None:
    world = world_for_test(max_num_seqs=2)
    world.planner = InlinePlanner()
    for name in "abcd":
        world.add(request_for_test(name, [1, 2, 3, *name.encode()], params=LONG))
    world.step()
    world.scheduler._roster.waiting.in_order = None
    assert world.step().num_scheduled_tokens == {"a": 1, "b": 1}


def test_nothing_is_reserved_where_blocks_are_few() -> None:
    world = world_for_test(num_blocks=6)
    world.planner = InlinePlanner()
    for name in "ab":
        world.add(request_for_test(name, [1, 2, 3, *name.encode()], expected=1))
    world.step()
    assert not world.scheduler.has_plan
    assert [len(row.block_table) for row in world.live()] == [1, 1]


def test_drafts_and_masks_are_bound_late() -> None:
    policies = Policies(grammar=StubGrammar(), speculator=StubSpeculator(lambda row: right_drafts(row, 3)))
    world = planned_world("a", policies=policies)
    world.add(request_for_test("g", [5], params=SamplingParams(max_tokens=20, grammar=Grammar(GrammarKind.REGEX, "0"))))
    world.step()
    emitted = len(world.requests["a", 0].output_ids)
    assert emitted == 5
    world.scheduler._choose = None
    out = world.scheduler.schedule(world.now)
    assert out.drafts["a"] == oracle_of(world.requests["a", 0])[emitted : emitted + 3]
    assert out.masks is not None
    assert "g" in out.masks


def test_a_parked_step_has_no_plan() -> None:
    world = world_for_test(layers=2)
    world.planner = InlinePlanner()
    world.add(request_for_test("a", [1, 2, 3], params=LONG, klass=RequestClass.OFFLINE))
    world.step()
    world.runner.ask_at(1)
    world.step()
    assert world.scheduler.num_parked == 1
    world.runner.safepoint.clear()
    out = world.step()
    assert out.num_scheduled_tokens == {"a": 1}
    assert len(out.joins) == 1


def test_a_prompt_that_was_stopped_on_its_way_is_computed_as_one() -> None:
    world = world_for_test(layers=2)
    world.planner = InlinePlanner()
    world.add(request_for_test("a", [1, 2, 3, 4, 5, 6], params=LONG))
    world.runner.ask_at(1, Yield.STOP)
    world.step()
    world.runner.safepoint.clear()
    assert world.step().num_scheduled_tokens == {"a": 6}


def test_nothing_is_reserved_for_a_request_that_has_left() -> None:
    world = world_for_test()
    world.add(request_for_test("a", [1, 2, 3, 4], params=LONG))
    out = world.scheduler.schedule(0)
    world.scheduler.add(request_for_test("a", [1, 2, 3, 4], params=LONG, attempt=1))
    world.scheduler.plan_ahead(out)
    world.scheduler.check()
    assert world.kv_cache.usage().used == 0


def test_outputs_are_held_until_the_next_step_has_begun_and_no_longer() -> None:
    sent_during: list[int] = []
    rig, host = busy_rig(lambda _: sent_during.append(len(host.steps)))
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=SamplingParams(max_tokens=3, seed=7)))
    sent_after = []
    for _ in range(3):
        assert rig.engine.step()
        sent_after.append(len(host.steps))
    assert sent_during == [0, 1, 2]
    assert sent_after == [0, 1, 3]  # the last step's are sent at once: nothing follows


def test_outputs_are_sent_before_anything_else_is_done() -> None:
    host = BusyHost()
    seen: list[tuple[int, int]] = []
    rig = rig_for_test(planner=InlinePlanner(), host=host)
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    host.inbox.append(lambda: seen.append((len(host.steps), rig.engine.stats().kv_blocks_used)))
    used = rig.engine.stats().kv_blocks_used
    rig.engine.step()
    assert seen == [(1, used)]


def test_a_host_that_knows_nothing_of_it_is_told_at_once() -> None:
    rig = rig_for_test(planner=InlinePlanner())
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    assert len(rig.host.steps) == 1


def test_held_outputs_can_be_had() -> None:
    rig, host = busy_rig()
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    rig.engine.flush()
    rig.engine.flush()
    assert len(host.steps) == 1
    rig.engine.step()
    assert len(host.steps) == 1


def test_held_outputs_of_a_request_that_is_cancelled_come_before_its_end() -> None:
    rig, host = busy_rig()
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    rig.engine.cancel("a")
    rig.run()
    assert [len(output.token_ids) for output in host.outputs("a")] == [1, 0]
    assert host.finish("a") is FinishReason.CANCELLED


@pytest.mark.parametrize("late", [False, True])
def test_orders_given_during_a_step_take_hold_with_the_next(late: bool) -> None:
    rig, host = busy_rig(late=late)
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    host.inbox.append(partial(rig.engine.submit, request_for_test("b", [1, 2, 4])))
    rig.engine.step()
    rig.engine.step()
    rig.engine.flush()
    assert len(host.tokens("b")) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_higher_attempt_during_a_step_waits_for_its_end(late: bool) -> None:
    rig, host = busy_rig(late=late)
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    again = request_for_test("a", [1, 2, 3], params=LONG, attempt=1, credit=0)
    host.inbox += [
        partial(rig.engine.submit, again),
        partial(rig.engine.grant, "a", 2),
        partial(rig.engine.submit, request_for_test("a", [1, 2, 3], params=LONG, attempt=1)),
        partial(rig.engine.cancel, "a"),
    ]
    rig.engine.step()
    rig.run()
    assert host.finish("a") is None
    assert host.finish("a", attempt=1) is FinishReason.CANCELLED
    assert again.credit_up_to == 2


def test_a_higher_attempt_that_is_refused_during_a_step_is_refused_at_once_and_drops_the_lower_one() -> None:
    rig, host = busy_rig()
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    refused: list[str] = []

    def submit() -> None:
        try:
            rig.engine.submit(request_for_test("a", [], attempt=1))
        except InvalidRequest as refusal:
            refused.append(refusal.code)

    host.inbox.append(submit)
    rig.engine.step()
    assert refused == ["invalid_request"]
    assert rig.run() == 0
    assert rig.engine.stats().num_running == 0
    assert host.finish("a") is None


@pytest.mark.parametrize("late", [False, True])
def test_a_failed_step_loses_no_outputs(late: bool) -> None:
    failing = [True]

    def fail(out: SchedulerOutput) -> None:
        if len(out.num_scheduled_tokens) == 2 and out.requests["a"].num_tokens == 6 and failing:
            failing.clear()
            raise ZeroDivisionError("once")

    rig, host = busy_rig(fail, late)
    for name in "ab":
        rig.engine.submit(request_for_test(name, [1, 2, 3], params=LONG))
    rig.run()
    assert not failing
    for name in "ab":
        assert host.tokens(name) == oracle_of(request_for_test(name, [1, 2, 3], params=LONG))
        starts = [output.start for output in host.outputs(name)]
        assert starts == sorted(starts)


def test_an_engine_that_fails_sends_what_it_held() -> None:
    def fail(out: SchedulerOutput) -> None:
        if any(row.output_ids for row in out.requests.values()):
            raise ZeroDivisionError("always")

    rig, host = busy_rig(fail, late=True)
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    assert host.steps == []
    rig.engine.step()
    assert host.finish("a") is FinishReason.ERROR
    held = request_for_test("b", [1, 2, 3], params=LONG)
    rig.engine.submit(held)
    rig.engine.step()
    assert host.tokens("b") == []
    with pytest.raises(EngineFailed):
        rig.engine.step()
    assert host.tokens("b") == held.output_ids


def test_outputs_of_a_step_that_failed_are_not_held() -> None:
    failing = [True]

    def fail(out: SchedulerOutput) -> None:
        if failing and out.requests["a"].output_ids:
            failing.clear()
            raise ZeroDivisionError("once")

    rig, host = busy_rig(fail)
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    rig.engine.step()
    assert not failing
    assert len(host.tokens("a")) == 2


class BreakingOrder(ClassOrder):
    """Raises as soon as it is asked for anybody called b."""

    def key(self, request: Request, now: int) -> tuple[int, ...]:
        if request.request_id == "b":
            raise IntegrityError("broken", {})
        return super().key(request, now)


def test_an_engine_that_fails_between_steps_sends_what_it_held() -> None:
    host = BusyHost()
    rig = rig_for_test(policies=Policies(order=BreakingOrder()), planner=InlinePlanner(), host=host)
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    assert host.steps == []
    rig.engine.submit(request_for_test("b", [1, 2, 3], params=LONG))
    with pytest.raises(IntegrityError):
        rig.engine.step()
    assert len(host.tokens("a")) == 1


def test_what_a_host_raises_beside_a_step_comes_out_of_it() -> None:
    rig, host = busy_rig()
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    host.inbox.append(partial(divmod, 1, 0))
    with pytest.raises(ZeroDivisionError):
        rig.engine.step()


def test_off_is_off() -> None:
    host = BusyHost()
    rig = rig_for_test(planner=InlinePlanner(), host=host, async_scheduling=False)
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG))
    rig.engine.step()
    assert len(host.steps) == 1
    rig.run()
    assert host.drained == 0


def test_the_last_outputs_never_wait() -> None:
    rig = rig_for_test(planner=InlinePlanner(), host=BusyHost())
    rig.engine.submit(request_for_test("a", [1, 2, 3], params=LONG, credit=2))
    rig.engine.step()
    rig.engine.step()
    assert len(rig.host.tokens("a")) == 2
    assert isinstance(rig.host, RecordingHost)
