"""From records to the result tree: totals add up, the order changes nothing, and the run says what it cannot claim."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from support.loadgen_records import MS, SECOND, facts, record, slo, streamed, table

from loadgen import result
from loadgen.measure.columns import columns
from loadgen.measure.evaluate import Outcome, evaluate
from loadgen.measure.expr import parse
from loadgen.measure.facts import ClassFacts, FaultFacts, JobFacts, RunFacts
from loadgen.measure.interference import harvest, interference
from loadgen.measure.summarise import IDENTITY, summarise, with_window
from loadgen.record import Record

FIRM = {"chat": ClassFacts(slo=slo(ttft=100, tpot=20), planned=600)}


def _served(count: int = 600, every: float = 100.0, first: float = 50.0) -> list[Record]:
    return [streamed(each, every * each, first, 10, 5) for each in range(count)]


def test_order_of_records_changes_no_number() -> None:
    made = _served()
    mixed = list(made)
    random.Random(3).shuffle(mixed)
    given = facts(classes=FIRM)
    assert result.encode(summarise(made, given)) == result.encode(summarise(mixed, given))


def test_records_written_and_read_give_the_same() -> None:
    made = _served()
    again = [msgspec.json.decode(msgspec.json.encode(each), type=Record) for each in made]
    assert summarise(again, facts(classes=FIRM)) == summarise(made, facts(classes=FIRM))


def test_outcomes_add_up_to_offered() -> None:
    made = [*_served(590), *(record(each, 100.0 * each, outcome="cut", end=None) for each in range(590, 600))]
    found = summarise(made, facts(classes=FIRM))
    chat = found.classes["chat"]
    assert sum(found.outcomes.values()) == found.records == 600
    assert sum(chat.outcomes.values()) == chat.offered == 600
    assert chat.attainment is not None
    assert chat.attainment.counted + chat.attainment.censored == 600
    assert chat.attainment.value == pytest.approx(590 / 600)
    assert chat.metrics["ttft"].missing == 10
    assert found.status == "ok"


def test_a_planned_request_without_a_record_makes_it_invalid() -> None:
    found = summarise(_served(599), facts(classes=FIRM))
    assert found.status == "invalid"
    assert found.invalid == ["chat: 600 requests were planned and 599 have a record"]


def test_sending_early_makes_it_invalid() -> None:
    """Mistake 17."""
    made = [*_served(599), streamed(599, 59_900, 50, 10, 5, sent=59_899.999)]
    assert summarise(made, facts(classes=FIRM)).invalid == ["chat: 1 requests were sent before they were due"]


def test_too_many_censored_make_it_invalid() -> None:
    made = [*_served(590), *(record(each, 100.0 * each, outcome="censored", end=None) for each in range(590, 600))]
    late = {"chat": ClassFacts(slo=slo(ttft=60_000, tpot=20))}
    assert summarise(made, facts(classes=late)).status == "invalid"


def test_window_leaves_out_ramp_and_drain() -> None:
    """Mistake 7: 1/s before and after, 10/s within; the window's throughput is the plan's."""
    slow = [*range(0, 30_000, 1000), *range(90_000, 120_000, 1000)]
    due = sorted([*slow, *range(30_000, 90_000, 100)])
    made = [streamed(number, float(at), 50, 10, 5) for number, at in enumerate(due)]
    chat = summarise(made, facts(60, start=30)).classes["chat"]
    assert chat.completed_per_s is not None
    assert chat.tokens_per_s is not None
    assert chat.offered_per_s == pytest.approx(10, rel=0.01)
    assert chat.completed_per_s.value == pytest.approx(10, rel=0.01)
    assert chat.tokens_per_s.value == pytest.approx(50, rel=0.01)
    assert chat.concurrency == pytest.approx(0.9, rel=0.02)


def test_a_rate_of_tokens_needs_no_stamps() -> None:
    bare = [msgspec.structs.replace(each, ts=[], k=[]) for each in _served()]
    for made in (_served(), bare):
        told = summarise(made, facts(classes=FIRM)).classes["chat"].tokens_per_s
        assert told is not None
        assert told.value == pytest.approx(50, rel=0.01)
        assert _asked("chat.tokens_per_s>=45", made, facts(classes=FIRM)).holds
    offline = {"chat": ClassFacts(online=False)}
    told = summarise(bare, facts(classes=offline)).offline_tokens_per_s
    assert told is not None
    assert told.value == pytest.approx(50, rel=0.01)


def test_cached_tokens_and_their_ideal_are_of_one_window() -> None:
    known = {"chat": ClassFacts(ideal_cached_tokens=6_000)}
    made = [streamed(each, 100.0 * each, max(2000 - 20 * each, 50), 10, 5, cached_tokens=8) for each in range(600)]
    found = summarise(made, facts(warmup_auto=True, classes=known))
    assert found.window.cut > 0
    assert found.classes["chat"].tokens.cached_of_ideal == 0.8
    part = summarise(made, with_window(facts(classes=known), (0, 20 * SECOND)))
    assert (part.classes["chat"].tokens.cached, part.classes["chat"].tokens.cached_of_ideal) == (201 * 8, None)


def test_a_default_run_says_what_it_cannot_claim() -> None:
    """Mistake 16."""
    found = summarise(_served(60, 1000.0), facts(warmup=0))
    said = " ".join(found.notes)
    assert "chat: 60 samples are too few for p99 (299), p99.9 (2995) of ttft" in found.notes
    assert "no warm-up" in said
    assert "at least 6 runs" in said
    p99 = next(each for each in found.classes["chat"].metrics["ttft"].quantiles if each.q == 0.99)
    assert (p99.value, p99.needed) == (None, 299)
    assert found.classes["chat"].attainment is None
    assert {found.identity[key] for key in IDENTITY} == {"unknown"}


def test_chunks_taken_for_tokens_are_flagged() -> None:
    """Mistake 2, with usage off."""
    made = [streamed(each, 100.0 * each, 50, 10, 5, count_source="chunks") for each in range(600)]
    found = summarise(made, facts())
    assert found.classes["chat"].tokens.sources == {"chunks": 1.0}
    assert any("tokens counted as chunks" in each for each in found.notes)


def test_warm_up_is_cut_and_said() -> None:
    made = [streamed(each, 100.0 * each, max(2000 - 20 * each, 50), 10, 5) for each in range(600)]
    found = summarise(made, facts(warmup_auto=True))
    assert found.window.steady
    assert found.window.cut == found.window.start == 10 * SECOND
    assert any("10 s later" in each for each in found.notes)
    again = summarise(made, with_window(facts(warmup_auto=True), (0, 20 * SECOND)))
    assert (again.window.start, again.window.end, again.window.cut) == (0, 20 * SECOND, 0)


def test_overload_is_said() -> None:
    made = [streamed(each, 100.0 * each, 50 + 30 * each, 10, 5) for each in range(600)]
    found = summarise(made, facts())
    assert found.status == "overloaded"
    assert found.overloaded == ["chat"]
    closed = {"chat": ClassFacts(closed=True)}
    assert summarise(made, facts(classes=closed)).status == "ok"


def _asked(text: str, made: list[Record], given: RunFacts) -> Outcome:
    return evaluate(parse(text), columns(made), given, given.window, {})


def test_expressions() -> None:
    kill = FaultFacts(name="kill1", at=30 * SECOND, until=33 * SECOND)
    slow = [streamed(each, 100.0 * each, 500 if 300 <= each < 330 else 50, 10, 5) for each in range(600)]
    given = facts(classes=FIRM, faults=(kill,))
    holds = {
        text: _asked(text, slow, given)
        for text in (
            "chat.attainment>=0.95",
            "chat.attainment(during kill1)<=0.1",
            "chat.attainment(after kill1)>=0.99",
            "chat.recovery(after kill1)<=10s",
            "all.errors==0",
            "chat.p50.ttft<=50ms",
            "chat.mean.ttft<=100ms",
            "chat.p99.tbt<=10ms",
            "chat.goodput>=9.4",
            "chat.offered==600",
            "chat.tokens_per_s>=45",
        )
    }
    assert [text for text, each in holds.items() if not each.holds] == []
    assert holds["chat.attainment>=0.95"].value.number == pytest.approx(569 / 600, abs=0.002)
    few = _asked("chat.p99.ttft(during kill1)<=9s", slow, given)
    assert (few.holds, few.value.reason) == (False, "31 samples are too few, 299 are needed")
    for text in ("code.attainment>=0", "chat.attainment(after kill2)>=0", "chat.harvest>=0", "chat.completion<=1h"):
        found = _asked(text, slow, given)
        assert not found.holds
        assert found.value.reason


def test_survivors_alone_meet_no_assertion() -> None:
    made = [*_served(540), *(record(each, 100.0 * each, outcome="error") for each in range(540, 600))]
    assert not _asked("chat.p95.ttft<=1h", made, facts(classes=FIRM)).holds
    assert _asked("chat.errors==60", made, facts(classes=FIRM)).holds


def test_jobs() -> None:
    items = [
        record(each, 0, [(100.0 * (each + 1), 5)], sent=0, job="eval", cls="eval", in_got=15) for each in range(200)
    ]
    job = JobFacts(name="eval", cls="eval", submitted=0, finished=20 * SECOND, deadline=25 * SECOND, items=200)
    known = {"eval": ClassFacts(online=False)}
    found = summarise(items, facts(classes=known, jobs=(job,))).jobs["eval"]
    assert (found.completed, found.lost, found.deadline_met) == (200, 0, True)
    assert (found.items_per_s, found.tokens_per_s, found.tail1) == (10, 200, 0.2 * SECOND)
    short = summarise(items[:199], facts(classes=known, jobs=(job,))).jobs["eval"]
    assert (short.lost, short.deadline_met) == (1, False)
    batch = msgspec.structs.replace(job, completed=200, in_tokens=3000, out_tokens=1000, curve=((19 * SECOND, 198),))
    by_api = summarise([], facts(classes=known, jobs=(batch,))).jobs["eval"]
    assert (by_api.items_per_s, by_api.tokens_per_s, by_api.tail1) == (10, 200, 1 * SECOND)
    assert _asked("eval.deadline_met==1", items, facts(classes=known, jobs=(job,))).holds


def test_faults_count_whom_they_met() -> None:
    made = [*_served(299), record(299, 29_900, outcome="error", end=30_010), *_served(600)[300:]]
    kill = FaultFacts(name="kill1", at=30 * SECOND)
    found = summarise(made, facts(classes=FIRM, faults=(kill,))).faults["kill1"]
    # 299 is open at 30.0 s, and 300 is sent at that very moment.
    assert (found.in_flight, found.lost) == (2, 1)
    unseen = summarise(made, facts(classes=FIRM, faults=(FaultFacts(name="kill1", at=1, proved=False),)))
    assert unseen.invalid == ["fault kill1 was not seen to happen"]


def test_interference_pairs_requests() -> None:
    alone = table(*_served())
    beside = table(*(streamed(each, 100.0 * each, 150 if each % 2 else 60, 10, 5) for each in range(600)))
    found = interference(alone, beside, FIRM["chat"], (0, 60 * SECOND), (90 * SECOND, 90 * SECOND))
    assert found.pairs == 600
    assert found.attainment is not None
    assert found.attainment.value == -0.5
    ttft = found.differences["ttft"]
    assert ttft is not None
    assert ttft.value == 55 * MS
    p99 = next(each for each in found.changes if (each.metric, each.statistic) == ("ttft", "p99"))
    assert p99.ratio == 3.0
    assert harvest(30.0, 40.0) == 0.75
    assert harvest(1.0, None) is None
    with pytest.raises(ValueError, match="different plans"):
        interference(alone, table(*_served(every=99.0)), FIRM["chat"], (0, 60 * SECOND), (1, 1))


def test_turns_that_wait_for_their_answers_are_pairs_though_they_are_due_at_other_times() -> None:
    first = [streamed(0, 0, 50, 10, 5, session=0), streamed(1, 1_090, 50, 10, 5, session=0, turn=1)]
    later = [streamed(0, 0, 90, 10, 5, session=0), streamed(1, 1_130, 50, 10, 5, session=0, turn=1)]
    known = msgspec.structs.replace(FIRM["chat"], live=True)
    found = interference(table(*first), table(*later), known, (0, 60 * SECOND), (90 * SECOND, 90 * SECOND))
    assert found.pairs == 2
    ttft = found.differences["ttft"]
    assert ttft is not None
    assert ttft.value == 20 * MS


def test_no_records() -> None:
    found = summarise([], facts())
    assert found.records == 0
    assert found.classes["chat"].offered == 0
    assert np.all([each is None for each in (found.offline_tokens_per_s, found.classes["chat"].attainment)])
