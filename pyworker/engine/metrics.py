"""The engine's cumulative counters, under the names of the wire."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Metrics = list[tuple[str, str | None, float]]

ROW_BOUNDS = (1, 2, 4, 8, 15, 16, 32, 64)
"""Upper bounds of the histogram of rows a step; 15 beside 16 makes steps of exactly 16 rows countable."""

_COUNTERS = (
    "prompt_tokens",
    "generation_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "preemptions",
    "forks",
    "draft_tokens",
    "accepted_draft_tokens",
    "parked_slices",
    "parked_tokens_wasted",
)


class EngineMetrics:
    """Counts what happened since the engine began. Counters only grow; a preempted request's tokens count once."""

    def __init__(self) -> None:
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._step_rows = [0] * (len(ROW_BOUNDS) + 1)
        self._step_rows_sum = 0

    def add(self, name: str, amount: int) -> None:
        """Add to a counter; an unknown name is a `KeyError`."""
        self._counters[name] += amount

    def observe_step(self, rows: int) -> None:
        """Count one step of this many requests."""
        self._step_rows[bisect_left(ROW_BOUNDS, rows)] += 1
        self._step_rows_sum += rows

    def snapshot(self, memory_bytes: Mapping[str, int]) -> Metrics:
        """All metrics as (name, value of the label or None, value); buckets are cumulative."""
        labels = [*map(str, ROW_BOUNDS), "+Inf"]
        buckets = list(accumulate(self._step_rows))
        metrics: Metrics = [("step_rows_bucket", le, count) for le, count in zip(labels, buckets, strict=True)]
        metrics += [("step_rows_sum", None, self._step_rows_sum), ("step_rows_count", None, buckets[-1])]
        metrics += [(name, None, value) for name, value in self._counters.items()]
        metrics += [("memory_bytes", part, size) for part, size in memory_bytes.items()]
        return metrics
