"""`scripts/bench loadgen`: prints one JSON line a figure and a table at the end, and keeps both and the raw numbers."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import time
import traceback
from pathlib import Path

from benchmarks.engine.figures import Figure, Results
from benchmarks.engine.machine import describe
from benchmarks.loadgen.bench import Bench

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("fidelity", "rates", "cost", "scaling", "harm", "mock", "omission", "peers")


def main(only: tuple[str, ...] = ()) -> None:
    """Run the parts that were asked for. `only`: of a module that is run by itself."""
    args = _arguments()
    command = "make bench-loadgen" if len(sys.argv) == 1 else f"scripts/bench loadgen {shlex.join(sys.argv[1:])}"
    results = Results(args.out, command, describe())
    bench = Bench(results, 1 if args.quick else args.rounds, 3 if args.quick else args.seconds, args.peers, args.quick)
    failed = False
    for part in only or args.only or PARTS:
        began = time.monotonic()
        try:
            importlib.import_module(f"benchmarks.loadgen_{part}").measure(bench)
        except Exception as error:  # noqa: BLE001 - the other parts can still be measured
            failed = True
            traceback.print_exc()
            results.add(Figure(f"part {part}", [], note=f"failed: {type(error).__name__}: {error}"))
        bench.say(f"--- {part}: {time.monotonic() - began:.0f} s")
    bench.say(f"written: {results.write()}")
    print(results.table())
    sys.exit(1 if failed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench loadgen", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be given several times")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each figure")
    parser.add_argument("--seconds", type=int, default=20, help="measured part of a run")
    parser.add_argument("--quick", action="store_true", help="does it all work? The figures say nothing")
    peers = os.environ.get("SLACKWATER_PEERS") or ROOT / ".." / "peers"
    parser.add_argument("--peers", type=Path, default=Path(peers), help="where other tools are installed")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "loadgen", help="where to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
