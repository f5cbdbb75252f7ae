"""`Worker` on a real socket against a router that checks everything it is told."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from support.engine_rig import config_for_test, request_for_test
from support.fake_router import PATIENCE, TOKEN, FakeRouter, rows
from support.worker_rig import SETTINGS, VOCAB, GatedEngine, StoppedClock, oracle_engine, running, short_folder

from pyworker.engine.core import EngineCore
from pyworker.engine.request import RequestClass
from pyworker.errors import IntegrityError, LinkError
from pyworker.runner.safepoint import Safepoint, Yield
from pyworker.runner.sim import SimRunner, oracle_tokens, sim_capabilities
from pyworker.transport.mailbox import Inbox
from pyworker.wire import messages as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.fake_router import FakeLink

A, B = "a" * 32, "b" * 32
PROMPT = [1, 2, 3, 4, 5]


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    with short_folder() as folder, FakeRouter(folder) as router:
        yield router


def oracle(n: int, prompt: list[int] = PROMPT, seed: int = 7) -> list[int]:
    return oracle_tokens(prompt, seed, n, VOCAB)


def await_idle(link: FakeLink) -> wire.WorkerStats:
    """The first statistics that say that nothing is left."""
    while True:
        stats = link.next(wire.WorkerStats).body
        assert isinstance(stats, wire.WorkerStats)
        if stats.num_running + stats.num_waiting == 0:
            return stats


def await_tokens(link: FakeLink, wanted: dict[str, int]) -> None:
    """Take outputs until these requests have so many tokens."""
    while any(wanted.values()):
        message = link.next(wire.StepOutputs, wire.Accepted)
        for output, tokens in rows(message) if isinstance(message.body, wire.StepOutputs) else []:
            wanted[output.request_id] -= len(tokens)


def test_the_handshake_says_who_the_worker_is_and_what_it_can(router: FakeRouter) -> None:
    with running(router, oracle_engine()) as held:
        link = router.join()
        what = held.worker.capabilities
        assert link.said_hello == wire.Hello(schema_hash=wire.SCHEMA_HASH, token=TOKEN, pid=os.getpid())
        assert link.ready == wire.Ready(
            seq=1,
            model_name="sim",
            weights_hash="0" * 16,
            text_hash="0123456789abcdef",
            vocab_size=VOCAB,
            block_size=4,
            num_blocks=2_049,
            max_model_len=256,
            slots=8,
            dtype="none",
            numerics="sim",
            kv_layout="sim",
            features=list(what.features),
        )


def test_64_streams_at_once_get_their_own_tokens_and_no_others(router: FakeRouter) -> None:
    with running(router, oracle_engine(slots=64)):
        link = router.join()
        names = [f"{number:032x}" for number in range(64)]
        for number, name in enumerate(names):
            link.submit(name, [number, 1, 2], seed=number, max_tokens=20 + number)
        found = link.collect([(name, 1) for name in names])
    for number, name in enumerate(names):
        each = found[name, 1]
        assert (each.tokens, each.finish) == (oracle(20 + number, [number, 1, 2], number), wire.Finish.length)


def test_a_submit_is_answered_while_a_step_runs(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine())
    with running(router, engine):
        link = router.join()
        link.submit(A, PROMPT)
        assert link.next(wire.Accepted).body == wire.Accepted(seq=link.heard_seq, request_id=A, attempt=1)
        engine.await_gate()
        link.submit(B, PROMPT)
        assert link.next(wire.Accepted).body == wire.Accepted(seq=link.heard_seq, request_id=B, attempt=1)


@pytest.mark.parametrize("skip", [1, -1])
def test_a_gap_or_a_repeat_of_the_routers_sequence_ends_the_link(router: FakeRouter, skip: int) -> None:
    with running(router, oracle_engine()) as held:
        link = router.join()
        link.send(wire.RouterHeartbeat(seq=0))
        link.send(wire.RouterHeartbeat(seq=0), skip=skip)
        bye = link.next(wire.Bye).body
        assert isinstance(bye, wire.Bye)
        assert (bye.code, bye.message) == (
            wire.ByeCode.violation,
            f"RouterHeartbeat has seq {2 + skip}, expected 2",
        )
        router.cut()
        router.listen()
        router.join()
        assert held.worker.counters.violations == 1


@pytest.mark.parametrize("parts", [[b"\x04", b"{}", b"", b""], [b"\x63", b"{}", b"", b""], [b"x"]])
def test_what_cannot_be_decoded_ends_the_link(router: FakeRouter, parts: list[bytes]) -> None:
    with running(router, oracle_engine()):
        link = router.join()
        link.send_raw(parts)
        bye = link.next(wire.Bye).body
        assert isinstance(bye, wire.Bye)
        assert bye.code is wire.ByeCode.violation


def test_heartbeats_tell_progress_and_whether_there_is_work(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine(layers=3))
    with running(router, engine):
        link = router.join()
        idle = link.next(wire.Heartbeat).body
        link.submit(A, PROMPT, max_tokens=4)
        link.next(wire.Accepted)
        engine.await_gate()
        first = next_busy(link)
        second = link.next(wire.Heartbeat).body
        assert isinstance(idle, wire.Heartbeat)
        assert isinstance(second, wire.Heartbeat)
        assert not idle.busy
        assert (second.busy, second.progress) == (True, first.progress), "an engine that hangs shows no progress"
        engine.open()
        link.collect([(A, 1)])
        while (last := link.next(wire.Heartbeat).body).busy:  # type: ignore[union-attr]
            pass
        assert isinstance(last, wire.Heartbeat)
        assert last.progress >= first.progress + 4 * 3


def next_busy(link: FakeLink) -> wire.Heartbeat:
    while True:
        beat = link.next(wire.Heartbeat).body
        assert isinstance(beat, wire.Heartbeat)
        if beat.busy:
            return beat


def test_an_idle_worker_sleeps(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine())
    with running(router, engine):
        link = router.join()
        link.submit(A, PROMPT, max_tokens=4, credit_up_to=1)
        link.next(wire.Accepted)
        engine.open()
        link.next(wire.StepOutputs)
        while link.next(wire.Heartbeat).body.busy:  # type: ignore[union-attr]
            pass
        before = engine.steps
        for _ in range(20):
            beat = link.next(wire.Heartbeat).body
            assert isinstance(beat, wire.Heartbeat)
        # Statistics once a second wake it; a row without credit does not.
        assert engine.steps - before <= 3


def test_a_stream_goes_as_far_as_its_credit(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        link = router.join()
        link.submit(A, PROMPT, max_tokens=10, credit_up_to=3)
        link.next(wire.Accepted)
        link.submit(B, [9, 9], max_tokens=30)
        seen: list[int] = []
        ended = False
        while not ended:  # the neighbour goes on, so there were steps enough
            message = link.next(wire.StepOutputs, wire.Accepted)
            for output, tokens in rows(message) if isinstance(message.body, wire.StepOutputs) else []:
                seen += tokens if output.request_id == A else []
                ended = output.request_id == B and output.finish is not None
        assert seen == oracle(3)
        link.credit(A, 2)  # less than before: nothing is taken back
        link.credit(A, 1_000, attempt=2)  # another attempt
        link.credit(A, 7)
        more = []
        while len(more) < 4:
            [(output, tokens)] = rows(link.next(wire.StepOutputs))
            assert output.start == 3 + len(more)
            more += tokens
        assert more == oracle(7)[3:]
        link.credit(A, 10)
        assert link.collect([(A, 1)])[A, 1].tokens == oracle(10)[7:]


def test_a_cancel_is_always_confirmed(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        link = router.join()
        link.submit(A, PROMPT, max_tokens=200, credit_up_to=5)
        await_tokens(link, {A: 5})
        link.cancel(A)
        confirmed = [rows(link.next(wire.StepOutputs))]
        for _ in range(2):  # of a request that has ended, and of one that never was
            link.cancel(A)
            confirmed.append(rows(link.next(wire.StepOutputs)))
            link.cancel(B, attempt=9)
            confirmed.append(rows(link.next(wire.StepOutputs)))

        def cancelled(name: str, attempt: int, start: int) -> list[tuple[wire.RequestOutput, list[int]]]:
            output = wire.RequestOutput(
                request_id=name,
                attempt=attempt,
                start=start,
                num_tokens=0,
                num_top_logprobs=None,
                num_prompt_logprobs=0,
                num_top_prompt_logprobs=0,
                num_cached_tokens=0,
                finish=wire.Finish.cancelled,
                error=None,
            )
            return [(output, [])]

        assert confirmed == [
            cancelled(A, 1, 5),
            cancelled(A, 1, 0),
            cancelled(B, 9, 0),
            cancelled(A, 1, 0),
            cancelled(B, 9, 0),
        ]


def test_a_higher_attempt_replaces_a_lower_one_without_a_word(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine())
    with running(router, engine):
        link = router.join()
        link.submit(A, PROMPT, attempt=3, max_tokens=200)
        link.next(wire.Accepted)
        engine.await_gate()
        engine.allow(3)
        for _ in range(3):
            link.next(wire.StepOutputs)
        history = oracle(2)
        link.submit(A, PROMPT, history, attempt=5, max_tokens=6)
        link.next(wire.Accepted)
        link.submit(A, PROMPT, attempt=4, max_tokens=9)  # too late: ignored
        link.credit(A, 1_000, attempt=5)
        engine.open()
        ends: list[wire.RequestOutput] = []
        newer: list[int] = []
        while not ends:
            for output, tokens in rows(link.next(wire.StepOutputs)):
                if output.attempt == 5:
                    newer += tokens
                    ends += [output] if output.finish else []
                assert output.finish is None or output.attempt == 5, "the old attempt ends in silence"
        assert (newer, ends[0].finish) == (oracle(6)[2:], wire.Finish.length)


def test_the_same_attempt_twice_ends_the_link(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        link = router.join()
        link.submit(A, PROMPT, max_tokens=2)
        link.collect([(A, 1)])
        link.submit(A, PROMPT, max_tokens=2)
        bye = link.next(wire.Bye).body
        assert isinstance(bye, wire.Bye)
        assert (bye.code, bye.message) == (wire.ByeCode.violation, f"attempt 1 of {A} came twice")


@pytest.mark.parametrize(
    ("ids", "changes", "code", "param"),
    [
        ([1, VOCAB], {}, "invalid_request", "prompt"),
        ([1] * 256, {}, "context_length_exceeded", "prompt"),
        ([1] * 100, {}, "kv_never_fits", "prompt"),
    ],
)
def test_what_no_worker_takes_is_refused_for_good(
    router: FakeRouter, ids: list[int], changes: dict[str, object], code: str, param: str
) -> None:
    with running(router, oracle_engine(num_blocks=20)):
        link = router.join()
        link.submit(A, ids, **changes)
        refused = link.next(wire.Refused).body
        assert isinstance(refused, wire.Refused)
        assert (refused.request_id, refused.attempt, refused.code, refused.param, refused.scope) == (
            A,
            1,
            code,
            param,
            wire.RefusedScope.request,
        )
        link.submit(B, PROMPT)
        assert link.collect([(B, 1)])[B, 1].tokens == oracle(8), "nothing else is disturbed"


def test_what_only_the_engine_knows_is_refused_after_it_was_accepted(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        link = router.join()
        link.submit(A, PROMPT, oracle(8), max_tokens=8)
        link.next(wire.Accepted)
        refused = link.next(wire.Refused).body
        assert isinstance(refused, wire.Refused)
        assert (refused.code, refused.param, refused.scope) == (
            "invalid_request",
            "max_tokens",
            wire.RefusedScope.request,
        )


def test_more_requests_than_slots_are_for_another_worker(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine(slots=2))
    with running(router, engine):
        link = router.join()
        for number in range(2):
            link.submit(f"{number:032x}", PROMPT)
            link.next(wire.Accepted)
        link.submit(A, PROMPT)
        refused = link.next(wire.Refused).body
        assert isinstance(refused, wire.Refused)
        assert (refused.code, refused.scope) == ("queue_full", wire.RefusedScope.worker)
        engine.open()
        link.collect([(f"{number:032x}", 1) for number in range(2)])
        link.submit(A, PROMPT, attempt=2)
        assert link.collect([(A, 2)])[A, 2].tokens == oracle(8)


def test_a_cut_link_is_made_anew_and_its_requests_are_dropped(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        link = router.join()
        link.submit(A, PROMPT, max_tokens=200, credit_up_to=4)
        link.submit(B, PROMPT, max_tokens=200, credit_up_to=4)
        await_tokens(link, {A: 4, B: 4})
        router.cut()
        router.listen()
        link = router.join()
        assert await_idle(link).kv_blocks_used == 0
        link.submit(A, PROMPT, oracle(4), attempt=2, max_tokens=12)
        again = link.collect([(A, 2)])[A, 2]
        assert (again.starts[0], again.tokens, again.finish) == (4, oracle(12)[4:], wire.Finish.length)


def test_a_silent_router_is_given_up() -> None:
    with (
        short_folder() as folder,
        FakeRouter(folder, silence_micros=100_000) as router,
        running(router, oracle_engine()) as held,
    ):
        link = router.join()
        link.submit(A, PROMPT, max_tokens=200, credit_up_to=4)
        router.await_disconnect()
        router.terms = (20_000, 60_000_000)
        link = router.join()
        assert await_idle(link).kv_blocks_used == 0
        assert held.worker.counters.silences == 1


def test_stop_finishes_what_runs_and_refuses_the_rest(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine())
    with running(router, engine) as held:
        link = router.join()
        link.submit(A, PROMPT)
        link.next(wire.Accepted)
        engine.await_gate()
        held.worker.stop()
        engine.allow(1)
        link.next(wire.StepOutputs)  # a step after stop: from here on the worker refuses
        engine.await_gate()
        link.submit(B, PROMPT)
        refused = link.next(wire.Refused).body
        assert isinstance(refused, wire.Refused)
        assert (refused.request_id, refused.code, refused.scope) == (B, "draining", wire.RefusedScope.worker)
        engine.open()
        assert link.collect([(A, 1)])[A, 1].tokens == oracle(8)[1:]
        bye = link.next(wire.Bye).body
        assert isinstance(bye, wire.Bye)
        assert bye.code is wire.ByeCode.drain
        router.cut()
        held.ends()


def test_a_router_that_drains_gets_what_is_running(router: FakeRouter) -> None:
    with running(router, oracle_engine()) as held:
        link = router.join()
        link.submit(A, PROMPT, max_tokens=40)
        link.bye(wire.ByeCode.drain)
        assert link.collect([(A, 1)])[A, 1].tokens == oracle(40)
        assert isinstance(link.next(wire.Bye).body, wire.Bye)
        router.cut()
        held.ends()


def test_a_router_that_drains_and_hangs_up_ends_the_worker(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine())
    with running(router, engine) as held:
        link = router.join()
        link.submit(A, PROMPT)
        link.next(wire.Accepted)
        link.bye(wire.ByeCode.drain)
        router.cut()
        engine.open()
        held.ends()


@pytest.mark.parametrize("before_welcome", [True, False])
@pytest.mark.parametrize("code", ["schema_mismatch", "bad_token", "too_many_workers", "model_mismatch"])
def test_a_router_that_does_not_want_the_worker_ends_it(router: FakeRouter, code: str, before_welcome: bool) -> None:
    with running(router, oracle_engine()) as held:
        link = router.hello()
        if not before_welcome:
            link.welcome()
        link.bye(wire.ByeCode(code), "do this about it")
        with pytest.raises(LinkError) as raised:
            held.ends()
        what = f"{router.endpoint}: the router refuses this worker ({code}): do this about it"
        assert (str(raised.value), raised.value.exit_code) == (what, 4)


def test_a_worker_that_is_told_of_a_violation_joins_again(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        router.join().bye(wire.ByeCode.violation)
        router.join()


def test_the_token_is_read_again_at_each_hello(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        router.join()
        router.write_token("f" * 32)
        router.cut()
        router.listen()
        assert router.join().said_hello.token == "f" * 32


def test_a_token_that_was_written_anew_is_tried(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        link = router.hello()
        router.write_token("f" * 32)
        link.bye(wire.ByeCode.bad_token)
        assert router.join().said_hello.token == "f" * 32


def test_a_worker_waits_for_its_router(router: FakeRouter) -> None:
    router.cut()
    router.path.with_name("worker.token").unlink()
    with running(router, oracle_engine()):
        router.listen()
        router.write_token(TOKEN)
        router.join()


def test_an_engine_that_has_failed_leaves_without_goodbye(router: FakeRouter) -> None:
    engine = GatedEngine(oracle_engine())
    with running(router, engine) as held:
        link = router.join()
        engine.fails = IntegrityError("blocks do not add up", {"free": 1})
        link.submit(A, PROMPT)
        link.next(wire.Accepted)
        router.await_disconnect()
        with pytest.raises(IntegrityError) as raised:
            held.ends()
        assert raised.value.exit_code == 71


def test_a_peer_that_never_shakes_hands_is_left() -> None:
    settings = type(SETTINGS)(handshake_seconds=0.05, retry_seconds=0.001, retry_seconds_max=0.01, bye_seconds=0.05)
    with short_folder() as folder, FakeRouter(folder) as router, running(router, oracle_engine(), settings):
        router.hello()
        router.await_disconnect()
        router.hello()


def test_what_the_prefix_cache_holds_is_told_as_it_changes_and_when_it_is_asked(router: FakeRouter) -> None:
    with running(router, oracle_engine()):
        link = router.join()
        link.submit(A, list(range(300, 400)), max_tokens=2)
        link.collect([(A, 1)])
        link.send(wire.AskBlocks(seq=0))
        link.next(wire.BlocksCleared)
        told = [message.ids for message in link.blocks]
        again = link.next(wire.BlocksStored)
        assert isinstance(again.body, wire.BlocksStored)
        assert len(again.ids) == 6 * again.body.num_blocks > 0
        assert sorted(again.ids) == sorted(word for words in told for word in words)


def test_an_online_arrival_makes_offline_rows_leave_the_step_that_runs(router: FakeRouter) -> None:
    """It arrives in the first of four layers: its first token comes before all of the offline request's, whose slice
    goes on where it was and is not computed again.
    """
    entered, go = threading.Event(), threading.Event()

    def pass_layer(_: int) -> None:
        entered.set()
        assert go.wait(PATIENCE)

    config = config_for_test(max_num_batched_tokens=64)
    runner = SimRunner(config, layers=4, step_micros=(4, 0), sleep=pass_layer)
    engine = EngineCore(config, runner, StoppedClock(), sim_capabilities(config))
    prompt = list(range(40))
    with running(router, engine):
        link = router.join()
        link.submit(A, prompt, class_=wire.RequestClass.offline)
        assert link.next(wire.Accepted)
        assert entered.wait(PATIENCE)
        link.submit(B, PROMPT)
        assert link.next(wire.Accepted)
        go.set()
        first = link.next(wire.StepOutputs)
        assert [(output.request_id, tokens) for output, tokens in rows(first)] == [(B, oracle(1))]
        found = link.collect([(A, 1), (B, 1)])
        assert found[A, 1].tokens == oracle(8, prompt)
        assert found[B, 1].tokens == oracle(8)[1:]
        stats = await_idle(link)
    counted = {metric.name: metric.value for metric in stats.metrics}
    assert (counted[wire.MetricName.parked_slices], counted[wire.MetricName.parked_tokens_wasted]) == (1, 0)


def test_the_safepoint_is_raised_exactly_while_somebody_waits_in_the_inbox() -> None:
    safepoint = Safepoint()
    inbox = Inbox(2, safepoint)
    assert inbox.put_submit(request_for_test("off", [1], klass=RequestClass.OFFLINE))
    assert safepoint.level is Yield.GO_ON
    assert inbox.put_submit(request_for_test("on", [1]))
    assert safepoint.level is Yield.OFFLINE_LEAVES
    assert len(inbox.take(0.0).orders) == 2
    assert safepoint.level is Yield.GO_ON
    for _ in range(2):
        assert inbox.put_submit(request_for_test("off", [1], klass=RequestClass.OFFLINE))
    assert not inbox.put_submit(request_for_test("refused", [1]))
    assert safepoint.level is Yield.GO_ON
