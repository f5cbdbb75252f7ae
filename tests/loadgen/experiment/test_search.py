"""Searches whose next step follows from what was found: knobs, rates, and the scale of a trace."""

from __future__ import annotations

import math
from typing import Any

import pytest

from loadgen.errors import BadInput
from loadgen.experiment import calibrate, scale, tune
from loadgen.experiment.plan import Calibrate, Scaling, Tune
from loadgen.experiment.tune import Tried
from loadgen.plan.rows import SourceRow

MEAN, OFFLINE = "chat.mean.tbt", "offline.tokens_per_s"
BISECT = Tune("A6", "budget", "bisect", lo="5ms", hi="200ms", tolerance=0.2)


def search(asked: Tune, metric: Any, base: float) -> list[Tried]:
    """All probes against an arm whose metric and offline rate are functions of the knob's number."""
    done: list[Tried] = []
    while (value := tune.next_value(asked, done, base)) is not None:
        number = float(value.rstrip("ms/"))
        done.append(Tried(value, {MEAN: metric(number), OFFLINE: number * 10}))
    return done


def test_bisection_closes_in_on_the_edge() -> None:
    # Holds up to 60 ms: 1 + number / 300 = 1.2.
    done = search(BISECT, lambda number: 100 * (1 + number / 300), 100)
    assert len(done) == 8
    assert done[0].value == "31.62ms"
    best = tune.best(BISECT, done, 100)
    assert best is not None
    assert 58 < float(best[:-2]) <= 60


def test_the_same_number_of_probes_where_all_or_none_hold() -> None:
    for metric in (lambda _: 1.0, lambda _: 1e9):
        assert len(search(BISECT, metric, 100)) == 8
    assert tune.best(BISECT, search(BISECT, lambda _: 1e9, 100), 100) is None


def test_a_probe_that_failed_holds_nothing() -> None:
    assert not tune.holds(Tried("1ms", {}), MEAN, 0.5, 100)
    assert not tune.holds(Tried("1ms", {MEAN: 1.0}), MEAN, 0.5, None)


def test_grids() -> None:
    whole = Tune("A0", "chunk", "grid", lo="64", hi="1024", probes=5)
    assert tune.grid(whole) == ["64", "128", "256", "512", "1024"]
    listed = Tune("A7", "profile", "grid", values=("p50", "p90"), probes=5)
    assert [tune.next_value(listed, [Tried("x", {})] * count, 1.0) for count in range(6)] == [
        "p50", "p90", "p50", "p90", "p50", None,
    ]  # fmt: skip
    with pytest.raises(BadInput, match="one unit"):
        tune.grid(Tune("A0", "chunk", "grid", lo="5ms", hi="1s"))


def test_settings_in_the_order_of_testing() -> None:
    asked = Tune("A6", "budget", "grid", values=("1", "2", "3"), tolerance=0.2)
    done = [
        Tried("1", {MEAN: 100.0, "chat.p99.tbt": 100.0, OFFLINE: 10.0}),
        Tried("2", {MEAN: 115.0, "chat.p99.tbt": 300.0, OFFLINE: 20.0}),
        Tried("3", {MEAN: 160.0, "chat.p99.tbt": 900.0, OFFLINE: 30.0}),
    ]
    bases = {MEAN: 100.0, "chat.p99.tbt": 100.0}
    # At 20 %: 2 by the mean, which is the arm's own goal; then 1 by p99 at both tolerances; 3 by the mean at 70 %.
    assert tune.ranked(asked, done, bases, [0.2, 0.7]) == ["2", "1", "3"]
    assert tune.ranked(asked, done, {}, []) == ["1", "2", "3"], "the most careful first where nothing holds"
    assert tune.best(Tune("A1", "chunk", "grid", values=("1",), metric=OFFLINE, goal="most"), done, None) == "3"
    assert tune.best(Tune("A0", "chunk", "grid", values=("1",), metric=MEAN, goal="least"), done, None) == "1"


ASKED = Calibrate("both", "A0", "A1", {}, start=0.2, highest=50, probes=10)


