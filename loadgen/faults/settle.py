"""The proofs that only the records of a run can give: a flood that was sent, and requests that were hung up on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from loadgen.faults.flood import class_name
from loadgen.keys_fault import hangup_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadgen.measure.facts import FaultFacts
    from loadgen.plan.model import Plan
    from loadgen.record import Record
    from loadgen.spec import FaultSpec


def by_records(
    facts: Iterable[FaultFacts], specs: Iterable[FaultSpec], records: Iterable[Record], plan: Plan
) -> list[FaultFacts]:
    """The facts of all faults; what the records do not show is not proved, whatever was said while it ran."""
    by_name = {spec.name: spec for spec in specs}
    known = list(facts)
    asked = {request.id for request in plan.requests if request.cancel_after is not None}
    sent: Counter[str] = Counter()
    cancelled: dict[str, list[int]] = {}
    for record in records:
        if record.sent_micros is not None:
            sent[record.cls] += 1
        if record.outcome == "cancelled" and record.end_micros is not None and record.id not in asked:
            cancelled.setdefault(record.cls, []).append(record.end_micros)
    return [_settled(fault, by_name.get(fault.name), sent, cancelled) for fault in known]


def _settled(
    fault: FaultFacts, spec: FaultSpec | None, sent: Counter[str], cancelled: Mapping[str, Sequence[int]]
) -> FaultFacts:
    if spec is None or not fault.proved:
        return fault
    if spec.kind == "flood":
        count = sent[class_name(spec.name)]
        why = f"{count} requests of {class_name(spec.name)} were sent"
        return msgspec.structs.replace(fault, proved=count > 0, why=why)
    if spec.kind == "hangup":
        cls = hangup_of(spec.target)[0]
        count = sum(end >= fault.at for end in cancelled.get(cls, ()))
        why = f"{count} requests of {cls} were cancelled then"
        return msgspec.structs.replace(fault, proved=count > 0, why=why)
    return fault
