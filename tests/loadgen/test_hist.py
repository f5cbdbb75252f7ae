"""The histogram against the package that defines its layout for Python, and its log read back by that package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import BadData
from loadgen.stats import hlog
from loadgen.stats.hist import BUCKETS, HIGHEST, Histogram, bucket_of, highest_of, lowest_of

_edges = [0, 1, 2046, 2047, 2048, 2049, 4095, 4096, HIGHEST - 1, HIGHEST]
_values = st.lists(st.one_of(st.integers(0, HIGHEST), st.sampled_from(_edges), st.integers(0, 5000)), max_size=60)


def _made(values: list[int]) -> Histogram:
    made = Histogram()
    made.record(np.asarray(values, dtype=np.int64))
    return made


def _oracle(values: list[int]) -> Any:
    module = pytest.importorskip("hdrh.histogram", reason="the hdrhistogram package is not installed")
    oracle = module.HdrHistogram(1, HIGHEST, 3)
    for value in values:
        assert oracle.record_value(value)
    return oracle


@given(_values)
@settings(max_examples=60, deadline=None)
def test_counts_equal_the_package_bucket_for_bucket(values: list[int]) -> None:
    assert list(_oracle(values).counts) == _made(values).counts.tolist()


def test_every_power_of_two_and_its_neighbours() -> None:
    values = sorted({min(max((1 << bit) + off, 0), HIGHEST) for bit in range(32) for off in (-1, 0, 1)})
    oracle = _oracle(values)
    assert oracle.counts_len == BUCKETS
    assert list(oracle.counts) == _made(values).counts.tolist()


@given(_values.filter(bool), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
@settings(max_examples=60, deadline=None)
def test_quantile_is_the_bucket_of_the_order_statistic(values: list[int], q: float) -> None:
    ordered = sorted(values)
    rank = max(-(-round(q * 100) * len(values) // 100), 1)
    bucket = int(bucket_of(np.asarray([ordered[rank - 1]], dtype=np.int64))[0])
    assert _made(values).quantile(q) == highest_of(bucket)
    assert lowest_of(bucket) <= ordered[rank - 1] <= highest_of(bucket)


@given(_values, _values, _values)
@settings(max_examples=40, deadline=None)
def test_merge_is_associative_and_knows_no_order(a: list[int], b: list[int], c: list[int]) -> None:
    x, y, z = _made(a), _made(b), _made(c)
    whole = _made(a + b + c).counts
    assert np.array_equal(x.merged(y).merged(z).counts, whole)
    assert np.array_equal(x.merged(y.merged(z)).counts, whole)
    assert np.array_equal(z.merged(x).merged(y).counts, whole)


def test_values_out_of_range() -> None:
    made = _made([HIGHEST + 1, 7 * HIGHEST])
    top = highest_of(int(bucket_of(np.asarray([HIGHEST], dtype=np.int64))[0]))
    assert (made.clipped, made.total, made.quantile(0.5)) == (2, 2, top)
    with pytest.raises(ValueError, match="below zero"):
        _made([3, -1])
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean() is None


@given(_values)
@settings(max_examples=60, deadline=None)
def test_encoded_form_is_read_by_both(values: list[int]) -> None:
    made = _made(values)
    text = hlog.encode(made)
    assert np.array_equal(hlog.decode(text).counts, made.counts)
    oracle = _oracle([])
    oracle.decode_and_add(text.encode())
    assert list(oracle.counts) == made.counts.tolist()


@given(_values.filter(bool))
@settings(max_examples=40, deadline=None)
def test_what_the_package_encodes_is_read(values: list[int]) -> None:
    assert hlog.decode(_oracle(values).encode().decode()).counts.tolist() == _made(values).counts.tolist()


def test_large_counts_survive() -> None:
    made = Histogram()
    made.counts[[0, 5, BUCKETS - 1]] = [1, 2**40, 2**62]
    assert np.array_equal(hlog.decode(hlog.encode(made)).counts, made.counts)


def test_log_is_read_back_by_the_package(tmp_path: Path) -> None:
    module = pytest.importorskip("hdrh.log", reason="the hdrhistogram package is not installed")
    parts = [_made([100, 2_000_000]), _made([]), _made([7])]
    intervals = [hlog.Interval("chat.ttft.window", at * 1_000_000, 1_000_000, each) for at, each in enumerate(parts)]
    file = tmp_path / "chat.hlog"
    file.write_text("".join(hlog.lines(intervals, 1_700_000_000_000_000)))
    reader = module.HistogramLogReader(str(file), _oracle([]))
    for at, part in enumerate(parts):
        seen = reader.get_next_interval_histogram()
        assert list(seen.counts) == part.counts.tolist()
        assert seen.get_tag() == "chat.ttft.window"
        assert seen.get_start_time_stamp() == 1_700_000_000_000.0 + 1000 * at
    assert reader.get_next_interval_histogram() is None
    reader.close()
    again = list(hlog.read("chat.hlog", file.read_text().splitlines(keepends=True)))
    assert [(each.tag, each.start, each.length) for each in again] == [(i.tag, i.start, i.length) for i in intervals]
    assert all(np.array_equal(x.histogram.counts, y) for x, y in zip(again, (p.counts for p in parts), strict=True))


@pytest.mark.parametrize("line", ["nonsense", "0.0,1.0,0.0,AAAA", "Tag=x,0.0,1.0", "a,b,c,d"])
def test_bad_line_names_its_row(line: str) -> None:
    with pytest.raises(BadData) as caught:
        list(hlog.read("f.hlog", ["#comment\n", line + "\n"]))
    assert (caught.value.file, caught.value.row) == ("f.hlog", 2)
