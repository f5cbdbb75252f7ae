"""The peers' settings: each of a small grid once, alone on the machine, at sixteen streams.

The best ones stand in `servers` (`VLLM_BEST`, `LLAMA_BEST`); this says whether they still are.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.engine.client import RequestFailed, run_round
from benchmarks.engine.corpus import token_windows
from benchmarks.engine.figures import Figure
from benchmarks.engine.machine import IdleWatch, own_pid
from benchmarks.engine.peers import OUTPUT_TOKENS, PROMPT_TOKENS, speed_of
from benchmarks.engine.servers import LLAMA_SETTINGS, VLLM_SETTINGS, PeerMissing, Server, llama_cpp, vllm

if TYPE_CHECKING:
    from benchmarks.engine.peers import Bench

_STREAMS = 16
_ROUNDS = 3


def candidates(peers: Path, model_dir: Path, gguf: Path, dtype: str) -> list[Server]:
    """Every peer that is installed, with every setting."""
    found = []
    for setting in VLLM_SETTINGS:
        try:
            found.append(vllm(peers, model_dir, dtype, 18090, setting))
        except PeerMissing:
            break
    for setting in LLAMA_SETTINGS:
        try:
            found.append(llama_cpp(peers, gguf, dtype, 18095, setting))
        except PeerMissing:
            break
    return found


def measure(server: Server, bench: Bench) -> None:
    """One setting: a round to warm up, and a few that count. One that does not start is recorded as failed."""
    name = f"{server.name}, {server.dtype}, {_STREAMS} streams: {server.note}"
    prompts = token_windows(bench.corpus, bench.tokenizer, PROMPT_TOKENS, seed=17)
    speeds, shares = [], []
    try:
        with server:
            run_round("127.0.0.1", server.port, [server.body(prompt, 8) for prompt in islice(prompts, _STREAMS)])
            for _ in range(_ROUNDS):
                picked = list(islice(prompts, _STREAMS))
                watch = IdleWatch({server.pid, own_pid()})
                speeds.append(speed_of(server, picked, _STREAMS, OUTPUT_TOKENS))
                shares.append(watch.foreign_share())
    except (RuntimeError, RequestFailed, OSError) as error:
        bench.results.add(Figure(name, [], unit=" tok/s", note=f"failed: {error}"))
        return
    # Of paths the last name only: where things lie on one machine tells nobody else anything.
    command = [_named(part) for part in server.command]
    env = {key: _named(value) for key, value in server.env.items()}
    raw: list[dict[str, object]] = [{"tok_s": speeds, "foreign": shares, "command": command, "env": env}]
    bench.results.add(Figure(name, speeds, unit=" tok/s", note=f"foreign cores {max(shares):.2f}", raw=raw))


def _named(part: str) -> str:
    return Path(part).name if part.startswith("/") else part
