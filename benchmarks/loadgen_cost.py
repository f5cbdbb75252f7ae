"""CPU time a streamed chunk, against a client of aiohttp and json, in turns at one rate."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.engine.figures import Figure, ratios
from benchmarks.loadgen.bench import ROOT, run
from loadgen.selftest.mock_process import MockProcess

if TYPE_CHECKING:
    from benchmarks.loadgen.bench import Bench

STREAMS_PER_S, TOKENS = 50, 100
"""5,000 chunks a second from 100 streams at once, which the slower of the two sustains."""
SPEC = f"name=chat,arrivals=const:{STREAMS_PER_S}/s,in=fixed:16,out=fixed:{TOKENS}"


def measure(bench: Bench) -> None:
    """Ratios ours over theirs, of the load process alone and with the scribe."""
    raw: list[dict[str, object]] = []

    def one_round() -> tuple[float, float, float]:
        with MockProcess("--shape", f"paced:{TOKENS}@20ms", "--text", "fixed") as mock:
            ran = run(mock, [SPEC], bench.seconds)
            theirs = other(mock.url, bench.seconds)
        ours, whole = ran.load * 1e6 / ran.chunks, (ran.load + ran.scribe) * 1e6 / ran.chunks
        raw.append({"ours_us": ours, "with_scribe_us": whole, "aiohttp_us": theirs, "chunks": ran.chunks})
        return ours, whole, theirs

    rounds, discarded = bench.undisturbed(one_round)
    ours, whole, theirs = ([each[place] for each in rounds] for place in range(3))
    note = "neither's interpreter start is counted, both's connections are"
    name = "CPU a streamed chunk over aiohttp + json"
    bench.results.add(Figure(f"{name}: load process", ratios(ours, theirs), 0.5, True, "x", discarded, note, raw))
    bench.results.add(Figure(f"{name}: with the scribe", ratios(whole, theirs), 0.8, True, "x", discarded))
    bench.results.add(Figure("CPU a streamed chunk, load process", ours, None, True, " us", discarded))


def other(url: str, seconds: float) -> float:
    """Microseconds of CPU a chunk of the other client."""
    command = [sys.executable, "-m", "benchmarks.loadgen.aiohttp_client", url, str(STREAMS_PER_S), str(seconds)]
    done = subprocess.run([*command, str(TOKENS)], check=True, capture_output=True, timeout=600, cwd=ROOT)
    told = json.loads(done.stdout)
    return float(told["cpu"]) * 1e6 / max(1, int(told["chunks"]))


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("cost",))
