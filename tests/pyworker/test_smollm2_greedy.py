"""SmolLM2 on the native backend says what transformers says: greedy tokens of real prompts, float32, id by id.

Two correct programs may part where the two best candidates are so close that rounding decides. Such a place is allowed
only where transformers' own margin is under 1e-3, and is listed in the test's properties.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import pytest
import torch
from support.model_rig import built_for_test, generate, model_dir, model_rig, transformers_greedy, transformers_model
from tokenizers import Tokenizer

from pyworker.engine.request import SamplingParams
from pyworker.models.hashes import chat_template

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(os.environ.get("SLACKWATER_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
QUESTIONS = DATA / "mt-bench" / "question_dev.jsonl"
MARGIN = 1e-3
KV_BYTES = 400 << 20

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Parting:
    """Where two runs part, and how close transformers' two best candidates were there."""

    prompt: int
    position: int
    margin: float


def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(model_dir("smollm2") / "tokenizer.json"))


def chat_prompts(count: int) -> list[list[int]]:
    """First turns of the questions, through the chat template."""
    if not QUESTIONS.is_file():
        pytest.skip(f"no {QUESTIONS}: set SLACKWATER_DATA to the folder of public data")
    turns = [json.loads(line)["turns"][0] for line in QUESTIONS.read_text().splitlines()[:count]]
    template = jinja2.Environment().from_string(chat_template(model_dir("smollm2")).decode())
    texts = [
        template.render(messages=[{"role": "user", "content": turn}], add_generation_prompt=True) for turn in turns
    ]
    return [tokenizer().encode(text, add_special_tokens=False).ids for text in texts]


def margin_at(prompt: list[int], tokens: list[int]) -> float:
    """Difference of transformers' two best logits after `prompt` and `tokens`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = transformers_model(model_dir("smollm2"))(torch.tensor([prompt + tokens])).logits[0, -1]
    best, second = logits.topk(2).values.tolist()
    return float(best - second)


def partings(prompts: list[list[int]], ours: list[list[int]], theirs: list[list[int]]) -> list[Parting]:
    found = []
    for index, (prompt, mine, other) in enumerate(zip(prompts, ours, theirs, strict=True)):
        position = next((i for i, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b), None)
        if position is not None:
            found.append(Parting(index, position, margin_at(prompt, other[:position])))
    return found


def greedy(length: int) -> SamplingParams:
    return SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True)


def compare_with_transformers(count: int, length: int) -> list[Parting]:
    prompts = chat_prompts(count)
    ours = generate(model_rig(built_for_test("smollm2", "native", kv_cache_bytes=KV_BYTES)), prompts, greedy(length))
    theirs = [transformers_greedy(model_dir("smollm2"), prompt, length) for prompt in prompts]
    assert [len(tokens) for tokens in ours] == [length] * count
    return partings(prompts, ours, theirs)


def test_greedy_tokens_match_transformers(record_property: Callable[[str, object], None]) -> None:
    found = compare_with_transformers(count=20, length=64)
    record_property("partings", [str(parting) for parting in found])
    for parting in found:
        # In the log of a run with -s, since a close call is nothing to fail for.
        sys.stdout.write(f"{parting}\n")
    assert [parting for parting in found if parting.margin >= MARGIN] == []


@pytest.mark.parametrize(
    ("backend", "dtype"), [("native", "float32"), ("native", "bfloat16"), ("reference", "float32")]
)
def test_the_capital_of_france(backend: str, dtype: str) -> None:
    rig = model_rig(built_for_test("smollm2", backend, dtype, kv_cache_bytes=KV_BYTES))
    tokens = generate(rig, [tokenizer().encode("The capital of France is").ids], greedy(2))[0]
    assert tokenizer().decode(tokens) == " Paris."


def test_sixteen_streams_give_the_tokens_of_one_at_a_time() -> None:
    texts = ["The tide", "Once", "One, two, three,", "def main():"]
    prompts = [tokenizer().encode(f"{text} {n}").ids for n in range(4) for text in texts]
    params = SamplingParams(max_tokens=6, temperature=0.8, top_p=0.9, seed=3, ignore_eos=True)
    built = built_for_test("smollm2", "native", kv_cache_bytes=KV_BYTES)
    together = generate(model_rig(built), prompts, params)
    alone = [generate(model_rig(built), [prompt], params)[0] for prompt in prompts[::5]]
    assert together[::5] == alone
