"""A real model behind `EngineCore`, and transformers' own word on the same folder."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from pyworker.engine.core import EngineCore
from pyworker.engine.outputs import SchedulerOutput
from pyworker.engine.request import Request, SamplingParams
from pyworker.models.loader import Weights
from pyworker.models.prepare import prepare
from pyworker.models.registry import load_model, read_config
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.backends.reference import ReferenceBackend
from pyworker.runner.batch import BatchBuilder
from pyworker.runner.build import BuiltRunner, build_runner
from pyworker.runner.memory import Limits
from support.engine_rig import UNLIMITED, RecordingHost, Rig, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from pyworker.kvcache.block_pool import KVCacheBlock

GREEDY = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)


def limits_for_test(**overrides: int) -> Limits:
    """Little memory."""
    return replace(Limits(kv_cache_bytes=16 << 20), **overrides)


@functools.cache
def model_dir(name: str) -> Path:
    """Folder of an embedded model."""
    return prepare(name).model_dir


def built_for_test(name: str = "tiny", backend: str = "reference", **overrides: int) -> BuiltRunner:
    """A runner of its own for an embedded model."""
    return build_runner(model_dir(name), name, backend=backend, limits=limits_for_test(**overrides))


def model_rig(built: BuiltRunner, decode_chunk: int = 128) -> Rig:
    """An attached engine over `built`."""
    clock, host = VirtualClock(), RecordingHost()
    config = replace(built.config, decode_chunk=decode_chunk)
    engine = EngineCore(config, built.runner, clock, built.capabilities)
    engine.attach(host)
    return Rig(config, clock, host, engine)


def generate(rig: Rig, prompts: Sequence[list[int]], params: SamplingParams = GREEDY) -> list[list[int]]:
    """Run all prompts together to their ends: the tokens of each."""
    for index, prompt in enumerate(prompts):
        rig.engine.submit(Request(f"r{index}", 0, list(prompt), params, credit_up_to=UNLIMITED))
    rig.run()
    return [rig.host.tokens(f"r{index}") for index in range(len(prompts))]


@functools.cache
def transformers_model(folder: Path) -> PreTrainedModel:
    """The folder as transformers reads it, in float32."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def transformers_greedy(folder: Path, prompt: list[int], length: int) -> list[int]:
    """What transformers' `generate` makes of a prompt, end-of-text ignored."""
    import torch

    ids = torch.tensor([prompt])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = transformers_model(folder).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens


class Block:
    """All that the runner reads of a `KVCacheBlock`."""

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id


def logits_of(folder: Path, prompt: list[int]) -> NDArray[np.float32]:
    """Our logits after every position of a prompt, f32 `[n, V]`, by the reference backend in one chunk."""
    backend = ReferenceBackend()
    model = load_model(read_config(folder), Weights(folder), backend)
    num_blocks = -(-len(prompt) // BLOCK_SIZE)
    request = Request("a", 0, prompt, GREEDY)
    request.block_table.extend(cast("list[KVCacheBlock]", [Block(index + 1) for index in range(num_blocks)]))
    batch = BatchBuilder(1, len(prompt), num_blocks).build(SchedulerOutput({"a": len(prompt)}, {"a": request}))
    batch.logit_rows = np.arange(len(prompt), dtype=np.int32)
    return model.forward(backend, batch, backend.kv_cache(model.kv_spec, num_blocks + 1), lambda: None)
