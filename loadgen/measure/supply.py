"""Whether a closed loop had enough to send. With nothing left a slot stands idle: the figures are of another load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns


def ran_dry(at: Columns, supply: int | None, window: tuple[int, int]) -> float | None:
    """Microseconds from `t0` at which a slot first found nothing more to send within the window; `None` if none did.

    `at`: all requests of one closed class, any phase. `supply`: how many the plan holds. A slot takes the next request
    when its last one ends, so the first to end after the last was taken is the first to stand idle.
    """
    if supply is None:
        return None
    taken = at.where(~np.isnan(at.sent) | at.is_("refused"))
    if len(taken) < supply or not len(taken):
        return None
    last = float(taken.due.max())
    free = taken.end[taken.end > last]
    moment = float(free.min()) if len(free) else last
    return moment if moment < window[1] else None
