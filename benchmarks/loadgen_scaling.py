"""Four load processes over one: the highest clean rates, where there are cores enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.engine.figures import Figure
from benchmarks.loadgen.bench import cores, run
from benchmarks.loadgen_rates import row
from loadgen.compare.client import one_client
from loadgen.selftest.driver import Selftest
from loadgen.selftest.mock_process import MockProcess

if TYPE_CHECKING:
    from benchmarks.loadgen.bench import Bench

LEAST_CORES = 8
REQUESTS = tuple(500.0 * step for step in range(1, 21))
CHUNKS = tuple(2_500.0 * step for step in range(1, 17))
MANY = "name=chat,arrivals=const:400/s,in=fixed:16,out=fixed:100"


def measure(bench: Bench) -> None:
    """Ratios of four over one; and 2,000 streams of 20 chunks a second."""
    names = ("4 load processes over 1: clean req/s", "4 load processes over 1: clean chunks/s")
    many = "4 load processes, 2,000 streams x 20 chunks/s: gate passes"
    if cores() < LEAST_CORES:
        for name in (*names, many):
            bench.results.add(Figure(name, [], 1.0 if name == many else 3.0, note=f"not run: {cores()} cores"))
        return
    test = Selftest(one_client, bench.say, seconds=bench.seconds, request_rates=REQUESTS, chunk_rates=CHUNKS)
    found = [test.run((1, 4)).limits for _ in range(bench.rounds)]
    for name, kind in zip(names, ("requests", "chunks"), strict=True):
        rates = [[float(getattr(limit, kind).rate) for limit in each] for each in found]
        raw = [{"one": one, "four": four} for one, four in rates]
        bench.results.add(Figure(name, [four / one for one, four in rates if one], 3.0, raw=raw))
    rows: list[dict[str, object]] = []
    for _ in range(bench.rounds):
        with MockProcess("--shape", "paced:100@50ms", "--text", "fixed", "--procs", "2") as mock:
            rows.append(row(run(mock, [MANY], bench.seconds, procs=4)))
    bench.results.add(Figure(many, [0.0 if each["invalid"] else 1.0 for each in rows], 1.0, unit="", raw=rows))


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("scaling",))
