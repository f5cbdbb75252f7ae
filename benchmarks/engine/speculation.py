"""What guessing brings: the same prompts with and without it, in turns, in one process; the tokens must be equal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from benchmarks.engine.figures import Figure, ratios
from benchmarks.engine.machine import IdleWatch, own_pid
from pyworker.models.prepare import prepare
from pyworker.texts import TextSide
from slackwater import LLM, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.engine.corpus import Corpus
    from benchmarks.engine.figures import Results

_OUTPUT_TOKENS = 128
_PROMPT_CHARACTERS = 6_000


def measure(model: str, dtype: str, proposer: str, corpus: Corpus, results: Results, rounds: int) -> None:
    """Copy-heavy tasks one at a time, chat at batch 1, 4 and 8."""
    side = TextSide(prepare(model).model_dir)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [side.encode_chat([{"role": "user", "content": text[:_PROMPT_CHARACTERS]}]) for text in texts]

    options = {"dtype": dtype, "max_num_seqs": 16, "kv_cache_bytes": 1 << 30}
    with LLM(model, speculative="off", **options) as plain, LLM(model, speculative=proposer, **options) as guessing:
        pair = (plain, guessing)
        copy = encode(corpus.copy_heavy[:: max(1, len(corpus.copy_heavy) // 24)])
        name = f"speculation ({proposer}, {dtype}) on copy-heavy tasks, 1 stream"
        results.add(_compare(name, pair, copy, 1, 1.5, rounds, corpus.label))
        for batch in (1, 4, 8):
            chat = encode(corpus.chat[: 16 if batch > 1 else 8])
            name = f"speculation ({proposer}, {dtype}) on chat, batch {batch}"
            results.add(_compare(name, pair, chat, batch, 0.98, rounds, corpus.label))


def _compare(
    name: str, pair: tuple[LLM, LLM], prompts: list[list[int]], batch: int, goal: float, rounds: int, label: str
) -> Figure:
    speeds: tuple[list[float], list[float]] = ([], [])
    discarded = 0
    raw: list[dict[str, object]] = []
    for _ in range(rounds):
        watch = IdleWatch({own_pid()})
        found, answers = [], []
        for llm in pair:
            speed, tokens = _run(llm, prompts, batch)
            found.append(speed)
            answers.append(tokens)
        if answers[0] != answers[1]:
            raise RuntimeError(f"{name}: the tokens differ, so nothing else is worth measuring")
        disturbed = watch.foreign_share() > 0.1
        raw.append({"plain_tok_s": found[0], "guessing_tok_s": found[1], "counts": not disturbed})
        sys.stderr.write(f"{name}: {raw[-1]}\n")
        if disturbed:
            discarded += 1
            continue
        for kept, speed in zip(speeds, found, strict=True):
            kept.append(speed)
    return Figure(name, ratios(speeds[1], speeds[0]), goal, discarded=discarded, note=label, raw=raw)


def _run(llm: LLM, prompts: list[list[int]], batch: int) -> tuple[float, list[list[int]]]:
    """Decode speed in tokens a second over all groups, the prompts' own time included; and the tokens."""
    params = SamplingParams(max_tokens=_OUTPUT_TOKENS, temperature=0.0)
    tokens: list[list[int]] = []
    began = time.perf_counter()
    for at in range(0, len(prompts), batch):
        tokens += [list(out.token_ids) for out in llm.generate(prompts[at : at + batch], params)]
    return sum(map(len, tokens)) / (time.perf_counter() - began), tokens
