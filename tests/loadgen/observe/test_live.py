"""The live view: exact counts, latencies of the last 30 s, and how it looks at 80 and at 160 columns."""

from __future__ import annotations

import errno
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from loadgen import keys_offline, keys_online, slo_text
from loadgen.drive.summary import ClassTally, Summary
from loadgen.keys import split_spec
from loadgen.observe import live_text
from loadgen.observe.host import HostRow
from loadgen.observe.live import LiveView, chosen
from loadgen.observe.live_plan import ClassPlan, JobPlan, LivePlan
from loadgen.observe.live_rich import render
from loadgen.observe.live_state import LiveState
from loadgen.plan.model import Plan, PlannedJob, PlannedRequest, Prompt
from loadgen.spec import Scenario

S = 1_000_000
TERMS = slo_text.parse("ttft<=500ms&tpot<=50ms").per_request
PLAN = LivePlan(
    window=(10 * S, 70 * S),
    horizon=100 * S,
    classes={
        "chat": ClassPlan(terms=TERMS, planned=600),
        "code_assistant": ClassPlan(terms=slo_text.parse("ttft<=100ms").per_request),
        "probe": ClassPlan(),
        "eval": ClassPlan(online=False),
    },
    jobs={"eval": JobPlan("eval", 1000, 60 * S)},
    faults=(("kill1", 30 * S),),
)


def raw(*values: int) -> bytes:
    return np.array(values, dtype=np.int64).tobytes()


def tally(due: int, ended: dict[str, int], in_flight: int = 0, **arrays: bytes) -> ClassTally:
    return ClassTally(due=due, sent=due, in_flight=in_flight, ended=ended, marks=due * 10, **arrays)


def summary(at: int, classes: dict[str, ClassTally], process: int = 0, **more: float) -> Summary:
    known = {"send_lag_p99": 200.0, "loop_lag_p99": 150.0, "cpu_share": 0.12, "backlog": 0, "dropped": 0, **more}
    return Summary(process=process, at=at, classes=classes, **known)  # type: ignore[arg-type]


def busy() -> LiveState:
    """Half a minute of two processes: 10 chat requests a second, one error and one refusal each in all."""
    state = LiveState(PLAN)
    for second in range(1, 41):
        for process in (0, 1):
            count = 5 * second
            slow = raw(*([120_000] * 4 + [900_000 if second % 10 == 0 else 80_000]))
            chat = tally(
                count, {"ok": count - 2, "error": process, "shed": 1 - process}, 7, ttft=slow, tpot=raw(*[25_000] * 5),
                e2e=raw(*[2 * S] * 5),
            )  # fmt: skip
            code = tally(second, {"ok": second}, 1, ttft=raw(150_000), tpot=raw(-1), e2e=raw(150_000))
            job = tally(8 * second, {"ok": 8 * second}, 32, ttft=raw(S), tpot=raw(60_000), e2e=raw(9 * S))
            told = {"chat": chat, "code_assistant": code, "probe": tally(0, {}), "eval": job}
            state.feed(summary(second * S, told, process, cpu_share=0.1 + process / 10, backlog=1500))
        state.feed_server({"queue": 3.0, "running": 16.0, "kv_use": 0.75, "offline_tokens": 900.0 * second})
        if second == 30:
            state.fault("kill1", 30 * S)
        state.advance(second * S)
    return state


def test_counts_are_exact_over_processes_and_missed_summaries() -> None:
    state = busy()
    chat = state.classes["chat"].totals()
    assert (chat.due, chat.in_flight, chat.ended) == (400, 14, {"ok": 396, "error": 1, "shed": 1})
    # A second is missed: its arrays are lost, its counts are not, since each summary tells totals.
    state.feed(summary(42 * S, {"chat": tally(230, {"ok": 228, "error": 0, "shed": 1}, 3)}, 0, dropped=1))
    assert state.classes["chat"].totals().due == 430
    assert state.classes["chat"].totals().ended == {"ok": 426, "error": 1, "shed": 1}
    assert state.client().dropped == 1