def saturated(limit: float) -> tuple[float | None, list[calibrate.RateProbe]]:
    probes: list[calibrate.RateProbe] = []
    while (rate := calibrate.next_rate(ASKED, probes)) is not None:
        probes.append(
            calibrate.RateProbe(rate, 100.0 / max(1e-9, 1 - rate / limit) if rate < limit else math.inf, False)
        )
    return calibrate.saturation(ASKED, probes), probes


def test_saturation_is_found_between_what_passed_and_what_did_not() -> None:
    # p99 = 100 / (1 - rate / limit), unloaded 103: five times that at 0.806 of the limit.
    found, probes = saturated(7.0)
    assert found is not None
    assert 0.75 < found / 7.0 <= 0.807
    assert len(probes) <= 11
    assert [round(probe.rate, 6) for probe in probes[:4]] == [0.2, 0.4, 0.8, 1.6]


def test_a_growing_backlog_fails_and_luck_above_a_failure_does_not_count() -> None:
    passed = calibrate.RateProbe(1.0, 110.0, False)
    assert calibrate.passes(passed, 100, 5)
    assert not calibrate.passes(calibrate.RateProbe(1.0, 110.0, True), 100, 5)
    assert not calibrate.passes(calibrate.RateProbe(1.0, None, False), 100, 5)
    probes = [
        calibrate.RateProbe(0.2, 100.0, False),
        calibrate.RateProbe(2.0, 9e9, False),
        calibrate.RateProbe(3, 100, False),
    ]
    assert calibrate.saturation(ASKED, probes) == 0.2
    assert calibrate.saturation(ASKED, []) is None


def test_no_end_of_the_search_without_a_first_figure() -> None:
    assert calibrate.next_rate(ASKED, [calibrate.RateProbe(0.2, None, False)]) is None


SCALING = Scaling(0.5, (4, 2), (0, 100_000_000), ((100_000_000, 200_000_000),))
ROWS = [SourceRow(time=second * 1_000_000, in_tokens=100, out_tokens=20) for second in range(0, 200, 2)]


def test_a_trace_and_its_stretch() -> None:
    facts = scale.trace_facts(ROWS, (100_000_000, 200_000_000), SCALING)
    assert (facts.requests, facts.rate, facts.in_mean, facts.out_mean, facts.burst) == (50, 0.5, 50.0, 10.0, 1.0)
    values, numbers = scale.solve(0.125, facts, (100_000_000, 200_000_000), SCALING, 300_000_000)
    assert values == {"scale": "x0.25", "rate": "0.125", "window": "100s..200s", "len": "x0.5"}
    assert numbers["online_tokens_per_s"] == pytest.approx(0.125 * 60)
    with pytest.raises(BadInput, match="wants 400 s of the trace"):
        scale.solve(0.5 * 4 / 3, facts, (100_000_000, 200_000_000), SCALING, 300_000_000)


def test_floors_and_bursts() -> None:
    rows = [SourceRow(time=each, in_tokens=1, out_tokens=1, blocks=(1, each)) for each in range(10)]
    facts = scale.trace_facts(rows, (0, 100_000_000), SCALING)
    assert (facts.in_mean, facts.out_mean, facts.burst, facts.shared) == (4.0, 2.0, 10.0, 0.5)
    with pytest.raises(BadInput, match="fewer than two"):
        scale.trace_facts(rows, (50_000_000, 100_000_000), SCALING)


def test_rates_of_cells() -> None:
    facts = scale.drawn_facts({"in": "100", "out": "20"})
    known = {"r_sat": 4.0, "c_off": 1_200.0}
    assert scale.target_rate({"rho": "0.3"}, facts, known) == pytest.approx(1.2)
    # Online tokens are 0.22 of what offline alone does: 264 a second, 120 a request.
    assert scale.target_rate({"share": "0.22"}, facts, known) == pytest.approx(2.2)
    for cell in ({}, {"rho": "0.3", "share": "0.2"}, {"rho": "x"}):
        with pytest.raises(BadInput):
            scale.target_rate(cell, facts, known)
    with pytest.raises(BadInput, match="not known yet"):
        scale.target_rate({"rho": "0.3"}, facts, {})
