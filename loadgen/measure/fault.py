"""What one fault did to the requests that it met."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen import result as tree
from loadgen.measure import metrics

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns
    from loadgen.measure.facts import FaultFacts
    from loadgen.record import Record


def last_moment(fault: FaultFacts) -> int:
    """Until when a request may be sent and meet it: a fault that is never undone, such as a kill, meets those who are
    open at its moment.
    """
    return fault.at if fault.until is None else fault.until


def met_by(fault: FaultFacts, record: Record) -> bool:
    """Whether the request was in flight while the fault lasted."""
    sent, end = record.sent_micros, record.end_micros
    return sent is not None and sent <= last_moment(fault) and (end is None or end >= fault.at)


def fault_result(fault: FaultFacts, at: Columns) -> tree.FaultResult:
    """`at`: all requests of the run."""
    ends = np.where(np.isnan(at.end), np.inf, at.end)
    met = at.where((at.sent <= last_moment(fault)) & (ends >= fault.at))
    gap = _longest_gap(met, fault.at)
    told = fault.integrity
    return tree.FaultResult(
        kind=fault.kind,
        at=fault.at,
        until=fault.until,
        proved=fault.proved,
        why=fault.why,
        in_flight=int(np.count_nonzero(met.sent <= fault.at)),
        met=len(met),
        lost=int(np.count_nonzero(~met.is_("ok") & ~met.is_("cancelled"))),
        retried=int(np.count_nonzero(met.attempt > 0)),
        longest_gap=gap,
        checked=None if told is None else told.checked,
        tokens_lost=None if told is None else told.lost,
        tokens_repeated=None if told is None else told.repeated,
        tokens_wrong=None if told is None else told.wrong,
        tokens_billed=None if told is None else told.billed,
    )


def _longest_gap(met: Columns, begin: int) -> float | None:
    """Gaps that ended before the fault are none of its doing, however long."""
    owner = np.repeat(np.arange(len(met)), met.chunks)
    times = met.sent[owner] + met.stamps
    within = np.flatnonzero(owner[1:] == owner[:-1]) + 1
    gaps = (times[within] - times[within - 1])[times[within] > begin]
    failed = ~met.is_("ok") & ~met.is_("cancelled") & (met.chunks > 0)
    unanswered = (met.end - metrics.last_token(met))[failed]
    found = np.concatenate((gaps, unanswered[~np.isnan(unanswered)]))
    return float(found.max()) if len(found) else None