def test_latencies_and_attainment_are_of_the_last_30_seconds() -> None:
    state = LiveState(PLAN)
    first = {"ttft": raw(1, 2, 600_000), "tpot": raw(9, 9, 9), "e2e": raw(1, 1, 1)}
    state.feed(summary(1 * S, {"chat": tally(4, {"ok": 3, "error": 1}, **first)}))
    chat = state.classes["chat"]
    assert chat.quantile("ttft", 0.5, 2 * S) == 2
    assert chat.quantile("ttft", 0.99, 2 * S) == 600_000
    assert chat.attainment(2 * S) == (0.5, 0.5)
    arrays = {"ttft": raw(10, 20), "tpot": raw(60_000, -1), "e2e": raw(1, 1)}
    state.feed(summary(40 * S, {"chat": tally(6, {"ok": 5, "error": 1}, **arrays)}))
    assert chat.quantile("ttft", 0.99, 40 * S) == 20
    assert chat.quantile("tpot", 0.5, 40 * S) == 60_000
    recent, whole = chat.attainment(40 * S)
    # One of the two is too slow a writer; the one without a second token breaks no promise of pace.
    assert (recent, whole) == (0.5, pytest.approx(3 / 6))
    assert state.classes["probe"].attainment(40 * S) == (None, None)


def test_rates_are_of_the_last_seconds() -> None:
    state = busy()
    assert state.classes["chat"].rates() == (10.0, 10.0)
    assert state.points[-1].offered == 12.0
    assert state.points[-1].offline_tokens == 900.0


def test_offline_tokens_come_from_events_where_the_server_tells_none() -> None:
    state = LiveState(PLAN)
    for second in (1, 2, 3):
        state.feed(summary(second * S, {"eval": tally(second, {"ok": second})}))
        state.advance(second * S)
    assert state.points[-1].offline_tokens == 10.0


def test_a_job_is_forecast_from_its_pace() -> None:
    state = busy()
    (job,) = state.jobs()
    # 16 items a second; 640 of 1000 are done at 40 s.
    assert (job.done, job.items, job.deadline, job.forecast) == (640, 1000, 60 * S, round(62.5 * S))
    state.feed_job("other", 41 * S, 5)
    assert state.jobs()[1].forecast is None


def test_a_job_that_is_through_says_when_it_was() -> None:
    state = LiveState(PLAN)
    for second, done in ((10, 400), (20, 1000), (30, 1000)):
        state.feed_job("eval", second * S, done)
    assert state.jobs()[0].forecast == 20 * S


def test_rates_are_of_the_summaries_time() -> None:
    """One comes late and the next early, as the parent sees it: the rate stays what it was."""
    state = LiveState(PLAN)
    for second, seen in ((1, 1_000_000), (2, 2_900_000), (3, 3_010_000), (4, 4_000_000)):
        state.feed(summary(second * S, {"chat": tally(10 * second, {"ok": 10 * second})}))
        state.advance(seen)
    state.advance(5 * S)
    assert [point.offered for point in state.points] == [10.0] * 3
    assert state.classes["chat"].rates() == (10.0, 10.0)


@pytest.mark.parametrize(
    ("now", "phase"),
    [(-1, "start"), (0, "warm-up"), (10 * S, "window"), (70 * S, "window"), (71 * S, "drain"), (100 * S, "end")],
)
def test_phases(now: int, phase: str) -> None:
    assert LiveState(PLAN).phase(now)[0] == phase


def test_flags() -> None:
    state = busy()
    assert state.flags(40 * S) == {}
    for second in range(41, 75):
        state.feed(summary(second * S, {}, 1, send_lag_p99=9_000.0))
    assert state.flags(74 * S) == {"INVALID": "load process 1: send lag p99 9.0 ms"}
    state.feed_host(HostRow(1, 0.05, 0.3, None, 0.1, 0, None))
    assert state.flags(74 * S)["DISTURBED"] == "steal 5.0%"
    state.flag("INVALID", "kill1 was not seen")
    assert state.flags(74 * S)["INVALID"] == "kill1 was not seen"


def test_one_late_second_does_not_flag() -> None:
    state = busy()
    state.feed(summary(41 * S, {}, 0, send_lag_p99=50_000.0))
    assert state.flags(41 * S) == {}


