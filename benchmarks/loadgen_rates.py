"""One load process: 2,000 short requests a second, and 300 streams of 50 chunks a second, with all records on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.engine.figures import Figure
from benchmarks.loadgen.bench import run
from loadgen.selftest.mock_process import MockProcess

if TYPE_CHECKING:
    from benchmarks.loadgen.bench import Bench, Ran

SHORT = ("2,000 short requests/s", "json:1", "name=chat,arrivals=const:2000/s,in=fixed:16,out=fixed:1")
# At 150/s the streams would fall into three phases of 20 ms, and their chunks arrive a hundred at a time.
CHUNKS = ("15,000 chunks/s (300 streams)", "paced:100@20ms", "name=chat,arrivals=const:151/s,in=fixed:16,out=fixed:100")
MOST_SHARE = 0.5


def measure(bench: Bench) -> None:
    """Two figures each: how often the gate passed, and the share of a core."""
    for name, shape, spec in (SHORT, CHUNKS):
        raw: list[dict[str, object]] = []

        def one_round(shape: str = shape, spec: str = spec, raw: list[dict[str, object]] = raw) -> Ran:
            with MockProcess("--shape", shape, "--text", "fixed") as mock:
                ran = run(mock, [spec], bench.seconds)
            raw.append(row(ran))
            return ran

        rounds, discarded = bench.undisturbed(one_round)
        clean = [0.0 if each.clean else 1.0 for each in rounds]
        notes = sorted({each.clean for each in rounds if each.clean})
        figure = f"one load process, {name}"
        bench.results.add(Figure(f"{figure}: gate passes", clean, 1.0, False, "", discarded, "; ".join(notes), raw))
        shares = [each.share for each in rounds]
        bench.results.add(Figure(f"{figure}: share of a core", shares, MOST_SHARE, True, "", discarded))


def row(ran: Ran) -> dict[str, object]:
    """Raw numbers of a run."""
    found = ran.result.classes["chat"]
    done = found.completed_per_s
    return {
        "offered_per_s": found.offered_per_s,
        "done_per_s": None if done is None else done.value,
        "outcomes": found.outcomes,
        "chunks": ran.chunks,
        "load_cpu_s": ran.load,
        "scribe_cpu_s": ran.scribe,
        "share": ran.share,
        "mock_share": ran.mock_share,
        "invalid": ran.result.invalid,
        "disturbed": ran.result.disturbed,
    }


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("rates",))
