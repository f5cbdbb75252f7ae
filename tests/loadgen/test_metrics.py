"""Each metric of the design page's section 4 against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.loadgen_records import MS, record, streamed, table

from loadgen.errors import BadData
from loadgen.measure import metrics
from loadgen.measure.columns import columns


def _ms(values: object) -> list[float]:
    return [float(each) / MS for each in np.asarray(values)]


def test_latency_counts_from_due() -> None:
    at = table(record(1, 100, [(500, 1), (520, 1), (560, 1)], sent=300, end=570))
    assert _ms(metrics.ttft(at)) == [400]
    assert _ms(metrics.wire_ttft(at)) == [200]
    assert _ms(metrics.lag(at)) == [200]
    assert _ms(metrics.e2e(at)) == [470]
    assert _ms(metrics.wire_e2e(at)) == [270]
    assert metrics.norm_e2e(at)[0] == pytest.approx(470 * MS / 3)
    assert _ms(metrics.tpot(at)) == [30]


def test_a_client_side_limit_is_in_the_latency() -> None:
    """Mistake 1: 8 requests due every 100 ms, 500 ms each, one at a time."""
    begun = [max(100.0 * each, 500.0 * each) for each in range(8)]
    at = table(
        *(streamed(each, 100 * each, begun[each] + 500 - 100 * each, 0, 1, sent=begun[each]) for each in range(8))
    )
    assert max(_ms(metrics.e2e(at))) == pytest.approx(3300)
    assert max(_ms(metrics.wire_e2e(at))) == pytest.approx(500)


def test_tokens_of_a_chunk() -> None:
    at = table(record(1, 0, [(100, 4), (140, 4), (180, 2)]))
    assert _ms(metrics.tpot(at)) == pytest.approx([80 / 9])
    assert sorted(_ms(metrics.tbt(at))) == [0] * 7 + [40, 40]
    assert _ms(metrics.gap(at)) == [40, 40]


def test_usage_corrects_chunks_counted_as_tokens() -> None:
    """Mistake 2: 16 tokens came in 4 chunks that say nothing of how many they hold."""
    at = table(record(1, 0, [(100, 1), (140, 1), (180, 1), (220, 1)], out_got=16, out_want=16))
    assert metrics.out_tokens(at).tolist() == [16]
    assert _ms(metrics.tpot(at)) == [8]
    assert len(metrics.tbt(at)) == 15
    assert metrics.token_ends(at).tolist() == [4, 8, 12, 16]


def test_first_visible_token_and_visible_gaps() -> None:
    at = table(
        record(1, 0, [(100, 1), (900, 1), (910, 1), (950, 1)], visible=2), record(2, 10, [(50, 1)], visible=None)
    )
    assert _ms(metrics.ttft(at)) == [100, 40]
    assert _ms(metrics.ttfo(at))[0] == 910
    assert np.isnan(metrics.ttfo(at)[1])
    assert _ms(metrics.max_gap(at))[0] == 40
    assert np.isnan(metrics.max_gap(at)[1])


def test_one_stall_is_in_max_gap_and_not_in_the_pool() -> None:
    """Mistake 14: one stall of 2 s in 500 tokens lies below the pooled p99, and in no mean of means."""
    times = [100 + 10 * each + (2000 if each >= 250 else 0) for each in range(500)]
    at = table(record(1, 0, [(float(time), 1) for time in times]))
    assert float(np.quantile(metrics.gap(at), 0.99)) == 10 * MS
    assert _ms(metrics.max_gap(at)) == [2010]


def test_tokens_whose_times_were_not_kept_came_all_the_same() -> None:
    """`--tokens sample`: a rate of those with stamps alone would be too low by the share of the others."""
    at = table(
        streamed(1, 0, 5, 2, 3),
        record(2, 0, [], first_micros=100 * MS, end=190, out_got=4, out_want=4, visible=0),
        record(3, 0, [], first_micros=40 * MS, end=None, out_got=2, outcome="cut"),
        record(4, 0, [], end=None, outcome="error"),
    )
    assert _ms(metrics.delivery_times(at)) == [5, 7, 9, 100, 130, 160, 190, 40, 40]


def test_without_stamps_the_times_of_the_record_serve() -> None:
    at = table(record(1, 0, [], sent=5, first_micros=100 * MS, end=190, out_got=10, out_want=10, visible=0))
    assert _ms(metrics.ttft(at)) == [100]
    assert _ms(metrics.ttfo(at)) == [100]
    assert _ms(metrics.tpot(at)) == [10]
    assert np.isnan(metrics.max_gap(at)).all()
    assert np.isnan(metrics.lateness(at, 1.0, 1.0).late).all()


def test_failures_have_no_latency() -> None:
    at = table(record(1, 0, outcome="shed", end=2, status=429), record(2, 0, outcome="refused", sent=None, end=None))
    assert np.isnan(metrics.e2e(at)).all()
    assert np.isnan(metrics.ttft(at)).all()
    assert _ms(metrics.refuse_time(at))[0] == 2
    assert np.isnan(metrics.refuse_time(at)[1])
    assert metrics.out_tokens(at).tolist() == [0, 0]


def test_lateness_by_hand() -> None:
    # Due at 100, 120, 140, 160; the third is late, the fourth is on its deadline.
    on = record(1, 0, [(100, 1), (110, 1), (150, 1), (160, 1)])
    # A late first token, then right on pace: every token late, and the reader never ran dry.
    slow = streamed(2, 0, 130, 20, 4)
    found = metrics.lateness(table(on, slow), 100 * MS, 20 * MS)
    assert found.late.tolist() == [0.25, 1.0]
    assert found.stalled.tolist() == [True, False]


_chunks = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5)), min_size=1, max_size=12)


@given(_chunks, st.integers(0, 60), st.integers(1, 20))
@settings(max_examples=80, deadline=None)
def test_lateness_equals_a_loop_over_tokens(chunks: list[tuple[int, int]], first: int, pace: int) -> None:
    time, parts, tokens = 0, [], []
    for wait, count in chunks:
        time += wait
        parts.append((float(time), count))
        tokens += [time] * count
    found = metrics.lateness(table(record(1, 0, parts)), first * MS, pace * MS)
    late = [at > first + place * pace for place, at in enumerate(tokens)]
    begun = max(first, tokens[0])
    assert found.late[0] == pytest.approx(sum(late) / len(tokens))
    assert bool(found.stalled[0]) == any(at > begun + place * pace for place, at in enumerate(tokens))


@given(st.lists(_chunks, min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_of_many_requests_each_is_as_if_alone(requests: list[list[tuple[int, int]]], empty: int) -> None:
    made = []
    for number, chunks in enumerate(requests):
        time, parts = 0, []
        for wait, count in chunks:
            time += wait
            parts.append((float(time), count))
        made.append(record(number, 0, parts))
    made[empty:empty] = [record(90, 0, outcome="error", end=None)]
    at = columns(made)
    for name, function in metrics.PER_REQUEST.items():
        together = dict(zip(at.id.tolist(), function(at).tolist(), strict=True))
        for each in made:
            alone = float(function(table(each))[0])
            assert together[each.id] == pytest.approx(alone, nan_ok=True), name
    for name, pooled in metrics.POOLED.items():
        apart = [value for each in made for value in pooled(table(each)).tolist()]
        assert sorted(pooled(at).tolist()) == sorted(apart), name


@given(st.permutations(list(range(8))))
@settings(max_examples=20, deadline=None)
def test_order_of_records_changes_nothing(order: list[int]) -> None:
    made = [streamed(each, 10 * (each // 2), 5 + each, 2, 3) for each in range(8)]
    one, other = columns(made), columns([made[each] for each in order])
    assert one.id.tolist() == other.id.tolist()
    assert one.stamps.tolist() == other.stamps.tolist()


def test_choosing_keeps_chunks_with_their_requests() -> None:
    at = table(streamed(1, 0, 5, 2, 3), record(2, 1, outcome="error"), streamed(3, 2, 9, 4, 2))
    kept = at.where(np.asarray([False, True, True]))
    assert kept.id.tolist() == [2, 3]
    assert kept.begin.tolist() == [0, 0, 2]
    assert _ms(metrics.ttft(kept))[1] == 9
    back = at.taken(np.asarray([2, 0]))
    assert _ms(metrics.ttft(back)) == [9, 5]
    assert back.begin.tolist() == [0, 2, 5]


@pytest.mark.parametrize(
    ("given_", "field"),
    [
        ({"k": [1]}, "k"),
        ({"sent_micros": None}, "sent_micros"),
        ({"visible": 7}, "visible"),
    ],
)
def test_records_that_contradict_themselves(given_: dict[str, object], field: str) -> None:
    with pytest.raises(BadData) as caught:
        columns([streamed(1, 0, 5, 2, 3, **given_)], "r.jsonl.gz")
    assert (caught.value.file, caught.value.field) == ("r.jsonl.gz", field)


def test_two_records_of_one_request() -> None:
    with pytest.raises(BadData, match="two records"):
        columns([streamed(1, 0, 5, 2, 3), streamed(1, 9, 5, 2, 3)])


def test_no_records_at_all() -> None:
    at = columns([])
    assert len(at) == 0
    assert all(len(function(at)) == 0 for function in (*metrics.PER_REQUEST.values(), *metrics.POOLED.values()))
