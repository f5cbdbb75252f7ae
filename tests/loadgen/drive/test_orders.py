"""How a plan is divided among load processes: nothing is lost, nothing sent twice, sessions and jobs stay together."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from support.loadgen_drive import later, planned

from loadgen.drive.orders import ClassOrders, Orders, classes_of, divide
from loadgen.plan.model import NOT_DUE, Plan, PlannedJob
from loadgen.spec import Arrivals, OnlineSpec, Scenario, SourceSpec

CLASSES = ["chat", "talk", "loop", "job", "batch"]


def plan() -> Plan:
    parts = [
        planned([5 * n for n in range(40)], cls="chat"),
        *[
            [
                *later(planned([1_000 + n], cls="talk"), session=n),
                *later(planned([NOT_DUE], cls="talk"), session=n, turn=1, think=7),
                *later(planned([NOT_DUE], cls="talk"), session=n, turn=2, think=9),
            ]
            for n in range(10)
        ],
        planned([NOT_DUE] * 30, cls="loop"),
        *[
            [replace(each, job=f"job-{n}", item=k) for k, each in enumerate(planned([NOT_DUE] * 6, cls="job"))]
            for n in range(3)
        ],
        [replace(each, job="night", item=k) for k, each in enumerate(planned([NOT_DUE] * 4, cls="batch"))],
    ]
    requests = [replace(each, id=number) for number, each in enumerate(one for part in parts for one in part)]
    requests[0] = replace(requests[0], cancel_after=3)
    requests[1] = replace(requests[1], slow_bytes_per_second=99)
    requests.sort(key=lambda each: (each.due, each.id))
    jobs = [PlannedJob(f"job-{n}", "job", 100 * n, None, ()) for n in range(3)]
    return Plan(1, requests, [*jobs, PlannedJob("night", "batch", 0, None, ())], (0, 2_000))


def base() -> Orders:
    return Orders(
        host="h",
        port=1,
        payload="p",
        index="i",
        classes=[ClassOrders(name=name) for name in CLASSES],
        window=(0, 2_000),
        spool="spool",
        connections=10,
    )


@pytest.mark.parametrize("procs", [1, 2, 3, 4])
def test_every_request_has_one_process(procs: int) -> None:
    given = plan()
    orders = divide(given, base(), procs, closed={"loop": 5}, streams={"job": 2}, stop=2_000)
    assert [each.process for each in orders] == list(range(procs))
    assert len({each.spool for each in orders}) == procs
    sent: list[int] = []
    for each in orders:
        dues = [given.requests[place].due for place in each.places]
        assert dues == sorted(dues)
        assert min(dues) >= 0
        sent += each.places
        sent += [place for lane in each.lanes for place in lane.places]
        sent += [place for talk in each.conversations for place in talk.places[1:]]
        mine = set(each.places)
        assert all(talk.places[0] in mine for talk in each.conversations)
    batch = [place for place, request in enumerate(given.requests) if request.cls == "batch"]
    assert sorted(sent) == sorted(set(range(len(given.requests))) - set(batch))
    assert sorted(given.requests[place].due for each in orders for place in each.places) == sorted(
        request.due for request in given.requests if request.due >= 0
    )


@pytest.mark.parametrize("procs", [1, 2, 3])
def test_lanes_sessions_and_what_single_requests_need(procs: int) -> None:
    given = plan()
    orders = divide(given, base(), procs, closed={"loop": 5}, streams={"job": 2}, stop=2_000)
    loops = [lane for each in orders for lane in each.lanes if lane.stop is not None]
    assert sum(lane.slots for lane in loops) == 5
    assert {(lane.start, lane.stop) for lane in loops} == {(0, 2_000)}
    jobs = sorted((lane for each in orders for lane in each.lanes if lane.stop is None), key=lambda lane: lane.start)
    assert [(lane.start, lane.slots, len(lane.places)) for lane in jobs] == [(0, 2, 6), (100, 2, 6), (200, 2, 6)]
    for lane in jobs:
        assert [given.requests[place].item for place in lane.places] == list(range(6))
    talks = [talk for each in orders for talk in each.conversations]
    assert len(talks) == 10
    for talk in talks:
        assert [given.requests[place].turn for place in talk.places] == [0, 1, 2]
        assert talk.thinks == [0, 7, 9]
    assert [number for each in orders for number in each.cancels.items()] == [(0, 3)]
    assert [number for each in orders for number in each.slows.items()] == [(1, 99)]


@pytest.mark.parametrize("procs", [1, 2, 4])
def test_a_closed_pool_is_never_empty_and_keeps_to_its_window(procs: int) -> None:
    given = plan()
    jobs = [job if job.name in ("job-0", "night") else replace(job, at=NOT_DUE) for job in given.jobs]
    orders = divide(replace(given, jobs=jobs), base(), procs, streams={"job": 2}, stop=2_000)
    lanes = [lane for each in orders for lane in each.lanes]
    assert {(lane.start, lane.stop) for lane in lanes} == {(0, 2_000)}
    assert sum(lane.slots for lane in lanes) == 2
    asked = [given.requests[place] for lane in lanes for place in lane.places]
    assert sorted((each.job, each.item) for each in asked) == [(f"job-{n}", k) for n in range(3) for k in range(6)]
    for lane in lanes:
        mine = [(given.requests[place].job, given.requests[place].item) for place in lane.places]
        assert mine == sorted(mine)


@pytest.mark.parametrize(("slots", "procs"), [(1, 3), (2, 3), (5, 3)])
def test_a_closed_loop_has_all_of_its_requests_where_its_slots_are(slots: int, procs: int) -> None:
    orders = divide(plan(), base(), procs, closed={"loop": slots}, stop=2_000)
    lanes = [lane for each in orders for lane in each.lanes]
    assert sum(lane.slots for lane in lanes) == slots
    assert sum(len(lane.places) for lane in lanes) == 30
    assert all(len(lane.places) == pytest.approx(30 * lane.slots / slots, abs=1) for lane in lanes)


def test_orders_survive_the_pipe() -> None:
    (orders,) = divide(plan(), base(), 1, closed={"loop": 5}, streams={"job": 2}, stop=2_000)
    assert msgspec.json.decode(msgspec.json.encode(orders), type=Orders) == orders


def test_rules_of_classes() -> None:
    spec = OnlineSpec("chat", Arrivals("const", 1.0), SourceSpec("synth"), None, None, inflight=3, timeout=5)
    spec = replace(spec, retry="sdk", connections="fresh")
    scenario = Scenario("http://127.0.0.1:1", (spec,))
    assert classes_of(scenario, ["probe", "chat"]) == [
        ClassOrders(name="probe"),
        ClassOrders(name="chat", inflight=3, timeout=5, retry=True, fresh=True),
    ]
