"""What a request's class does: who is let in first, who yields first, and where rows stand in a batch."""

from __future__ import annotations

import pytest
from support.engine_rig import oracle_of, request_for_test
from support.scheduler_world import world_for_test

from pyworker.engine.request import RequestClass, SamplingParams


def test_a_higher_class_goes_before_and_inside_a_class_those_under_way() -> None:
    w = world_for_test(max_num_seqs=1)
    params = SamplingParams(max_tokens=1, seed=1)
    resumed = request_for_test("offline resumed", [9], klass=RequestClass.OFFLINE)
    resumed.output_ids = oracle_of(resumed)[:7]
    for name, klass in (
        ("offline", RequestClass.OFFLINE),
        ("standard", RequestClass.STANDARD),
        ("interactive", RequestClass.INTERACTIVE),
        ("interactive 2", RequestClass.INTERACTIVE),
        ("standard 2", RequestClass.STANDARD),
    ):
        w.add(request_for_test(name, [*name.encode()][:5], params=params, klass=klass))
    w.add(resumed)
    order = [next(iter(step)) for step in w.run()]
    assert order == ["interactive", "interactive 2", "standard", "standard 2", "offline resumed", "offline"]


@pytest.mark.parametrize(
    ("old", "middle", "young", "order"),
    [
        ("OFFLINE", "INTERACTIVE", "STANDARD", ["old", "young"]),
        ("STANDARD", "OFFLINE", "INTERACTIVE", ["middle", "old"]),
        ("INTERACTIVE", "STANDARD", "INTERACTIVE", ["middle", "young"]),
        ("OFFLINE", "STANDARD", "OFFLINE", ["young", "old"]),
    ],
)
def test_the_lowest_class_yields_first_and_inside_it_the_youngest(
    old: str, middle: str, young: str, order: list[str]
) -> None:
    w = world_for_test(num_blocks=10)  # three of 6 + 24 - 1 tokens would take 24 blocks
    params = SamplingParams(max_tokens=24, seed=7)
    for name, klass in (("old", old), ("middle", middle), ("young", young)):
        w.add(
            request_for_test(name, [*name.encode(), 1, 2, 3][:6], params=params, klass=RequestClass[klass], expected=1)
        )
    yielded: list[str] = []
    while (out := w.step()).num_scheduled_tokens:
        yielded += [name for name in out.finished_ids if not w.requests[name, 0].status.is_finished]
    assert list(dict.fromkeys(yielded)) == order
    for name in ("old", "middle", "young"):
        assert w.host.tokens(name) == oracle_of(w.requests[name, 0])


def test_of_those_that_may_not_go_on_the_lowest_class_yields_first() -> None:
    w = world_for_test(max_num_seqs=2)
    w.add(request_for_test("offline", [1, 2], credit=1, klass=RequestClass.OFFLINE))
    w.add(request_for_test("interactive", [3, 4], credit=1, klass=RequestClass.INTERACTIVE))
    w.run()
    w.add(request_for_test("new", [5, 6], credit=2))
    w.run()
    assert [w.requests[name, 0].status.name for name in ("offline", "interactive")] == ["PREEMPTED", "RUNNING"]


def test_offline_rows_stand_last_in_the_batch() -> None:
    w = world_for_test()
    for name, klass in (("a", RequestClass.OFFLINE), ("b", RequestClass.INTERACTIVE), ("c", RequestClass.STANDARD)):
        w.add(request_for_test(name, [1, 2, 3], klass=klass))
    assert [list(step) for step in w.run()] == [["b", "c", "a"]] * 8
