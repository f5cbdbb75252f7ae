"""Tables from figures: pairing, the tolerance study, the frontier, pooled percentiles, routers, failover."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from loadgen.experiment import analyse, overhead, quickack, routing, studies
from loadgen.experiment.analyse import Run
from loadgen.experiment.processes import Usage
from loadgen.experiment.tune import Tried

MEAN, OFFLINE, TOTAL = "chat.mean.tbt", "offline.tokens_per_s", "total.tokens_per_s"


def run(arm: str, window: int, knob: str = "", cell: str = "c", status: str = "ok", **figures: float | None) -> Run:
    named = {name.replace("__", "."): value for name, value in figures.items()}
    return Run(arm, cell, knob, window, 0, "h", status, 1, named)


def rows(table: analyse.Table, **where: str) -> list[dict[str, str]]:
    found = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    return [row for row in found if all(row[name] == value for name, value in where.items())]


def test_pairs_are_of_one_block() -> None:
    runs = [run("A0", window, chat__mean__tbt=10.0 * (window + 1)) for window in range(6)]
    runs += [run("A6", window, "5ms", chat__mean__tbt=12.0 * (window + 1)) for window in range(6)]
    found = rows(analyse.arms_table(runs, "A0"), arm="A6", figure=MEAN)[0]
    assert (found["over_baseline"], found["pairs"], found["min"], found["max"]) == ("1.2", "6", "12", "72")
    assert float(found["over_low"]) == pytest.approx(1.2)
    assert found["p"] == "0.03125"


def test_fewer_than_six_blocks_claim_nothing() -> None:
    runs = [run(arm, window, chat__mean__tbt=10.0) for window in range(3) for arm in ("A0", "A6")]
    found = rows(analyse.arms_table(runs, "A0"), arm="A6", figure=MEAN)[0]
    assert (found["over_baseline"], found["over_low"], found["p"], found["low"]) == ("1", "-", "-", "-")
    assert found["blocks"] == "3"


def test_a_run_without_its_pair_is_not_compared() -> None:
    runs = [run("A0", 0, chat__mean__tbt=10.0), run("A6", 0, chat__mean__tbt=20.0), run("A6", 1, chat__mean__tbt=90.0)]
    found = rows(analyse.arms_table(runs, "A0"), arm="A6", figure=MEAN)[0]
    assert (found["over_baseline"], found["pairs"], found["blocks"]) == ("2", "1", "2")


def tuned() -> studies.TuningRuns:
    probes = [
        Tried("5ms", {MEAN: 105.0, OFFLINE: 50.0}),
        Tried("20ms", {MEAN: 118.0, OFFLINE: 90.0}),
        Tried("80ms", {MEAN: 180.0, OFFLINE: 200.0}),
    ]
    return studies.TuningRuns({MEAN: 100.0}, {"A6": probes})


def on_test_windows(second: float) -> list[Run]:
    runs = [run("A0", window, chat__mean__tbt=100.0) for window in range(3)]
    for window in range(3):
        runs.append(run("A6", window, "5ms", chat__mean__tbt=104.0, offline__tokens_per_s=51.0))
        worst = second if window == 1 else 110.0
        runs.append(run("A6", window, "20ms", chat__mean__tbt=worst, offline__tokens_per_s=88.0))
    return runs


def test_tolerance_study() -> None:
    table = studies.tolerance_table(tuned(), on_test_windows(119.0), "A0", "chat", (0.01, 0.1, 0.2))
    found = {row["tolerance"]: row for row in rows(table, metric=MEAN)}
    assert found["0.01"]["held"] == "no setting held on the tuning window"
    assert (found["0.1"]["knob"], found["0.1"]["held"], found["0.1"]["offline_tokens_per_s"]) == ("5ms", "yes", "51")
    assert (found["0.2"]["knob"], found["0.2"]["worst_over_baseline"]) == ("20ms", "1.19")


def test_a_tolerance_broken_on_one_test_window_is_a_violation_without_throughput() -> None:
    table = studies.tolerance_table(tuned(), on_test_windows(121.0), "A0", "chat", (0.2,))
    found = rows(table, metric=MEAN)[0]
    assert (found["held"], found["offline_tokens_per_s"], found["worst_over_baseline"]) == ("no", "violation", "1.21")


def test_a_tolerance_is_not_known_to_hold_where_a_block_has_no_figure() -> None:
    runs = [each for each in on_test_windows(110.0) if (each.knob, each.window) != ("20ms", 1)]
    runs.append(run("A6", 1, "20ms", chat__mean__tbt=None, offline__tokens_per_s=500.0))
    found = rows(studies.tolerance_table(tuned(), runs, "A0", "chat", (0.2,)), metric=MEAN)[0]
    assert (found["knob"], found["held"], found["blocks"], found["offline_tokens_per_s"]) == (
        "20ms",
        "not known",
        "2",
        "-",
    )


def test_frontier_and_its_ceiling() -> None:
    runs = [run("A0", 0, chat__tokens_per_s=25.0, total__tokens_per_s=25.0, chat__mean__tbt=10.0)]
    runs.append(run("A1", 0, "512", offline__tokens_per_s=100.0, total__tokens_per_s=100.0))
    runs.append(run("A9", 0, "0.2", offline__tokens_per_s=60.0, total__tokens_per_s=85.0, chat__mean__tbt=12.0))
    found = rows(studies.frontier_table(runs, "A0", "A1", "chat"), arm="A9")[0]
    assert (found["share_of_offline_alone"], found["share_of_ceiling"], found["total_over_baseline"]) == (
        "0.6",
        "0.8",
        "3.4",
    )
    assert found[f"{MEAN}_over_baseline"] == "1.2"


def test_pooled_percentiles_claim_from_a_thousand_requests() -> None:
    values = np.arange(1, 1_001, dtype=np.float64)
    key = ("c", "A0", "")
    enough = studies.pooled_table({key: {"ttft": values}}, {key: 1_000})
    assert rows(enough)[0]["p99"] == "990"
    assert rows(enough)[0]["claim"] == "yes"
    few = studies.pooled_table({key: {"ttft": values[:400]}}, {key: 400})
    assert rows(few)[0]["claim"].startswith("not supported")
    failed = np.concatenate((values, np.full(50, math.inf)))
    assert rows(studies.pooled_table({key: {"ttft": failed}}, {key: 1_050}))[0]["p99"] == "inf"


def test_what_a_router_adds() -> None:
    used = overhead.Machine(
        router=Usage(750_000.0, 0.075, 50_000_000, 60_000_000),
        mock=Usage(0.0, 0.3, 0, 0),
        requests=10_000,
        chunks=160_000,
        routes=[{"POST /v1/chat/completions": 10_000, "POST /v1/chat/completions/render": 5_000, "GET /health": 3}],
        quickack={"plain": 44.5, "quickack": 0.6},
    )
    through = {
        **overhead.machine_figures(used),
        "chat.p50.e2e": 900.0,
        "chat.p99.e2e": 4_000.0,
        "chat.requests": 8_000.0,
    }
    own = {"quickack.plain": 0.4, "quickack.quickack": 0.4}
    runs = [
        Run("direct", "c", "", window, 0, "h", "ok", 1, {"chat.p50.e2e": 400.0 + window, **own}) for window in (0, 1)
    ]
    runs += [Run("peer", "c", "", window, 0, "h", "ok", 1, through) for window in (0, 1)]
    found = rows(overhead.overhead_table(runs, "direct", "chat", {"peer": "byte"}), arm="peer")[0]
    assert (found["added_p50_ms_min"], found["added_p50_ms_max"], found["added_p99_ms_median"]) == ("0.499", "0.5", "-")
    assert (found["cpu_us_per_request"], found["cpu_us_per_chunk"], found["rss_after_mb"]) == ("75", "4.6875", "60")
    assert found["extra_calls_per_request"] == "0.5"
    assert found["stall"] == "Nagle stall, no TCP_NODELAY"
    assert (found["void"], found["note"]) == ("", "byte")


def test_cells_that_are_void() -> None:
    bound = run("peer", 0, mock__cores=0.8)
    assert rows(overhead.overhead_table([bound], "direct", "chat", {}))[0]["void"] == "mock-bound"
    own = run("direct", 0, chat__p50__e2e=400.0)
    slow = run("peer", 0, status="invalid", mock__cores=0.1, chat__p50__e2e=900.0)
    found = rows(overhead.overhead_table([own, slow], "direct", "chat", {}), arm="peer")[0]
    assert (found["void"], found["added_p50_ms_median"]) == ("client-bound", "-")


@pytest.mark.parametrize(
    ("through", "said"),
    [
        ({"plain": 44.4, "quickack": 0.5}, "Nagle stall, no TCP_NODELAY"),
        ({"plain": 0.6, "quickack": 0.5}, "none"),
        ({"plain": 44.4, "quickack": 44.3}, "none"),
        ({}, ""),
    ],
)
def test_the_stall(through: dict[str, float], said: str) -> None:
    assert quickack.verdict(through, {"plain": 0.2, "quickack": 0.2}) == said


def test_hot_spot() -> None:
    assert overhead.hot_spot([10, 10, 10, 10]) == 1.0
    assert overhead.hot_spot([30, 10, 0, 0]) == 3.0
    assert overhead.hot_spot([5]) is None
    assert overhead.hot_spot([0, 0]) is None


def test_cache_and_failover() -> None:
    figures: dict[str, Any] = {"chat.cached_of_ideal": 0.97, "chat.p99.ttft": 2_000.0, "mock.hot_spot": 1.2}
    runs = [
        Run("ours", "c", "", 0, 0, "h", "ok", 1, figures),
        Run("smg", "c", "", 0, 0, "h", "ok", 1, {"chat.p99.ttft": 4_000.0}),
    ]
    found = rows(routing.cache_table(runs, "ours", "chat", {}), arm="smg")[0]
    assert (found["p99_ttft_over_baseline"], found["p99_ttft_ms"], found["hits_of_ideal"]) == ("2", "4", "-")
    killed = [
        run("kills", each, chat__requests=10, chat__errors=1, chat__compared=9, chat__wrong=each, chat__worst_gap=5e5)
        for each in (0, 1)
    ]
    row = rows(routing.failover_table(killed, "chat"))[0]
    assert (row["requests"], row["failed"], row["compared"], row["wrong"], row["worst_gap_ms"]) == (
        "20",
        "2",
        "18",
        "1",
        "500",
    )
    unknown = rows(routing.failover_table([run("kills", 0, chat__requests=10)], "chat"))[0]
    assert unknown["worst_gap_ms"] == "-"
    assert routing.wrong_texts({1: "a", 2: "b", 3: "c"}, {1: "a", 2: "x", 4: "d"}) == (2, 1)
