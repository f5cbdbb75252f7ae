"""The tables of the co-location plan: the tolerance study, the frontier, and 99th percentiles over pooled blocks.
Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from loadgen.experiment.analyse import Run, Table, groups, median_of, number, over_baseline
from loadgen.experiment.tune import CELLS, OFFLINE, Tried, holds
from loadgen.stats.quantile import estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLAIM_REQUESTS: Final = 1_000
"""Online requests over all blocks from which a p99 is claimed."""


@dataclass(frozen=True, slots=True)
class TuningRuns:
    """Of the tuning window: the baseline's figures, and each arm's probes."""

    base: Mapping[str, float | None] = field(default_factory=dict)
    probes: Mapping[str, Sequence[Tried]] = field(default_factory=dict)


def tolerance_table(
    tuning: TuningRuns, runs: Sequence[Run], baseline: str, cls: str, tolerances: Sequence[float]
) -> Table:
    """For each tolerance and metric: which setting was best on the tuning window, and whether it held on the test
    windows.

    Mean figures must hold in every block, a p99 in the median over blocks (its own table pools them). A cell that was
    broken is printed as a violation, without a throughput figure.
    """
    header = (
        "cell",
        "arm",
        "tolerance",
        "metric",
        "knob",
        "held",
        "worst_over_baseline",
        "blocks",
        "offline_tokens_per_s",
    )
    rows = []
    tested = groups(runs)
    cells = sorted({cell for cell, _, _ in tested})
    for arm, tried in sorted(tuning.probes.items()):
        for tolerance in tolerances:
            for metric in (f"{cls}.{cell}" for cell in CELLS):
                base = tuning.base.get(metric)
                kept = [each for each in tried if holds(each, metric, tolerance, base)]
                known = [each for each in kept if each.figures.get(OFFLINE) is not None]
                for cell in cells:
                    key = (cell, arm, f"{tolerance:g}", metric)
                    knobs = [knob for found, name, knob in tested if (found, name) == (cell, arm)]
                    if not knobs:
                        continue
                    # Of the settings that were tested: another one has nothing to be judged by.
                    fit = [each for each in known if each.value in knobs]
                    if not fit:
                        rows.append(
                            (*key, "-", "no setting held on the tuning window" if not known else "not tested", *"---")
                        )
                        continue
                    best = max(fit, key=lambda each: each.figures[OFFLINE] or 0.0).value
                    rows.append((*key, best, *_held(tested[cell, arm, best], runs, baseline, metric, tolerance)))
    return Table("tolerance", header, tuple(rows))


def _held(mine: Sequence[Run], runs: Sequence[Run], baseline: str, metric: str, tolerance: float) -> tuple[str, ...]:
    paired = over_baseline(mine, runs, baseline, metric)
    pairs = 0 if paired is None else len(paired.ratios)
    # A block without the figure is not one in which it held: there too few were served to have one.
    if paired is None or pairs < len(mine):
        return "not known", "-", str(pairs), "-"
    ratios = np.array(paired.ratios)
    judged = float(np.median(ratios)) if ".p" in metric else float(ratios.max())
    held = judged <= 1 + tolerance
    throughput = number(median_of(mine, OFFLINE)) if held else "violation"
    return "yes" if held else "no", number(float(ratios.max())), str(len(ratios)), throughput


def frontier_table(runs: Sequence[Run], baseline: str, offline: str | None, cls: str) -> Table:
    """Each arm's settings: what they cost online and what they give offline, in shares of the baseline and of offline
    alone.

    `ceiling`: offline alone less the share that online takes. `offline`: the arm of offline alone, None where there
    is none.
    """
    metrics = [f"{cls}.{cell}" for cell in CELLS]
    header = ("cell", "arm", "knob", "attainment", *(f"{name}_over_baseline" for name in metrics))
    header += ("offline_tokens_per_s", "share_of_offline_alone", "share_of_ceiling", "total_over_baseline")
    rows = []
    tested = groups(runs)
    for (cell, arm, knob), mine in tested.items():
        alone = median_of([run for run in runs if run.cell == cell and run.arm == offline], OFFLINE)
        online = median_of([run for run in runs if run.cell == cell and run.arm == baseline], f"{cls}.tokens_per_s")
        given = median_of(mine, OFFLINE)
        ceiling = alone - online if alone is not None and online is not None else None
        total = over_baseline(mine, runs, baseline, "total.tokens_per_s")
        ratios = [over_baseline(mine, runs, baseline, name) for name in metrics]
        shown = [number(None if ratio is None else ratio.mean.value) for ratio in ratios]
        rows.append((
            cell, arm, knob, number(median_of(mine, f"{cls}.attainment")), *shown, number(given),
            number(_over(given, alone)), number(_over(given, ceiling)),
            number(None if total is None else total.mean.value),
        ))  # fmt: skip
    return Table("frontier", header, tuple(rows))


def _over(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def pooled_table(
    samples: Mapping[tuple[str, str, str], Mapping[str, np.ndarray]], requests: Mapping[tuple[str, str, str], int]
) -> Table:
    """p99 over all blocks of a setting together. `samples`: by cell, arm, knob and metric, f64 in microseconds,
    requests without an answer as infinite; `requests`: how many there were.
    """
    header = ("cell", "arm", "knob", "metric", "requests", "mean", "p50", "p99", "claim")
    rows = []
    for key in sorted(samples):
        for metric, values in sorted(samples[key].items()):
            mean = float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else math.nan
            enough = requests[key] >= CLAIM_REQUESTS
            claim = "yes" if enough else f"not supported: wants {CLAIM_REQUESTS} online requests"
            p50, p99 = (estimate(values, q).value for q in (0.5, 0.99))
            rows.append((*key, metric, str(requests[key]), number(mean), number(p50), number(p99), claim))
    return Table("pooled", header, tuple(rows))
