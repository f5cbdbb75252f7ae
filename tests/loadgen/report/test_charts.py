"""Charts show what the result says, in at most 5,000 points a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from support.loadgen_records import SECOND
from support.loadgen_report import folder, made_up

from loadgen.report import chart_lanes, chart_latency, chart_pairs, chart_slo, chart_time, charts
from loadgen.report.against import compare
from loadgen.report.load import LoadedRun, load
from loadgen.run.series import Series
from loadgen.stats import paired

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.report.charts import Chart


def _all(run: LoadedRun, base: LoadedRun) -> list[Chart]:
    found = [chart_slo.by_scale([run]), chart_slo.by_rate([run, base]), chart_slo.frontier([run, run])]
    found += [chart_time.timeline(run), chart_lanes.lanes(run), *chart_latency.cdfs(run)]
    found += chart_pairs.differences(compare(run, base))
    return [each for each in found if each is not None]


def test_no_trace_is_longer_than_a_browser_likes(tmp_path: Path) -> None:
    records, facts = made_up(9000, 200)
    folder(tmp_path / "run", records, facts)
    run = load(tmp_path / "run")
    made = _all(run, run)
    assert len(made) == 12
    longest = max(len(trace["x"]) for chart in made for trace in chart.data)
    assert 1000 < longest <= charts.MOST_POINTS
    # A timeline of a thousand points a second is asked for and not given.
    fine = chart_time.timeline(run, 1000)
    assert fine is not None
    assert max(len(trace["x"]) for trace in fine.data) <= charts.MOST_POINTS
    # Its buckets are wider, and none is left out.
    x, y = (np.array(fine.data[0][key]) for key in ("x", "y"))
    assert float(y.sum() * (x[1] - x[0])) == pytest.approx(len(run.of_class("chat")), rel=1e-3)


def test_charts_are_plain_json(run: LoadedRun, base: LoadedRun) -> None:
    for chart in _all(run, base):
        text = msgspec.json.encode({"data": list(chart.data), "layout": chart.layout})
        assert b"NaN" not in text
        for trace in chart.data:
            assert len(trace["x"]) == len(trace["y"])


def test_the_curve_at_scale_one_is_the_attainment(run: LoadedRun) -> None:
    assert pytest.approx(min(chart_slo.SCALES, key=lambda each: abs(each - 1)), rel=0.05) == 1.0
    for name in ("chat", "code"):
        facts, at = run.facts.classes[name], run.of_class(name)
        inside = at.where((at.due >= run.window[0]) & (at.due <= run.window[1]))
        told = run.result.classes[name].attainment
        assert told is not None
        assert chart_slo.scaled(facts.slo, 1.0) == facts.slo
        found = chart_slo.curve(inside, facts, run.facts.horizon)
        assert found == sorted(found, key=lambda each: each or 0)
        below, above = (found[place] for place in _around(1.0))
        assert below is not None
        assert above is not None
        assert told.value is not None
        assert below <= told.value <= above


def _around(scale: float) -> tuple[int, int]:
    place = int(np.searchsorted(chart_slo.SCALES, scale))
    return place - 1, min(place + 1, len(chart_slo.SCALES) - 1)


def test_a_distribution_ends_where_failures_begin() -> None:
    values = np.concatenate((np.arange(1.0, 91.0), np.full(10, np.nan)))
    x, y = chart_latency.distribution(values, 100)
    assert (x[0], y[0], x[-1], y[-1]) == (1, 0.01, 90, 0.9)
    long = chart_latency.distribution(np.arange(1e5), 100_000)
    assert len(long[0]) <= charts.MOST_POINTS
    # Each of the greatest is there: the tail is what one looks at.
    assert long[0][-200:].tolist() == list(range(99_800, 100_000))


def test_both_clocks_are_drawn(run: LoadedRun) -> None:
    ttft = next(each for each in chart_latency.cdfs(run) if each.title == "Time to first token")
    assert [trace["name"] for trace in ttft.data] == ["chat due", "chat wire", "code due", "code wire"]


def test_a_closed_loop_has_no_attainment_against_rate(run: LoadedRun, base: LoadedRun) -> None:
    chart = chart_slo.by_rate([run, base])
    assert chart is not None
    assert [trace["name"] for trace in chart.data] == ["chat", "code"]
    chat = msgspec.structs.replace(run.result.classes["chat"], closed=True)
    closed = replace(run, result=msgspec.structs.replace(run.result, classes={"chat": chat}))
    assert chart_slo.by_rate([closed, closed]) is None
    assert chart_slo.by_rate([run]) is None


def test_the_frontier_wants_offline_work_and_a_run_of_it_alone(run: LoadedRun, base: LoadedRun) -> None:
    assert chart_slo.frontier([run, base]) is None
    offline = {"eval": run.result.classes["eval"]}
    alone = replace(run, result=msgspec.structs.replace(run.result, classes=offline))
    chart = chart_slo.frontier([run, run, alone])
    assert chart is not None
    assert chart.title == "Harvest against attainment"
    assert chart.data[0]["y"] == [1.0, 1.0]
    bare = chart_slo.frontier([run, run])
    assert bare is not None
    assert bare.data[0]["y"][0] > 1000


def test_the_timeline_has_faults_window_and_the_server(run: LoadedRun) -> None:
    chart = chart_time.timeline(run)
    assert chart is not None
    names = [trace["name"] for trace in chart.data]
    assert names == [
        "chat",
        "code",
        "chat attainment",
        "code attainment",
        "eval output",
        "offline, server's count",
        "KV use",
        "server running",
        "server queue",
    ]
    boxes = [(each["x0"], each["x1"]) for each in chart.layout["shapes"] if each["type"] == "rect"]
    assert boxes == [(20, 140), (80, 92)]
    assert any(each["text"] == "kill1" for each in chart.layout["annotations"])
    jobs = tuple(msgspec.structs.replace(each, usage_disagrees=True) for each in run.facts.jobs)
    doubted = chart_time.timeline(replace(run, facts=msgspec.structs.replace(run.facts, jobs=jobs)))
    assert doubted is not None
    counter = next(trace for trace in doubted.data if trace["name"].startswith("offline, server's count"))
    assert counter["line"]["dash"] == "dash"
    assert "disagrees" in counter["name"]


def test_lanes_never_overlap() -> None:
    rng = np.random.Generator(np.random.Philox(4))
    begins = rng.uniform(0, 1000, 300)
    ends = begins + rng.uniform(1, 80, 300)
    place, used = chart_lanes.packed(begins, ends)
    assert used == place.max() + 1 <= 40
    for lane in range(used):
        mine = np.flatnonzero(place == lane)
        order = mine[np.argsort(begins[mine])]
        assert (ends[order][:-1] <= begins[order][1:]).all()
    # No more lanes than were open at once.
    open_at_once = max(int(((begins <= each) & (ends > each)).sum()) for each in begins)
    assert used == min(open_at_once, 40)


def test_lanes_show_the_fault(run: LoadedRun) -> None:
    chart = chart_lanes.lanes(run)
    assert chart is not None
    assert chart.layout["xaxis"]["range"] == [65, 125]
    quiet = chart_lanes.lanes(replace(run, facts=msgspec.structs.replace(run.facts, faults=())))
    assert quiet is not None
    assert quiet.layout["xaxis"]["range"] == [50, 110]
    short = replace(
        run,
        result=msgspec.structs.replace(run.result, window=msgspec.structs.replace(run.result.window, end=30 * SECOND)),
    )
    brief = chart_lanes.lanes(short)
    assert brief is not None
    assert brief.layout["xaxis"]["range"] == [20, 30]


def test_ratios_of_blocks() -> None:
    rng = np.random.Generator(np.random.Philox(2))
    a = rng.uniform(1, 2, 6)
    found = paired.compare(a, a * 1.1)
    chart = chart_pairs.ratios("Compared", {"chat.p99.ttft": found})
    assert chart.data[0]["x"] == list(found.ratios)
    assert chart.data[1]["x"] == [pytest.approx(1.1)]
    spread = chart_pairs.ratios("Compared", {"chat.p99.ttft": paired.compare(a, a * rng.uniform(1.0, 1.2, 6))})
    assert spread.data[1]["error_x"]["array"][0] > 0


def test_few_blocks_have_no_interval_that_would_be_read_as_a_claim() -> None:
    found = paired.compare(np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.4, 3.2]))
    assert found.mean.high is not None
    chart = chart_pairs.ratios("Compared", {"chat.p99.ttft": found}, over="arm over A0")
    bars = chart.data[1]["error_x"]
    assert (bars["array"], bars["arrayminus"]) == ([0], [0])
    assert "p =" not in chart.data[1]["hovertemplate"]
    assert chart.layout["yaxis"]["automargin"], "names of any length have room"
    assert chart.layout["xaxis"]["title"]["text"] == "ratio, arm over A0"


def test_text_of_a_server_is_no_markup() -> None:
    assert charts.words("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"
    trace = charts.line(np.zeros(1), np.zeros(1), "<b>x</b>", "red")
    assert "<" not in trace["name"]


def test_who_else_worked_is_drawn_where_it_matters(run: LoadedRun) -> None:
    host = Series(np.array([0.0, 1e6]), {"foreign_cpu": np.array([0.1, 1.5])})
    for reasons, drawn in (([], False), (["other processes used 144% of a core"], True)):
        result = msgspec.structs.replace(run.result, disturbed=reasons)
        chart = chart_time.timeline(replace(run, host=host, result=result))
        assert chart is not None
        assert ("other processes" in [trace["name"] for trace in chart.data]) == drawn
