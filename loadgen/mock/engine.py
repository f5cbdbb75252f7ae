"""Continuous batching as a real engine does it, at a cost that is only waited for. Pure: time is an argument.

A step takes `base + slope x rows` for the rows that decode, and prefills at most `chunk` uncached tokens at a rate. KV
is finite: a request whose block is missing takes those of the one that came last, which starts anew later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from loadgen.mock.kv import Block, BlockPool, KvEvent, block_hash
from loadgen.mock.work import Emission, Load, Work

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Costs in microseconds, `prefill_rate` in tokens a second, the rest in tokens and rows."""

    prefill_rate: float
    base: int
    slope: int
    chunk: int
    rows: int
    kv_tokens: int
    block: int = 16
    vocab: int = 32_768
    kv_events: bool = False

    def faster(self, factor: float) -> EngineConfig:
        """All rates times `factor`."""
        return replace(
            self,
            prefill_rate=self.prefill_rate * factor,
            base=round(self.base / factor),
            slope=round(self.slope / factor),
        )

    def with_output(self, vocab: int, *, kv_events: bool) -> EngineConfig:
        """With another vocabulary, and with KV events or without."""
        return replace(self, vocab=vocab, kv_events=kv_events)


PRESETS = {
    "gpu-like": EngineConfig(8_000.0, 6_000, 350, chunk=2_048, rows=256, kv_tokens=524_288),
    "cpu-small": EngineConfig(600.0, 14_000, 1_500, chunk=64, rows=16, kv_tokens=5_504),
}


@dataclass(eq=False, slots=True)
class _Row:
    """A request that runs. `known` are prompt and output; `computed` of them have KV."""

    work: Work
    known: list[int]
    blocks: list[Block] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    """Hashes of its full blocks."""
    computed: int = 0


