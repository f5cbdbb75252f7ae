"""When requests go out, under a virtual clock: exact times, and no real time passes."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.loadgen_drive import (
    DONE,
    HEAD,
    Script,
    chunk,
    event,
    in_memory,
    later,
    plan_of,
    planned,
    stream,
    usage,
)

from loadgen.drive.live_turns import LiveTurns, Turn
from loadgen.drive.schedule import ClassRules, Lane, Request
from loadgen.drive.scribe import ScribeContext
from loadgen.plan.model import NOT_DUE
from loadgen.spec import Slo, SloTerm

MS = 1_000
SECOND = 1_000_000
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s"


def half_second(_: int) -> Script:
    return stream([500 * MS])


def test_a_wait_behind_a_cap_is_latency(tmp_path: Path) -> None:
    plan = plan_of(planned([number * 100 * MS for number in range(8)], out=1))
    began = time.monotonic()
    run = in_memory(tmp_path, plan, half_second, ClassRules(inflight=1))
    assert time.monotonic() - began < 2
    e2e = [run.of(number).end_micros - run.of(number).due_micros for number in range(8)]
    assert e2e == [500 * MS + number * 400 * MS for number in range(8)]
    assert max(e2e) == 3_300 * MS
    assert {record.end_micros - record.sent_micros for record in run.records} == {500 * MS}
    assert [record.outcome for record in run.records] == ["ok"] * 8
    assert run.sender.lags.tolist() == [0], "the wait behind a cap is no lag of the client"


def test_without_a_cap_nothing_waits_for_anything(tmp_path: Path) -> None:
    plan = plan_of(planned([7 * number for number in range(2_500)], out=1))
    run = in_memory(tmp_path, plan, half_second, connections=2_500)
    assert max(record.sent_micros - record.due_micros for record in run.records) == 0
    assert len({record.id for record in run.records}) == 2_500
    first_end = min(record.end_micros for record in run.records)
    assert sum(record.sent_micros < first_end for record in run.records) == 2_500, "all in flight at once"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=30), st.one_of(st.none(), st.integers(1, 3)))
def test_never_early_and_each_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, dues: list[int], cap: int | None
) -> None:
    plan = plan_of(planned(sorted(dues), out=1))
    script = lambda number: stream([number * 37 % 900 + 1])  # noqa: E731
    run = in_memory(tmp_path_factory.mktemp("run"), plan, script, ClassRules(inflight=cap))
    assert sorted(record.id for record in run.records) == list(range(len(dues)))
    assert all(record.sent_micros >= record.due_micros for record in run.records)
    assert min(run.sender.lags, default=0) >= 0


def test_a_timeout_counts_from_due_and_hits_those_that_wait(tmp_path: Path) -> None:
    plan = plan_of(planned([0, 100 * MS], out=1))
    run = in_memory(tmp_path, plan, half_second, ClassRules(inflight=1, timeout=450 * MS))
    assert [(r.id, r.outcome, r.sent_micros, r.end_micros) for r in run.records] == [
        (0, "timeout", 0, 450 * MS),
        (1, "timeout", 450 * MS, 550 * MS),
    ]
    run = in_memory(tmp_path, plan, half_second, ClassRules(inflight=1, timeout=300 * MS))
    assert [(r.id, r.outcome, r.sent_micros, r.end_micros) for r in run.records] == [
        (0, "timeout", 0, 300 * MS),
        (1, "timeout", 300 * MS, 400 * MS),
    ]
    slow = lambda _: stream([450 * MS])  # noqa: E731
    run = in_memory(tmp_path, plan_of(planned([0, 1, 1], out=1)), slow, ClassRules(inflight=1, timeout=460 * MS))
    assert [(r.id, r.outcome, r.sent_micros) for r in run.records] == [
        (0, "ok", 0),
        (1, "timeout", 450 * MS),
        (2, "timeout", None),
    ]


def test_a_cancel_is_as_the_plan_wants_and_keeps_what_came(tmp_path: Path) -> None:
    plan = plan_of(later(planned([0, 5], out=3), cancel_after=25 * MS))
    run = in_memory(tmp_path, plan, lambda _: stream([10 * MS, 20 * MS, 30 * MS]))
    assert [(r.outcome, r.reason, r.end_micros, r.ts, r.out_got) for r in run.records] == [
        ("cancelled", None, 25 * MS, [10 * MS, 20 * MS], 2),
        ("cancelled", None, 25 * MS + 5, [10 * MS, 20 * MS], 2),
    ]
    assert all(record.sent_micros == record.due_micros for record in run.records)


def test_what_hangs_is_bad_or_censored_and_nothing_vanishes(tmp_path: Path) -> None:
    slo = Slo((SloTerm("ttft", 500 * MS), SloTerm("tpot", 100 * MS)))
    plan = plan_of(planned([0, 1_000 * MS, 1_800 * MS], out=5), window=(0, 1_800 * MS))
    hang = lambda number: [] if number else [(10 * MS, HEAD), (20 * MS, chunk(event("x")))]  # noqa: E731
    context = ScribeContext(window=plan.window, horizon=2_000 * MS, slos={"chat": slo})
    run = in_memory(tmp_path, plan, hang, until=2_000 * MS, context=context)
    found = {record.id: (record.outcome, record.reason, record.end_micros, record.out_got) for record in run.records}
    assert found == {
        0: ("cut", "open", None, 1),
        1: ("cut", "open", None, None),
        2: ("censored", "open", None, None),
    }


def test_stop_issues_nothing_more_and_lets_the_rest_end(tmp_path: Path) -> None:
    plan = plan_of(planned([0, 100 * MS, 200 * MS], out=1))
    run = in_memory(tmp_path, plan, half_second, during=[(150 * MS, lambda sender: sender.stop())])
    assert [(r.id, r.outcome, r.reason) for r in sorted(run.records, key=lambda r: r.id)] == [
        (0, "ok", None),
        (1, "ok", None),
        (2, "cut", "not_sent"),
    ]
    assert len(run.server.seen) == 2


def test_hang_up_takes_a_share_of_the_open(tmp_path: Path) -> None:
    plan = plan_of(planned([0, 1, 2, 3], out=1))
    run = in_memory(tmp_path, plan, half_second, during=[(100 * MS, lambda sender: sender.hang_up(0, 0.5))])
    assert [record.outcome for record in sorted(run.records, key=lambda r: r.id)] == ["cancelled"] * 2 + ["ok"] * 2


def answer(status: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-length: 0", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_no_retry_unless_asked(tmp_path: Path) -> None:
    busy = lambda _: [(MS, answer(b"429 Too Many", b"retry-after: 2"))]  # noqa: E731
    run = in_memory(tmp_path, plan_of(planned([0])), busy)
    assert [(r.outcome, r.reason, r.status, r.attempt) for r in run.records] == [("shed", "status_429", 429, 0)]


def test_sdk_retries_count_from_the_first_due_time(tmp_path: Path) -> None:
    answers = [answer(b"503 Busy", b"retry-after-ms: 40"), answer(b"500 Oops", b"retry-after: 2")]
    script = lambda number: [(MS, answers[number])] if number < 2 else stream([MS])  # noqa: E731
    run = in_memory(tmp_path, plan_of(planned([10], out=1)), script, ClassRules(retry=True))
    (record,) = run.records
    assert [at for at, _ in run.server.seen] == [10, 10 + MS + 40 * MS, 10 + 42 * MS + 2 * SECOND]
    assert (record.outcome, record.attempt, record.due_micros) == ("ok", 2, 10)
    assert record.end_micros == 10 + 43 * MS + 2 * SECOND


@pytest.mark.parametrize(
    ("first", "attempts", "outcome"),
    [
        (answer(b"400 Bad"), 1, "error"),
        (answer(b"400 Bad", b"x-should-retry: true"), 3, "error"),
        (answer(b"500 Oops", b"x-should-retry: false"), 1, "error"),
        (answer(b"408 Slow"), 3, "error"),
        (answer(b"409 Conflict"), 3, "error"),
        (answer(b"429 Busy"), 3, "shed"),
        (answer(b"503 Busy"), 3, "error"),
        (answer(b"503 Busy", b"retry-after: 1"), 3, "shed"),
    ],
)
def test_which_answers_are_tried_again(tmp_path: Path, first: bytes, attempts: int, outcome: str) -> None:
    run = in_memory(tmp_path, plan_of(planned([0])), lambda _: [(MS, first)], ClassRules(retry=True))
    assert len(run.server.seen) == attempts
    assert [(record.outcome, record.attempt) for record in run.records] == [(outcome, attempts - 1)]


def test_a_lost_connection_is_tried_again_and_a_begun_answer_is_not(tmp_path: Path) -> None:
    lost = lambda number: [(MS, None)] if number == 0 else stream([MS])  # noqa: E731
    run = in_memory(tmp_path, plan_of(planned([0], out=1)), lost, ClassRules(retry=True))
    assert [(record.outcome, record.attempt) for record in run.records] == [("ok", 1)]
    begun = lambda _: [(MS, HEAD), (2 * MS, chunk(event("x"))), (3 * MS, None)]  # noqa: E731
    run = in_memory(tmp_path, plan_of(planned([0], out=1)), begun, ClassRules(retry=True))
    assert [(r.outcome, r.reason, r.attempt, r.out_got) for r in run.records] == [("error", "closed", 0, 1)]


def test_a_retry_that_never_came_leaves_one_record(tmp_path: Path) -> None:
    busy = lambda _: [(MS, answer(b"503 Busy", b"retry-after: 30"))]  # noqa: E731
    run = in_memory(tmp_path, plan_of(planned([0])), busy, ClassRules(retry=True), until=SECOND)
    assert [(r.id, r.outcome, r.reason, r.attempt) for r in run.records] == [(0, "cut", "not_sent", 1)]
    run = in_memory(tmp_path, plan_of(planned([0])), busy, ClassRules(retry=True, timeout=20 * MS))
    assert [(r.id, r.outcome, r.attempt, r.end_micros) for r in run.records] == [(0, "timeout", 0, 20 * MS)]


def test_a_503_is_a_refusal_where_the_server_says_when_to_come_again(tmp_path: Path) -> None:
    for headers, name in (((b"retry-after: 1",), "shed"), ((), "error")):
        busy = answer(b"503 Busy", *headers)
        run = in_memory(tmp_path, plan_of(planned([0])), lambda _, busy=busy: [(MS, busy)])
        assert [record.outcome for record in run.records] == [name]
        assert run.sender.tallies[0].ended == {name: 1}


def test_a_retry_keeps_to_the_cap_of_its_class(tmp_path: Path) -> None:
    """The second request has the one place when the first may be tried again."""
    busy = [(MS, answer(b"503 Busy", b"retry-after-ms: 10"))]
    script = lambda number: busy if number == 0 else stream([50 * MS])  # noqa: E731
    run = in_memory(tmp_path, plan_of(planned([0, 5 * MS], out=1)), script, ClassRules(retry=True, inflight=1))
    assert [at for at, _ in run.server.seen] == [0, 5 * MS, 55 * MS]
    assert [(r.id, r.outcome, r.attempt, r.end_micros) for r in run.records] == [
        (1, "ok", 0, 55 * MS),
        (0, "ok", 1, 105 * MS),
    ]


def test_a_closed_loop_is_due_when_a_slot_is_free(tmp_path: Path) -> None:
    plan = plan_of(planned([NOT_DUE] * 10, out=1))
    lanes = lambda requests: [Lane(1_000, 2, requests, stop=1_600 * MS)]  # noqa: E731
    run = in_memory(tmp_path, plan, half_second, lanes=lanes)
    assert [record.due_micros - 1_000 for record in run.records] == [
        0,
        0,
        *[500 * MS] * 2,
        *[SECOND] * 2,
        *[1_500 * MS] * 2,
    ]
    assert all(record.sent_micros == record.due_micros for record in run.records)
    assert run.sender.is_done
    assert not run.sender.dry


def test_a_closed_loop_that_runs_dry_says_so(tmp_path: Path) -> None:
    plan = plan_of(planned([NOT_DUE] * 3, out=1))
    run = in_memory(tmp_path, plan, half_second, lanes=lambda requests: [Lane(0, 2, requests, stop=5 * SECOND)])
    assert run.sender.dry == {0}
    run = in_memory(tmp_path, plan, half_second, lanes=lambda requests: [Lane(0, 2, requests)])
    assert not run.sender.dry, "a job's items are all there is to do"
    assert len(run.records) == 3


def test_slots_do_not_burn_the_plan_at_a_target_that_is_gone(tmp_path: Path) -> None:
    plan = plan_of(planned([NOT_DUE] * 100, out=1))
    lanes = lambda requests: [Lane(0, 1, requests, stop=SECOND)]  # noqa: E731
    run = in_memory(tmp_path, plan, lambda _: [(MS, None)], lanes=lanes, until=2 * SECOND)
    assert len(run.records) == 10
    assert {(record.outcome, record.reason) for record in run.records} == {("refused", "connection_closed")}


def session(requests: list[Request], thinks: tuple[int, ...]) -> LiveTurns:
    pairs = zip(requests, requests[1:], thinks, strict=False)
    return LiveTurns({before.id: Turn(after, think) for before, after, think in pairs})


def test_a_live_turn_waits_for_the_answer_and_has_it_in_its_prompt(tmp_path: Path) -> None:
    plan = plan_of(later(planned([100, NOT_DUE, NOT_DUE], out=2), session=0))
    script = lambda _: stream([10 * MS, 20 * MS])  # noqa: E731
    run = in_memory(tmp_path, plan, script, turns=lambda requests: session(requests, (3 * MS, 5 * MS)))
    ends = [100 + 20 * MS, 100 + 43 * MS, 100 + 68 * MS]
    assert [record.end_micros for record in run.records] == ends
    assert [record.due_micros for record in run.records] == [100, ends[0] + 3 * MS, ends[1] + 5 * MS]
    bodies = [orjson.loads(data.partition(b"\r\n\r\n")[2])["messages"] for _, data in run.server.seen]
    assert [[m["role"] for m in messages] for messages in bodies] == [
        ["user"],
        ["user", "assistant", "user"],
        ["user", "assistant", "user", "assistant", "user"],
    ]
    assert bodies[2][:3] == bodies[1]
    assert bodies[1][0] == bodies[0][0]
    assert bodies[1][1]["content"] == " t0 t1"
    lengths = [int(data.split(b"content-length: ")[1].split(b"\r\n")[0]) for _, data in run.server.seen]
    assert lengths == [len(data.partition(b"\r\n\r\n")[2]) for _, data in run.server.seen]


def test_a_failed_turn_ends_its_session(tmp_path: Path) -> None:
    plan = plan_of(later(planned([0, NOT_DUE, NOT_DUE], out=1), session=0))
    script = lambda number: stream([MS]) if number == 0 else [(MS, answer(b"500 Oops"))]  # noqa: E731
    run = in_memory(tmp_path, plan, script, turns=lambda requests: session(requests, (0, 0)))
    assert [(record.id, record.outcome) for record in run.records] == [(0, "ok"), (1, "error")]


def test_a_slot_of_a_closed_loop_keeps_its_session(tmp_path: Path) -> None:
    plan = plan_of(planned([NOT_DUE] * 4, out=1))
    lanes = lambda requests: [Lane(0, 1, [requests[0], requests[2]], stop=SECOND)]  # noqa: E731
    turns = lambda requests: LiveTurns({0: Turn(requests[1], MS), 2: Turn(requests[3], MS)})  # noqa: E731
    run = in_memory(tmp_path, plan, lambda _: stream([10 * MS]), lanes=lanes, turns=turns)
    assert [(record.id, record.due_micros) for record in run.records] == [
        (0, 0),
        (1, 11 * MS),
        (2, 21 * MS),
        (3, 32 * MS),
    ]


def test_one_stall_shows_in_the_longest_gap(tmp_path: Path) -> None:
    times = [10 * MS * (number + 1) + (2 * SECOND if number >= 250 else 0) for number in range(500)]
    run = in_memory(tmp_path, plan_of(planned([0], out=500)), lambda _: stream(times))
    (record,) = run.records
    assert max(b - a for a, b in zip(record.ts, record.ts[1:], strict=False)) == 2 * SECOND + 10 * MS


def test_tokens_are_counted_by_usage_and_not_by_chunks(tmp_path: Path) -> None:
    four = [(10 * MS * n, chunk(event("one two three four"))) for n in range(1, 6)]
    with_usage = [(0, HEAD), *four, (50 * MS, chunk(usage(20) + DONE) + b"0\r\n\r\n")]
    run = in_memory(tmp_path, plan_of(planned([0], out=20)), lambda _: with_usage)
    (record,) = run.records
    assert (record.out_got, record.k, record.count_source) == (20, [4] * 5, "usage")
    tpot = (record.ts[-1] - record.ts[0]) / (record.out_got - 1)
    assert tpot == 40 * MS / 19
    bare = [(0, HEAD), *four, (50 * MS, chunk(DONE) + b"0\r\n\r\n")]
    run = in_memory(tmp_path, plan_of(planned([0], out=20)), lambda _: bare)
    assert [(r.out_got, r.count_source, r.in_got) for r in run.records] == [(5, "chunks", None)]
    counted = ScribeContext(window=(0, 10**9), horizon=10**9, count_text=lambda text: text.count(" ") + 5)
    run = in_memory(tmp_path, plan_of(planned([0], out=20)), lambda _: bare, context=counted)
    assert [(r.out_got, r.count_source, r.k) for r in run.records] == [(20, "tokenizer", [4] * 5)]
