"""Are the latencies true? What the client reports against what the mock noted, quantile by quantile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.engine.figures import Figure
from benchmarks.loadgen.bench import forget, run, truth
from loadgen.measure import metrics
from loadgen.selftest.mock_process import MockProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.loadgen.bench import Bench

FLAGS = ("--mode", "engine", "--ttft", "lognormal:80ms@0.4", "--tpot", "lognormal:15ms@0.3")
SPEC = "name=chat,arrivals=poisson:10/s,in=fixed:16,out=fixed:50"
QUANTILES = (0.5, 0.99)


def measure(bench: Bench) -> None:
    """Errors in units of the bar: 1 ms or 1 %, whichever is more."""
    raw: list[dict[str, object]] = []

    def one_round() -> dict[str, float]:
        with MockProcess(*FLAGS) as mock:
            forget(mock)
            ran = run(mock, [SPEC], bench.seconds)
            known = truth(mock)
        at = ran.evidence.at
        first = np.array([each.emits[0] - each.received for each in known], dtype=np.float64)
        gaps = np.concatenate([np.diff(np.array(each.emits, dtype=np.float64)) for each in known])
        # The answers' streams differ by the usage chunk, which holds no token and so is none of the client's gaps.
        pairs = {"ttft": (metrics.ttft(at), first), "gap": (metrics.gap(at), gaps)}
        errors = {}
        for name, (told, true) in pairs.items():
            for q in QUANTILES:
                errors[f"{name} p{q * 100:g}"] = _error(told[~np.isnan(told)], true, q, name, raw)
        return errors

    rounds, discarded = bench.undisturbed(one_round)
    for name in rounds[0] if rounds else ():
        values = [each[name] for each in rounds]
        figure = Figure(f"error of {name} over its bar", values, 1.0, True, "x", discarded, "", raw)
        bench.results.add(figure)
        raw = []


def _error(
    told: NDArray[np.float64], true: NDArray[np.float64], q: float, name: str, raw: list[dict[str, object]]
) -> float:
    ours, theirs = (float(np.quantile(each, q, method="higher")) for each in (told, true))
    row = {"metric": name, "q": q, "told_us": ours, "true_us": theirs, "told": len(told), "true": len(true)}
    raw.append(dict(row.items()))
    return abs(ours - theirs) / max(1_000.0, 0.01 * theirs)


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("fidelity",))
