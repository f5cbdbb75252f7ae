"""Transforms do what they are named for, and nothing else (mistake 10: due times are the trace's)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadgen.errors import BadInput
from loadgen.plan.prefix import ideal_hits
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources.mooncake import Mooncake
from loadgen.plan.streams import stream
from loadgen.plan.transforms import apply, words
from loadgen.spec import Transforms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def done(rows: Sequence[SourceRow], asked: Transforms) -> list[SourceRow]:
    return apply(rows, asked, 16, stream(1, "chat", "thin"))


ROWS = [SourceRow(time=time, in_tokens=10, out_tokens=4) for time in (0, 0, 0, 3_000_000, 9_000_000)]


def times(rows: Sequence[SourceRow]) -> list[int | None]:
    return [row.time for row in rows]


def test_nothing_asked_nothing_done() -> None:
    assert done(ROWS, Transforms()) == ROWS
    assert words(Transforms()) == "none"


def test_times() -> None:
    assert times(done(ROWS, Transforms(scale=0.1))) == [0, 0, 0, 30_000_000, 90_000_000]
    assert times(done(ROWS, Transforms(window=(3_000_000, 9_000_000)))) == [0]
    assert times(done(ROWS, Transforms(dequantise=3_000_000))) == [0, 1_000_000, 2_000_000, 3_000_000, 9_000_000]
    assert words(Transforms(scale=0.1, dequantise=3_000_000)) == "dequantise=3s scale=x0.1"


def test_repeat_superposes_shifted_copies() -> None:
    rows = [SourceRow(time=0, blocks=(0, 1), session="a"), SourceRow(time=5, blocks=(0, 2), session="b")]
    found = done(rows, Transforms(repeat=2))
    assert times(found) == [0, 0, 5, 5]
    assert sorted(row.blocks or () for row in found) == [(0, 1), (0, 2), (3, 4), (3, 5)]
    assert {row.session for row in found} == {"a/0", "a/1", "b/0", "b/1"}


def test_thin_keeps_each_by_chance() -> None:
    rows = [SourceRow(time=time) for time in range(10_000)]
    kept = done(rows, Transforms(thin=0.2))
    assert len(kept) == pytest.approx(2_000, abs=120)
    assert kept == done(rows, Transforms(thin=0.2))


def test_lengths_keep_the_sharing(data: Path) -> None:
    rows = list(Mooncake(data / "mooncake/synthetic_before_680000ms.jsonl.gz").rows())
    short = done(rows, Transforms(length=0.1))
    assert {row.block_tokens for row in short} == {48}
    assert [row.blocks for row in short] == [row.blocks for row in rows]
    for row in short:
        assert row.blocks is not None
        assert row.in_tokens is not None
        assert 48 * (len(row.blocks) - 1) < row.in_tokens <= 48 * len(row.blocks)
    capped = done(short, Transforms(cap=500))
    assert max(row.in_tokens or 0 for row in capped) <= 500
    assert {row.in_tokens for row, before in zip(capped, short, strict=True) if row != before} == {480}
    assert ideal_hits([row.blocks or () for row in capped]) > 0
    with pytest.raises(BadInput):
        done(rows, Transforms(cap=100))


def test_plain_lengths() -> None:
    rows = [SourceRow(time=0, in_tokens=3, out_tokens=1_000)]
    assert done(rows, Transforms(length=0.1)) == [SourceRow(time=0, in_tokens=1, out_tokens=100)]
    assert done(rows, Transforms(length=0.1, floor=(4, 2))) == [SourceRow(time=0, in_tokens=4, out_tokens=100)]
    assert done(rows, Transforms(length=10, cap=20)) == [SourceRow(time=0, in_tokens=20, out_tokens=10_000)]


def test_times_are_wanted() -> None:
    with pytest.raises(BadInput):
        done([SourceRow(in_tokens=1)], Transforms(scale=0.5))
