"""Steps of the engine in this process, against the time to read what they must read, measured in the same rounds."""

from __future__ import annotations

import statistics
import sys
import time
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.engine.corpus import token_windows
from benchmarks.engine.figures import Figure
from benchmarks.engine.machine import IdleWatch, own_pid
from pyworker.engine.config import EngineConfig
from pyworker.engine.core import EngineCore
from pyworker.engine.planner_thread import ThreadPlanner
from pyworker.engine.request import Request, SamplingParams
from pyworker.models.prepare import prepare
from pyworker.runner.build import BuiltRunner, build_runner
from pyworker.runner.memory import Limits
from slackwater._native import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenizers import Tokenizer

    from benchmarks.engine.corpus import Corpus
    from benchmarks.engine.figures import Results
    from pyworker.engine.interface import ModelRunner
    from pyworker.engine.outputs import StepOutputs

CONTEXT = 256
BATCHES = (1, 4, 8)
_STEPS = 12
"""Steps, and readings of the bound, that make a round: in turns, of each the median."""
_SWITCH_SECONDS = 0.0001
"""As in a worker: how long a thread may keep the interpreter while another one waits for it."""


class _Host:
    """Nobody waits for the outputs."""

    def send(self, steps: StepOutputs) -> None:
        """Drop them."""

    def progress(self) -> None:
        """Nobody watches."""


class _Clock:
    def now(self) -> int:
        return time.monotonic_ns() // 1_000


def measure(model: str, dtype: str, corpus: Corpus, tokenizer: Tokenizer, results: Results, rounds: int) -> None:
    """Decode steps at batch 1, 4 and 8, and the time outside the kernels at 16."""
    limits = Limits(max_num_seqs=16, kv_cache_bytes=1 << 30, max_model_len=2048)
    sys.setswitchinterval(_SWITCH_SECONDS)
    built = build_runner(prepare(model).model_dir, model, dtype=dtype, limits=limits)
    prompts = token_windows(corpus, tokenizer, CONTEXT, seed=5)
    for batch in BATCHES:
        results.add(_against_bound(built, dtype, batch, prompts, rounds))
    results.add(_outside_kernels(built, dtype, prompts, rounds))
    built.runner.close()


def _against_bound(built: BuiltRunner, dtype: str, batch: int, prompts: Iterator[list[int]], rounds: int) -> Figure:
    """The bound over the step: 1 would be a step that does nothing but read weights and KV at the memory's speed."""
    memory = built.runner.memory_bytes()
    block = built.plan.parts["kv_cache"] // built.plan.num_blocks
    bytes_read = memory["weights"] + batch * block * (CONTEXT // 32)
    probe, pool = kernels.ReadProbe(bytes_read), kernels.Pool(kernels.available_threads())
    values: list[float] = []
    raw: list[dict[str, object]] = []
    discarded = 0
    with _Engine(built) as engine:
        engine.fill(islice(prompts, batch))
        while len(values) < rounds and discarded < 4 * rounds:
            watch = IdleWatch({own_pid()})
            steps, reads = [], []
            for _ in range(_STEPS):
                steps.append(_timed(engine.step))
                with pool.step():
                    reads.append(_timed(lambda: probe.read(pool)))
            share = watch.foreign_share()
            raw.append({"step_ms": _ms(steps), "bound_ms": _ms(reads), "foreign": share, "batch": batch})
            if share > 0.1:
                discarded += 1
                continue
            values.append(statistics.median(reads) / statistics.median(steps))
    note = f"{bytes_read / 1e6:.0f} MB a step; context {CONTEXT} and growing"
    return Figure(
        f"decode step against the bound, {dtype}, batch {batch}", values, 0.85, discarded=discarded, note=note, raw=raw
    )


def _outside_kernels(built: BuiltRunner, dtype: str, prompts: Iterator[list[int]], rounds: int) -> Figure:
    values: list[float] = []
    raw: list[dict[str, object]] = []
    discarded = 0
    with _Engine(built) as engine:
        engine.fill(islice(prompts, 16))
        while len(values) < rounds and discarded < 4 * rounds:
            watch = IdleWatch({own_pid()})
            busy, began = kernels.busy_nanos(), time.perf_counter()
            for _ in range(2 * _STEPS):
                engine.step()
            spent = time.perf_counter() - began
            outside = 1.0 - (kernels.busy_nanos() - busy) * 1e-9 / spent
            share = watch.foreign_share()
            raw.append({"outside": outside, "step_ms": spent * 1e3 / (2 * _STEPS), "foreign": share})
            if share > 0.1:
                discarded += 1
                continue
            values.append(outside * 100.0)
    name = f"time outside the kernels, {dtype}, batch 16"
    return Figure(name, values, 3.0, at_most=True, unit="%", discarded=discarded, raw=raw)


class _Engine:
    """A running batch of decodes: scheduler, planner's thread, runner and all as in a worker, without a link."""

    def __init__(self, built: BuiltRunner) -> None:
        config: EngineConfig = built.config
        self._core = EngineCore(config, _KeepOpen(built.runner), _Clock(), built.capabilities, planner=ThreadPlanner())
        self._core.attach(_Host())
        self._ids: list[str] = []

    def __enter__(self) -> _Engine:
        return self

    def __exit__(self, *_: object) -> None:
        for request_id in self._ids:
            self._core.cancel(request_id)
        while self._core.step():
            pass
        self._core.close()

    def fill(self, prompts: Iterator[list[int]]) -> None:
        """Submit, and step until all decode."""
        for index, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=1_500, temperature=0.0, ignore_eos=True)
            self._ids.append(f"bench-{id(self)}-{index}")
            self._core.submit(Request(self._ids[-1], 0, prompt, params, credit_up_to=2**31))
        while self._core.stats().num_waiting:
            self._core.step()
        for _ in range(4):
            self._core.step()
        sys.stderr.write(f"{len(self._ids)} requests decode\n")

    def step(self) -> None:
        """One step of all."""
        self._core.step()


class _KeepOpen:
    """The runner for one engine after another: closing an engine leaves it open."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.execute = runner.execute
        self.memory_bytes = runner.memory_bytes

    def close(self) -> None:
        """Nothing."""


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _ms(seconds: list[float]) -> list[float]:
    return [round(value * 1e3, 3) for value in seconds]
