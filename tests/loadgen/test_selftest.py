"""The climb to the highest clean rate, the limits it leaves behind, and what is said of a run beyond them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.loadgen_records import facts, streamed

from loadgen.measure.facts import ClassFacts
from loadgen.measure.summarise import summarise
from loadgen.plan.model import Plan, PlannedRequest, Prompt
from loadgen.selftest import limits
from loadgen.selftest.driver import judged, options, processes_to_try, text
from loadgen.selftest.ladder import Step, climb
from loadgen.selftest.limits import Highest, Limit, Limits, TimerError
from loadgen.selftest.mock_process import CpuWatch, MockProcess
from loadgen.selftest.timers import GAP_MICROS, error_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.record import Record

HIGH = Highest(rate=2_000.0, cpu=0.2, micros=90.0, all_micros=150.0, limited_by="gate", reason="send lag")
CHUNKS = Highest(rate=10_000.0, cpu=0.2, micros=9.0, all_micros=12.5, limited_by="steps", reason="no higher rate")
TIMER = TimerError(least=-130.0, p50=50.0, p99=240.0, cpu=0.03)


def found() -> Limits:
    return Limits(
        host=limits.host(),
        taken="2026-01-01T00:00:00+00:00",
        timers={"timerfd": TIMER},
        limits=[Limit(procs=1, requests=HIGH, chunks=CHUNKS)],
    )


def stepping(clean_up_to: float, flaws: list[float]) -> tuple[Callable[[float], Step], list[float]]:
    tried: list[float] = []

    def attempt(rate: float) -> Step:
        tried.append(rate)
        if rate in flaws:
            flaws.remove(rate)
            return Step(1, 0, 0, 0, "disturbed")
        why = "" if rate <= clean_up_to else "send lag"
        return Step(round(rate), 0.25, rate * 10e-6, rate * 15e-6, why)

    return attempt, tried


def test_the_climb_ends_at_the_first_step_that_stays_unclean() -> None:
    attempt, tried = stepping(500, flaws=[250])
    highest = climb([100, 250, 500, 1_000, 2_000], attempt)
    assert tried == [100, 250, 250, 500, 1_000, 1_000]
    assert (highest.rate, highest.cpu, highest.limited_by, highest.reason) == (500, 0.25, "gate", "send lag")
    assert (highest.micros, highest.all_micros) == (pytest.approx(10), pytest.approx(15))


def test_the_last_step_and_the_first_are_told_apart_from_the_rest() -> None:
    highest = climb([100, 250], stepping(500, [])[0])
    assert (highest.rate, highest.limited_by) == (250, "steps")
    none = climb([100, 250], stepping(50, [])[0])
    assert (none.rate, none.micros, none.reason) == (0.0, None, "send lag")


def _served(count: int, bad: int = 0) -> list[Record]:
    made = [streamed(each, 10.0 * each, 1, 0.1, 2, cls="self") for each in range(count - bad)]
    failing = [
        streamed(each, 10.0 * each, 1, 0.1, 2, cls="self", outcome="error") for each in range(count - bad, count)
    ]
    return [*made, *failing]


def test_a_step_is_clean_only_if_the_gate_passed_and_all_came() -> None:
    given = facts(classes={"self": ClassFacts()})
    watch = CpuWatch([])
    assert judged("requests", summarise(_served(1_000), given), watch, 0.0).why == ""
    lost = judged("requests", summarise(_served(1_000, bad=2), given), watch, 0.0)
    assert (lost.why, lost.limited_by) == ("998 of 1000 requests were answered", "errors")
    gate = judged(
        "chunks", summarise(_served(1_000), msgspec.structs.replace(given, invalid=("send lag",))), watch, 0.5
    )
    assert (gate.why, gate.limited_by, gate.units, gate.all_seconds) == ("send lag", "gate", 2_000, 0.5)


def test_a_busy_mock_is_the_bottleneck_before_the_gate_is() -> None:
    class Busy(CpuWatch):
        def _used(self, _: int) -> float:
            return 48.0

    given = facts(classes={"self": ClassFacts()}, invalid=("send lag",))
    step = judged("requests", summarise(_served(10), given), Busy([0], [0]), 0.0)
    # Of the 60 s in which requests were due, and not of what planning them took.
    assert (step.why, step.limited_by) == ("the mock used 80% of a core, bound 70%", "mock")
    assert step.cpu == 0.8


def test_a_step_asks_for_its_rate_in_requests_or_in_chunks(tmp_path: Path) -> None:
    short = options("requests", 2_000, "http://127.0.0.1:1", 4, tmp_path).scenario.online[0]
    long = options("chunks", 15_000, "http://127.0.0.1:1", 4, tmp_path).scenario.online[0]
    assert (short.arrivals.kind, short.arrivals.rate) == ("const", 2_000)
    assert long.arrivals.rate == 300


def test_limits_survive_their_file_and_are_of_this_host_only(tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    assert limits.load(file) is None
    file.write_bytes(limits.encode(found()))
    assert limits.load(file) == found()
    file.write_bytes(limits.encode(msgspec.structs.replace(found(), host={"cpu": "another"})))
    assert limits.load(file) is None
    file.write_bytes(b"{")
    assert limits.load(file) is None


def test_the_state_folder_follows_its_standard(tmp_path: Path) -> None:
    inside = Path("slackwater") / "loadgen" / "limits.json"
    assert limits.path({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / inside
    home = limits.path({}).parents[2]
    assert home.parts[-2:] == (".local", "state")
    assert limits.path({"XDG_STATE_HOME": "relative"}) == home / inside


def test_a_run_beyond_the_limits_is_told_why() -> None:
    assert limits.exceeded(found(), 1, 2_000, 10_000) == []
    assert limits.exceeded(found(), 2, 2_001, 0) == [
        "2001 requests/s are planned; 1 load processes reach 2000 here",
    ]
    assert limits.exceeded(found(), 1, 600, 3_000, factor=4) == [
        "600 requests/s are planned, 4 times that with room; 1 load processes reach 2000 here",
        "3000 chunks/s are planned, 4 times that with room; 1 load processes reach 10000 here",
    ]
    assert limits.exceeded(msgspec.structs.replace(found(), limits=[]), 1, 1, 1) != []


def test_the_fullest_second_of_a_plan_counts() -> None:
    dues = [0, 100_000, 900_000, 1_000_000, 5_000_000]
    requests = [PlannedRequest(number, "chat", due, Prompt(1), 10) for number, due in enumerate(dues)]
    assert limits.planned_rates(Plan(0, requests, [], (0, 1))) == (3.0, 10.0)
    assert limits.planned_rates(Plan(0, [], [], (0, 1))) == (0.0, 0.0)


def test_timer_errors_are_against_the_grid_and_not_against_the_event_before() -> None:
    fired = [(number + 1) * GAP_MICROS + (1_000 if number >= 5 else 0) for number in range(10)]
    fired[0] -= 40
    error = error_of(fired, 0.5)
    assert (error.least, error.p99, error.cpu) == (-40, 1_000, 0.5)
    assert error.p50 == pytest.approx(500)


def test_processes_fit_the_cores_and_the_text_says_all() -> None:
    assert [processes_to_try(None, cores) for cores in (1, 2, 4, 8)] == [(1,), (1,), (1, 2), (1, 2, 4)]
    assert processes_to_try(3, 2) == (3,)
    shown = text(found())
    assert "timer timerfd: late by 0.05 ms p50, 0.24 ms p99, up to 0.13 ms EARLY, 3% of a core at 500/s" in shown
    assert "2000 requests/s clean at 20% of a core, 90.0 us each (150.0 us with parsing); above: send lag" in shown


def test_a_mock_of_ones_own_comes_up_and_goes_away() -> None:
    with MockProcess("--shape", "json:1") as mock:
        assert Path(f"/proc/{mock.pid}").is_dir()
        assert mock.url.startswith("http://127.0.0.1:")
        watch = CpuWatch([mock.pid])
        assert watch.share(1.0) >= 0
    assert not Path(f"/proc/{mock.pid}").is_dir()
    assert json.loads(limits.encode(found()))["version"] == 1
