"""Seconds and histograms add up to the window's figures, and other programs read them."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.loadgen_records import SECOND, facts, record, slo, streamed, table

from loadgen.measure.columns import OUTCOMES
from loadgen.measure.facts import ClassFacts
from loadgen.report import hists, intervals
from loadgen.stats import hlog
from loadgen.stats.hist import Histogram

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.report.load import LoadedRun


def _rows(run: LoadedRun, bucket: int = SECOND) -> list[dict[str, str]]:
    return list(csv.DictReader(intervals.lines(run.at, run.facts, bucket)))


@pytest.mark.parametrize("bucket", [SECOND, 7 * SECOND])
def test_intervals_add_up_to_all_records(run: LoadedRun, bucket: int) -> None:
    rows = _rows(run, bucket)
    for name in run.facts.classes:
        mine = [each for each in rows if each["class"] == name]
        at = run.of_class(name)
        assert sum(int(each["offered"]) for each in mine) == len(at)
        for outcome in OUTCOMES:
            assert sum(int(each[outcome]) for each in mine) == np.count_nonzero(at.is_(outcome))
        assert sum(int(each["out_tokens"]) for each in mine) == at.tokens.sum()
        assert sum(int(each["ended"]) for each in mine) == np.count_nonzero(~np.isnan(at.end))


def test_seconds_of_the_window_add_up_to_the_result(run: LoadedRun) -> None:
    rows = [each for each in _rows(run) if each["in_window"] == "1"]
    for name in ("chat", "code"):
        told = run.result.classes[name]
        mine = [each for each in rows if each["class"] == name]
        assert told.attainment is not None
        assert sum(int(each["offered"]) for each in mine) == told.offered
        assert sum(int(each["good"]) for each in mine) == told.attainment.good
        assert sum(int(each["counted"]) for each in mine) == told.attainment.counted


def test_one_second_by_hand() -> None:
    made = [
        streamed(0, 100, 50, 10, 3, sent=102),
        streamed(1, 900, 350, 10, 2),
        record(2, 950, outcome="error", end=960),
        streamed(3, 1100, 10, 10, 1),
    ]
    given = facts(2, classes={"chat": ClassFacts(slo=slo(ttft=100))}, drain=0)
    first, second = list(csv.DictReader(intervals.lines(table(*made), given)))[:2]
    wanted = {"offered": "3", "ok": "2", "error": "1", "ended": "2", "counted": "3", "good": "1", "out_tokens": "3"}
    assert {name: first[name] for name in wanted} == wanted
    assert (first["attainment"], first["ttft_mean_micros"], first["ttft_max_micros"]) == ("0.3333", "200000", "350000")
    assert (first["lag_max_micros"], first["tpot_mean_micros"]) == ("2000", "10000")
    # 70 ms of the first, 100 of the second, 10 of the one that failed.
    assert first["in_flight"] == "0.180"
    assert (second["offered"], second["out_tokens"]) == ("1", "3")


def test_histograms_hold_the_values_of_the_result(run: LoadedRun, run_dir: Path) -> None:
    for cls, metric in (("chat", "ttft"), ("code", "tbt"), ("chat", "lag"), ("chat", "gap")):
        path = run_dir / "hist" / f"{cls}.{metric}.window.hlog"
        parts = list(hlog.read(str(path), path.read_text(encoding="ascii").splitlines()))
        whole = Histogram()
        for each in parts:
            whole = whole.merged(each.histogram)
        told = run.result.classes[cls].metrics[metric]
        assert whole.total == told.count
        assert {each.length for each in parts} == {SECOND}
        assert all(run.facts.window[0] <= each.start <= run.facts.window[1] for each in parts)
        for quantile in told.quantiles:
            if quantile.value:
                found = whole.quantile(quantile.q)
                assert found == pytest.approx(quantile.value, rel=0.001, abs=1)


def test_phases_share_out_all_requests(run: LoadedRun) -> None:
    counted = dict.fromkeys(hists.PHASES, 0)
    for name, lines in hists.logs(run.at, run.facts, 0):
        cls, metric, phase, _ = name.split(".")
        if (cls, metric) == ("chat", "ttft"):
            counted[phase] += sum(each.histogram.total for each in hlog.read(name, lines))
    assert counted["warmup"] > 0
    assert sum(counted.values()) == np.count_nonzero(~np.isnan(run.at.first[run.at.cls == "chat"]))


def test_the_reference_program_reads_the_logs(run_dir: Path) -> None:
    hdrh = pytest.importorskip("hdrh.log")
    histogram = pytest.importorskip("hdrh.histogram").HdrHistogram
    path = run_dir / "hist" / "chat.ttft.window.hlog"
    reader = hdrh.HistogramLogReader(str(path), histogram(1, 3_600_000_000, 3))
    total = 0
    while (part := reader.get_next_interval_histogram()) is not None:
        total += part.get_total_count()
    reader.close()
    assert total == 1236
