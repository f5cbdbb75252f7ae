"""The protocol of one link without sockets and threads, and the mailboxes behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from support.fake_router import make_submit
from support.worker_rig import oracle_engine

from pyworker.engine.outputs import FinishReason, KVEvents, RequestOutput, StepOutputs, StoredBlock
from pyworker.engine.request import Request, SamplingParams
from pyworker.transport.host import LinkHost
from pyworker.transport.inproc import InprocPeer, InprocRouter
from pyworker.transport.link import Waker
from pyworker.transport.loop import LinkLoop, LinkSettings
from pyworker.transport.mailbox import Batch, CancelOrder, Inbox, Outbox, Outgoing, Stop
from pyworker.transport.session import EndReason, LinkEnded, Pulse, Session
from pyworker.transport.zmq import ZmqLinks
from pyworker.wire import messages as wire
from pyworker.wire.frame import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyworker.engine.interface import EngineCapabilities, EngineHost, EngineStats
    from pyworker.wire.frame import Body

A, B = "a" * 32, "b" * 32


class Rig:
    """A session that has joined at time 0, and the router's end of its link."""

    def __init__(self, waker: Waker, inbox_capacity: int = 2, outbox_capacity: int = 4) -> None:
        router = InprocRouter()
        link = router("", waker)
        link.start()
        self.peer: InprocPeer = router.accept(1.0)
        self.inbox, self.outbox = Inbox(inbox_capacity), Outbox(outbox_capacity)
        capabilities = oracle_engine().attach(LinkHost(oracle_engine(), self.outbox, waker))
        self.session = Session(link, capabilities, self.inbox, Pulse(lambda: 5, lambda: True), generation=1)
        self.session.handle(
            encode(wire.Welcome(worker_id=1, epoch=1, heartbeat_micros=200_000, silence_micros=2_000_000)), 0.0
        )
        self.seq = 0
        assert isinstance(self.said(), wire.Ready)

    def hears(self, body: Body, ids: Sequence[int] = (), now: float = 0.0) -> None:
        if not isinstance(body, wire.Welcome | wire.Hello):
            self.seq += 1
            body.seq = self.seq
        self.session.handle(encode(body, ids), now)

    def said(self) -> Body:
        parts = self.peer.recv(1.0)
        assert parts is not None
        return decode(parts).body


@pytest.fixture
def waker() -> Iterator[Waker]:
    waker = Waker()
    yield waker
    waker.close()


@pytest.fixture
def rig(waker: Waker) -> Rig:
    return Rig(waker)


def test_a_request_for_what_the_engine_lacks_is_refused(rig: Rig) -> None:
    grammar = wire.Grammar(kind=wire.GrammarKind.json_object, text="")
    rig.hears(make_submit(A, grammar=grammar), [1])
    refused = rig.said()
    assert isinstance(refused, wire.Refused)
    assert (refused.code, refused.param, refused.scope) == ("unsupported_parameter", "grammar", "request")
    rig.hears(make_submit(B, num_stop_token_ids=1), [1, 2**32 - 1])
    refused = rig.said()
    assert isinstance(refused, wire.Refused)
    assert (refused.code, refused.param) == ("invalid_request", None)


def test_a_question_about_blocks_is_asked_once_however_often_it_came(rig: Rig) -> None:
    for _ in range(3):
        rig.hears(wire.AskBlocks(seq=0))
    assert rig.inbox.take(0.0).ask_blocks
    assert not rig.inbox.take(0.0).ask_blocks


class TellingEngine:
    """Just enough of an engine to be asked for its blocks."""

    def __init__(self) -> None:
        self.asked = 0

    def ask_blocks(self) -> None:
        self.asked += 1


def test_an_engine_that_can_is_asked_what_its_cache_holds(waker: Waker) -> None:
    engine: Any = TellingEngine()
    dumb: Any = object()
    for each in (engine, dumb):
        host = LinkHost(each, Outbox(8), waker)
        host.apply(Batch(1, False, [], {}, Stop.NO, ask_blocks=True))
        host.apply(Batch(1, False, [], {}, Stop.NO))
    assert engine.asked == 1


def test_kv_events_follow_the_step_that_made_them_true(waker: Waker) -> None:
    outbox = Outbox(8)
    engine = oracle_engine()
    host = LinkHost(engine, outbox, waker)
    engine.attach(host)
    host.apply(Batch(1, False, [Request(A, 1, [1], SamplingParams(seed=1), credit_up_to=9)], {}, Stop.NO))
    output = RequestOutput(A, 1, 0, [7])
    host.send(StepOutputs([output], 5, KVEvents(stored=[StoredBlock(3, 5, 5)])))
    kinds = []
    while (message := outbox.take()) is not None:
        kinds.append(type(decode(message.parts).body))
    assert kinds == [wire.StepOutputs, wire.BlocksStored]


