"""The tables of two router plans: what a placement finds in caches, and what kills do to streams. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.experiment.analyse import Run, Table, groups, median_of, number, over_baseline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def cache_table(runs: Sequence[Run], baseline: str, cls: str, notes: Mapping[str, str]) -> Table:
    """Hits over what an endless cache would find, time to the first token, and how even the workers were used."""
    times = ("mean_ttft_ms", "p99_ttft_ms", "p99_ttft_over_baseline")
    hits = ("hits_of_ideal", "cached_share")
    header = ("cell", "arm", "blocks", *hits, *times, "attainment", "hot_spot", "errors", "note")
    rows = []
    for (cell, arm, _), mine in groups(runs).items():
        ratio = over_baseline(mine, runs, baseline, f"{cls}.p99.ttft")
        rows.append((
            cell, arm, str(len(mine)),
            *(number(median_of(mine, f"{cls}.{name}")) for name in ("cached_of_ideal", "cached_share")),
            *(number(_milli(median_of(mine, f"{cls}.{name}.ttft"))) for name in ("mean", "p99")),
            number(None if ratio is None else ratio.mean.value), number(median_of(mine, f"{cls}.attainment")),
            number(median_of(mine, "mock.hot_spot")), number(_sum(mine, f"{cls}.errors")), notes.get(arm, ""),
        ))  # fmt: skip
    return Table("cache", header, tuple(rows))


def failover_table(runs: Sequence[Run], cls: str) -> Table:
    """Sums over all blocks: requests, those that did not end well, wrong texts, and the longest that any stream stood
    still.

    `wrong`: whole answers whose text is not that of the same request in the undisturbed run of its block.
    """
    header = ("cell", "arm", "blocks", "requests", "failed", "compared", "wrong", "worst_gap_ms", "p99_max_gap_ms")
    rows = []
    for (cell, arm, _), mine in groups(runs).items():
        gaps = [gap for run in mine if (gap := run.figures.get(f"{cls}.worst_gap")) is not None]
        rows.append((
            cell, arm, str(len(mine)),
            *(number(_sum(mine, f"{cls}.{name}")) for name in ("requests", "errors", "compared", "wrong")),
            number(_milli(max(gaps, default=None))), number(_milli(median_of(mine, f"{cls}.p99.max_gap"))),
        ))  # fmt: skip
    return Table("failover", header, tuple(rows))


def wrong_texts(mine: Mapping[int, str], base: Mapping[int, str]) -> tuple[int, int]:
    """How many requests both runs answered whole, and how many of those with another text; hashes by request."""
    both = mine.keys() & base.keys()
    return len(both), sum(mine[each] != base[each] for each in both)


def _sum(runs: Sequence[Run], name: str) -> float | None:
    known = [value for run in runs if (value := run.figures.get(name)) is not None]
    return sum(known) if known else None


def _milli(value: float | None) -> float | None:
    return None if value is None else value / 1e3
