"""`scripts/bench engine`: measures, prints one JSON line a figure and a table at the end, and keeps both."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from benchmarks.engine.corpus import data_folder, read_corpus
from benchmarks.engine.figures import Figure, Results
from benchmarks.engine.machine import describe
from benchmarks.engine.servers import PeerMissing, Server, llama_cpp, slackwater, vllm
from pyworker.models.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.engine.corpus import Corpus

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("roofline", "perplexity", "speculation", "peers", "foreign")
EXTRA_PARTS = ("grid",)
"""Run only when asked for."""
DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Run the parts that were asked for."""
    args = _arguments()
    # Ended from outside, it must not leave the servers behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    command = "make bench-engine" if len(sys.argv) == 1 else f"scripts/bench engine {shlex.join(sys.argv[1:])}"
    corpus = read_corpus(data_folder(args.data))
    model_dir = prepare(args.model).model_dir
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    results = Results(args.out, command, describe())
    bench = _Bench(args, corpus, model_dir, tokenizer, results)
    failed = False
    for part in args.only or PARTS:
        sys.stderr.write(f"--- {part}\n")
        began = time.monotonic()
        try:
            getattr(bench, part)()
        except Exception as error:  # noqa: BLE001 - the other parts can still be measured
            failed = True
            traceback.print_exc()
            results.add(Figure(f"part {part}", [], note=f"failed: {type(error).__name__}: {error}"))
        sys.stderr.write(f"--- {part}: {time.monotonic() - began:.0f} s\n")
    sys.stderr.write(f"written: {results.write()}\n")
    print(results.table())
    sys.exit(1 if failed else 0)


class _Bench:
    """One method a part."""

    def __init__(
        self, args: argparse.Namespace, corpus: Corpus, model_dir: Path, tokenizer: Tokenizer, results: Results
    ) -> None:
        self.args = args
        self.corpus = corpus
        self.model_dir = model_dir
        self.tokenizer = tokenizer
        self.results = results

    def roofline(self) -> None:
        from benchmarks.engine.roofline import measure

        for dtype in DTYPES:
            measure(self.args.model, dtype, self.corpus, self.tokenizer, self.results, self.args.rounds)

    def perplexity(self) -> None:
        from benchmarks.engine.perplexity import measure

        measure(self.args.model, self.corpus, self.tokenizer, self.results)

    def speculation(self) -> None:
        from benchmarks.engine.speculation import measure

        measure(self.args.model, "bfloat16", self.args.proposer, self.corpus, self.results, self.args.rounds)

    def peers(self) -> None:
        from benchmarks.engine.peers import Bench, compare

        shared = Bench(self.corpus, self.tokenizer, self.model_dir, self.results, self.args.rounds)
        for dtype in DTYPES:
            compare(shared, slackwater(self.args.model, dtype, 18080), self._peers(dtype))

    def grid(self) -> None:
        from benchmarks.engine.gguf_files import gguf_of
        from benchmarks.engine.grid import candidates, measure
        from benchmarks.engine.peers import Bench

        shared = Bench(self.corpus, self.tokenizer, self.model_dir, self.results, self.args.rounds)
        for dtype in DTYPES:
            for server in candidates(self.args.peers, self.model_dir, gguf_of(self.model_dir, dtype), dtype):
                measure(server, shared)

    def foreign(self) -> None:
        from benchmarks.engine.foreign import compare

        servers = [slackwater(self.args.model, "bfloat16", 18080)]
        servers += [peer for peer in self._peers("bfloat16") if peer.name == "llama.cpp"]
        compare(servers, self.corpus, self.tokenizer, self.results, self.args.rounds)

    def _peers(self, dtype: str) -> list[Server]:
        from benchmarks.engine.gguf_files import gguf_of

        makers: list[Callable[[], Server]] = [
            lambda: vllm(self.args.peers, self.model_dir, dtype, 18090),
            lambda: llama_cpp(self.args.peers, gguf_of(self.model_dir, dtype), dtype, 18095),
        ]
        found = []
        for make in makers:
            try:
                found.append(make())
            except PeerMissing as missing:
                self.results.add(
                    Figure(f"against {missing} ({dtype})", [], note="not installed: see benchmarks/README.md")
                )
        return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench engine", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=PARTS + EXTRA_PARTS, help="this part; may be given several times"
    )
    parser.add_argument("--model", default="smollm2", help="as of slackwater-worker prepare")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--proposer", default="suffix", help="of the speculation figures")
    parser.add_argument("--data", help="the public traces; default: SLACKWATER_DATA, else ../shared/data")
    peers = os.environ.get("SLACKWATER_PEERS") or ROOT / ".." / "peers"
    parser.add_argument("--peers", type=Path, default=Path(peers), help="where peers are installed; see the README")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "engine", help="where to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
