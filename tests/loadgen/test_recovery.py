"""Recovery after a fault, and how fast offline work yields and fills."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.loadgen_records import SECOND

from loadgen.measure.facts import Curve, LoadStep
from loadgen.measure.recovery import recovery
from loadgen.measure.steps import rates, response, settling_time

FAULT = 100 * SECOND
DUE = np.arange(0, 200 * SECOND, SECOND / 10)


def _shares(bad_from: float, bad_to: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.where((bad_from * SECOND <= DUE) & (bad_to * SECOND > DUE), 0.0, 1.0)


@pytest.mark.parametrize(
    ("bad_to", "seconds"),
    [(100, 0), (100.05, 0), (103, 5), (105, 5), (105.1, 5), (105.2, 10), (171, 75), (185, 85), (190, math.inf)],
)
def test_recovery_is_the_first_of_three_good_windows(bad_to: float, seconds: float) -> None:
    found = recovery(FAULT, DUE, _shares(100, bad_to), 200 * SECOND)
    assert found is not None
    assert found / SECOND == seconds


def test_two_good_windows_and_a_bad_one_are_no_recovery() -> None:
    shares = _shares(100, 103) * _shares(116, 117)
    assert recovery(FAULT, DUE, shares, 200 * SECOND) == 20 * SECOND


def test_as_good_as_before_is_measured_against_before() -> None:
    # Half were bad before: half bad afterwards is recovered, at once.
    shares = np.where(np.arange(len(DUE)) % 2 == 0, 1.0, 0.0)
    assert recovery(FAULT, DUE, shares, 200 * SECOND) == 0
    # Older than 60 s does not count as before.
    assert recovery(FAULT, DUE, np.where(DUE < 35 * SECOND, 1.0, shares), 200 * SECOND) == 0


def test_windows_without_requests_prove_nothing() -> None:
    quiet = (DUE >= 110 * SECOND) & (DUE < 130 * SECOND)
    found = recovery(FAULT, DUE[~quiet], _shares(100, 107)[~quiet], 200 * SECOND)
    assert found == 30 * SECOND
    assert recovery(FAULT, DUE[DUE > FAULT], np.ones(int((DUE > FAULT).sum())), 200 * SECOND) is None


def test_left_out_requests_are_left_out() -> None:
    shares = _shares(100, 103)
    shares[::2] = np.nan
    assert recovery(FAULT, DUE, shares, 200 * SECOND) == 5 * SECOND


def test_rates_of_a_counter() -> None:
    curve = Curve(times=(0, 2 * SECOND, 3 * SECOND), counts=(0, 20, 50))
    assert rates(curve, 0, 3 * SECOND).tolist() == [10, 10, 30]


def test_settling_wants_three_seconds_near_the_level() -> None:
    assert settling_time(np.asarray([100.0] * 4 + [50.0] * 16)) == 4 * SECOND
    # One lucky second on the way down is not the new level.
    assert settling_time(np.asarray([100.0, 100.0, 50.0, 100.0, 100.0] + [50.0] * 15)) == 5 * SECOND
    assert settling_time(np.asarray([1.0, 2.0, 3.0])) is None


def test_a_step_up_yields_and_a_step_down_fills() -> None:
    counts = np.concatenate(([0.0], np.cumsum([100.0] * 60 + [100.0] * 3 + [40.0] * 57 + [40.0] * 8 + [100.0] * 52)))
    curve = Curve(times=tuple(range(0, 181 * SECOND, SECOND)), counts=tuple(int(each) for each in counts))
    due = np.arange(0, 180 * SECOND, SECOND / 10)
    shares = np.where((due >= 60 * SECOND) & (due < 67 * SECOND), 0.0, 1.0)
    up = response(LoadStep(at=60 * SECOND, until=120 * SECOND, before=2.0, after=12.0), curve, due, shares)
    assert (up.yield_time, up.recovered, up.fill_time) == (3 * SECOND, 10 * SECOND, None)
    down = response(LoadStep(at=120 * SECOND, until=180 * SECOND, before=12.0, after=2.0), curve, due, shares)
    assert (down.yield_time, down.recovered, down.fill_time) == (None, None, 8 * SECOND)
    assert response(LoadStep(at=0, until=SECOND, before=2.0, after=1.0), None, due, shares).fill_time is None
