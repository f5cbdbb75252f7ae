"""The engine as a whole: failing steps, attempts, cancels, ends, its books and its counters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pytest
from support.engine_rig import Rig, config_for_test, oracle_of, request_for_test, rig_for_test
from support.scheduler_stubs import Pressure, StubSpeculator, right_drafts

from pyworker.engine.interface import EngineHost
from pyworker.engine.outputs import FinishReason, ModelRunnerOutput, RowResult, SchedulerOutput
from pyworker.engine.policies import Policies
from pyworker.engine.request import Request, RequestClass, SamplingParams
from pyworker.errors import DuplicateAttempt, EngineFailed, IntegrityError, SlackwaterError
from pyworker.runner.sim import SimRunner


class FaultyRunner:
    """A simulated runner with something done to each step before or after it is computed."""

    def __init__(
        self,
        before: Callable[[SchedulerOutput], None] = lambda _: None,
        after: Callable[[ModelRunnerOutput], None] = lambda _: None,
    ) -> None:
        self.sim = SimRunner(config_for_test())
        self.before, self.after = before, after
        self.batches: list[list[str]] = []
        self.finished: list[list[str]] = []
        self.closed = 0

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        self.batches.append(list(out.num_scheduled_tokens))
        self.finished.append(list(out.finished_ids))
        self.before(out)
        result = self.sim.execute(out, host)
        self.after(result)
        return result

    def memory_bytes(self) -> Mapping[str, int]:
        return {"weights": 3, "kv": 4}

    def close(self) -> None:
        self.closed += 1


def poisoned_by(name: str, *, at_output: int) -> Callable[[SchedulerOutput], None]:
    def before(out: SchedulerOutput) -> None:
        request = out.requests.get(name)
        if request is not None and len(request.output_ids) == at_output:
            raise ZeroDivisionError("poison")

    return before


def submit(rig: Rig, *names: str) -> dict[str, list[int]]:
    """Submit one request a name; what the oracle says of each."""
    requests = [request_for_test(name, [*name.encode(), 1, 2, 3, 4, 5, 6]) for name in names]
    for request in requests:
        rig.engine.submit(request)
    return {request.request_id: oracle_of(request) for request in requests}


def test_a_poisonous_request_ends_alone_and_the_others_go_on_unharmed() -> None:
    runner = FaultyRunner(poisoned_by("b", at_output=3))
    rig = rig_for_test(runner)
    expected = submit(rig, "a", "b", "c")
    rig.run()
    assert runner.batches[3:7] == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    (end,) = [output for output in rig.host.outputs("b") if output.finish]
    assert (end.finish, end.error_code, end.start, end.token_ids) == (FinishReason.ERROR, "internal", 3, [])
    assert "poison" not in end.error_message
    assert {name: rig.host.tokens(name) for name in "abc"} == expected | {"b": expected["b"][:3]}
    assert [rig.host.finish(name) for name in "ac"] == [FinishReason.LENGTH] * 2


def test_rows_are_freed_once_when_a_failed_step_is_run_again() -> None:
    runner = FaultyRunner(poisoned_by("b", at_output=0))
    rig = rig_for_test(runner)
    submit(rig, "a")
    rig.engine.step()
    rig.engine.cancel("a")
    submit(rig, "b", "c")
    rig.engine.step()
    assert runner.batches == [["a"], ["b", "c"], ["b"], ["c"]]
    assert runner.finished == [[], ["a"], ["a"], []]


def test_a_step_that_fails_only_once_costs_nobody_anything() -> None:
    failures = [RuntimeError("passing")]

    def before(_: SchedulerOutput) -> None:
        if failures:
            raise failures.pop()

    rig = rig_for_test(FaultyRunner(before))
    expected = submit(rig, "a", "b")
    rig.run()
    assert {name: rig.host.tokens(name) for name in "ab"} == expected


@pytest.mark.parametrize(("apart_micros", "fails"), [(9_999_999, True), (10_000_000, False)])
def test_a_second_failed_step_within_ten_seconds_ends_the_engine(apart_micros: int, fails: bool) -> None:
    rig = rig_for_test(FaultyRunner(poisoned_by("a", at_output=1)))
    submit(rig, "a")
    rig.run()
    rig.clock.sleep(apart_micros)
    rig.engine.submit(request_for_test("a", [9, 9], attempt=1))
    rig.engine.step()
    if not fails:
        rig.engine.step()
        assert rig.host.finish("a", 1) is FinishReason.ERROR
        return
    with pytest.raises(EngineFailed) as caught:
        rig.engine.step()
    assert (caught.value.exit_code, caught.value.window_micros) == (70, 10_000_000)
    with pytest.raises(EngineFailed):
        rig.engine.submit(request_for_test("b", [1]))
    with pytest.raises(EngineFailed):
        rig.engine.step()


def test_an_error_that_the_runner_raises_on_purpose_is_not_tried_again() -> None:
    def before(_: SchedulerOutput) -> None:
        raise SlackwaterError("stop")

    runner = FaultyRunner(before)
    rig = rig_for_test(runner)
    submit(rig, "a", "b")
    with pytest.raises(SlackwaterError, match="stop"):
        rig.engine.step()
    assert runner.batches == [["a", "b"]]


@pytest.mark.parametrize(
    ("spoilt", "code"),
    [
        (RowResult(error="numerics_error", message="NaN"), "numerics_error"),
        (RowResult([5, 5]), "internal"),
        (RowResult([]), "internal"),
        (RowResult([1000]), "internal"),
        (None, "internal"),
    ],
    ids=["numerics", "two tokens", "no token", "token too high", "no row"],
)
def test_a_spoilt_row_ends_its_request_only(spoilt: RowResult | None, code: str) -> None:
    def after(result: ModelRunnerOutput) -> None:
        if "b" in result.rows:
            del result.rows["b"]
            if spoilt is not None:
                result.rows["b"] = spoilt

    rig = rig_for_test(FaultyRunner(after=after))
    expected = submit(rig, "a", "b")
    rig.run()
    assert [(out.finish, out.error_code) for out in rig.host.outputs("b")] == [(FinishReason.ERROR, code)]
    assert rig.host.tokens("a") == expected["a"]


def test_blocks_of_a_step_with_bad_numbers_are_not_found_again() -> None:
    def after(result: ModelRunnerOutput) -> None:
        if "bad" in result.rows:
            result.rows["bad"] = RowResult(error="numerics_error")

    rig = rig_for_test(FaultyRunner(after=after))
    for name, cached in (("bad", 0), ("second", 0), ("third", 16)):
        rig.engine.submit(request_for_test(name, list(range(19))))
        rig.run()
        assert rig.host.outputs(name)[0].num_cached_tokens == cached


def test_broken_books_are_found_when_idle_and_end_the_engine() -> None:
    rig = rig_for_test()
    request = request_for_test("a", [1, 2, 3], credit=1)
    rig.engine.submit(request)
    rig.run()
    rig.engine.grant("a", 2)
    rig.run()
    rig.engine.grant("a", 3)
    rig.engine.step()
    request.block_table.pop()
    request.block_table.extend(request.block_table)
    with pytest.raises(IntegrityError) as caught:
        rig.engine.step()
    assert caught.value.exit_code == 71
    with pytest.raises(IntegrityError):
        rig.engine.submit(request_for_test("b", [1]))


def test_attempts() -> None:
    rig = rig_for_test()
    submit(rig, "a")
    rig.engine.step()
    rig.engine.submit(request_for_test("a", [7, 8], attempt=2))
    rig.engine.submit(request_for_test("a", [9], attempt=1))
    with pytest.raises(DuplicateAttempt) as caught:
        rig.engine.submit(request_for_test("a", [7, 8], attempt=2))
    assert (caught.value.request_id, caught.value.attempt) == ("a", 2)
    rig.run()
    assert [len(rig.host.outputs("a", attempt)) for attempt in (0, 1, 2)] == [1, 0, 8]
    assert (rig.host.finish("a", 0), rig.host.finish("a", 2)) == (None, FinishReason.LENGTH)
    assert rig.host.tokens("a", 2) == oracle_of(request_for_test("a", [7, 8]))


def test_a_cancel_for_a_busy_engine_travels_with_the_next_step() -> None:
    rig = rig_for_test()
    submit(rig, "a", "b")
    rig.engine.step()
    rig.engine.cancel("a")
    rig.engine.step()
    step = rig.host.steps[-1]
    assert [(out.request_id, out.finish, out.start) for out in step.outputs] == [
        ("a", FinishReason.CANCELLED, 1),
        ("b", None, 1),
    ]
    assert step.step_micros > 0


def test_a_cancel_for_an_idle_engine_is_confirmed_outside_a_step() -> None:
    rig = rig_for_test()
    rig.engine.submit(request_for_test("a", [1], credit=1))
    rig.run()
    rig.engine.cancel("a")
    assert rig.engine.step()
    assert [(step.step_micros, [out.finish for out in step.outputs]) for step in rig.host.steps[1:]] == [
        (0, [FinishReason.CANCELLED])
    ]
    assert not rig.engine.step()


@pytest.mark.parametrize(
    ("params", "length", "finish"),
    [
        (SamplingParams(max_tokens=8, seed=7), 3, FinishReason.STOP),
        (SamplingParams(max_tokens=8, min_tokens=2, seed=7), 3, FinishReason.STOP),
        (SamplingParams(max_tokens=8, min_tokens=3, seed=7), 8, FinishReason.LENGTH),
        (SamplingParams(max_tokens=8, ignore_eos=True, seed=7), 8, FinishReason.LENGTH),
        (SamplingParams(max_tokens=3, seed=7), 3, FinishReason.STOP),
        (SamplingParams(max_tokens=2, seed=7), 2, FinishReason.LENGTH),
    ],
)
def test_ends(params: SamplingParams, length: int, finish: FinishReason) -> None:
    request = request_for_test("a", [1, 2, 3], params=params)
    tokens = oracle_of(request_for_test("a", [1, 2, 3]))
    rig = rig_for_test(eos_ids=frozenset({tokens[2]}))
    rig.engine.submit(request)
    rig.run()
    assert (rig.host.tokens("a"), rig.host.finish("a")) == (tokens[:length], finish)


def test_the_context_ends_a_request_too() -> None:
    rig = rig_for_test(max_model_len=12)
    rig.engine.submit(request_for_test("a", list(range(9)), params=SamplingParams(max_tokens=50, seed=7)))
    rig.run()
    assert (len(rig.host.tokens("a")), rig.host.finish("a")) == (3, FinishReason.LENGTH)


def test_metrics_tell_steps_of_exactly_sixteen_rows() -> None:
    rig = rig_for_test(max_num_seqs=16, max_num_batched_tokens=200, num_blocks=200)
    for index in range(16):
        rig.engine.submit(request_for_test(f"r{index:02d}", [index, 1, 2, 3, 4, 5]))
    rig.run()
    rig.engine.submit(request_for_test("again", [0, 1, 2, 3, 4, 5]))
    rig.run()
    stats = rig.engine.stats()
    metrics = {(name, label): value for name, label, value in stats.metrics}
    buckets = {label: value for (name, label), value in metrics.items() if name == "step_rows_bucket"}
    assert buckets == {"1": 8, "2": 8, "4": 8, "8": 8, "15": 8, "16": 16, "32": 16, "64": 16, "+Inf": 16}
    counters = {name: value for (name, label), value in metrics.items() if label is None}
    assert counters == {
        "step_rows_sum": 16 * 8 + 8,
        "step_rows_count": 16,
        "prompt_tokens": 17 * 6,
        "generation_tokens": 17 * 8,
        "prefix_cache_queries": 17 * 6,
        "prefix_cache_hits": 4,
        "preemptions": 0,
        "forks": 0,
        "draft_tokens": 0,
        "accepted_draft_tokens": 0,
        "parked_slices": 0,
        "parked_tokens_wasted": 0,
    }
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used, stats.kv_blocks_total) == (0, 0, 0, 199)


def test_memory_is_told_and_the_runner_is_closed_once() -> None:
    runner = FaultyRunner()
    rig = rig_for_test(runner)
    memory = [metric for metric in rig.engine.stats().metrics if metric[0] == "memory_bytes"]
    assert memory == [("memory_bytes", "weights", 3), ("memory_bytes", "kv", 4)]
    rig.engine.close()
    rig.engine.close()
    assert runner.closed == 1


def rebuilt(rig: Rig, told: dict[tuple[int, int], int], sent: int) -> int:
    """Apply the events of all steps from number `sent` on to what is known; how many steps there are."""
    for step in rig.host.steps[sent:]:
        if step.kv_events.cleared:
            told.clear()
        for key in step.kv_events.removed:
            del told[key]
        told.update({(block.salt, block.block_hash): block.parent_hash for block in step.kv_events.stored})
    return len(rig.host.steps)


def test_events_travel_with_the_step_that_made_them_true() -> None:
    rig = rig_for_test()
    rig.engine.submit(request_for_test("a", list(range(9)), params=SamplingParams(max_tokens=4, seed=7)))
    rig.run()
    assert [len(step.kv_events.stored) for step in rig.host.steps] == [2, 0, 0, 1]
    (first, second), third = rig.host.steps[0].kv_events.stored, rig.host.steps[3].kv_events.stored[0]
    assert (first.parent_hash, second.parent_hash, third.parent_hash) == (0, first.block_hash, second.block_hash)


def test_blocks_asked_for_come_with_the_next_step_or_at_once_when_idle() -> None:
    rig = rig_for_test(num_blocks=12)
    for name in ("a", "b", "c"):
        rig.engine.submit(request_for_test(name, [*name.encode(), *range(12)]))
        rig.run()
    told: dict[tuple[int, int], int] = {}
    sent = rebuilt(rig, told, 0)
    assert len(told) > 5
    rig.engine.ask_blocks()
    assert rig.engine.step()
    assert not rig.engine.step()
    assert len(rig.host.steps) == sent + 1
    (idle,) = rig.host.steps[sent:]
    assert (idle.outputs, idle.step_micros, idle.kv_events.cleared) == ([], 0, True)
    assert {(block.salt, block.block_hash): block.parent_hash for block in idle.kv_events.stored} == told
    rig.engine.submit(request_for_test("d", list(range(20))))
    rig.engine.ask_blocks()
    rig.engine.step()
    busy = rig.host.steps[sent + 1]
    assert busy.kv_events.cleared
    assert [output.request_id for output in busy.outputs] == ["d"]
    rig.run()
    rebuilt(rig, told, sent)
    known: dict[tuple[int, int], int] = {}
    rig.engine.ask_blocks()
    rig.engine.step()
    rebuilt(rig, known, len(rig.host.steps) - 1)
    assert known == told


def test_a_failed_step_is_run_again_without_drafts_and_joins_and_with_its_copies() -> None:
    """Choices are forked, rows were parked and drafts are in play when the step fails."""
    failures: list[RuntimeError] = []

    def before(_: SchedulerOutput) -> None:
        if failures:
            raise failures.pop()

    runner = FaultyRunner(before)
    seen: list[SchedulerOutput] = []
    execute = runner.sim.execute

    def watched(out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        seen.append(out)
        return execute(out, host)

    runner.sim.execute = watched  # type: ignore[method-assign]
    speculator = StubSpeculator(lambda request: right_drafts(request, 2))
    rig = rig_for_test(runner, Policies(speculator=speculator, joins=Pressure()))
    offline = request_for_test("off", [5, 6, 7], klass=RequestClass.OFFLINE)
    choices = [
        request_for_test(name, list(range(10)), params=SamplingParams(max_tokens=12, seed=index), group=("g", index))
        for index, name in enumerate(("c0", "c1", "c2"))
    ]
    for request in (offline, *choices):
        rig.engine.submit(request)
    runner.sim.ask_at(0)
    rig.engine.step()  # the offline row leaves; choice 0 is computed
    runner.sim.safepoint.clear()
    failures.append(RuntimeError("passing"))
    rig.engine.step()
    alone = seen[1:]
    assert [list(out.num_scheduled_tokens.items()) for out in alone] == [
        [("c0", 1)],
        [("c1", 1)],
        [("c2", 1)],
        [("off", 3)],
    ]
    assert [len(out.block_copies) for out in alone] == [0, 1, 1, 0]
    assert all(not out.drafts and not out.joins for out in alone)
    assert ("c0", [], rig.host.tokens("c0")[1:2]) in speculator.observed
    rig.run()
    for request in (offline, *choices):
        assert rig.host.tokens(request.request_id) == oracle_of(request)


def test_a_bug_outside_the_runner_ends_the_engine_too() -> None:
    """What is not foreseen may have left a step half counted: nothing more is taken, so that no token can be wrong."""

    def guess(request: Request) -> list[int]:
        raise ZeroDivisionError(request.request_id)

    rig = rig_for_test(policies=Policies(speculator=StubSpeculator(guess)))
    submit(rig, "a")
    with pytest.raises(ZeroDivisionError):
        rig.run()
    for again in (rig.engine.step, partial(rig.engine.submit, request_for_test("b", [1]))):
        with pytest.raises(SlackwaterError, match="a bug: ZeroDivisionError") as caught:
            again()
        assert caught.value.exit_code == 70
    rig.engine.cancel("a")
    rig.engine.grant("a", 5)
    assert rig.engine.stats().num_running == 1
    rig.engine.close()
