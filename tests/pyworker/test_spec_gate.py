"""How many guesses are taken, and that nobody goes on losing by them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.engine.request import Request, SamplingParams
from pyworker.spec_decode.acceptance import Acceptance
from pyworker.spec_decode.cost import StepCost
from pyworker.spec_decode.gate import Candidate, choose
from pyworker.spec_decode.ledger import Ledger
from pyworker.spec_decode.proposer import Draft
from pyworker.spec_decode.speculator import GatedSpeculator, make_speculator

CANDIDATES = st.lists(st.tuples(st.integers(1, 7), st.floats(0.01, 0.99)), min_size=1, max_size=6)


@given(CANDIDATES, st.lists(st.floats(0.0, 40.0), min_size=42, max_size=42), st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_the_best_step_is_taken(kinds: list[tuple[int, float]], steps: list[float], room: int) -> None:
    candidates = [Candidate(str(index), count, alpha) for index, (count, alpha) in enumerate(kinds)]
    curve = [100.0]
    for step in steps:
        curve.append(curve[-1] + step)
    chosen = choose(candidates, len(kinds), curve, room)
    values = sorted((alpha ** (i + 1) for count, alpha in kinds for i in range(count)), reverse=True)[:room]
    rates = [(len(kinds) + sum(values[:m])) / curve[m] for m in range(len(values) + 1)]
    taken = sum(chosen.values())
    if taken == 0:
        assert max(rates) <= rates[0] * 1.02 + 1e-12
    else:
        assert rates[taken] == pytest.approx(max(rates))
        assert rates[taken] > 1.02 * rates[0]
    assert all(chosen.get(c.request_id, 0) <= c.num_drafts for c in candidates)
    assert taken <= room


def test_before_step_times_are_known_rows_stay_few() -> None:
    many = [Candidate(str(index), 7, 0.9) for index in range(4)]
    assert sum(choose(many[:1], 1, None, 100).values()) == 7
    assert sum(choose(many, 4, None, 100).values()) == 8
    assert choose(many, 8, None, 100) == {}


def test_a_dear_step_takes_no_guess_and_a_flat_one_takes_all() -> None:
    one = [Candidate("a", 4, 0.5)]
    assert choose(one, 1, [100.0, 200.0, 300.0, 400.0, 500.0], 9) == {}
    assert choose(one, 1, [100.0] * 5, 9) == {"a": 4}


def test_step_cost_goes_straight_between_sizes_and_never_down() -> None:
    cost = StepCost()
    for size, micros in ((1, 100), (5, 180), (9, 170)):
        for _ in range(5):
            cost.observe(size, micros)
    curve = cost.curve(1, 9)
    assert curve is not None
    assert curve[:5] == pytest.approx([100, 120, 140, 160, 180])
    assert curve[5:] == pytest.approx([180] * 4)
    assert cost.curve(2, 4) == pytest.approx([120, 140, 160])
    assert cost.curve(9, 12) is None
    assert StepCost().curve(1, 3) is None


def test_acceptance_begins_with_the_kind_and_ends_with_the_request() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.observe("copier", "ngram", 3, 4, 4)
    assert acceptance.alpha("copier", "ngram", 3) > 0.95
    assert acceptance.alpha("new", "ngram", 3) > 0.95
    assert acceptance.alpha("new", "suffix", 3) == pytest.approx(0.5)
    for _ in range(100):
        acceptance.observe("chatter", "ngram", 3, 4, 0)
    assert acceptance.alpha("chatter", "ngram", 3) < 0.25
    acceptance.forget("chatter")
    assert acceptance.alpha("chatter", "ngram", 3) > 0.3


def test_the_ledger_stops_a_loser_and_lets_it_try_again() -> None:
    ledger = Ledger()
    for _ in range(100):
        assert ledger.may_guess("r")
        ledger.book("r", 1000.0, 0.0, 0.0)
    assert ledger.may_guess("r")
    ledger.book("r", 1500.0, 1200.0, 0.0)
    for _ in range(64):
        assert not ledger.may_guess("r")
        ledger.book("r", 1000.0, 0.0, 0.0)
    assert ledger.may_guess("r")
    ledger.book("r", 1500.0, 500.0, 0.0)
    assert not ledger.may_guess("r")


def test_the_first_wrong_guesses_may_cost_a_step_and_no_more() -> None:
    ledger = Ledger()
    for _ in range(2):
        ledger.book("r", 1400.0, 400.0, 0.0)
        assert ledger.may_guess("r")
    ledger.book("r", 1400.0, 700.0, 0.0)
    assert not ledger.may_guess("r")


def test_what_guesses_have_brought_pays_for_a_wrong_one() -> None:
    ledger = Ledger()
    for _ in range(10):
        ledger.book("r", 1200.0, 200.0, 1000.0)
    for _ in range(8):
        ledger.book("r", 2000.0, 1000.0, 0.0)
        assert ledger.may_guess("r")
    for _ in range(2):
        ledger.book("r", 2000.0, 1000.0, 0.0)
    assert not ledger.may_guess("r")


def test_gains_are_remembered_up_to_a_bound() -> None:
    ledger = Ledger()
    for _ in range(1_000):
        ledger.book("r", 1000.0, 0.0, 1000.0)
    steps = 0
    while ledger.may_guess("r"):
        ledger.book("r", 1000.0, 500.0, 0.0)
        steps += 1
    assert 100 < steps < 300


def test_probes_that_win_do_not_let_losses_add_up() -> None:
    ledger = Ledger()
    lost = decoded = 0.0
    for _ in range(10_000):
        extra = saved = 0.0
        if ledger.may_guess("r"):
            probing = ledger._accounts["r"].probing
            extra, saved = (300.0, 1000.0) if probing else (300.0, 0.0)
        ledger.book("r", 1000.0 + extra, extra, saved)
        lost, decoded = lost + extra - saved, decoded + 1000.0
    assert lost < 0.02 * decoded


class Wrong:
    """Guesses that never come true."""

    name = "wrong"

    def propose(self, request: Request, k: int) -> Draft:
        del request
        return Draft((1,) * k, 3)

    def observe(self, request: Request, tokens: object) -> None:
        """Nothing to learn."""

    def forget(self, request_id: str) -> None:
        """Nothing to forget."""


class Likely(Wrong):
    """Guesses on a long match."""

    def propose(self, request: Request, k: int) -> Draft:
        del request
        return Draft((1,) * min(k, 3), 16)


def test_guesses_that_never_come_true_cost_little() -> None:
    speculator = GatedSpeculator(Wrong())
    one = Request("r", 0, [1], SamplingParams())
    plain = total = 0
    for _ in range(3_000):
        drafts = speculator.propose([one], 1, 64, 1).get("r", [])
        micros = 1_000 + 200 * len(drafts)
        one.output_ids.append(2)
        speculator.observe(one, drafts, [2])
        speculator.observe_step(1 + len(drafts), 1, micros)
        plain, total = plain + 1_000, total + micros
    assert total < 1.02 * plain


def test_a_step_of_unknown_size_settles_accounts_and_teaches_nothing() -> None:
    speculator = GatedSpeculator(Wrong())
    one = Request("r", 0, [1], SamplingParams(), output_ids=[2])
    for _ in range(5):
        for size in (1, 2, 3):
            speculator.observe_step(size, 1, 1_000)
    speculator.observe(one, [1, 1], [2])
    speculator.observe_step(0, 1, 10)
    assert speculator._outcomes == {}
    assert speculator._cost.curve(1, 3) == [1_000.0] * 3


def test_a_token_guessed_beside_a_prompt_is_worth_a_step_without_it() -> None:
    speculator = GatedSpeculator(Wrong())
    one = Request("r", 0, [1], SamplingParams(), output_ids=[2, 3])
    for _ in range(5):
        for size, micros in ((1, 1_000), (2, 1_400), (100, 30_000), (102, 30_000)):
            speculator.observe_step(size, 1, micros)
    for size, extra in ((102, 0.0), (302, 0.0)):  # the second size is one of which nothing is known
        before = speculator._ledger._accounts["r"].debt_micros if "r" in speculator._ledger._accounts else 0.0
        speculator.observe(one, [3], [2, 3])
        speculator.observe_step(size, 2, 30_000)
        gained = before - speculator._ledger._accounts["r"].debt_micros
        assert extra <= gained <= 1_400


def test_tokens_that_come_anyway_weigh_against_a_guess() -> None:
    """A guess that slows everybody down pays for one row alone, and not beside eight others."""
    answers = {}
    for others in (0, 8):
        speculator = GatedSpeculator(Likely())
        one = Request("r", 0, [1], SamplingParams())
        for _ in range(5):
            for size in range(1, 20):
                speculator.observe_step(size, 1, 1_000 + 80 * size)
        answers[others] = speculator.propose([one], 1 + others, 3, 1 + others).get("r", [])
    assert answers[0]
    assert not answers[8]


def test_names() -> None:
    assert make_speculator("off") is None
    assert make_speculator("suffix") is not None
    with pytest.raises(KeyError):
        make_speculator("magic")
