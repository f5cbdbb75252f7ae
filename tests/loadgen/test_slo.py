"""Who counts as good, who as bad, and who is not judged: the rules of the design page's section 4."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.loadgen_records import MS, SECOND, record, slo, streamed, table

from loadgen.errors import BadInput
from loadgen.measure.slo import check, judge, promise, targets
from loadgen.spec import Slo, SloTerm

HORIZON = 90 * SECOND
FIRM = slo(ttft=100, tpot=20)


def test_all_parts_must_hold() -> None:
    at = table(
        streamed(1, 0, 100, 20, 5),
        streamed(2, 1, 101, 20, 5),
        streamed(3, 2, 100, 21, 5),
        streamed(4, 3, 90, 10, 5),
    )
    judged = judge(at, FIRM, HORIZON, exact=True)
    assert judged.good.tolist() == [True, False, False, True]
    assert judged.value() == 0.5


def test_failures_are_bad_and_hang_ups_are_left_out() -> None:
    """Mistake 5: 10 % errors leave an attainment of at most 0.90, however fast the rest is."""
    failed = [record(each, each, outcome="error", end=each + 1, reason="status_500") for each in range(10)]
    served = [streamed(each, each, 1, 1, 5) for each in range(10, 100)]
    judged = judge(table(*failed, *served), FIRM, HORIZON, exact=True)
    assert judged.value() == 0.9
    gone = [streamed(each, each, 1, 1, 2, outcome="cancelled", out_want=5) for each in range(100, 120)]
    assert judge(table(*failed, *served, *gone), FIRM, HORIZON, exact=True).value() == 0.9


@pytest.mark.parametrize("outcome", ["error", "refused", "shed", "timeout"])
def test_each_bad_outcome(outcome: str) -> None:
    # Even with all its tokens there in time.
    judged = judge(table(streamed(1, 0, 1, 1, 5, outcome=outcome)), FIRM, HORIZON, exact=True)
    assert (judged.good.tolist(), judged.counted.tolist()) == ([False], [True])


def test_right_number_of_tokens() -> None:
    at = table(*(streamed(each, each, 1, 1, each, out_want=5) for each in (4, 5, 6)))
    assert judge(at, FIRM, HORIZON, exact=True).good.tolist() == [False, True, False]
    assert judge(at, FIRM, HORIZON, exact=False).good.tolist() == [True, True, False]


@pytest.mark.parametrize("said", ["cut", "censored"])
def test_open_requests_are_judged_by_their_deadline(said: str) -> None:
    """Deadline = due + TTFT + (out - 1) x TPOT, whatever the run wrote for another SLO."""
    late_start = streamed(1, 89_000, 300, 10, 3, outcome=said, out_want=1000, end=None)
    in_time = streamed(2, 89_000, 50, 10, 3, outcome=said, out_want=1000, end=None)
    over = streamed(3, 60_000, 50, 10, 3, outcome=said, out_want=100, end=None)
    nothing_yet = record(4, 89_950, [], outcome=said, end=None)
    nothing_came = record(5, 80_000, [], outcome=said, end=None)
    judged = judge(table(late_start, in_time, over, nothing_yet, nothing_came), FIRM, HORIZON, exact=True)
    by_id = dict(zip([3, 5, 1, 2, 4], judged.censored.tolist(), strict=True))
    assert by_id == {1: False, 2: True, 3: False, 4: True, 5: False}
    assert np.array_equal(judged.cut, ~judged.censored)
    assert not judged.good.any()


def test_open_requests_without_a_deadline_stay_as_recorded() -> None:
    at = table(streamed(1, 0, 1, 1, 3, outcome="cut"), streamed(2, 1, 1, 1, 3, outcome="censored"))
    judged = judge(at, Slo(), HORIZON, exact=True)
    assert (judged.cut.tolist(), judged.censored.tolist()) == ([True, False], [False, True])
    # Never sent: nobody could say what would have been.
    unsent = table(record(1, 0, outcome="cut", sent=None, end=None))
    assert judge(unsent, FIRM, HORIZON, exact=True).cut.tolist() == [True]


def test_nothing_offered_disappears() -> None:
    """Mistake 6: a server that hangs for ever leaves every request bad or censored."""
    hung = table(*(record(each, 1000.0 * each, [], outcome="cut", end=None) for each in range(90)))
    judged = judge(hung, slo(ttft=5000, tpot=50), HORIZON, exact=True)
    assert int(judged.censored.sum()) == 5
    assert int(judged.cut.sum()) == 85
    assert judged.value() == 0.0


def test_one_token_breaks_no_promise_about_gaps() -> None:
    at = table(streamed(1, 0, 50, 0, 1))
    judged = judge(at, slo(ttft=100, tpot=20, max_gap=30, late=0), HORIZON, exact=True)
    assert judged.good.tolist() == [True]
    assert judged.unmeasured.tolist() == [False]


def test_late_wants_its_two_bounds() -> None:
    every = slo(ttft=100, tpot=20, late=0)
    at = table(streamed(1, 0, 100, 20, 5), record(2, 1, [(90, 1), (91, 1), (149, 1), (150, 1)]))
    # The second is good on average, and its third token comes after that token's deadline.
    assert judge(at, FIRM, HORIZON, exact=True).good.tolist() == [True, True]
    assert judge(at, every, HORIZON, exact=True).good.tolist() == [True, False]
    check(every, "chat")
    with pytest.raises(BadInput, match="late"):
        check(slo(ttft=100, late=0), "chat")
    with pytest.raises(BadInput, match="quantile"):
        check(Slo((), (SloTerm("ttft", 1.0, 1.5),)), "chat")


def test_what_was_not_kept_counts_as_bad_and_says_so() -> None:
    at = table(record(1, 0, [], first_micros=10 * MS, end=50, out_got=5, out_want=5))
    judged = judge(at, slo(max_gap=100), HORIZON, exact=True)
    assert (judged.good.tolist(), judged.unmeasured.tolist()) == ([False], [True])


def test_the_strictest_bound_is_the_target() -> None:
    both = replace(FIRM, per_request=(*FIRM.per_request, SloTerm("ttft", 50.0 * MS)))
    assert targets(both) == (50 * MS, 20 * MS)


def test_population_counts_failures_as_endless() -> None:
    term = SloTerm("ttft", 200.0 * MS, 0.95)
    served = [streamed(each, each, 100, 1, 5) for each in range(100)]
    failed = [record(each, each, outcome="timeout", end=each + 9) for each in range(100, 110)]
    goal = slo((term,))
    good, bad = table(*served), table(*served, *failed)
    found = promise(good, term, goal, judge(good, goal, HORIZON, exact=True))
    assert (found.value, found.passed, found.count) == (100 * MS, True, 100)
    found = promise(bad, term, goal, judge(bad, goal, HORIZON, exact=True))
    assert (found.value, found.passed) == (np.inf, False)
    few = table(*served[:58])
    found = promise(few, term, goal, judge(few, goal, HORIZON, exact=True))
    assert (found.value, found.passed, found.needed) == (None, None, 59)


_outcome = st.sampled_from(["ok", "error", "refused", "shed", "timeout", "cancelled", "cut", "censored"])


@given(st.lists(st.tuples(_outcome, st.integers(0, 200), st.integers(0, 40), st.integers(1, 6)), max_size=30))
@settings(max_examples=80, deadline=None)
def test_every_request_is_one_of_good_bad_censored_hung_up(made: list[tuple[str, int, int, int]]) -> None:
    at = table(*(streamed(n, n, first, pace, k, outcome=how) for n, (how, first, pace, k) in enumerate(made)))
    judged = judge(at, FIRM, HORIZON, exact=True)
    bad = judged.counted & ~judged.good
    parts = [judged.good, bad, judged.censored, at.is_("cancelled")]
    assert np.sum(parts, axis=0).tolist() == [1] * len(made)
    assert not (judged.cut & ~bad).any()
