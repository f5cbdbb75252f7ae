"""The canned mock at the fixed rate of the router comparison: it must not be what is measured there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.engine.figures import Figure
from benchmarks.loadgen.bench import run
from benchmarks.loadgen_rates import row
from loadgen.selftest.mock_process import MockProcess

if TYPE_CHECKING:
    from benchmarks.loadgen.bench import Bench

RATE = 1_000
MOST_SHARE = 0.7


def measure(bench: Bench) -> None:
    """Share of a core of the mock, for whole answers of one piece and for bursts of 16 chunks."""
    for shape, tokens in (("json:16", 16), ("burst:16", 16)):
        raw: list[dict[str, object]] = []

        def one_round(shape: str = shape, tokens: int = tokens, raw: list[dict[str, object]] = raw) -> float:
            spec = f"name=chat,arrivals=const:{RATE}/s,in=fixed:64,out=fixed:{tokens}"
            with MockProcess("--shape", shape, "--text", "fixed") as mock:
                ran = run(mock, [spec], bench.seconds)
            raw.append(row(ran))
            return ran.mock_share

        shares, discarded = bench.undisturbed(one_round)
        name = f"canned mock ({shape}) at {RATE} req/s: share of a core"
        bench.results.add(Figure(name, shares, MOST_SHARE, True, "", discarded, "", raw))


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("mock",))
