"""A real model behind `EngineCore`, and transformers' own word on the same folder."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from pyworker.engine.core import EngineCore
from pyworker.engine.outputs import SchedulerOutput
from pyworker.engine.request import Request, RequestClass, SamplingParams
from pyworker.models import tiny
from pyworker.models.loader import Weights
from pyworker.models.prepare import prepare
from pyworker.models.registry import load_model, read_config
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.backends.reference import ReferenceBackend
from pyworker.runner.batch import BatchBuilder
from pyworker.runner.build import BuiltRunner, build_runner
from pyworker.runner.flow import Flow
from pyworker.runner.memory import Limits
from pyworker.runner.safepoint import Safepoint, Yield
from support.engine_rig import UNLIMITED, RecordingHost, Rig, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from pyworker.engine.outputs import ModelRunnerOutput, ParkedSlice, TokenLogprobs
    from pyworker.kvcache.block_pool import KVCacheBlock
    from pyworker.runner.model_runner import TorchModelRunner

GREEDY = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)


def limits_for_test(**overrides: int) -> Limits:
    """Little memory."""
    return replace(Limits(kv_cache_bytes=16 << 20), **overrides)


@functools.cache
def model_dir(name: str) -> Path:
    """Folder of an embedded model."""
    return prepare(name).model_dir


def built_for_test(
    name: str = "tiny", backend: str = "reference", dtype: str = "float32", **overrides: int
) -> BuiltRunner:
    """A runner of its own for an embedded model."""
    return build_runner(model_dir(name), name, backend=backend, dtype=dtype, limits=limits_for_test(**overrides))


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
    batch.kept_rows = None
    rows = np.arange(len(prompt), dtype=np.int32)
    flow = Flow(backend, batch, [], b"\0", lambda: None)
    through = model.forward(backend, batch, backend.kv_cache(model.kv_spec, num_blocks + 1), flow)
    assert through is not None
    return model.logits(backend, through[0], rows)


def deep_model_dir(folder: Path, layers: int = 4) -> Path:
    """`tiny` with more layers, written into `folder`."""
    tiny.write_tiny(folder, num_hidden_layers=layers)
    return folder


@dataclass
class StepHost(RecordingHost):
    """A host that asks the running step to give way before its `ask_at`-th layer from here on."""

    safepoint: Safepoint | None = None
    ask_at: int = -1
    level: Yield = Yield.OFFLINE_LEAVES

    def progress(self) -> None:
        """Count a layer."""
        super().progress()
        if self.ask_at == 0 and self.safepoint is not None:
            self.safepoint.ask(self.level)
        self.ask_at -= 1


@dataclass
class StepRig:
    """A runner driven step by step, with a scheduler's books for a handful of requests and none of its choices."""

    runner: TorchModelRunner
    host: StepHost = field(default_factory=StepHost)
    requests: dict[str, Request] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    next_block: int = 1
    known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.host.safepoint = self.runner.safepoint

    def add(self, name: str, prompt: list[int], params: SamplingParams, klass: RequestClass | None = None) -> Request:
        """A request that holds blocks for its whole life from the start."""
        request = Request(name, 0, list(prompt), params, klass=klass or RequestClass.STANDARD)
        blocks = range(self.next_block, self.next_block - (-(len(prompt) + params.max_tokens + 8) // BLOCK_SIZE))
        self.next_block = blocks.stop
        request.block_table.extend(cast("list[KVCacheBlock]", [Block(index) for index in blocks]))
        self.requests[name], self.logprobs[name] = request, []
        return request

    def step(
        self,
        counts: dict[str, int],
        *,
        drafts: dict[str, list[int]] | None = None,
        joins: Sequence[ParkedSlice] = (),
        ask_at: int = -1,
        level: Yield = Yield.OFFLINE_LEAVES,
    ) -> ModelRunnerOutput:
        """Compute a step and book what came of it. `ask_at`: the byte is raised as the step comes to that layer."""
        self.runner.safepoint.clear()
        self.host.ask_at, self.host.level = ask_at, level
        requests = {name: self.requests[name] for name in counts}
        out = SchedulerOutput(counts, requests, new_requests=[name for name in counts if name not in self.known])
        out.drafts, out.joins, out.finished_ids = drafts or {}, list(joins), out.new_requests
        self.known |= set(counts)
        result = self.runner.execute(out, self.host)
        assert list(result.rows) == list(counts)
        for name, row in result.rows.items():
            request = self.requests[name]
            if row.parked or row.error is not None:
                assert not row.token_ids
                continue
            request.num_computed_tokens += counts[name]
            if row.token_ids:
                request.num_computed_tokens = request.num_tokens - 1 + len(row.token_ids)
                request.output_ids += row.token_ids
            self.logprobs[name] += row.logprobs
        return result

    def finish(self, *names: str) -> None:
        """Run these requests together to their ends, one token each a step once their prompts are computed."""
        requests = [self.requests[name] for name in names]
        while left := [request for request in requests if len(request.output_ids) < request.params.max_tokens]:
            self.step({request.request_id: request.num_tokens - request.num_computed_tokens for request in left})


ARITHMETIC = ("reference float32", "native float32", "native bfloat16")
"""Backends and number formats that a test of the runner goes through."""


def step_rig(folder: Path, arithmetic: str) -> StepRig:
    """A rig with books of its own over a runner that others have used: its blocks hold what they have left there."""
    return StepRig(_shared_runner(folder, *arithmetic.split()))


@functools.cache
def _shared_runner(folder: Path, backend: str, dtype: str) -> TorchModelRunner:
    limits = limits_for_test(max_num_batched_tokens=1024, max_num_seqs=16, kv_cache_bytes=4 << 20)
    return build_runner(folder, folder.name, backend=backend, dtype=dtype, limits=limits).runner
