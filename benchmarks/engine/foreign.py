"""Throughput while another process is busy: engines whose threads wait by spinning collapse then."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.engine.client import run_round
from benchmarks.engine.corpus import token_windows
from benchmarks.engine.figures import Figure, ratios
from benchmarks.engine.peers import OUTPUT_TOKENS, PROMPT_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from benchmarks.engine.corpus import Corpus
    from benchmarks.engine.figures import Results
    from benchmarks.engine.servers import Server

_STREAMS = 16
_GOALS = {"slackwater": 0.55}
_PEER_ROUNDS = 1
"""A peer is there for comparison, and one whose threads spin takes minutes for one of them."""


def compare(servers: list[Server], corpus: Corpus, tokenizer: Tokenizer, results: Results, rounds: int) -> None:
    """Each server alone, then beside one process that never rests, in turns."""
    prompts = token_windows(corpus, tokenizer, PROMPT_TOKENS, seed=23)
    for server in servers:
        with server:
            speeds: dict[bool, list[float]] = {False: [], True: []}
            bodies = [server.body(prompt, OUTPUT_TOKENS) for prompt in islice(prompts, _STREAMS)]
            run_round("127.0.0.1", server.port, bodies)
            for _ in range(rounds if server.name in _GOALS else min(rounds, _PEER_ROUNDS)):
                for busy in (False, True):
                    bodies = [server.body(prompt, OUTPUT_TOKENS) for prompt in islice(prompts, _STREAMS)]
                    speeds[busy].append(_speed(server, bodies, busy))
        raw: list[dict[str, object]] = [{"alone_tok_s": speeds[False], "beside_tok_s": speeds[True]}]
        name = f"throughput of {server.name} ({server.dtype}) beside one busy process, {_STREAMS} streams"
        values = ratios(speeds[True], speeds[False])
        results.add(Figure(name, values, _GOALS.get(server.name), note=corpus.label, raw=raw))


def _speed(server: Server, bodies: list[dict[str, object]], busy: bool) -> float:
    if not busy:
        return run_round("127.0.0.1", server.port, bodies).tokens_per_second
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            return run_round("127.0.0.1", server.port, bodies).tokens_per_second
        finally:
            other.kill()
