"""What one load process is told, and how a plan is divided among several. The key is not in it: it goes over the
pipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from loadgen.plan.model import NOT_DUE
from loadgen.plan.workload import slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadgen.plan.model import Plan, PlannedJob, PlannedRequest
    from loadgen.spec import Scenario


class ClassOrders(msgspec.Struct, frozen=True, kw_only=True):
    """How requests of a class are sent. `timeout`: microseconds from due."""

    name: str
    inflight: int | None = None
    fresh: bool = False
    timeout: int | None = None
    retry: bool = False


class LaneOrders(msgspec.Struct, frozen=True, kw_only=True):
    """`slots` at a time of the requests at `places` of the index, from `start` (microseconds) on. After `stop` nothing
    is begun; None: until the requests end.
    """

    places: list[int]
    slots: int
    start: int = 0
    stop: int | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """The turns of a live session by their places in the index. `thinks[i]`: microseconds before turn i."""

    places: list[int]
    thinks: list[int]


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """`classes` in the order of the index's numbers; `places`: the open loop, by due time. `cancels` and `slows`: by
    id, microseconds from sending and bytes a second. `key_at`: where in a request an `authorization` line goes.
    """

    host: str
    port: int
    payload: str
    index: str
    classes: list[ClassOrders]
    window: tuple[int, int]
    spool: str
    tls: bool = False
    insecure: bool = False
    process: int = 0
    places: list[int] = []
    lanes: list[LaneOrders] = []
    conversations: list[Conversation] = []
    cancels: dict[int, int] = {}
    slows: dict[int, int] = {}
    key_at: int = 0
    connections: int = 0
    """Opened before t0."""
    summaries: bool = True


def classes_of(scenario: Scenario, names: Iterable[str]) -> list[ClassOrders]:
    """Orders of the classes, in the order in which the payload was written."""
    online = {spec.name: spec for spec in scenario.online}
    found = []
    for name in names:
        spec = online.get(name)
        if spec is None:
            found.append(ClassOrders(name=name))
            continue
        found.append(
            ClassOrders(
                name=name,
                inflight=spec.inflight,
                fresh=spec.connections == "fresh",
                timeout=spec.timeout,
                retry=spec.retry == "sdk",
            )
        )
    return found


def divide(
    plan: Plan,
    base: Orders,
    procs: int,
    *,
    closed: Mapping[str, int] | None = None,
    streams: Mapping[str, int] | None = None,
    stop: int | None = None,
) -> list[Orders]:
    """Orders for each process, all that one needs to know of the plan in it.

    `closed`: slots of each class of a closed loop, whose lanes begin nothing after `stop`; so do those of a closed pool
    of jobs. `streams`: requests at a time of each kind of job that is sent as single requests; items of other jobs are
    left out. The plan has the index's order.
    """
    closed, streams = closed or {}, streams or {}
    pools = _pools(plan, streams)
    single = {cls: slots for cls, slots in streams.items() if cls not in pools}
    bound = {**closed, **{cls: streams[cls] for cls in pools}}
    own = [_Share(plan, places, streams) for places in _at_slots(plan, slices(plan, procs), bound)]
    found = []
    for number, share in enumerate(own):
        lanes = share.job_lanes(plan, single)
        for cls, jobs in pools.items():
            lanes += share.pool_lane(plan, jobs, _part(streams[cls], number, procs), stop)
        lanes += _closed_lanes(share, closed, number, procs, stop)
        found.append(
            msgspec.structs.replace(
                base,
                process=number,
                spool=f"{base.spool}.{number}",
                places=share.open,
                lanes=lanes,
                conversations=share.conversations(plan),
                cancels={r.id: r.cancel_after for r in share.sent(plan) if r.cancel_after is not None},
                slows={r.id: r.slow_bytes_per_second for r in share.sent(plan) if r.slow_bytes_per_second is not None},
                connections=-(-base.connections // procs),
            )
        )
    return found


def _part(slots: int, number: int, procs: int) -> int:
    """Of so many slots, those of one process."""
    return slots // procs + (number < slots % procs)


def _pools(plan: Plan, streams: Mapping[str, int]) -> dict[str, list[PlannedJob]]:
    """Kinds of jobs of which there is always a next one, with all that were planned."""
    kinds = dict.fromkeys(job.cls for job in plan.jobs if job.at == NOT_DUE and job.cls in streams)
    return {cls: [job for job in plan.jobs if job.cls == cls] for cls in kinds}


def _at_slots(plan: Plan, own: Sequence[Sequence[int]], slots: Mapping[str, int]) -> list[list[int]]:
    """Places of each process, those of closed loops and pools moved to where the slots are: without one none is sent.
    Sessions and jobs stay together.
    """
    procs = len(own)
    owners = {cls: [at for at in range(procs) for _ in range(_part(slots[cls], at, procs))] for cls in slots}
    homes: dict[str, dict[str | int, int]] = {cls: {} for cls in slots}
    found: list[list[int]] = [[] for _ in own]
    for number, places in enumerate(own):
        for place in places:
            request = plan.requests[place]
            home = number
            if request.cls in owners:
                # A single request is a group of its own, told from sessions by its sign.
                group = request.job or (-1 - place if request.session is None else request.session)
                known, mine = homes[request.cls], owners[request.cls]
                home = known.setdefault(group, mine[len(known) % len(mine)])
            found[home].append(place)
    return [sorted(places) for places in found]


def _closed_lanes(
    share: _Share, closed: Mapping[str, int], number: int, procs: int, stop: int | None
) -> list[LaneOrders]:
    lanes = []
    for cls, slots in closed.items():
        mine = _part(slots, number, procs)
        if mine:
            lanes.append(LaneOrders(places=share.closed.get(cls, []), slots=mine, start=0, stop=stop))
    return lanes


class _Share:
    """One process's places in the plan, by what becomes of them."""

    def __init__(self, plan: Plan, places: Sequence[int], streams: Mapping[str, int]) -> None:
        self.open: list[int] = []
        self.closed: dict[str, list[int]] = {}
        self.items: dict[str, list[int]] = {}
        self.turns: dict[int, list[int]] = {}
        for place in places:
            request = plan.requests[place]
            if request.job is not None:
                if request.cls in streams:
                    self.items.setdefault(request.job, []).append(place)
                continue
            if request.session is not None:
                self.turns.setdefault(request.session, []).append(place)
            if request.due != NOT_DUE:
                self.open.append(place)
            elif request.turn == 0:
                self.closed.setdefault(request.cls, []).append(place)

    def sent(self, plan: Plan) -> list[PlannedRequest]:
        """The requests that may be sent."""
        places = [
            *self.open,
            *(p for group in (self.closed, self.items, self.turns) for ps in group.values() for p in ps),
        ]
        return [plan.requests[place] for place in dict.fromkeys(places)]

    def job_lanes(self, plan: Plan, streams: Mapping[str, int]) -> list[LaneOrders]:
        """A lane a job."""
        return [
            LaneOrders(places=self._in_order(plan, job), slots=streams[job.cls], start=job.at)
            for job in plan.jobs
            if job.cls in streams and job.name in self.items
        ]

    def pool_lane(self, plan: Plan, jobs: Sequence[PlannedJob], slots: int, stop: int | None) -> list[LaneOrders]:
        """The jobs of a closed pool one after the other: all of them together have so many items in flight, and there
        is always a next one. None where this process has no part in it.
        """
        places = [place for job in jobs for place in self._in_order(plan, job)]
        start = min(job.at for job in jobs if job.at != NOT_DUE)
        return [LaneOrders(places=places, slots=slots, start=start, stop=stop)] if places and slots else []

    def _in_order(self, plan: Plan, job: PlannedJob) -> list[int]:
        return sorted(self.items.get(job.name, ()), key=lambda place: plan.requests[place].item or 0)

    def conversations(self, plan: Plan) -> list[Conversation]:
        """Sessions whose later turns wait for their answers."""
        found = []
        for places in self.turns.values():
            places = sorted(places, key=lambda place: plan.requests[place].turn)
            live = [place for place in places[1:] if plan.requests[place].due == NOT_DUE]
            if live:
                turns = [places[0], *live]
                found.append(Conversation(places=turns, thinks=[plan.requests[place].think for place in turns]))
        return found
