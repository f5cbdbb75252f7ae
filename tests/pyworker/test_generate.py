"""A request's tokens depend on its prompt, parameters and seed alone: not on chunks, neighbours, order or memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.engine_rig import UNLIMITED
from support.model_rig import GREEDY, built_for_test, generate, model_dir, model_rig

from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import Request, SamplingParams
from pyworker.errors import ConfigError
from pyworker.runner.build import build_runner
from pyworker.runner.memory import Limits

SAMPLED = SamplingParams(max_tokens=16, temperature=1.0, top_p=0.95, seed=11, ignore_eos=True)
RNG = np.random.default_rng(5)
PROMPTS = [RNG.integers(0, 256, size).tolist() for size in (5, 40, 1, 130, 300, 33, 64, 12)]


@pytest.fixture(scope="module")
def alone() -> dict[str, list[list[int]]]:
    """Tokens of each prompt run by itself, greedy and sampled."""
    return {
        name: [generate(model_rig(built_for_test()), [prompt], params)[0] for prompt in PROMPTS]
        for name, params in (("greedy", GREEDY), ("sampled", SAMPLED))
    }


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_num_seqs": 2, "max_num_batched_tokens": 18},
        {"max_num_seqs": 3, "max_num_batched_tokens": 50},
        {"kv_cache_bytes": 18 * 16384},
    ],
    ids=["wide", "narrow", "middle", "short of memory"],
)
@pytest.mark.parametrize(("name", "params"), [("greedy", GREEDY), ("sampled", SAMPLED)])
def test_tokens_do_not_depend_on_chunks_and_neighbours(
    alone: dict[str, list[list[int]]], name: str, params: SamplingParams, limits: dict[str, int]
) -> None:
    rig = model_rig(built_for_test(**limits), decode_chunk=16)
    assert generate(rig, PROMPTS, params) == alone[name]


def test_tokens_do_not_depend_on_the_order(alone: dict[str, list[list[int]]]) -> None:
    assert generate(model_rig(built_for_test()), PROMPTS[::-1], SAMPLED) == alone["sampled"][::-1]


def test_a_resume_from_any_token_goes_on_as_if_unbroken(alone: dict[str, list[list[int]]]) -> None:
    whole, prompt = alone["sampled"][1], PROMPTS[1]
    rig = model_rig(built_for_test())
    for cut in range(1, 16):
        request = Request(f"cut{cut}", 0, prompt, SAMPLED, output_ids=whole[:cut], credit_up_to=UNLIMITED)
        rig.engine.submit(request)
    rig.run()
    assert [rig.host.tokens(f"cut{cut}") for cut in range(1, 16)] == [whole[cut:] for cut in range(1, 16)]


def test_progress_is_told_once_a_layer() -> None:
    rig = model_rig(built_for_test())
    generate(rig, [PROMPTS[0]], replace(GREEDY, max_tokens=3))
    assert rig.host.progressed == 2 * 3


def test_a_request_with_broken_numbers_ends_and_its_neighbours_do_not_notice(
    alone: dict[str, list[list[int]]],
) -> None:
    built = built_for_test()
    poisoned = 200
    # A NaN in the embedding of one token: only the request that has it in its prompt may suffer.
    model = built.runner._model
    model._embed.weight = model._embed.weight.clone()  # type: ignore[attr-defined]
    model._embed.weight[poisoned] = float("nan")  # type: ignore[attr-defined]
    prompts = [prompt for prompt in PROMPTS if poisoned not in prompt]
    rig = model_rig(built)
    rig.engine.submit(Request("bad", 0, [1, poisoned, 3], GREEDY, credit_up_to=UNLIMITED))
    expected = [tokens for tokens, prompt in zip(alone["greedy"], PROMPTS, strict=True) if prompt in prompts]
    assert generate(rig, prompts) == expected
    outputs = rig.host.outputs("bad")
    assert [(output.finish, output.error_code) for output in outputs if output.finish] == [
        (FinishReason.ERROR, "numerics_error")
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dtype": "int3"}, "--dtype int3: known are"),
        ({"backend": "magic"}, "--backend magic: known are native, reference"),
        ({"limits": Limits(max_model_len=4096)}, "--max-model-len 4096: 2 to 2048"),
        ({"limits": Limits(kv_cache_bytes=100)}, "--kv-cache-bytes 100: a cache of"),
        ({"limits": Limits(kv_cache_bytes=1 << 50)}, "--kv-cache-bytes 1125899906842624: a cache of"),
    ],
)
def test_flags_that_cannot_work_are_named(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_runner(model_dir("tiny"), "tiny", **{"backend": "reference", **arguments})  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)
