"""The engine's side of the link: applies what the router wants to the engine, and frames what the engine says.

Runs on the engine's thread. An engine knows requests by id alone; this table knows which attempt of which link the
engine is at, so that only that one is heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyworker.engine.outputs import StepOutputs, cancelled_output
from pyworker.engine.request import Request
from pyworker.errors import InvalidRequest
from pyworker.transport.convert import to_blocks, to_step_outputs, to_worker_stats
from pyworker.transport.mailbox import Outgoing
from pyworker.wire import messages as wire
from pyworker.wire.frame import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.interface import Engine
    from pyworker.engine.outputs import KVEvents, RequestOutput
    from pyworker.transport.link import Waker
    from pyworker.transport.mailbox import Batch, CancelOrder, Outbox
    from pyworker.wire.frame import Parts


@runtime_checkable
class TellsBlocks(Protocol):
    """An engine that can be asked what its prefix cache holds."""

    def ask_blocks(self) -> None:
        """Have all of it sent with the next step, as `kv_events`."""


@dataclass(slots=True)
class _Live:
    """A request that the engine has. `unheard`: what the engine says of it is dropped. `successor`: a higher attempt,
    which the engine is given once it has let go of this one.
    """

    attempt: int
    unheard: bool = False
    successor: Request | None = None


class LinkHost:
    """An `EngineHost` whose outputs go to the link's thread."""

    def __init__(self, engine: Engine, outbox: Outbox, waker: Waker) -> None:
        self._engine = engine
        self._outbox = outbox
        self._waker = waker
        self._live: dict[str, _Live] = {}
        self._vacated: list[Request] = []  # successors whose turn has come
        self._generation = 0
        self._progress = 0

    @property
    def num_live(self) -> int:
        """Requests that the engine has or will be given."""
        return len(self._live) + len(self._vacated)

    def progress_count(self) -> int:
        """How often the engine has shown that it is alive. May be read from any thread."""
        return self._progress

    def progress(self) -> None:
        """Count one sign of life."""
        self._progress += 1

    def send(self, steps: StepOutputs) -> None:
        """Pass a step's outputs on, less those that nobody waits for any more."""
        heard = [output for output in steps.outputs if self._hear(output)]
        if heard:
            self._say_outputs(heard, steps.step_micros)
        self._say_blocks(steps.kv_events)

    def apply(self, batch: Batch) -> None:
        """Hand the engine what the router wants."""
        if batch.reset:
            self._forget_all()
        self._generation = batch.generation
        for order in batch.orders:
            if isinstance(order, Request):
                self._take(order)
            else:
                self._cancel(order)
            self.settle()
        for (request_id, attempt), up_to in batch.credits.items():
            self._grant(request_id, attempt, up_to)
        if batch.ask_blocks and isinstance(self._engine, TellsBlocks):
            self._engine.ask_blocks()

    def settle(self) -> bool:
        """Hand over the requests that waited for an older attempt to leave. False: there were none."""
        vacated, self._vacated = self._vacated, []
        for request in vacated:
            self._submit(request)
        return bool(vacated)

    def say_stats(self) -> None:
        """Send the engine's statistics."""
        self._say(encode(to_worker_stats(self._engine.stats())), [])

    def _hear(self, output: RequestOutput) -> bool:
        """Book an output, and say whether it is passed on."""
        live = self._live.get(output.request_id)
        if live is None or live.attempt != output.attempt:
            return False
        if output.finish is not None:
            del self._live[output.request_id]
            if live.successor is not None:
                self._vacated.append(live.successor)
        return not live.unheard

    def _take(self, request: Request) -> None:
        live = self._live.get(request.request_id)
        if live is None:
            self._submit(request)
            return
        live.successor = request
        self._silence(request.request_id, live)

    def _submit(self, request: Request) -> None:
        self._live[request.request_id] = _Live(request.attempt)
        try:
            self._engine.submit(request)
        except InvalidRequest as error:
            del self._live[request.request_id]
            refused = wire.Refused(
                seq=0,
                request_id=request.request_id,
                attempt=request.attempt,
                code=error.code,
                message=str(error),
                param=error.param,
                scope=wire.RefusedScope.request,
            )
            self._say(encode(refused), [(request.request_id, request.attempt)])

    def _cancel(self, order: CancelOrder) -> None:
        request_id, attempt = order.request_id, order.attempt
        live = self._live.get(request_id)
        if live is not None and live.attempt == attempt and not live.unheard:
            self._engine.cancel(request_id)
            return
        start = 0
        if live is not None and live.successor is not None and live.successor.attempt == attempt:
            start, live.successor = len(live.successor.output_ids), None
        self._say_outputs([cancelled_output(request_id, attempt, start)], 0)

    def _grant(self, request_id: str, attempt: int, up_to: int) -> None:
        live = self._live.get(request_id)
        if live is None:
            return
        if live.attempt == attempt and not live.unheard:
            self._engine.grant(request_id, up_to)
        elif live.successor is not None and live.successor.attempt == attempt:
            live.successor.credit_up_to = max(live.successor.credit_up_to, up_to)

    def _forget_all(self) -> None:
        self._vacated.clear()
        for request_id, live in list(self._live.items()):
            live.successor = None
            self._silence(request_id, live)

    def _silence(self, request_id: str, live: _Live) -> None:
        if not live.unheard:
            live.unheard = True
            self._engine.cancel(request_id)

    def _say_outputs(self, outputs: Sequence[RequestOutput], step_micros: int) -> None:
        body, ids, floats = to_step_outputs(outputs, step_micros)
        ended = [(output.request_id, output.attempt) for output in outputs if output.finish is not None]
        self._say(encode(body, ids, floats), ended)

    def _say_blocks(self, events: KVEvents) -> None:
        for body, words in to_blocks(events):
            self._say(encode(body, words), [])

    def _say(self, parts: Parts, ended: list[tuple[str, int]]) -> None:
        self._outbox.put(Outgoing(self._generation, parts, ended))
        self._waker.set()