class BatchEngine:
    """A `MockEngine` with steps, a pool and a prefix cache. First come, first served; no priorities."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._pool = BlockPool(config.kv_tokens // config.block, config.block, config.kv_events)
        self._waiting: deque[Work] = deque()
        self._running: list[_Row] = []
        self._step: list[tuple[_Row, int]] = []
        """Rows of the step in progress, and how many tokens each computes."""
        self._end: int | None = None
        self._preemptions = self._prompt_tokens = self._cached_tokens = self._output_tokens = 0

    def submit(self, work: Work, now: int) -> str | None:
        """Take a request; None: it is in."""
        total = len(work.prompt) + work.length
        if not work.prompt:
            return "the prompt is empty"
        room = self._pool.total * self._pool.size
        if total > room:
            return f"prompt and output are {total} tokens, the KV memory holds {room}"
        self._waiting.append(work)
        self._begin(now)
        return None

    def cancel(self, work: Work, now: int) -> None:
        """Forget a request; the step in progress goes on without it."""
        if work in self._waiting:
            self._waiting.remove(work)
        for row in self._running:
            if row.work is work:
                self._release(row)
                break
        self._begin(now)

    def grant(self, work: Work, credit: int, now: int) -> None:
        """Let a request go on."""
        work.credit = credit
        self._begin(now)

    def due(self) -> int | None:
        """End of the step in progress."""
        return self._end

    def advance(self, now: int) -> list[Emission]:
        """End the step if its time has come, and begin the next."""
        if self._end is None or now < self._end:
            return []
        emissions = []
        for row, count in self._step:
            row.computed += count
            self._store(row)
            if row.computed == len(row.known):
                emissions.append(self._emit(row))
        self._step, self._end = [], None
        self._begin(now)
        return emissions

    def load(self) -> Load:
        """State and counters."""
        pool = self._pool
        return Load(
            len(self._running),
            len(self._waiting),
            pool.used * pool.size,
            pool.total * pool.size,
            pool.size,
            self._preemptions,
            self._prompt_tokens,
            self._cached_tokens,
            self._output_tokens,
        )

    def clear_cache(self) -> None:
        """Forget the prefix cache."""
        self._pool.clear()
        for row in self._running:
            row.keys = []

    def take_kv_events(self) -> list[KvEvent]:
        """Events since the last call."""
        events, self._pool.events = self._pool.events, []
        return events

    def _emit(self, row: _Row) -> Emission:
        token = row.work.produce(self._config.vocab)
        row.known.append(token)
        self._output_tokens += 1
        if not row.work.is_done:
            return Emission(row.work, (token,))
        self._release(row)
        return Emission(row.work, (token,), row.work.finish)

    def _begin(self, now: int) -> None:
        """Compose a step if none is in progress."""
        if self._end is not None:
            return
        before = self._preemptions
        budget = self._plan_running(self._config.chunk)
        if self._preemptions == before:
            self._admit(budget)
        if not self._step:
            return
        prefill = sum(count for row, count in self._step if not _decodes(row))
        decodes = sum(_decodes(row) for row, _ in self._step)
        cost = prefill / self._config.prefill_rate * 1e6
        if decodes:
            cost += self._config.base + self._config.slope * decodes
        self._end = now + max(1, round(cost))

    def _plan_running(self, budget: int) -> int:
        """Give each running row its tokens, oldest first; what is left of the prefill budget."""
        at = 0
        while at < len(self._running):
            row = self._running[at]
            at += 1
            left = len(row.known) - row.computed
            count = 1 if _decodes(row) else min(left, budget)
            if count == 0 or (count == left and not row.work.may_produce):
                continue
            if not self._make_room(row, row.computed + count):
                continue  # it was the last itself, and has lost its blocks
            self._step.append((row, count))
            budget -= 0 if _decodes(row) else count
        return budget

    def _make_room(self, row: _Row, tokens: int) -> bool:
        """Blocks for so many tokens, at the cost of those that came later."""
        while not self._grow(row, tokens):
            last = self._running[-1]
            self._preempt(last)
            if last is row:
                return False
        return True

    def _grow(self, row: _Row, tokens: int) -> bool:
        while len(row.blocks) * self._pool.size < tokens:
            block = self._pool.take_new()
            if block is None:
                return False
            row.blocks.append(block)
        return True

    def _preempt(self, row: _Row) -> None:
        self._preemptions += 1
        self._release(row)
        self._waiting.appendleft(row.work)

    def _release(self, row: _Row) -> None:
        self._running.remove(row)
        self._step = [(other, count) for other, count in self._step if other is not row]
        self._pool.give_back(row.blocks)
        row.blocks = []

    def _admit(self, budget: int) -> None:
        """Take in those that wait while there are rows, budget and blocks for their whole prompt."""
        while self._waiting and budget > 0 and len(self._running) < self._config.rows:
            work = self._waiting[0]
            if not work.may_produce:
                return
            known = [*work.prompt, *work.output]
            found = self._pool.find(known, work.salt)
            needed = -(-(len(known) + 1) // self._pool.size) - len(found)
            if needed > self._pool.available - self._pool.idle_among(found) and self._running:
                return
            self._waiting.popleft()
            row = self._enter(work, known, found)
            count = min(len(known) - row.computed, budget)
            self._running.append(row)
            if not self._make_room(row, row.computed + count):
                return
            self._step.append((row, count))
            budget -= count

    def _enter(self, work: Work, known: list[int], found: Sequence[Block]) -> _Row:
        self._pool.take_found(found)
        cached = len(found) * self._pool.size
        if work.cached is None:
            work.cached = min(cached, len(work.prompt))
            self._prompt_tokens += len(work.prompt)
            self._cached_tokens += work.cached
        keys = [block.key for block in found if block.key is not None]
        return _Row(work, known, list(found), keys, cached)

    def _store(self, row: _Row) -> None:
        """Let the cache find the row's blocks that are full now."""
        size = self._pool.size
        for at in range(len(row.keys), row.computed // size):
            ids = row.known[at * size : (at + 1) * size]
            parent = row.keys[-1] if row.keys else None
            key = block_hash(row.work.salt if parent is None else parent, ids)
            row.keys.append(key)
            self._pool.store(row.blocks[at], parent, key, ids)

    def check(self) -> None:
        """For tests: what must hold at any time.

        Raises:
            AssertionError: the books do not add up.
        """
        held = {id(block): block for block in chain.from_iterable(row.blocks for row in self._running)}
        if len(held) != self._pool.used:
            raise AssertionError(f"{len(held)} blocks are held, the pool says {self._pool.used}")


def _decodes(row: _Row) -> bool:
    """Whether all but its newest token is computed, and that one is output."""
    return row.computed == len(row.known) - 1 and len(row.known) > len(row.work.prompt)
