"""The worker's side of one link: handshake, sequence numbers, heartbeats, silence, attempts and answers to `Submit`.

Told the time and given messages, so that it runs without a socket. One object a link: when it raises `LinkEnded` the
link is over and everything on it is gone.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from pyworker.errors import InvalidRequest
from pyworker.transport.convert import split_ids, to_ready, to_request
from pyworker.transport.limits import check_features, check_ids, check_list_ids
from pyworker.wire import messages as wire
from pyworker.wire.frame import WireError, decode, encode, seq_of, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyworker.engine.interface import EngineCapabilities
    from pyworker.transport.link import RouterLink
    from pyworker.transport.mailbox import Inbox, Outbox
    from pyworker.wire.frame import Body, Message, Parts

_REMEMBERED_ATTEMPTS: Final = 4_096
_LEAST_PERIOD_MICROS: Final = 1_000
_MOST_PERIOD_MICROS: Final = 3_600_000_000
"""A router that may be silent for longer than an hour is one that nobody watches."""


class EndReason(Enum):
    """Why a link is over."""

    ROUTER_BYE = "the router said goodbye"
    VIOLATION = "the router broke the rules of the link"
    SILENCE = "the router is silent"
    HANDSHAKE = "no handshake in time"
    CONGESTION = "the link cannot keep up"
    CLOSED = "the connection ended"


class LinkEnded(Exception):
    """The link is over. `code` is what the router said, where it said anything."""

    def __init__(self, reason: EndReason, what: str = "", code: wire.ByeCode | None = None) -> None:
        self.reason = reason
        self.what = what
        self.code = code
        super().__init__(f"{reason.value}: {what}" if what else reason.value)


@dataclass(frozen=True, slots=True)
class Pulse:
    """Where a heartbeat reads the engine's progress and whether it has work; called by the link's thread."""

    progress: Callable[[], int]
    busy: Callable[[], bool]


class Session:
    """One link's protocol. `now` is a monotonic time in seconds everywhere."""

    def __init__(
        self, link: RouterLink, capabilities: EngineCapabilities, inbox: Inbox, pulse: Pulse, generation: int
    ) -> None:
        self._link = link
        self._capabilities = capabilities
        self._inbox = inbox
        self._pulse = pulse
        self._generation = generation
        self._sent_seq = 0
        self._heard_seq = 0
        self._welcome: wire.Welcome | None = None
        self._heard_at = 0.0
        self._next_heartbeat = 0.0
        self._attempts: OrderedDict[str, int] = OrderedDict()  # highest attempt by request, also of ended ones
        self._in_flight: dict[str, int] = {}  # attempt by request, from Accepted until its end is sent
        self.draining = False
        """Whether new requests are refused, because the worker is about to end."""
        self.leaving = False
        """Whether the router has said its last word, but lets the worker finish what it has."""

    @property
    def ready(self) -> bool:
        """Whether the handshake is over."""
        return self._welcome is not None

    def hello(self, token: str, pid: int) -> None:
        """Say the first message."""
        self._link.send(encode(wire.Hello(schema_hash=wire.SCHEMA_HASH, token=token, pid=pid)))

    def bye(self, code: wire.ByeCode, message: str) -> None:
        """Say the last message."""
        if self.ready:
            self._send(wire.Bye(seq=0, code=code, message=message))
        else:
            self._link.send(encode(wire.Bye(seq=0, code=code, message=message)))

    def handle(self, parts: Sequence[bytes], now: float) -> None:
        """Take one message.

        Raises:
            LinkEnded: it was the last one.
        """
        try:
            message = decode(parts)
        except WireError as error:
            raise LinkEnded(EndReason.VIOLATION, str(error)) from error
        body = message.body
        self._heard_at = now
        if isinstance(body, wire.Bye):
            if body.code is not wire.ByeCode.drain or self._welcome is None:
                raise LinkEnded(EndReason.ROUTER_BYE, body.message, body.code)
            self.leaving = True
            return
        if self.leaving:
            raise LinkEnded(EndReason.VIOLATION, f"{type(body).__name__} came after Bye")
        if self._welcome is None:
            self._join(body, now)
            return
        seq = seq_of(body)
        if seq != self._heard_seq + 1:
            what = f"{type(body).__name__} has seq {seq}, expected {self._heard_seq + 1}"
            raise LinkEnded(EndReason.VIOLATION, what)
        self._heard_seq = seq
        self._dispatch(message, now)

    def tick(self, now: float) -> float:
        """Say what is due by time, and give the seconds until the next such moment.

        Raises:
            LinkEnded: the router has been silent for too long.
        """
        if self._welcome is None:
            return float("inf")
        silence = float("inf") if self.leaving else self._welcome.silence_micros * 1e-6
        if now - self._heard_at > silence:
            raise LinkEnded(EndReason.SILENCE, f"nothing came for {silence:g} s")
        if now >= self._next_heartbeat:
            self._send(wire.Heartbeat(seq=0, progress=self._pulse.progress(), busy=self._pulse.busy()))
            self._next_heartbeat = now + self._welcome.heartbeat_micros * 1e-6
        return min(self._next_heartbeat, self._heard_at + silence) - now

    def flush(self, outbox: Outbox) -> None:
        """Send what the engine has said; what it said for an earlier link is dropped.

        Raises:
            LinkEnded: a message had to be left out, so nothing after it may be sent.
        """
        if outbox.overflowed(self._generation):
            raise LinkEnded(EndReason.CONGESTION, "the outbox overflowed")
        while (message := outbox.take()) is not None:
            if message.generation != self._generation or not self.ready:
                continue
            self._send_parts(message.parts)
            for request_id, attempt in message.ended:
                if self._in_flight.get(request_id) == attempt:
                    del self._in_flight[request_id]

    def _join(self, body: Body, now: float) -> None:
        if not isinstance(body, wire.Welcome):
            raise LinkEnded(EndReason.VIOLATION, f"the first message is {type(body).__name__}, expected Welcome")
        if not _LEAST_PERIOD_MICROS <= body.heartbeat_micros < body.silence_micros <= _MOST_PERIOD_MICROS:
            what = f"heartbeats every {body.heartbeat_micros} us, silence after {body.silence_micros} us"
            raise LinkEnded(EndReason.VIOLATION, what)
        self._welcome = body
        self._next_heartbeat = now + body.heartbeat_micros * 1e-6
        self._send(to_ready(self._capabilities))
        # From here on no code may be compiled or run from data: a hook of the audit suite listens for this.
        sys.audit("slackwater.ready")

    def _dispatch(self, message: Message, now: float) -> None:
        body = message.body
        match body:
            case wire.RouterHeartbeat():
                return
            case wire.Submit():
                self._submit(body, message, now)
            case wire.Credit():
                if self._in_flight.get(body.request_id) == body.attempt:
                    self._inbox.put_credit(body.request_id, body.attempt, body.up_to)
            case wire.AskBlocks():
                self._inbox.put_ask()
            case wire.Cancel():
                if not self._inbox.put_cancel(body.request_id, body.attempt):
                    raise LinkEnded(EndReason.VIOLATION, "a flood of Cancel")
            case _:
                raise LinkEnded(EndReason.VIOLATION, f"{type(body).__name__} is not for a worker")

    def _submit(self, submit: wire.Submit, message: Message, now: float) -> None:
        request_id, attempt = submit.request_id, submit.attempt
        known = self._attempts.get(request_id, -1)
        if attempt == known:
            raise LinkEnded(EndReason.VIOLATION, f"attempt {attempt} of {request_id} came twice")
        if attempt < known:
            return
        self._remember(request_id, attempt)
        refused = self._refusal(submit, message.ids)
        if refused is None and not self._inbox.put_submit(
            to_request(submit, message.ids, message.floats, int(now * 1e6))
        ):
            refused = self._no_room(submit, "queue_full", "the worker's inbox is full")
        if refused is None:
            self._in_flight[request_id] = attempt
            self._send(wire.Accepted(seq=0, request_id=request_id, attempt=attempt))
            return
        self._send(refused)
        # An older attempt that still runs is as good as cancelled: the router counts on nothing but the newest.
        older = self._in_flight.get(request_id)
        if older is not None and not self._inbox.put_cancel(request_id, older):
            raise LinkEnded(EndReason.CONGESTION, "no room for a cancel")

    def _refusal(self, submit: wire.Submit, ids: Sequence[int]) -> wire.Refused | None:
        try:
            known, lists = split_ids(submit, ids)
            check_ids(known, self._capabilities)
            check_list_ids(lists, self._capabilities)
            check_features(submit.params, self._capabilities)
        except InvalidRequest as error:
            return wire.Refused(
                seq=0,
                request_id=submit.request_id,
                attempt=submit.attempt,
                code=error.code,
                message=str(error),
                param=error.param,
                scope=wire.RefusedScope.request,
            )
        if self.draining:
            return self._no_room(submit, "draining", "the worker is about to end")
        slots = self._capabilities.slots
        if submit.request_id not in self._in_flight and len(self._in_flight) >= slots:
            return self._no_room(submit, "queue_full", f"all {slots} slots are taken")
        return None

    @staticmethod
    def _no_room(submit: wire.Submit, code: str, message: str) -> wire.Refused:
        return wire.Refused(
            seq=0,
            request_id=submit.request_id,
            attempt=submit.attempt,
            code=code,
            message=message,
            param=None,
            scope=wire.RefusedScope.worker,
        )

    def _remember(self, request_id: str, attempt: int) -> None:
        self._attempts[request_id] = attempt
        self._attempts.move_to_end(request_id)
        while len(self._attempts) > self._capabilities.slots + _REMEMBERED_ATTEMPTS:
            oldest = next(iter(self._attempts))
            if oldest in self._in_flight:
                self._attempts.move_to_end(oldest)
            else:
                del self._attempts[oldest]

    def _send(self, body: Body) -> None:
        self._send_parts(encode(body))

    def _send_parts(self, parts: Parts) -> None:
        self._sent_seq += 1
        self._link.send(stamp(parts, self._sent_seq))
