"""Coordinated omission: a server of 50 ms stands still for a second, and the requests due meanwhile must show it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.engine.figures import Figure
from benchmarks.loadgen.bench import run
from loadgen.measure import metrics
from loadgen.selftest.mock_process import MockProcess

if TYPE_CHECKING:
    from benchmarks.loadgen.bench import Bench

SPEC = "name=chat,arrivals=const:100/s,in=fixed:16,out=fixed:2"
SECONDS = 60
"""100 of 6,000 requests are caught, so the p99 lies among them."""


def measure(bench: Bench) -> None:
    """TTFT p99 in seconds, which must lie between 0.40 and 0.50; from sending, where `due` is not known, beside it."""
    raw: list[dict[str, object]] = []
    seconds = 6 if bench.quick else SECONDS

    def one_round() -> tuple[float, float]:
        flags = ("--mode", "engine", "--ttft", "fixed:50ms", "--tpot", "fixed:5ms")
        with MockProcess(*flags) as mock, tempfile.TemporaryDirectory() as folder:
            pids = Path(folder) / "mock.pid"
            pids.write_text(f"{mock.pid}\n")
            ran = run(mock, [SPEC], seconds, fault=f"name=stall,at={seconds // 2}s,stop={pids},for=1s")
        at = ran.evidence.at
        inside = at.where((at.due >= ran.evidence.window[0]) & (at.due <= ran.evidence.window[1]))
        told = float(np.quantile(metrics.ttft(inside), 0.99, method="higher")) / 1e6
        caught = int(np.count_nonzero(metrics.ttft(inside) > 100_000))
        raw.append({"p99_s": told, "caught": caught, "requests": len(inside), "invalid": ran.result.invalid})
        return told, float(caught)

    rounds, discarded = bench.undisturbed(one_round)
    values = [each[0] for each in rounds]
    name = "coordinated omission: TTFT p99, 1 s stall in 60 s"
    bench.results.add(Figure(f"{name}, at most", values, 0.50, True, " s", discarded, "", raw))
    bench.results.add(Figure(f"{name}, at least", values, 0.40, False, " s", discarded))


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("omission",))