def test_growing_queues_are_overload() -> None:
    state = LiveState(PLAN)
    for second in range(11, 70):
        state.feed(summary(second * S, {"chat": tally(20 * second, {"ok": 10 * second}, 10 * second)}))
        state.advance(second * S)
    assert state.flags(70 * S) == {"OVERLOADED": "690 in flight and growing"}


def pictured(width: int, state: LiveState, now: int = 41 * S) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(render(state, now, width))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 160])
def test_it_fits_the_terminal(width: int) -> None:
    state = busy()
    state.flag("DISTURBED", "other processes use 12% of a core")
    lines = pictured(width, state)
    assert max(map(len, lines)) <= width
    head = lines[0]
    assert head.startswith("window 0:41  0:29 left  DISTURBED  other processes")
    row = next(line for line in lines if line.startswith("chat"))
    assert row.split() == ["chat", "10", "10", "14", "120", "900", "25.0", "25.0", "97.9%", "97.5%", "1", "1"]
    job = next(line for line in lines if "640/1000" in line)
    assert "forecast 1:02" in job
    assert "deadline 1:00" in job
    curve = next(line for line in lines if line.startswith("offline"))
    assert curve.rstrip().endswith("900tok/s")
    marks = next(line for line in lines if line.startswith("faults"))
    assert marks[marks.index("▲") :] == "▲kill1"
    # The mark stands under the second in which it happened: the curves begin at 2 s.
    assert marks.index("▲") - 9 == 28
    assert lines[-2].rstrip() == "server   16 running, 3 queued, 75.0% of KV"
    assert any("lag p99 0.20 ms" in line and "cpu 20%" in line and "backlog 3.0kB" in line for line in lines)


def test_an_hour_is_drawn_into_the_same_room() -> None:
    state = LiveState(replace(PLAN, window=(0, 7200 * S), horizon=7200 * S))
    for second in range(1, 4200):
        state.feed(summary(second * S, {"chat": tally(5 * second, {"ok": 5 * second})}))
        state.advance(second * S)
    lines = pictured(80, state, 4200 * S)
    assert max(map(len, lines)) <= 80
    assert len(state.points) == 4000


def test_an_empty_state_is_drawn() -> None:
    lines = pictured(80, LiveState(PLAN), -5 * S)
    assert lines[0].startswith("start 0:00")


def scenario() -> Scenario:
    online = keys_online.online(split_spec("name=chat,arrivals=poisson:1/s,slo=ttft<=500ms", "--online"))
    offline = keys_offline.offline(split_spec("name=eval,source=synth,items=2,deadline=30s", "--offline"))
    return Scenario(target="http://127.0.0.1:1", online=(online,), offline=(offline,), probe=1.0)


def plan() -> Plan:
    asked = [PlannedRequest(number, "chat", number * S, Prompt(4), 2) for number in range(5)]
    items = [PlannedRequest(9 + number, "eval", -1, Prompt(4), 2, job="eval", item=number) for number in range(2)]
    return Plan(0, [*asked, *items], [PlannedJob("eval", "eval", 3 * S, 30 * S, (9, 10))], (10 * S, 70 * S))


def test_json_is_an_object_a_second() -> None:
    out = io.StringIO()
    view = LiveView("json", scenario(), plan(), out=out)
    for half in range(6):
        now = half * S // 2
        view.feed(summary(now, {"chat": tally(half, {"ok": half}, ttft=raw(100), tpot=raw(5), e2e=raw(9))}))
        view.tick(now)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [each["t_micros"] for each in told] == [0, S, 2 * S]
    assert told[-1]["phase"] == "warm-up"
    assert set(told[-1]["classes"]) == {"chat", "eval", "probe"}
    chat = told[-1]["classes"]["chat"]
    assert (chat["due"], chat["ended"], chat["ttft_p99_micros"], chat["attainment"]) == (4, {"ok": 4}, 100, 1.0)
    assert told[-1]["jobs"]["eval"]["deadline_micros"] == 33 * S