def test_a_full_inbox_refuses_for_this_worker_only(rig: Rig) -> None:
    for number in range(3):
        rig.hears(make_submit(f"{number:032x}"), [1])
    answers = [rig.said() for _ in range(3)]
    assert answers == [
        wire.Accepted(seq=2, request_id=f"{0:032x}", attempt=1),
        wire.Accepted(seq=3, request_id=f"{1:032x}", attempt=1),
        wire.Refused(
            seq=4,
            request_id=f"{2:032x}",
            attempt=1,
            code="queue_full",
            message="the worker's inbox is full",
            param=None,
            scope=wire.RefusedScope.worker,
        ),
    ]


def test_heartbeats_are_due_by_the_clock_and_silence_ends_the_link(rig: Rig) -> None:
    assert rig.session.tick(0.1) == pytest.approx(0.1)
    assert rig.session.tick(0.2) == pytest.approx(0.2)
    assert rig.said() == wire.Heartbeat(seq=2, progress=5, busy=True)
    rig.hears(wire.RouterHeartbeat(seq=0), now=1.0)
    rig.session.tick(3.0)
    with pytest.raises(LinkEnded) as raised:
        rig.session.tick(3.01)
    assert raised.value.reason is EndReason.SILENCE


@pytest.mark.parametrize(
    "body",
    [
        wire.Accepted(seq=0, request_id=A, attempt=1),
        wire.Heartbeat(seq=0, progress=1, busy=True),
        wire.Hello(schema_hash="", token="", pid=1),
        wire.Welcome(worker_id=1, epoch=1, heartbeat_micros=200_000, silence_micros=2_000_000),
    ],
)
def test_what_is_not_for_a_worker_ends_the_link(rig: Rig, body: Body) -> None:
    with pytest.raises(LinkEnded) as raised:
        rig.hears(body)
    assert raised.value.reason is EndReason.VIOLATION


@pytest.mark.parametrize(
    ("heartbeat", "silence"),
    [
        (0, 2_000_000),
        (2_000_000, 2_000_000),
        (1_000_000, 3_600_000_001),
        (10**15, 2 * 10**15),
        (2**63, 2**63 + 1),
        (2**64 - 2, 2**64 - 1),
    ],
)
def test_terms_that_cannot_work_end_the_link(waker: Waker, heartbeat: int, silence: int) -> None:
    router = InprocRouter()
    engine = oracle_engine()
    capabilities = engine.attach(LinkHost(engine, Outbox(1), waker))
    session = Session(router("", waker), capabilities, Inbox(1), Pulse(lambda: 0, lambda: False), generation=1)
    with pytest.raises(LinkEnded) as raised:
        session.handle(
            encode(wire.Welcome(worker_id=1, epoch=1, heartbeat_micros=heartbeat, silence_micros=silence)), 0.0
        )
    assert raised.value.reason is EndReason.VIOLATION


@pytest.mark.parametrize("seconds", [3_600.0, 1e15, float("inf")])
def test_a_wait_of_any_length_can_be_asked_for(waker: Waker, seconds: float) -> None:
    links = ZmqLinks()
    for link in (links("inproc://nobody", waker), InprocRouter()("", waker)):
        waker.set()
        assert link.recv(seconds) is None
        link.close()
    links.close()
    waker.set()
    waker.wait(seconds)


def test_a_flood_of_cancels_ends_the_link(rig: Rig) -> None:
    for _ in range(8):
        rig.hears(wire.Cancel(seq=0, request_id=A, attempt=1))
    with pytest.raises(LinkEnded) as raised:
        rig.hears(wire.Cancel(seq=0, request_id=A, attempt=1))
    assert raised.value.what == "a flood of Cancel"


def test_an_overflow_of_the_outbox_ends_its_link_only(rig: Rig) -> None:
    parts = encode(wire.Accepted(seq=0, request_id=A, attempt=1))
    for _ in range(5):
        rig.outbox.put(Outgoing(0, parts))  # of an earlier link
    rig.session.flush(rig.outbox)
    for _ in range(5):
        rig.outbox.put(Outgoing(1, parts))
    with pytest.raises(LinkEnded) as raised:
        rig.session.flush(rig.outbox)
    assert raised.value.reason is EndReason.CONGESTION


def test_after_a_message_that_was_left_out_nothing_more_is_sent_on_that_link(rig: Rig) -> None:
    outbox = rig.outbox

    def put(generation: int, *micros: int) -> None:
        for each in micros:
            parts = encode(wire.StepOutputs(seq=0, step_micros=each, outputs=[]))
            outbox.put(Outgoing(generation, parts))

    put(1, 1, 2, 3, 4, 5)  # the fifth does not fit
    assert outbox.take() is not None
    put(1, 6)
    assert outbox.overflowed(1)
    for _ in range(3):
        assert outbox.take() is not None
    assert outbox.take() is None
    put(1, 7)
    assert outbox.take() is None
    put(2, 8)
    assert (outbox.take() is not None, outbox.overflowed(2)) == (True, False)


def test_a_refused_attempt_ends_an_older_one(rig: Rig) -> None:
    rig.hears(make_submit(A, 1), [1])
    rig.inbox.take(0)
    rig.hears(make_submit(A, 2), [1] * 300)
    assert rig.inbox.take(0).orders == [CancelOrder(A, 1)]


