"""Session lateness: when live conversations ended, against a server that answers each turn just within the SLO.

A turn of a live session waits for the answer before it, so a slow server is asked for less and looks better for it.
This figure does not: think times are the same for both servers, so how much later a session is than with the ideal
server is the sum of what each of its turns took above the ideal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure import metrics
from loadgen.measure.slo import targets

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns, Floats
    from loadgen.spec import Slo

_FAILED = ("error", "refused", "shed", "timeout", "cut")


@dataclass(frozen=True, slots=True, eq=False)
class SessionLateness:
    """`late`: f64[begun] microseconds, below zero for a session that is ahead; endless where a turn failed, since the
    session ended there. A session that the end of the run cut off counts up to its last whole answer.
    """

    late: Floats

    @property
    def whole(self) -> Floats:
        """Of the sessions in which no turn failed."""
        return self.late[np.isfinite(self.late)]


def session_lateness(at: Columns, slo: Slo) -> SessionLateness | None:
    """Of one class with live sessions; `None` where its SLO does not bound TTFT and TPOT of each request."""
    first, pace = targets(slo)
    if first is None or pace is None:
        return None
    sent = at.where((at.session >= 0) & ~np.isnan(at.sent))
    sessions, place = np.unique(sent.session, return_inverse=True)
    whole = sent.is_("ok")
    ideal = first + np.maximum(sent.out_want - 1, 0) * pace
    over = np.where(whole, metrics.e2e(sent) - ideal, 0.0)
    late = np.bincount(place, weights=over, minlength=len(sessions)).astype(np.float64)
    answered = np.bincount(place, weights=whole, minlength=len(sessions)) > 0
    failed = np.zeros(len(sessions), dtype=np.bool_)
    for name in _FAILED:
        failed[place[sent.is_(name)]] = True
    late[failed] = np.inf
    return SessionLateness(late[answered | failed])