def test_plain_is_a_line_every_five_seconds() -> None:
    out = io.StringIO()
    view = LiveView("plain", scenario(), plan(), out=out)
    for second in range(12):
        chat = tally(second, {"ok": second}, ttft=raw(120_000), tpot=raw(5), e2e=raw(9))
        view.feed(summary(second * S, {"chat": chat}))
        view.tick(second * S)
    lines = out.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["warm-up 0:00", "warm-up 0:05", "window 0:10"]
    assert "chat 1/s, done 1/s, 0 open, ttft p50 120 p99 120 ms, attained 100% (all 100%)" in lines[-1]
    view.phase("drain")
    view.close(13 * S)
    assert out.getvalue().splitlines()[-1].startswith("drain 0:13")


def test_rich_draws_and_gives_the_terminal_back() -> None:
    screen = io.StringIO()
    view = LiveView("rich", scenario(), plan(), console=Console(file=screen, force_terminal=True, width=80))
    view.tick(0)
    view.say("primed the cache")
    view.close(S)
    view.close()
    text = screen.getvalue()
    assert "primed the cache" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_none_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView("none", scenario(), plan())
    view.tick(0)
    view.close(S)
    assert capsys.readouterr() == ("", "")


class _Gone(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, _: str) -> int:
        raise self._error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.ENOSPC, "no space")])
def test_a_reader_that_left_ends_no_run(error: OSError) -> None:
    view = LiveView("json", scenario(), plan(), out=_Gone(error))
    view.tick(0)
    view.tick(2 * S)


def test_the_choice_depends_on_the_terminal() -> None:
    assert chosen(None, io.StringIO()) == "plain"
    assert chosen("json", io.StringIO()) == "json"


@pytest.mark.parametrize(
    ("micros", "text"),
    [(None, "-"), (830, "0.83"), (9_994, "9.99"), (9_996, "10.0"), (85_240, "85.2"), (99_960, "100"), (340_000, "340"),
     (12_340_000, "12340"), (150_000_000, "150s")],
)  # fmt: skip
def test_millis(micros: float | None, text: str) -> None:
    assert live_text.millis(micros) == text


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100%"), (0.9999, "99.9%"), (0.994, "99.4%"), (0.0, "0.0%"), (None, "-")]
)
def test_percent_never_rounds_up_to_all(share: float | None, text: str) -> None:
    assert live_text.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.25"), (12, "12"), (1500.4, "1500"), (23_400, "23.4k"), (4e6, "4.0M")]
)
def test_numbers(value: float, text: str) -> None:
    assert live_text.number(value) == text


def test_spark_and_resampling() -> None:
    assert live_text.spark([0, 5, 10, None]) == "▁▅█ "
    assert live_text.spark([0.5, 1.0], 1.0) == "▅█"
    assert live_text.spark([0, 0]) == "▁▁"
    assert live_text.resampled([1, 3, None, None, 5, None], 3) == [2, None, 5]


def test_what_is_over_30_seconds_old_is_gone_though_nothing_new_came() -> None:
    state = LiveState(PLAN)
    chat = state.classes["chat"]
    for second in range(1, 120):
        arrays = {"ttft": raw(10), "tpot": raw(1), "e2e": raw(11)}
        state.feed(summary(second * S, {"chat": tally(second, {"ok": second}, **arrays)}))
    assert len(chat._slices) == 30
    assert chat.quantile("ttft", 0.5, 119 * S) == 10
    assert chat.quantile("ttft", 0.5, 150 * S) is None
    assert chat.attainment(150 * S) == (None, 1.0)


@pytest.mark.parametrize("width", [80, 160])
def test_a_long_name_pushes_no_number_out(width: int) -> None:
    name = "assistant_for_code_review_in_the_evening"
    state = LiveState(replace(PLAN, classes={name: ClassPlan()}))
    for second in range(1, 8):
        ended = {"ok": 1000 * second, "error": second, "shed": 100 * second}
        arrays = {"ttft": raw(12_345_678), "tpot": raw(1_234_567), "e2e": raw(9)}
        state.feed(summary(second * S, {name: tally(1200 * second, ended, 1234, **arrays)}))
        state.advance(second * S)
    row = next(line for line in pictured(width, state, 7 * S) if line.startswith("assistant"))
    assert len(row) <= width
    assert row.split()[1:] == ["1200", "1101", "1234", "12346", "12346", "1235", "1235", "-", "-", "7", "700"]
