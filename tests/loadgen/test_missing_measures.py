"""Session lateness, closed loops that ran dry, throughput of batch jobs, interference over several pairs of runs."""

from __future__ import annotations

import numpy as np
import pytest
from support.loadgen_records import MS, SECOND, facts, record, slo, streamed, table

from loadgen.measure.evaluate import figure_value
from loadgen.measure.expr import parse_figure
from loadgen.measure.facts import ClassFacts, JobFacts
from loadgen.measure.interference import interference, over_runs, spread_of
from loadgen.measure.jobs import tokens_within
from loadgen.measure.sessions import session_lateness
from loadgen.measure.summarise import summarise
from loadgen.measure.supply import ran_dry
from loadgen.record import Record

FIRM = slo(ttft=100, tpot=20)
PACE = 10.0


def _session(number: int, due: float, firsts: list[float], think: float, first_id: int) -> list[Record]:
    """Turns of 5 tokens, 10 ms apart; the next is due `think` ms after the end of the one before."""
    found = []
    for turn, first in enumerate(firsts):
        found.append(streamed(first_id + turn, due, first, PACE, 5, session=number, turn=turn))
        due += first + 4 * PACE + think
    return found


def test_a_session_is_as_late_as_its_turns_took_above_the_slo() -> None:
    # The ideal server needs 100 + 4 * 20 = 180 ms a turn; these need 100, 340 and 140.
    made = _session(0, 0, [60, 300, 100], think=1_000, first_id=0)
    found = session_lateness(table(*made), FIRM)
    assert found is not None
    assert found.late.tolist() == [-80 * MS + 160 * MS - 40 * MS]
    # By hand: with the ideal server the third turn would have ended at 3 * 180 + 2 * 1000.
    assert made[-1].end_micros == (3 * 180 + 2 * 1_000 + 40) * MS


def test_a_slow_server_is_late_though_it_was_asked_for_less() -> None:
    """Each turn misses by 1 s, so that ten turns are 10 s late, however few of them fit into the window."""
    quick, slow = (session_lateness(table(*_session(0, 0, [first] * 10, 500, 0)), FIRM) for first in (140, 1_140))
    assert quick is not None
    assert slow is not None
    assert quick.late.tolist() == [0.0]
    assert slow.late.tolist() == [10 * SECOND]


def test_a_failed_turn_ends_its_session_and_one_cut_off_by_the_run_counts_as_far_as_it_came() -> None:
    failed = [*_session(0, 0, [60], 500, 0), record(1, 600, outcome="error", session=0, turn=1)]
    cut = [*_session(1, 0, [150], 500, 10), record(11, 690, outcome="censored", session=1, turn=1, end=None)]
    unsent = [record(20, 0, outcome="cut", session=2, turn=0, sent=None, end=None)]
    alone = [streamed(30, 0, 900, PACE, 5)]
    found = session_lateness(table(*failed, *cut, *unsent, *alone), FIRM)
    assert found is not None
    assert found.late.tolist() == [np.inf, 10 * MS]
    assert found.whole.tolist() == [10 * MS]
    assert session_lateness(table(*failed), slo(ttft=100)) is None


def test_sessions_stand_in_the_result_where_turns_are_live() -> None:
    made = [*_session(0, 2_000, [60, 60], 500, 0), *_session(1, 3_000, [60, 500], 500, 10)]
    made += [record(20, 4_000, outcome="timeout", session=2, turn=0)]
    made += _session(3, 500, [900], 500, 30)
    known = {"chat": ClassFacts(slo=FIRM, live=True)}
    found = summarise(made, facts(start=1, classes=known)).classes["chat"].sessions
    assert found is not None
    # The one that began in the warm-up is left out.
    assert (found.begun, found.failed, found.late) == (3, 1, 2)
    assert found.mean == pytest.approx((-160 + 280) / 2 * MS)
    assert summarise(made, facts(start=1, classes={"chat": ClassFacts(slo=FIRM)})).classes["chat"].sessions is None


