"""The queue of those that wait: the order of its policy, kept from step to step where it cannot have changed."""

from __future__ import annotations

from random import Random

from support.engine_rig import request_for_test

from pyworker.engine.queue import ClassOrder, WaitingQueue
from pyworker.engine.request import Request, RequestClass, RequestStatus


class Counting(ClassOrder):
    """Counts how often a place is looked up."""

    def __init__(self) -> None:
        self.keys = 0

    def key(self, request: Request, now: int) -> tuple[int, ...]:
        self.keys += 1
        return super().key(request, now)


def some(rng: Random, index: int) -> Request:
    request = request_for_test(f"r{index}", [1])
    request.klass = rng.choice(list(RequestClass))
    request.deadline_micros = rng.choice([None, rng.randrange(10_000)])
    request.status = rng.choice([RequestStatus.WAITING, RequestStatus.PREEMPTED])
    request.arrival = index
    return request


def test_the_order_is_that_of_the_policy_whoever_comes_and_goes() -> None:
    for seed in range(50):
        rng, policy, queue = Random(seed), ClassOrder(), WaitingQueue(ClassOrder())
        waiting: list[Request] = []
        for index in range(40):
            if waiting and rng.random() < 0.4:
                queue.remove(waiting.pop(rng.randrange(len(waiting))))
            else:
                waiting.append(some(rng, index))
                queue.add(waiting[-1])
            if rng.random() < 0.7:
                found = queue.in_order(index)
                assert found == sorted(waiting, key=lambda row: (policy.key(row, 0), row.arrival))
                if found:  # whoever walks through it may take requests out
                    before = list(found)
                    queue.remove(waiting.pop(waiting.index(rng.choice(found))))
                    assert found == before


def test_a_request_that_comes_back_stands_where_it_belongs_now() -> None:
    queue, rng = WaitingQueue(ClassOrder()), Random(1)
    one, other = (request_for_test(f"r{index}", [1]) for index in range(2))
    one.arrival, other.arrival = 2, 1
    queue.add(one)
    queue.add(other)
    assert queue.in_order(rng.randrange(9)) == [other, one]
    queue.remove(one)
    one.status = RequestStatus.PREEMPTED
    queue.add(one)
    assert queue.in_order(9) == [one, other]


def test_a_step_at_which_nobody_came_or_went_looks_at_nobody() -> None:
    policy = Counting()
    queue, rng = WaitingQueue(policy), Random(2)
    rows = [some(rng, index) for index in range(100)]
    for row in rows:
        queue.add(row)
    queue.in_order(0)
    queue.remove(rows[50])
    queue.in_order(1)
    assert policy.keys == 100


def test_a_policy_that_looks_at_the_clock_is_asked_each_time() -> None:
    class ByClock:
        def key(self, request: Request, now: int) -> tuple[int, ...]:
            return (request.arrival if now % 2 else -request.arrival,)

    queue = WaitingQueue(ByClock())
    rows = [some(Random(3), index) for index in range(3)]
    for row in rows:
        queue.add(row)
    assert queue.in_order(0) == rows[::-1]
    assert queue.in_order(1) == rows
