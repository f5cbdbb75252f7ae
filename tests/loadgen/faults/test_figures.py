"""What a fault did, from records and outputs: met, lost, stalled, and every token that is missing or twice there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from support.inject.rig import spec
from support.loadgen_records import MS, SECOND, facts, record, streamed, table

from loadgen.faults import settle
from loadgen.measure.facts import FaultFacts, Integrity
from loadgen.measure.fault import fault_result, met_by
from loadgen.measure.integrity import Differences, differences, of_run, oracle_of, tokens_of, with_integrity
from loadgen.measure.summarise import summarise
from loadgen.mock.options import parse
from loadgen.mock.oracle import Tokenizer
from loadgen.mock.server import MockServer
from loadgen.plan.model import NOT_DUE, Plan, PlannedRequest, Prompt
from loadgen.plan.payload import Wire, body
from loadgen.plan.text import Words

if TYPE_CHECKING:
    from collections.abc import Sequence

KILL = FaultFacts(name="kill1", at=1 * SECOND)
STOP = FaultFacts(name="stop1", at=1 * SECOND, until=2 * SECOND)


def test_whom_a_fault_meets() -> None:
    made = {
        "ended before": record(1, 0, [(10, 1)], end=999),
        "open": record(2, 900, [(950, 1)], end=1100),
        "open for ever": record(3, 900, end=None, outcome="censored"),
        "sent while it lasts": record(4, 1500, [(1600, 1)], end=1700),
        "sent afterwards": record(5, 2100, [(2200, 1)], end=2300),
        "never sent": record(6, 1500, sent=None, end=1600, outcome="refused"),
    }
    assert [name for name, each in made.items() if met_by(KILL, each)] == ["open", "open for ever"]
    assert [name for name, each in made.items() if met_by(STOP, each)] == [
        "open",
        "open for ever",
        "sent while it lasts",
    ]
    found = fault_result(STOP, table(*made.values()))
    assert (found.in_flight, found.met, found.lost) == (2, 3, 1)
    assert fault_result(KILL, table(*made.values())).met == 2


@pytest.mark.parametrize(
    ("chunks", "given", "longest"),
    [
        # A long gap before the fault, and a shorter one over it.
        ([(0, 1), (800, 1), (900, 1), (1300, 1)], {}, 400),
        # It stalls after the fault only.
        ([(900, 1), (1000, 1), (1010, 1), (1500, 1)], {}, 490),
        # An answer that fails has stalled from its last token to its end.
        ([(900, 1), (950, 1)], {"outcome": "error", "end": 1700}, 750),
        # One that was to be cancelled has not.
        ([(900, 1), (1010, 1)], {"outcome": "cancelled", "end": 1700}, 110),
        ([(900, 1)], {"end": 1100}, None),
    ],
)
def test_the_longest_stall(chunks: list[tuple[float, int]], given: dict[str, Any], longest: float | None) -> None:
    found = fault_result(KILL, table(record(1, 0, chunks, **given)))
    assert found.longest_gap == (None if longest is None else longest * MS)


def test_retried_and_cancelled() -> None:
    at = table(
        streamed(1, 900, 50, 100, 5, attempt=1),
        record(2, 900, [(950, 1)], outcome="cancelled", end=1100),
        record(3, 900, [(950, 1)], outcome="error", end=1100),
    )
    found = fault_result(KILL, at)
    assert (found.in_flight, found.met, found.lost, found.retried) == (3, 3, 1, 1)


ANSWER = [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("got", "whole", "lost", "repeated", "wrong"),
    [
        ([10, 20, 30, 40, 50], True, 0, 0, 0),
        ([10, 20, 40, 50], True, 1, 0, 0),
        ([40, 50], True, 3, 0, 0),
        ([10, 20], True, 3, 0, 0),
        ([10, 20], False, 0, 0, 0),
        ([10, 20, 20, 30, 40, 50], True, 0, 1, 0),
        ([10, 20, 30, 20, 30, 40, 50], True, 0, 2, 0),
        ([10, 20, 30, 10, 20, 30, 40, 50], True, 0, 3, 0),
        ([10, 20, 99, 30, 40, 50], True, 0, 0, 1),
        ([10, 20, 99, 40, 50], True, 1, 0, 1),
        ([10, 20, 30, 40, 50, 50], True, 0, 1, 0),
        ([10, 20, 30, 40, 50, 60], True, 0, 0, 1),
        ([10, 30, 20, 40, 50], True, 1, 1, 0),
        ([], True, 5, 0, 0),
        ([], False, 0, 0, 0),
    ],
)
def test_differences(got: Sequence[int], whole: bool, lost: int, repeated: int, wrong: int) -> None:
    assert differences(ANSWER, got, whole=whole) == Differences(lost, repeated, wrong)


def test_tokens_that_come_twice_in_an_answer_confuse_nobody() -> None:
    answer = [1, 2, 1, 2, 3]
    assert differences(answer, answer, whole=True) == Differences()
    assert differences(answer, [1, 2, 3], whole=True) == Differences(lost=2)
    assert differences(answer, [1, 2, 1, 2, 1, 2, 3], whole=True) == Differences(repeated=2)
    # What is repeated goes on from where it began, and is no leap to a later place of the same token.
    assert differences([1, 5, 2, 6, 5, 3], [1, 5, 2, 1, 5, 2, 6, 5, 3], whole=True) == Differences(repeated=3)


def test_tokens_of_a_text() -> None:
    assert tokens_of(" t00010 t00020") == [10, 20]
    assert tokens_of("") == []
    assert tokens_of("x t00010 and t00020!") == [-1, 10, -1, 20, -1]


def test_outputs_of_those_who_were_met() -> None:
    before = record(1, 0, [(10, 5)], end=500)
    fine = record(2, 900, [(950, 5)], end=1100)
    twice = record(3, 900, [(950, 6)], end=1100, out_want=5)
    cut = record(4, 900, [(950, 2)], end=1100, outcome="error", out_want=5)
    unknown = record(5, 900, [(950, 5)], end=1100)
    billed = record(6, 900, [(950, 5)], end=1100, out_got=8, out_want=5)
    text = "".join(f" t{token:05d}" for token in ANSWER)
    texts = {1: "garbage", 2: text, 3: " t00010" + text, 4: text[:14], 5: "who knows", 6: text}
    (found,) = with_integrity(
        [KILL],
        [before, fine, twice, cut, unknown, billed, record(7, 900, end=1100)],
        texts,
        lambda number: None if number == 5 else ANSWER,
    )
    assert found.integrity == Integrity(checked=4, lost=0, repeated=1, wrong=0, billed=3)
    (nobody,) = with_integrity([KILL], [before], texts, lambda _: ANSWER)
    assert nobody.integrity is None


def test_an_answer_that_ends_early_has_lost_its_end_only_where_lengths_are_forced() -> None:
    short = record(2, 900, [(950, 4)], end=1100, out_want=5)
    texts = {2: "".join(f" t{token:05d}" for token in ANSWER[:4])}
    (forced,) = with_integrity([KILL], [short], texts, lambda _: ANSWER)
    (free,) = with_integrity([KILL], [short], texts, lambda _: ANSWER, exact=False)
    assert (forced.integrity, free.integrity) == (Integrity(checked=1, lost=1), Integrity(checked=1))


@pytest.mark.parametrize("scheme", ["words", "bytes"])
def test_a_run_is_checked_where_its_server_is_an_oracle(scheme: Any) -> None:
    wire = Wire("mock", "mock", "slackwater", "exact", Words(("a", "b")), "chat")
    plan = Plan(0, [_request(1), _request(2)], [], (0, SECOND))
    expected = oracle_of(plan, wire, Tokenizer(scheme=scheme))
    texts = {number: "".join(f" t{token:05d}" for token in expected(number) or ()) for number in (1, 2)}
    texts[2] = texts[2][:7] + texts[2][14:]
    made = [record(1, 0, [(10, 6)], end=500), record(2, 900, [(950, 5)], end=1100, out_want=6)]
    (found,) = of_run([KILL], made, texts, plan, wire)
    assert found.integrity == Integrity(checked=1, lost=1)
    # A model's words say nothing of lost tokens.
    assert of_run([KILL], made, dict.fromkeys(texts, "some words"), plan, wire) == [KILL]
    assert of_run([KILL], made, {}, plan, wire) == [KILL]


def test_figures_stand_in_the_result() -> None:
    kill = FaultFacts(
        name="kill1",
        at=30 * SECOND,
        kind="kill",
        why="pid 7 is gone",
        integrity=Integrity(checked=3, lost=2, repeated=1, wrong=0, billed=4),
    )
    made = [streamed(each, 100.0 * each, 50, 10, 5) for each in range(600)]
    found = summarise(made, facts(faults=(kill,))).faults["kill1"]
    assert (found.kind, found.why) == ("kill", "pid 7 is gone")
    told = (found.checked, found.tokens_lost, found.tokens_repeated, found.tokens_wrong, found.tokens_billed)
    assert told == (3, 2, 1, 0, 4)
    bare = summarise(made, facts(faults=(FaultFacts(name="kill1", at=1),))).faults["kill1"]
    assert (bare.checked, bare.tokens_lost, bare.tokens_billed) == (None, None, None)


def _request(number: int, cls: str = "chat", **given: Any) -> PlannedRequest:
    return PlannedRequest(number, cls, 0, Prompt(3, text=f"tell me {number}"), 6, **given)


FLOOD, LEAVE = spec("name=f1,at=1s,flood=tenant:t2@5/s,for=1s"), spec("name=h1,at=1s,hangup=chat:50%")
PLAN = Plan(0, [_request(1, cancel_after=5), _request(2)], [], (0, SECOND))


def _settled(*records: Any) -> dict[str, FaultFacts]:
    known = [FaultFacts(name="f1", at=1 * SECOND), FaultFacts(name="h1", at=1 * SECOND), KILL]
    return {each.name: each for each in settle.by_records(known, [FLOOD, LEAVE], records, PLAN)}


def test_records_prove_floods_and_hang_ups() -> None:
    found = _settled(record(9, 1100, [(1200, 1)], cls="flood_f1"), record(2, 900, outcome="cancelled", end=1100))
    assert (found["f1"].proved, found["f1"].why) == (True, "1 requests of flood_f1 were sent")
    assert (found["h1"].proved, found["h1"].why) == (True, "1 requests of chat were cancelled then")
    assert found["kill1"] == KILL


def test_records_disprove_floods_and_hang_ups() -> None:
    unsent = record(9, 1100, sent=None, end=None, outcome="cut", cls="flood_f1")
    planned = record(1, 900, outcome="cancelled", end=1100)
    earlier = record(2, 100, outcome="cancelled", end=900)
    other = record(3, 900, outcome="cancelled", end=1100, cls="code")
    found = _settled(unsent, planned, earlier, other)
    assert not found["f1"].proved
    assert not found["h1"].proved
    said = summarise([], facts(faults=tuple(found.values()))).invalid
    assert [each for each in said if "fault" in each] == [
        "fault f1 was not seen to happen",
        "fault h1 was not seen to happen",
    ]


def test_records_save_no_fault_that_failed() -> None:
    failed = FaultFacts(name="f1", at=1 * SECOND, proved=False, why="why not")
    sent = record(9, 1100, [(1200, 1)], cls="flood_f1")
    assert settle.by_records([failed], [FLOOD], [sent], PLAN) == [failed]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_oracle_is_the_mocks(api: Any) -> None:
    """Asked with the very bytes of the plan, the mock answers what `oracle_of` expects."""
    wire = Wire("mock", "mock", "slackwater", "exact", Words(("a", "b")), api)
    plan = Plan(0, [_request(1), _request(2), _request(3, turn=1)], [], (0, SECOND))

    async def main() -> None:
        server = MockServer(parse(()))
        await server.start()
        try:
            expected = oracle_of(plan, wire, Tokenizer())
            for request in plan.requests[:2]:
                text = await _ask(server.port, api, body(request, wire, stream=False))
                assert tokens_of(text) == expected(request.id)
            assert expected(1) != expected(2)
            assert expected(4) is None
        finally:
            await server.stop()

    asyncio.run(main())


def test_the_oracle_does_not_guess_live_turns() -> None:
    wire = Wire("mock", "mock", "slackwater", "exact", Words(("a", "b")), "chat")
    live = PlannedRequest(2, "chat", NOT_DUE, Prompt(1, text="b"), 4, session=0, turn=1)
    expected = oracle_of(Plan(0, [_request(1), live], [], (0, SECOND)), wire, Tokenizer())
    assert expected(1) is not None
    assert expected(2) is None


async def _ask(port: int, api: str, asked: dict[str, Any]) -> str:
    raw = orjson.dumps(asked)
    path = "/v1/chat/completions" if api == "chat" else "/v1/completions"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nhost: mock\r\ncontent-length: {len(raw)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + raw)
    answer = await reader.read()
    writer.close()
    choice = orjson.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]
    return str(choice["message"]["content"] if api == "chat" else choice["text"])
