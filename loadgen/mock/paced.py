"""The simple form of an engine: so many slots, a time to the first token, a time per token, each drawn. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from loadgen.mock.work import Emission, Load, Work

if TYPE_CHECKING:
    from loadgen.mock.kv import KvEvent
    from loadgen.units import Dist


class PacedEngine:
    """A `MockEngine` without memory: requests never disturb each other, except for `slots` (None: endless).

    `ttft` and `tpot` are microseconds; None is none at all. The draws of a request depend on `seed` and its number
    alone.
    """

    def __init__(
        self, ttft: Dist | None, tpot: Dist | None, *, slots: int | None = None, vocab: int = 32_768, seed: int = 0
    ) -> None:
        self._ttft, self._tpot, self._slots, self._vocab, self._seed = ttft, tpot, slots, vocab, seed
        self._waiting: deque[Work] = deque()
        self._running: set[Work] = set()
        self._stuck: set[Work] = set()
        """Those whose credit is spent."""
        self._heap: list[tuple[int, int, Work]] = []
        self._gaps: dict[int, list[int]] = {}
        self._order = self._prompt_tokens = self._output_tokens = 0

    def submit(self, work: Work, now: int) -> str | None:
        """Take a request."""
        work.cached = 0
        self._prompt_tokens += len(work.prompt)
        self._waiting.append(work)
        self._fill(now)
        return None

    def cancel(self, work: Work, now: int) -> None:
        """Forget a request."""
        if work in self._waiting:
            self._waiting.remove(work)
        elif work in self._running:
            self._leave(work)
            self._fill(now)

    def grant(self, work: Work, credit: int, now: int) -> None:
        """Let a request go on."""
        work.credit = credit
        if work in self._stuck and work.may_produce:
            self._stuck.discard(work)
            self._put(now, work)

    def due(self) -> int | None:
        """When the next token comes."""
        while self._heap and self._heap[0][2] not in self._running:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def advance(self, now: int) -> list[Emission]:
        """All tokens that are due. A gap is counted from when its token was due, not from when somebody looked."""
        emissions = []
        while (due := self.due()) is not None and due <= now:
            work = heapq.heappop(self._heap)[2]
            if not work.may_produce:
                self._stuck.add(work)
                continue
            token = work.produce(self._vocab)
            self._output_tokens += 1
            if work.is_done:
                self._leave(work)
                self._fill(due)
                emissions.append(Emission(work, (token,), work.finish))
            else:
                self._put(due + self._gap(work), work)
                emissions.append(Emission(work, (token,)))
        return emissions

    def load(self) -> Load:
        """State and counters."""
        return Load(
            len(self._running),
            len(self._waiting),
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )

    def clear_cache(self) -> None:
        """There is none."""

    def take_kv_events(self) -> list[KvEvent]:
        """None, ever."""
        return []

    def _fill(self, now: int) -> None:
        while self._waiting and (self._slots is None or len(self._running) < self._slots):
            work = self._waiting.popleft()
            self._running.add(work)
            self._put(now + self._first(work), work)

    def _leave(self, work: Work) -> None:
        self._running.discard(work)
        self._stuck.discard(work)
        self._gaps.pop(work.id, None)

    def _put(self, due: int, work: Work) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, work))

    def _first(self, work: Work) -> int:
        first = _constant(self._ttft)
        if first is not None and _constant(self._tpot) is not None:
            return first
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, work.id], dtype=np.uint64)))
        if first is None and self._ttft is not None:
            first = int(self._ttft.draw(rng, 1)[0])
        if self._tpot is not None and self._tpot.kind != "fixed":
            self._gaps[work.id] = self._tpot.draw(rng, work.length).astype(np.int64).tolist()
        return first or 0

    def _gap(self, work: Work) -> int:
        constant = _constant(self._tpot)
        return constant if constant is not None else self._gaps[work.id][len(work.output) - 1]


def _constant(dist: Dist | None) -> int | None:
    if dist is None:
        return 0
    return round(dist.first) if dist.kind == "fixed" else None
