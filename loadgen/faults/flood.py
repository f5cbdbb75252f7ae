"""A flood: further requests of one tenant, planned like all others and sent by the load processes.

`flood=tenant:t2@50/s,for=30s` becomes the class `flood_NAME`. Its requests belong to the plan, so that a flood is the
same in every run of a seed, and what became of each stands in the records, which are its proof.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen.errors import BadInput
from loadgen.faults.base import FaultNotSeen, Proof
from loadgen.keys_fault import flood_of
from loadgen.plan import arrivals, lengths
from loadgen.plan.build import realised
from loadgen.plan.model import PlannedRequest
from loadgen.plan.online import own_words
from loadgen.spec import Arrivals, OnlineSpec, SourceSpec

if TYPE_CHECKING:
    from loadgen.plan.model import Plan
    from loadgen.spec import FaultSpec, Scenario


def class_name(fault: str) -> str:
    """The class that a flood's requests are of."""
    return f"flood_{fault}"


def online_spec(spec: FaultSpec) -> OnlineSpec:
    """That class, for the fields on the wire: it has no SLO, and the tier that users without a wish have."""
    tenant, rate = flood_of(spec.target)
    return OnlineSpec(
        name=class_name(spec.name),
        arrivals=Arrivals("poisson", rate=rate),
        source=SourceSpec("synth"),
        input=lengths.DEFAULT_IN,
        output=lengths.DEFAULT_OUT,
        tenant=tenant,
        send_slo="none",
    )


def classes(scenario: Scenario) -> list[OnlineSpec]:
    """The classes of all floods of a scenario."""
    return [online_spec(fault) for fault in scenario.faults if fault.kind == "flood"]


def planned(
    spec: FaultSpec, seed: int, first_id: int, *, until: int | None = None, most: int | None = None
) -> list[PlannedRequest]:
    """A flood's requests by due time: Poisson at its rate from `at` on, for as long as it lasts, at most `most` of them
    and all before `until`.
    """
    tenant, rate = flood_of(spec.target)
    cls = class_name(spec.name)
    times = arrivals.due_times(Arrivals("poisson", rate=rate), _span(spec, until), seed, cls, most)
    ins = lengths.drawn(lengths.DEFAULT_IN, seed, cls, "in")
    outs = lengths.drawn(lengths.DEFAULT_OUT, seed, cls, "out")
    return [
        PlannedRequest(
            first_id + place,
            cls,
            spec.at + int(due),
            own_words(seed, cls, place, next(ins)),
            next(outs),
            tenant=tenant,
        )
        for place, due in enumerate(times)
    ]


def with_floods(plan: Plan, scenario: Scenario) -> Plan:
    """The plan with the requests of all floods, ids after its last: no other request changes, nor does the window.

    Raises:
        BadInput: more requests than `--max-requests`, or a class that has the name of a flood's.
    """
    floods = [fault for fault in scenario.faults if fault.kind == "flood"]
    if not floods:
        return plan
    requests = list(plan.requests)
    first = 1 + max((request.id for request in requests), default=-1)
    until = scenario.warmup_micros + scenario.duration
    names = {*(spec.name for spec in scenario.online), *(spec.name for spec in scenario.offline)}
    for fault in floods:
        if class_name(fault.name) in names:
            raise BadInput("--fault", "name", fault.name, f"its requests are class {class_name(fault.name)}, as others")
        room = scenario.max_requests - len(requests)
        made = planned(fault, scenario.seed, first, until=until, most=room + 1)
        if len(made) > room:
            raise BadInput(
                "--fault", "flood", fault.target, f"with the rest more than {scenario.max_requests} requests"
            )
        requests += made
        first += len(made)
    requests.sort(key=lambda request: (request.due, request.id))
    whole = replace(plan, requests=requests)
    return replace(whole, realised=realised(whole, until))


def _span(spec: FaultSpec, until: int | None) -> int:
    lasts = spec.duration or 0
    return lasts if until is None else min(lasts, until - spec.at)


class Flood:
    """The load processes send it by themselves; here it is only timed. Records prove it, in `settle.py`."""

    def __init__(self, name: str, spec: FaultSpec) -> None:
        self.name, self.spec = name, spec

    async def inject(self) -> None:
        """Nothing to do: the requests are in the plan."""

    async def verify(self) -> Proof:
        """A promise, until the records are there."""
        tenant, rate = flood_of(self.spec.target)
        if self.spec.duration is None:
            raise FaultNotSeen(self.name, "it lasts no time")
        return Proof(f"tenant {tenant} sends {rate:g}/s: its records will tell", {"per_second": rate})

    async def heal(self) -> None:
        """Nothing to undo."""