class EagerEngine:
    """Says everything at once: a token on submit, the end on cancel."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.host: EngineHost | None = None
        self._attempts: dict[str, int] = {}

    def attach(self, host: EngineHost) -> EngineCapabilities:
        self.host = host
        return oracle_engine().attach(host)

    def submit(self, request: Request) -> None:
        self.calls.append(("submit", request.request_id, request.attempt))
        self._attempts[request.request_id] = request.attempt
        self._say(request.request_id, None)

    def grant(self, request_id: str, up_to: int) -> None:
        self.calls.append(("grant", request_id, up_to))

    def cancel(self, request_id: str) -> None:
        self.calls.append(("cancel", request_id, 0))
        self._say(request_id, FinishReason.CANCELLED)

    def step(self) -> bool:
        return False

    def stats(self) -> EngineStats:
        raise NotImplementedError

    def close(self) -> None:
        return

    def _say(self, request_id: str, finish: FinishReason | None) -> None:
        assert self.host is not None
        tokens = [] if finish else [7]
        self.host.send(StepOutputs([RequestOutput(request_id, self._attempts[request_id], 0, tokens, finish=finish)]))


def request(name: str, attempt: int) -> Request:
    return Request(name, attempt, [1], SamplingParams())


def drain(outbox: Outbox) -> list[tuple[str, int, wire.Finish | None]]:
    found = []
    while (message := outbox.take()) is not None:
        body = decode(message.parts).body
        assert isinstance(body, wire.StepOutputs)
        found += [(output.request_id, output.attempt, output.finish) for output in body.outputs]
    return found


def test_an_engine_that_answers_within_the_call_is_served_too(waker: Waker) -> None:
    engine, outbox = EagerEngine(), Outbox(100)
    host = LinkHost(engine, outbox, waker)
    engine.attach(host)

    def apply(*orders: Request | CancelOrder, credits: dict[tuple[str, int], int] | None = None) -> None:
        host.apply(Batch(1, reset=False, orders=list(orders), credits=credits or {}, stop=Stop.NO))

    apply(request(A, 1), request(A, 2), request(B, 1), CancelOrder(A, 1), CancelOrder(A, 2))
    apply(credits={(A, 2): 9, (B, 1): 9, (B, 7): 10})
    assert engine.calls == [
        ("submit", A, 1),
        ("cancel", A, 0),
        ("submit", A, 2),
        ("submit", B, 1),
        ("cancel", A, 0),
        ("grant", B, 9),
    ]
    cancelled = wire.Finish.cancelled
    assert drain(outbox) == [(A, 1, None), (A, 2, None), (B, 1, None), (A, 1, cancelled), (A, 2, cancelled)]
    host.apply(Batch(2, reset=True, orders=[], credits={}, stop=Stop.NO))
    assert (host.num_live, drain(outbox)) == (0, [])


def test_a_lower_attempt_is_ignored(rig: Rig) -> None:
    rig.hears(make_submit(A, 5), [1])
    rig.hears(make_submit(A, 4), [1])
    rig.hears(make_submit(B, 1), [1])
    assert [rig.said() for _ in range(2)] == [
        wire.Accepted(seq=2, request_id=A, attempt=5),
        wire.Accepted(seq=3, request_id=B, attempt=1),
    ]
    orders = [(order.request_id, order.attempt) for order in rig.inbox.take(0).orders]
    assert orders == [(A, 5), (B, 1)]


def test_credit_is_for_what_runs_and_never_shrinks(rig: Rig) -> None:
    rig.hears(make_submit(A, 2), [1])
    for name, attempt, up_to in ((A, 2, 7), (A, 2, 3), (A, 1, 50), (B, 1, 60)):
        rig.hears(wire.Credit(seq=0, request_id=name, attempt=attempt, up_to=up_to))
    assert rig.inbox.take(0).credits == {(A, 2): 7}


def test_an_output_of_another_attempt_is_not_passed_on(waker: Waker) -> None:
    engine, outbox = EagerEngine(), Outbox(100)
    host = LinkHost(engine, outbox, waker)
    engine.attach(host)
    host.apply(Batch(1, reset=False, orders=[request(A, 2)], credits={}, stop=Stop.NO))
    host.send(StepOutputs([RequestOutput(A, 1, 0, [9], finish=FinishReason.LENGTH)]))
    host.send(StepOutputs([RequestOutput(B, 1, 0, [9])]))
    assert (host.num_live, drain(outbox)) == (1, [(A, 2, None)])


class CountedPauses(LinkLoop):
    """Does not wait between two tries, but writes down how long it would have; gives up after six."""

    pauses: ClassVar[list[float]] = []

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == 6:
            self.finish()


def test_the_next_try_comes_later_each_time_up_to_a_limit(waker: Waker) -> None:
    class NoToken:
        may_change = True

        def read(self) -> str:
            raise FileNotFoundError("nothing there")

    engine = oracle_engine()
    mailboxes = Inbox(1), Outbox(1)
    loop = CountedPauses("", NoToken(), InprocRouter(), mailboxes, waker, LinkSettings())
    loop.run(engine.attach(LinkHost(engine, mailboxes[1], waker)), Pulse(lambda: 0, lambda: False))
    assert loop.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