def _loop(count: int, took: float = 100.0) -> list[Record]:
    """One slot: each request begins where the one before ended."""
    return [record(each, each * took, [(each * took + took, 1)]) for each in range(count)]


def test_a_closed_loop_that_has_nothing_more_to_send_is_invalid() -> None:
    known = {"chat": ClassFacts(closed=True, supply=500)}
    found = summarise(_loop(500), facts(classes=known))
    assert found.status == "invalid"
    assert found.invalid == ["chat: the closed loop had nothing more to send from 50.0 s on"]
    assert summarise(_loop(499), facts(classes=known)).status == "ok"
    # The last one ends after the window does: no slot stood idle within it.
    assert summarise(_loop(600), facts(classes={"chat": ClassFacts(closed=True, supply=600)})).status == "ok"


def test_what_was_never_sent_does_not_count_as_taken() -> None:
    unsent = [record(each, 70_000, outcome="cut", sent=None, end=None) for each in range(499, 600)]
    assert ran_dry(table(*_loop(499), *unsent), 600, (0, 60 * SECOND)) is None
    assert ran_dry(table(*_loop(10)), None, (0, 60 * SECOND)) is None
    # Two slots: the one that is free first finds nothing, though the other still works.
    two = [record(0, 0, [(100, 1)]), record(1, 0, [(900, 1)]), record(2, 100, [(300, 1)])]
    assert ran_dry(table(*two), 3, (0, SECOND)) == 300 * MS


BATCH = JobFacts(
    name="eval",
    cls="eval",
    submitted=10 * SECOND,
    finished=30 * SECOND,
    items=200,
    completed=200,
    in_tokens=2_000,
    out_tokens=1_000,
    curve=((15 * SECOND, 20), (20 * SECOND, 100)),
)


def test_a_batch_job_has_tokens_a_second_from_its_usage() -> None:
    known = {"eval": ClassFacts(online=False)}
    given = facts(classes=known, jobs=(BATCH,))
    found = summarise([], given)
    assert found.jobs["eval"].tokens_per_s == 3_000 / 20
    value = figure_value(parse_figure("eval.tokens_per_s"), table(), given, given.window, {})
    assert value.number == 3_000 / 20


def test_without_counters_the_curve_gives_the_offline_rate_within_the_window() -> None:
    known = {"eval": ClassFacts(online=False)}
    assert tokens_within(BATCH, (0, 60 * SECOND)) == 1_000
    # 5 tokens an item: 20 items by 15 s, 100 by 20 s, 200 by 30 s.
    assert tokens_within(BATCH, (15 * SECOND, 25 * SECOND)) == pytest.approx(5 * (150 - 20))
    found = summarise([], facts(seconds=10, start=15, classes=known, jobs=(BATCH,)))
    assert found.offline_tokens_per_s is not None
    assert found.offline_tokens_per_s.value == pytest.approx(65.0)


def test_interference_over_pairs_has_an_interval_from_six_on() -> None:
    known = ClassFacts(slo=FIRM)
    window = (0, 60 * SECOND)

    def pair(number: int) -> tuple[list[Record], list[Record]]:
        late = 5 + number
        alone = [streamed(each, 100 * each, 50, PACE, 5) for each in range(100)]
        beside = [streamed(each, 100 * each, 200 if each < late else 50, PACE, 5) for each in range(100)]
        return alone, beside

    found = []
    for number in range(6):
        one, other = pair(number)
        found.append(interference(table(*one), table(*other), known, window, (90 * SECOND, 90 * SECOND)))
    together = over_runs(found)
    assert together.loss is not None
    assert (together.loss.lowest, together.loss.highest) == (pytest.approx(0.05), pytest.approx(0.10))
    assert together.loss.interval is not None
    assert together.loss.interval.value == pytest.approx(0.075)
    ratio = together.ratios["ttft mean"]
    assert ratio is not None
    assert ratio.lowest == pytest.approx((5 * 200 + 95 * 50) / 5_000)
    few = over_runs(found[:3])
    assert few.loss is not None
    assert few.loss.interval is None
    assert together.ratios["ttft p99"] is None
    assert spread_of([0.5, None]) is None
