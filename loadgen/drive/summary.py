"""What a load process tells the parent once a second: for the live view only, no figure of a result comes from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ClassTally(msgspec.Struct, frozen=True, kw_only=True):
    """One class. Counts are totals since t0; `ended` by `ok`, `error`, `shed`, `refused`, `timeout`, `cancelled`,
    `open`, `unsent`, `retried`, where `ok` only means a whole answer with status 200.

    `ttft`, `tpot`, `e2e` are of the `ok` answers that ended in this second, in one order; `gaps` of all its chunks.
    They are i64 microseconds as raw bytes; `tpot` is -1 where there is none. `marks`: events with data, about as many
    as tokens.
    """

    due: int
    sent: int
    in_flight: int
    ended: dict[str, int]
    marks: int
    ttft: bytes = b""
    tpot: bytes = b""
    e2e: bytes = b""
    gaps: bytes = b""

    def micros(self, name: Literal["ttft", "tpot", "e2e", "gaps"]) -> NDArray[np.int64]:
        """One of the arrays, i64[n]."""
        return np.frombuffer(getattr(self, name), dtype=np.int64)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One second of one load process. Lags in microseconds; `at` from t0; `cpu_share` of a core."""

    process: int
    at: int
    classes: dict[str, ClassTally]
    send_lag_p99: float
    loop_lag_p99: float
    cpu_share: float
    backlog: int
    """Bytes that are not in the spool's file yet."""
    dropped: int
    """Summaries before this one that the parent did not take in time."""
