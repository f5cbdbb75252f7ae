"""One answer on its way: tokens become chunks, the faults that hit it come true, the truth is noted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from loadgen.mock.render import Renderer
from loadgen.mock.split import Splitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Clock
    from loadgen.mock.ask import Ask
    from loadgen.mock.faults import Fault, Faults
    from loadgen.mock.http import Reply
    from loadgen.mock.timers import Timers
    from loadgen.mock.truth import TruthEntry
    from loadgen.mock.work import Emission, Finish

EVENT_STREAM = b"text/event-stream; charset=utf-8"
DIED = 70
"""Exit status of a mock that a fault ends."""
_AFTER = ("die", "cut", "hang", "error_event", "truncate", "bad_json")
_ERROR = {"error": {"message": "made by a fault", "type": "server_error", "param": None, "code": "mock_fault"}}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all answers share. `die` ends the process."""

    clock: Clock
    timers: Timers
    tokens_per_chunk: int = 1
    reasoning: int = 0
    die: Callable[[], None] = lambda: os._exit(DIED)


class Answer:
    """Takes the emissions of one request and writes them to its reply."""

    def __init__(self, ask: Ask, reply: Reply, entry: TruthEntry, faults: Faults, around: Surroundings) -> None:
        self._ask, self._reply, self._entry, self._faults, self._around = ask, reply, entry, faults, around
        self._render = Renderer(ask, entry.id, around.reasoning)
        self._tokens: list[int] = []
        """All tokens that were made."""
        self._sent = 0
        """How many of them were written."""
        self._finish: Finish | None = None
        self._cached = 0
        self._held = False
        self._over = False
        self._started = False
        self._due = sorted((f for kind in _AFTER if (f := faults.get(kind)) is not None), key=lambda f: f.after)
        split = faults.get("split")
        self._splitter = Splitter(split.seed + entry.id) if split is not None else None
        stall = faults.get("stall")
        self._stall: Fault | None = stall
        if stall is not None and stall.stall_at_micros is not None:
            self._stall = None
            around.timers.at(entry.received + stall.stall_at_micros, lambda: self._hold(stall.stall_for))

    def take(self, emission: Emission) -> None:
        """The sink of the engine's driver."""
        if self._over:
            return
        self._tokens += emission.tokens
        self._cached = emission.work.cached or 0
        self._finish = emission.finish
        self._go_on()

    def _go_on(self) -> None:
        """Write what may be written now."""
        while not self._over and not self._held:
            if self._stall is not None and self._sent == self._stall.stall_at_tokens:
                stall, self._stall = self._stall, None
                self._hold(stall.stall_for)
                continue
            if self._due and (self._due[0].after <= self._sent or (self._is_made and self._sent == len(self._tokens))):
                self._do(self._due.pop(0))
                continue
            count = self._next_chunk()
            if count == 0:
                break
            self._write_tokens(count)
        if self._is_made and self._sent == len(self._tokens) and not self._over and not self._held:
            self._complete()

    @property
    def _is_made(self) -> bool:
        return self._finish is not None

    def _next_chunk(self) -> int:
        """How many tokens go out together now; 0: wait."""
        there = len(self._tokens) - self._sent
        count = min(there, self._around.tokens_per_chunk)
        for stop in (self._due[0].after if self._due else None, self._stall.stall_at_tokens if self._stall else None):
            if stop is not None and stop > self._sent and there >= stop - self._sent:
                return min(count, stop - self._sent)
        return count if count == self._around.tokens_per_chunk or self._is_made else 0

    def _write_tokens(self, count: int) -> None:
        if self._ask.stream:
            self._write(self._render.tokens(self._sent, self._tokens[self._sent : self._sent + count]), count)
        self._sent += count

    def _write(self, events: bytes, tokens: int = 0, *, last: bool = False) -> None:
        """Events to the client, and their time to the truth."""
        if not self._started and not last:
            events = self._render.first() + events
        now = self._around.clock.now()
        if not self._started:
            self._started = True
            self._entry.hdr, self._entry.status = now, 200
            self._reply.start(200, EVENT_STREAM, self._headers(), b"" if self._splitter else events)
            if self._splitter is not None:
                self._reply.write_pieces(self._splitter.cut(events, last=last))
        elif self._splitter is not None:
            self._reply.write_pieces(self._splitter.cut(events, last=last))
        else:
            self._reply.write(events)
        if tokens:
            self._entry.emits.append(now)
            self._entry.counts.append(tokens)

    def _complete(self) -> None:
        finish = self._finish or "length"
        usage = self._faults.get("no_usage") is None
        if self._ask.stream:
            last = self._render.last(self._sent, self._cached, finish, usage=self._ask.usage and usage)
            self._write(last, last=True)
            self._reply.end()
        else:
            whole = self._render.whole(self._tokens, self._cached, finish, usage=usage)
            self._send(200, orjson.dumps(whole))
        self._end(finish)

    def _send(self, status: int, body: bytes) -> None:
        now = self._around.clock.now()
        self._entry.hdr, self._entry.status = now, status
        self._entry.emits.append(now)
        self._entry.counts.append(len(self._tokens))
        self._reply.send(status, body, headers=self._headers())

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (("x-mock-request", str(self._entry.id)),)

    def _hold(self, micros: int) -> None:
        """Write nothing for a while."""
        if not self._over:
            self._held = True
            self._around.timers.at(self._around.clock.now() + micros, self._release)

    def _release(self) -> None:
        self._held = False
        self._go_on()

    def _do(self, fault: Fault) -> None:
        """A fault whose token has come."""
        if fault.kind == "die":
            self._around.die()
        elif fault.kind == "cut":
            if self._ask.stream and not self._started:
                self._write(b"")
            self._reply.cut()
        elif fault.kind == "hang":
            if self._ask.stream and not self._started and self._sent:
                self._write(b"")
        elif fault.kind == "bad_json":
            self._break_json()
            return
        elif not self._ask.stream:
            self._spoil(fault)
        elif fault.kind == "error_event":
            self._write(b"data: " + orjson.dumps(_ERROR) + b"\n\n", last=True)
            self._reply.end()
        else:
            self._write(b"", last=True)
            self._reply.end()
        self._end(fault.kind)

    def _break_json(self) -> None:
        if self._ask.stream:
            self._write(b'data: {"id":"broken","choices":[{"index":0,"delta":{"conte\n\n')
        else:
            self._send(200, b'{"id":"broken","choices":[')
            self._end("bad_json")

    def _spoil(self, fault: Fault) -> None:
        """An answer that is no stream: an error in its place, or its first half."""
        if fault.kind == "error_event":
            self._send(500, orjson.dumps(_ERROR))
        else:
            body = orjson.dumps(self._render.whole(self._tokens, self._cached, self._finish or "length"))
            self._send(200, body[: len(body) // 2])

    def _end(self, how: str) -> None:
        self._over = True
        self._entry.end, self._entry.finish = self._around.clock.now(), how
        self._tokens = []

    def refused(self, status: int) -> None:
        """The engine does not take it; somebody else answers."""
        self._entry.status = status
        self._end("refused")

    def gone(self) -> None:
        """The client has hung up."""
        if not self._over:
            self._end("disconnected")
