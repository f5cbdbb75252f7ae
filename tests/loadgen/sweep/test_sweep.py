"""A sweep finds the rate that a queue can bear, keeps every run, and says nothing of latencies that mean nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.loadgen_queue import QueueEngine

from loadgen.cli_build import BUILDERS
from loadgen.cli_parse import parse
from loadgen.commands.sweep import main
from loadgen.errors import BadInput, ExitCode, Unreachable
from loadgen.sweep import axis, record, search
from loadgen.sweep.driver import MOST_SEARCH_RUNS, Sweep
from loadgen.sweep.record import SweepRecord
from loadgen.sweep.search import Trial
from loadgen.sweep.table import text

if TYPE_CHECKING:
    from loadgen.options import SweepOptions

CHAT = "name=chat,arrivals=poisson:1/s,in=fixed:8,out=fixed:2,slo=ttft<=400ms"
JOB = "name=eval,source=synth,in=fixed:8,out=fixed:2,items=10"


def asked(*flags: str, jobs: bool = False) -> SweepOptions:
    offline = ("--offline", JOB) if jobs else ()
    fixed = ("--target", "http://127.0.0.1:1", "--duration", "100s", "--warmup", "1s", "--online", CHAT, *offline)
    options: SweepOptions = BUILDERS["sweep"](parse("sweep", [*fixed, *flags]))
    return options


def swept(folder: Path, engine: QueueEngine, *flags: str, jobs: bool = False) -> tuple[SweepRecord, ExitCode]:
    sweep = Sweep(asked(*flags, jobs=jobs), folder, engine.tools)
    code = sweep.run()
    return record.decode((folder / "sweep.json").read_bytes()), code


def test_points_are_even_on_a_log_scale_and_lists_are_as_given() -> None:
    assert axis.rates(asked("--vary", "chat.rate=1..16", "--points", "5").vary, 5) == pytest.approx((1, 2, 4, 8, 16))
    assert axis.rates(asked("--vary", "chat.rate=5,2,9").vary, 8) == (2, 5, 9)


@pytest.mark.parametrize(
    ("arrivals", "check"),
    [
        ("poisson:3/s", lambda each: each.rate == 6),
        ("gamma:3/s@cv=4", lambda each: (each.rate, each.cv) == (6, 4)),
        ("step:2/s@10s;4/s@10s", lambda each: each.levels == ((4, 10_000_000), (8, 10_000_000))),
        ("onoff:12/s@5s;0.0001/s@15s", lambda each: axis.mean_rate(each) == pytest.approx(6)),
        ("sine:2..4/s@10m", lambda each: each.span == (4, 8)),
        ("ramp:2..4/s@10m", lambda each: each.span == (4, 8)),
    ],
)
def test_a_pattern_keeps_its_shape_at_another_rate(arrivals: str, check: Any) -> None:
    flags = ["--target", "http://127.0.0.1:1", "--online", f"name=chat,arrivals={arrivals},in=fixed:8,out=fixed:2"]
    scenario = BUILDERS["run"](parse("run", flags)).scenario
    changed = axis.at_rate(scenario, "chat", 6)
    assert check(changed.online[0].arrivals)
    assert replace(changed.online[0], arrivals=scenario.online[0].arrivals) == scenario.online[0]


def test_a_trace_is_stretched_from_its_own_rate() -> None:
    flags = ["--target", "http://127.0.0.1:1", "--online", "name=chat,arrivals=trace,source=azure:x.csv,scale=x0.5"]
    scenario = BUILDERS["run"](parse("run", flags)).scenario
    assert axis.at_rate(scenario, "chat", 6, natural=3).online[0].transforms.scale == 1.0
    with pytest.raises(BadInput, match="not known"):
        axis.at_rate(scenario, "chat", 6)


def test_bisection_is_between_the_smallest_failing_rate_and_the_largest_passing_one_below_it() -> None:
    trials = [Trial(1, True), Trial(4, True), Trial(16, False), Trial(9, False), Trial(12, True), Trial(4, True)]
    found = search.bracket(trials)
    assert (found.low, found.high) == (4, 9)
    assert search.next_rate(found, 0.05) == pytest.approx(6)
    assert search.bracket([*trials, Trial(4, False)]).low == 1
    assert search.bracket([Trial(4, False), *trials]).low == 1
    assert search.next_rate(search.Bracket(4, None), 0.05) is None
    assert search.next_rate(search.Bracket(4, 4.19), 0.05) is None
    assert search.next_rate(search.Bracket(4, 4.21), 0.05) is not None


def test_the_largest_rate_of_a_queue_is_found_and_confirmed(tmp_path: Path) -> None:
    # Of an M/M/1 queue, 1 - exp(-(20 - rate) * 0.4 s) of the requests are served within 400 ms: 0.90 at 14.2/s.
    engine = QueueEngine()
    made, code = swept(tmp_path, engine, "--vary", "chat.rate=4..40", "--points", "3", "--find", "chat.attainment>=0.9")
    (found,) = made.found
    assert found.low is not None
    assert found.high is not None
    assert 12 < found.low < 17
    assert found.within_tolerance
    assert found.high / found.low <= 1.05
    assert (found.confirmed, found.wanted, found.limit, code) == (3, 3, "condition", ExitCode.OK)
    seeds = [each.seed for each in made.points if each.rate == found.low]
    assert len(seeds) == len(set(seeds)) == 4
    folders = [tmp_path / each.folder for each in made.points]
    assert len(set(folders)) == len(folders) == len(engine.runs)
    assert all(each.is_dir() for each in folders)


def test_an_overloaded_run_fails_whatever_its_figure_and_prints_no_latencies(tmp_path: Path) -> None:
    engine = QueueEngine()
    made, code = swept(tmp_path, engine, "--vary", "chat.rate=5,30", "--find", "chat.p50.lag<=1h", "--confirm", "0")
    low, high = (next(each for each in made.points if each.rate == rate) for rate in (5, 30))
    assert (low.holds, low.status) == (True, "ok")
    assert low.classes["chat"].ttft_p50 is not None
    assert (high.holds, high.status, high.reason) == (False, "overloaded", "OVERLOADED: chat")
    chat = high.classes["chat"]
    assert (chat.ttft_p50, chat.ttft_p99, chat.tpot_p50, chat.tpot_p99) == (None,) * 4
    assert chat.attainment is not None
    assert chat.attainment < 0.5
    line = next(each for each in text(made).splitlines() if each.split()[3:4] == ["30"])
    assert "OVERLOADED" in line
    assert line.split()[7:11] == ["-"] * 4
    assert code is ExitCode.OK


def test_a_confirmation_that_fails_sends_the_search_below(tmp_path: Path) -> None:
    engine = QueueEngine()
    made, _ = swept(tmp_path, engine, "--vary", "chat.rate=10..18", "--find", "chat.attainment>=0.9", "--confirm", "8")
    (found,) = made.found
    assert found.low is not None
    assert found.confirmed == 8
    failed = [each for each in made.points if each.purpose == "confirm" and each.holds is False]
    assert failed
    assert all(each.rate is not None and each.rate > found.low for each in failed)


def test_a_condition_that_never_holds_ends_with_an_assertion(tmp_path: Path) -> None:
    made, code = swept(tmp_path, QueueEngine(), "--vary", "chat.rate=2..4", "--find", "chat.p50.ttft<=1us")
    assert made.found[0].low is None
    assert code is ExitCode.ASSERTION
    assert "no rate found, it fails at the lowest rate" in text(made)


def test_a_range_that_holds_to_its_end_is_said_to_have_ended(tmp_path: Path) -> None:
    made, code = swept(
        tmp_path, QueueEngine(), "--vary", "chat.rate=2..4", "--points", "2", "--find", "chat.attainment>=0.9"
    )
    assert (made.found[0].low, made.found[0].high, made.found[0].limit) == (4, None, "range")
    assert "nothing higher was tried" in text(made)
    assert code is ExitCode.OK


def test_a_client_that_is_the_bottleneck_is_no_verdict_on_the_server(tmp_path: Path) -> None:
    engine = QueueEngine(invalid_above=7)
    made, code = swept(tmp_path, engine, "--vary", "chat.rate=5..10", "--points", "2", "--find", "chat.attainment>=0.5")
    (found,) = made.found
    assert found.limit == "client"
    assert found.low is not None
    assert 6.6 < found.low <= 7
    lost = [each for each in made.points if each.rate == 10]
    assert [each.holds for each in lost] == [None, None]
    assert code is ExitCode.INVALID
    assert "client was the bottleneck" in text(made)


def test_a_search_without_an_answer_ends(tmp_path: Path) -> None:
    flips = iter(range(10_000))
    engine = QueueEngine()
    engine.before = lambda _: frozenset([ExitCode.UNREACHABLE]) if next(flips) % 3 == 2 else frozenset()
    made, _ = swept(
        tmp_path, engine, "--vary", "chat.rate=1..2", "--points", "2", "--find", "chat.offered>=1", "--confirm", "50"
    )
    assert len(made.points) <= MOST_SEARCH_RUNS + 2


def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    def stopped(number: int) -> frozenset[ExitCode]:
        return frozenset([ExitCode.INTERRUPTED]) if number == 3 else frozenset()

    engine = QueueEngine(before=stopped)
    made, code = swept(tmp_path, engine, "--vary", "chat.rate=1,2,3,4")
    assert code is ExitCode.INTERRUPTED
    assert ([each.rate for each in made.points], made.interrupted) == ([1, 2], True)
    assert text(made).startswith("INTERRUPTED")


def test_a_key_pressed_between_runs_does_too(tmp_path: Path) -> None:
    def pressed(number: int) -> frozenset[ExitCode]:
        if number == 2:
            raise KeyboardInterrupt
        return frozenset()

    made, code = swept(tmp_path, QueueEngine(before=pressed), "--vary", "chat.rate=1,2,3,4")
    assert (code, len(made.points)) == (ExitCode.INTERRUPTED, 1)


def test_a_target_that_goes_away_ends_it_and_keeps_what_there_is(tmp_path: Path) -> None:
    def gone(number: int) -> frozenset[ExitCode]:
        if number == 2:
            raise Unreachable("http://127.0.0.1:1", "refused")
        return frozenset()

    with pytest.raises(Unreachable):
        swept(tmp_path, QueueEngine(before=gone), "--vary", "chat.rate=1,2")
    assert len(record.decode((tmp_path / "sweep.json").read_bytes()).points) == 1


def test_with_and_without_jobs_gives_the_frontier(tmp_path: Path) -> None:
    engine = QueueEngine(burden=1.5)
    flags = ("--vary", "chat.rate=5,10", "--with-offline", "both", "--find", "chat.attainment>=0.9", "--confirm", "1")
    made, _ = swept(tmp_path, engine, *flags, jobs=True)
    alone, *points = made.points
    assert (alone.purpose, alone.offline_tokens_per_s) == ("alone", pytest.approx(1_000, rel=0.01))
    assert engine.runs[0].scenario.online == ()
    by = {(each.rate, each.mode): each for each in points if each.purpose == "point"}
    assert set(by) == {(5, "on"), (5, "off"), (10, "on"), (10, "off")}
    assert by[5, "off"].harvest is None
    # The server is busy 5 * 75 ms of each second.
    assert by[5, "on"].harvest == pytest.approx(1 - 0.375, abs=0.05)
    beside, without = (by[10, mode].classes["chat"].attainment for mode in ("on", "off"))
    assert beside is not None
    assert without is not None
    assert beside < without
    modes = {each.mode: each.low for each in made.found}
    assert set(modes) == {"on", "off"}
    assert "harvest against attainment of chat" in text(made)


def test_jobs_that_end_within_the_window_give_no_harvest(tmp_path: Path) -> None:
    flags = ("--vary", "chat.rate=5,10", "--with-offline", "both")
    made, _ = swept(tmp_path, QueueEngine(jobs_end=0.9), *flags, jobs=True)
    assert [each.harvest for each in made.points] == [None] * 5
    assert made.points[-1].offline_tokens_per_s is not None


def test_off_leaves_the_jobs_out(tmp_path: Path) -> None:
    engine = QueueEngine()
    swept(tmp_path, engine, "--vary", "chat.rate=5,6", "--with-offline", "off", jobs=True)
    assert [each.scenario.offline for each in engine.runs] == [(), ()]


def test_the_command_prints_the_table_and_never_writes_over_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = QueueEngine()
    options = asked("--vary", "chat.rate=5,6", "--out", str(tmp_path / "out"))
    assert main(options, engine.tools) is ExitCode.OK
    shown = capsys.readouterr().out
    assert "sweep of chat.rate, lengths exact" in shown
    assert str(tmp_path / "out" / "sweep.json") in shown
    with pytest.raises(BadInput, match="holds a sweep already"):
        main(options, engine.tools)


def test_dry_run_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    engine = QueueEngine()
    assert main(asked("--vary", "chat.rate=5,6", "--dry-run"), engine.tools) is ExitCode.OK
    assert engine.runs == []
    assert "2 runs, at least 202 s" in capsys.readouterr().out
