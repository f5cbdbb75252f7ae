"""Rows that left a step in the middle: kept until they may go on, within bounds, or dropped and computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.metrics import EngineMetrics
    from pyworker.engine.outputs import ParkedSlice, SchedulerOutput
    from pyworker.engine.request import Request
    from pyworker.kvcache.manager import KVCacheManager


class JoinPolicy(Protocol):
    """When parked rows may go on."""

    def may_join(self, parked: ParkedSlice, out: SchedulerOutput, now: int) -> bool:
        """Whether this slice may join the step that is being scheduled, which holds its online rows by now. `now` in
        microseconds.
        """


class JoinWhenCalm:
    """As soon as nobody presses offline rows to leave, and nobody in the step waits for a first token: it was for that
    one that they left. `is_pressed` looks at the safepoint's byte; without it nobody ever presses.
    """

    def __init__(self, is_pressed: Callable[[], bool] | None = None) -> None:
        self._is_pressed = is_pressed

    def may_join(self, parked: ParkedSlice, out: SchedulerOutput, now: int) -> bool:  # noqa: ARG002 the protocol's
        """The same answer for every slice."""
        if any(not request.is_offline and not request.output_ids for request in out.requests.values()):
            return False
        return self._is_pressed is None or not self._is_pressed()


@dataclass(eq=False, slots=True)
class Parked:
    """A slice with what the scheduler needs to bring it back: its requests, and the drafts among its tokens, of which
    grammars forced those of the requests in `forced`.
    """

    slice: ParkedSlice
    requests: list[Request]
    drafts: dict[str, list[int]]
    forced: set[str]
    pinned: list[int]
    since: int | None = None

    @property
    def has_online(self) -> bool:
        """Whether somebody waits for one of its rows; then it goes on with the next step, whatever the policy says."""
        return any(not request.is_offline for request in self.requests)


class ParkingLot:
    """All parked slices. Their blocks are pinned; what goes beyond the bounds is dropped, oldest first."""

    def __init__(self, config: EngineConfig, kv_cache: KVCacheManager, metrics: EngineMetrics) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._metrics = metrics
        self._lots: list[Parked] = []
        self._by_request: dict[str, Parked] = {}

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._by_request

    def __len__(self) -> int:
        return len(self._lots)

    def park(self, parked: ParkedSlice, requests: Iterable[Request], out: SchedulerOutput) -> None:
        """Keep a slice of these live requests, which left the step `out`; one that is not whole any more is dropped."""
        held = list(requests)
        self._metrics.add("parked_slices", 1)
        if {request.request_id for request in held} != set(parked.num_tokens):
            self._count_wasted(parked)
            return
        pinned = [block_id for request in held for block_id in self._kv_cache.pin(request)]
        drafts = {name: out.drafts[name] for name in parked.num_tokens if name in out.drafts}
        lot = Parked(parked, held, drafts, out.forced & drafts.keys(), pinned)
        self._lots.append(lot)
        self._by_request.update(dict.fromkeys(parked.num_tokens, lot))
        config = self._config
        while len(self._lots) > config.park_max_slices or self._num_bytes() > config.park_max_bytes:
            self.drop(self._lots[0])

    def expire(self, now: int) -> list[Parked]:
        """All slices, less those that are too old and are dropped. Those seen for the first time were parked now."""
        for lot in list(self._lots):
            if lot.since is None:
                lot.since = now
            elif now - lot.since > self._config.park_max_micros:
                self.drop(lot)
        return list(self._lots)

    def take(self, lot: Parked) -> None:
        """Let a slice go on: its blocks are its requests' alone again."""
        self._remove(lot)

    def drop(self, lot: Parked) -> None:
        """Throw away what a slice has reached. Its tokens are computed again, to the same values."""
        self._remove(lot)
        self._count_wasted(lot.slice)

    def drop_with(self, request: Request) -> None:
        """Drop the slice that this request is in, if it is in one."""
        lot = self._by_request.get(request.request_id)
        if lot is not None:
            self.drop(lot)

    def _remove(self, lot: Parked) -> None:
        self._lots.remove(lot)
        for request_id in lot.slice.num_tokens:
            del self._by_request[request_id]
        self._kv_cache.unpin(lot.pinned)

    def _count_wasted(self, parked: ParkedSlice) -> None:
        self._metrics.add("parked_tokens_wasted", sum(parked.num_tokens.values()))

    def _num_bytes(self) -> int:
        return sum(lot.slice.num_bytes for lot in self._lots)
