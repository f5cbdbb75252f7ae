"""The traces are read as they are: every golden value of the design, and bad rows named by file, row and field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadgen.errors import BadData
from loadgen.plan.prefix import ideal_hits, trace_segments
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources.azure import Azure
from loadgen.plan.sources.lengths import Lengths
from loadgen.plan.sources.mooncake import Mooncake
from loadgen.plan.sources.prompts import Prompts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def dispersion(times: Sequence[int]) -> float:
    counts = np.bincount(np.asarray(times) // 1_000_000)
    return float(np.var(counts) / np.mean(counts))


def cv(times: Sequence[int]) -> float:
    gaps = np.diff(times)
    return float(np.std(gaps) / np.mean(gaps))


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "out", "gaps_cv", "counts"),
    [("conv", 14_176, 16_942_346, 2_856_415, 1.08, 1.33), ("code", 7_491, 15_282_456, 206_626, 12.6, 12.9)],
)
def test_azure(data: Path, name: str, rows: int, prompt: int, out: int, gaps_cv: float, counts: float) -> None:
    found = list(Azure(data / f"azure-llm-2023/{name}_first40min.csv").rows())
    assert len(found) == rows
    assert sum(row.in_tokens or 0 for row in found) == prompt
    assert sum(row.out_tokens or 0 for row in found) == out
    times = [row.time or 0 for row in found]
    assert times[0] == 0
    assert cv(times) == pytest.approx(gaps_cv, abs=0.05 if name == "code" else 0.005)
    assert dispersion(times) == pytest.approx(counts, abs=0.05 if name == "code" else 0.005)


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "out", "blocks", "hits"),
    [
        (
            "conversation_before_2400000ms",
            7_851,
            97_571_920,
            2_724_903,
            194_284,
            {None: 68_181, 1_000: 8_559, 10_000: 39_980, 50_000: 67_107},
        ),
        (
            "synthetic_before_680000ms",
            2_597,
            34_256_229,
            477_714,
            68_538,
            {None: 29_303, 1_000: 1_454, 10_000: 14_940, 50_000: 29_303},
        ),
    ],
)
def test_mooncake(
    data: Path, name: str, rows: int, prompt: int, out: int, blocks: int, hits: dict[int | None, int]
) -> None:
    found = list(Mooncake(data / f"mooncake/{name}.jsonl.gz").rows())
    assert len(found) == rows
    assert sum(row.in_tokens or 0 for row in found) == prompt
    assert sum(row.out_tokens or 0 for row in found) == out
    assert sum(len(row.blocks or ()) for row in found) == blocks
    assert {limit: ideal_hits([row.blocks or () for row in found], limit) for limit in hits} == hits
    # Mistake 9: the segments add up to the trace's prompts, exactly.
    assert sum(segment.tokens for row in found for segment in trace_segments(row, 0, name)) == prompt


def test_mooncake_grid(data: Path) -> None:
    times = [row.time or 0 for row in Mooncake(data / "mooncake/conversation_before_2400000ms.jsonl.gz").rows()]
    sizes = np.unique(times, return_counts=True)[1]
    # Some instants are a millisecond off the grid.
    assert max(min(time % 3_000_000, -time % 3_000_000) for time in times) <= 3_000
    assert (len(sizes), sizes.min(), sizes.max()) == (800, 2, 23)


@pytest.mark.parametrize(
    ("name", "rows", "sums"),
    [
        ("sharegpt_8k", 20_487, (48_002_807, 8_909_861)),
        ("arxiv_summarization", 18_838, None),
        ("bwb_translation", 22_512, None),
    ],
)
def test_lengths(data: Path, name: str, rows: int, sums: tuple[int, int] | None) -> None:
    found = list(Lengths(data / f"length-stats/{name}_first2of3.csv.gz").rows())
    assert len(found) == rows
    if sums is not None:
        assert (sum(row.in_tokens or 0 for row in found), sum(row.out_tokens or 0 for row in found)) == sums
        assert len({(row.in_tokens, row.out_tokens) for row in found}) == 17_548


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("spec-bench/question_dev.jsonl.gz", 290),
        ("mt-bench/question_dev.jsonl", 40),
        ("humaneval/tasks_000-109.jsonl.gz", 110),
    ],
)
def test_prompts(data: Path, path: str, rows: int) -> None:
    assert len(list(Prompts(data / path, first_turn_only=True).rows())) == rows
    turns = list(Prompts(data / path).rows())
    assert [row for row in turns if not row.text] == []
    if path.startswith("mt-bench"):
        assert [(row.session, row.turn) for row in turns[:4]] == [("1", 0), ("1", 1), ("2", 0), ("2", 1)]


AZURE_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize(
    ("text", "row", "field"),
    [
        ("TIMESTAMP,Context,GeneratedTokens\n", 1, "ContextTokens"),
        (AZURE_HEAD + "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:02.0,1,1\n", 3, "TIMESTAMP"),
        (AZURE_HEAD + "2023-11-16 18:17:03.9799600,0,10\n", 2, "ContextTokens"),
        (AZURE_HEAD + "2023-11-16 18:17:03.9799600,8,ten\n", 2, "GeneratedTokens"),
        (AZURE_HEAD + "yesterday,8,10\n", 2, "TIMESTAMP"),
        (AZURE_HEAD + "2023-11-16 18:17:03.9799600,8\n", 2, ""),
    ],
)
def test_bad_azure_rows(tmp_path: Path, text: str, row: int, field: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(BadData) as caught:
        list(Azure(path).rows())
    assert (caught.value.file, caught.value.row, caught.value.field) == (str(path), row, field)


@pytest.mark.parametrize(
    ("text", "row", "field"),
    [
        ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n', 1, "hash_ids"),
        ('{"timestamp": 0, "input_length": 513, "output_length": 1, "hash_ids": [1]}\n', 1, "hash_ids"),
        ('{"timestamp": 0, "input_length": 1.5, "output_length": 1, "hash_ids": [1]}\n', 1, "input_length"),
        ("[]\n", 1, ""),
        ("{\n", 1, ""),
    ],
)
def test_bad_mooncake_rows(tmp_path: Path, text: str, row: int, field: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(BadData) as caught:
        list(Mooncake(path).rows())
    assert (caught.value.row, caught.value.field) == (row, field)


def test_broken_gzip_is_bad_data(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(b"not gzip at all")
    with pytest.raises(BadData, match="cannot be read"):
        list(Mooncake(path).rows())


def test_lru_rule_in_small() -> None:
    """An absent block ends the leading run, though a later one is present; and eviction happens inside a prompt."""
    assert ideal_hits([(1, 2, 3), (1, 9, 3)]) == 1
    assert ideal_hits([(1, 2, 3), (1, 2, 3)], 2) == 0
    assert ideal_hits([(1, 2), (3,), (2,), (1,)], 2) == 1


def test_trace_segments_share_by_id() -> None:
    row = SourceRow(in_tokens=1_100, blocks=(7, 8, 9), block_tokens=512)
    assert [segment.tokens for segment in trace_segments(row, 1, "t")] == [512, 512, 76]
    other = SourceRow(in_tokens=600, blocks=(7, 5), block_tokens=512)
    assert trace_segments(row, 1, "t")[0] == trace_segments(other, 1, "t")[0]
    assert trace_segments(row, 1, "t")[1].seed != trace_segments(other, 1, "t")[1].seed
