"""What the client takes away from an engine on the same cores, beside the least that any client could take.

The engine is a stand-in: matrix products on all cores, whose number is counted, since a real one's tokens a second move
by more than what is measured here. The streams come from the mock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.engine.figures import Figure, ratios
from benchmarks.loadgen.bench import ROOT, cores, run
from loadgen.selftest.mock_process import MockProcess

if TYPE_CHECKING:
    from benchmarks.loadgen.bench import Bench

STREAMS_PER_S, TOKENS = 10, 100
"""1,000 chunks a second."""
SPEC = f"name=chat,arrivals=const:{STREAMS_PER_S}/s,in=fixed:16,out=fixed:{TOKENS}"
MODULE = "benchmarks.loadgen."
SETTLE = 4
"""Seconds from the start of a client until the engine begins: setting up is not what harms a server in a long run."""


def measure(bench: Bench) -> None:
    """The engine's work beside us over its work beside the minimal client, in turns, and our share of a core."""
    raw: list[dict[str, object]] = []

    def one_round() -> tuple[float, float, float]:
        with MockProcess("--shape", f"paced:{TOKENS}@20ms", "--text", "fixed") as mock:
            with _Engine(bench.seconds) as engine:
                ran = run(mock, [SPEC], bench.seconds + 2 * SETTLE, allow_lag="true")
            ours = engine.rate
            with _Engine(bench.seconds) as engine:
                command = [sys.executable, "-m", f"{MODULE}minimal_client", mock.url, str(STREAMS_PER_S)]
                subprocess.run(
                    [*command, str(bench.seconds + 2 * SETTLE), str(TOKENS)],
                    check=True,
                    capture_output=True,
                    timeout=600,
                    cwd=ROOT,
                )
            least = engine.rate
        raw.append({"beside_us": ours, "beside_minimal": least, "share": ran.share})
        return ours, least, ran.share

    # The stand-in is a child of this process, so it is none of the others.
    rounds, discarded = bench.undisturbed(one_round)
    ours, least, shares = ([each[place] for each in rounds] for place in range(3))
    note = f"engine: a stand-in on {cores()} cores; counted while streams run, not while they are planned or parsed"
    name = "harm to the server at 10 req/s, 1,000 chunks/s"
    worked = f"{name}: its work over that beside a minimal client"
    bench.results.add(Figure(worked, ratios(ours, least), 0.98, False, "x", discarded, note, raw))
    bench.results.add(Figure(f"{name}: client's share of a core", shares, 0.05, True, "", discarded))


class _Engine:
    """Works for so long from entering on; `rate` is known after leaving."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.rate = 0.0

    def __enter__(self) -> _Engine:
        environ = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"{MODULE}engine_stand_in", str(self._seconds), str(cores()), str(SETTLE)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, cwd=ROOT)
        return self

    def __exit__(self, *_: object) -> None:
        told = json.loads(self._process.communicate(timeout=600)[0])
        self.rate = float(told["products"]) / float(told["seconds"])


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("harm",))
