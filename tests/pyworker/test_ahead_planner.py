"""Planners do each job once, whoever comes to it, and hand on what it raised."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from pyworker.engine.planner import InlinePlanner, Planner
from pyworker.engine.planner_thread import ThreadPlanner

PLANNERS: list[Callable[[], Planner]] = [InlinePlanner, partial(InlinePlanner, late=True), ThreadPlanner]


@pytest.fixture(params=PLANNERS, ids=["early", "late", "thread"])
def planner(request: pytest.FixtureRequest) -> Iterator[Planner]:
    made: Planner = request.param()
    yield made
    made.close()


def test_each_job_is_done_once(planner: Planner) -> None:
    done: list[int] = []
    for number in range(500):
        planner.start(partial(done.append, number))
        planner.finish()
        assert done[-1] == number
    assert done == list(range(500))


def test_a_job_that_nobody_waited_for_is_done_before_the_next(planner: Planner) -> None:
    done: list[int] = []
    for number in range(500):
        planner.start(partial(done.append, number))
    planner.finish()
    planner.finish()
    assert done == list(range(500))


def test_what_a_job_raises_is_raised_once_and_the_next_one_is_done(planner: Planner) -> None:
    done: list[int] = []
    for _ in range(50):
        planner.start(partial(divmod, 1, 0))
        with pytest.raises(ZeroDivisionError):
            planner.finish()
        planner.finish()
        planner.start(partial(done.append, 1))
        planner.finish()
    assert len(done) == 50


def test_a_thread_planner_works_beside_its_caller() -> None:
    planner, begun, may_end = ThreadPlanner(), threading.Event(), threading.Event()
    where: list[str] = []

    def job() -> None:
        begun.set()
        may_end.wait(5)
        where.append(threading.current_thread().name)

    planner.start(job)
    assert begun.wait(5)
    may_end.set()
    planner.finish()
    assert where == ["slackwater-planner"]
    planner.close()
    planner.close()


def planner_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "slackwater-planner"]


def test_the_thread_ends_with_close_and_with_a_planner_that_nobody_holds() -> None:
    before = set(planner_threads())
    closed, forgotten = ThreadPlanner(), ThreadPlanner()
    for planner in (closed, forgotten):
        planner.start(lambda: None)
        planner.finish()
    mine = [thread for thread in planner_threads() if thread not in before]
    assert len(mine) == 2
    closed.close()
    del forgotten, planner
    gc.collect()
    for thread in mine:
        thread.join(5)
        assert not thread.is_alive()


def test_a_thread_is_worth_it_for_long_steps_only() -> None:
    planner = ThreadPlanner()
    assert not planner.is_worth(1_000)
    assert planner.is_worth(10_000)
