"""What bfloat16 costs in quality: perplexity on stories, against float32."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.engine.corpus import token_windows
from benchmarks.engine.figures import Figure
from slackwater import LLM, SamplingParams

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from benchmarks.engine.corpus import Corpus
    from benchmarks.engine.figures import Results

_WINDOW, _WINDOWS = 1_000, 20
_GOAL = 1.002


def measure(model: str, corpus: Corpus, tokenizer: Tokenizer, results: Results) -> None:
    """20,000 tokens in windows of 1,000, each scored whole."""
    windows = list(islice(token_windows(corpus, tokenizer, _WINDOW, seed=3), _WINDOWS))
    by_dtype = {dtype: _perplexity(model, dtype, windows) for dtype in ("float32", "bfloat16")}
    ratio = by_dtype["bfloat16"] / by_dtype["float32"]
    note = f"{corpus.label}; float32 {by_dtype['float32']:.4f}, bfloat16 {by_dtype['bfloat16']:.4f}"
    results.add(Figure("perplexity, bfloat16 against float32", [ratio], _GOAL, at_most=True, note=note, raw=[by_dtype]))


def _perplexity(model: str, dtype: str, windows: list[list[int]]) -> float:
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    total = count = 0.0
    with LLM(model, dtype=dtype, max_num_seqs=4, kv_cache_bytes=256 << 20) as llm:
        for window in windows:
            (out,) = llm.generate([window], params)
            positions = (out.prompt_logprobs or [])[1:]
            scores = [entry[token].logprob for token, entry in zip(window[1:], positions, strict=True) if entry]
            total -= sum(scores)
            count += len(scores)
    return math.exp(total / count)
