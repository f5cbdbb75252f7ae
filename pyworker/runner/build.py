"""From a model folder and flags to a runner that is ready: the one place that chooses a backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyworker.engine.config import EngineConfig
from pyworker.engine.interface import EngineCapabilities
from pyworker.errors import ConfigError
from pyworker.models.hashes import text_hash, weights_hash
from pyworker.models.loader import Weights
from pyworker.models.registry import load_model, read_config, read_eos_ids
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.host_memory import memory_limit
from pyworker.runner.memory import Limits, MemoryPlan, fit_model_len, plan_memory
from pyworker.runner.model_runner import TorchModelRunner

if TYPE_CHECKING:
    from pyworker.runner.backends.base import Backend

BACKENDS = ("native", "reference")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class BuiltRunner:
    """A runner with what the engine and READY need to know of it."""

    runner: TorchModelRunner
    config: EngineConfig
    capabilities: EngineCapabilities
    plan: MemoryPlan


def build_runner(
    model_dir: Path,
    model_name: str,
    *,
    backend: str = "native",
    dtype: str = "auto",
    limits: Limits | None = None,
    threads: int | None = None,
    features: tuple[str, ...] = ("seeded_exact",),
) -> BuiltRunner:
    """Plan the memory, load the weights, make the runner. Sets torch to one thread in this process.

    Raises:
        ConfigError: a flag that cannot work, or a plan that does not fit.
        ModelLoadError: a folder that cannot be loaded.
    """
    kind = _dtype(dtype)
    made = make_backend(backend, threads)
    limits = limits or Limits()
    config = read_config(model_dir)
    weights = Weights(model_dir)
    weights.check(config.tensor_shapes(), config.ignored_tensors)
    eos_ids = read_eos_ids(model_dir, config.vocab_size)
    plan = plan_memory(config, limits, memory_limit())
    max_model_len = fit_model_len(config, limits, plan)
    hashed = weights_hash(weights.files)
    model = load_model(config, weights, made)
    weights.close()
    capabilities = EngineCapabilities(
        model_name=model_name,
        weights_hash=hashed,
        text_hash=text_hash(model_dir),
        vocab_size=config.vocab_size,
        block_size=BLOCK_SIZE,
        num_blocks=plan.num_blocks,
        max_model_len=max_model_len,
        slots=limits.max_num_seqs,
        dtype=kind,
        numerics=f"{made.numerics(config.attn_spec, config.linear_shapes)}-{hashed}",
        kv_layout=made.kv_layout,
        features=features,
    )
    engine_config = EngineConfig(
        num_blocks=plan.num_blocks,
        max_model_len=max_model_len,
        vocab_size=config.vocab_size,
        eos_ids=frozenset(eos_ids),
        block_size=BLOCK_SIZE,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
    )
    runner = TorchModelRunner(model, made, plan, limits, eos_ids)
    return BuiltRunner(runner, engine_config, capabilities, plan)


def make_backend(name: str, threads: int | None = None) -> Backend:
    """A backend by name. `threads` compute where the backend has several; by default every core of this process.

    Raises:
        ConfigError: an unknown name, or a native module that is not installed.
    """
    torch.set_num_threads(1)
    if name == "reference":
        from pyworker.runner.backends.reference import ReferenceBackend

        return ReferenceBackend()
    if name == "native":
        try:
            from pyworker.runner.backends.native import NativeBackend
        except ImportError as error:
            raise ConfigError(
                "--backend", name, f"the native module is not installed ({error}); see make serve"
            ) from error
        return NativeBackend(threads)
    raise ConfigError("--backend", name, f"known are {', '.join(BACKENDS)}")


def _dtype(dtype: str) -> str:
    if dtype == "bfloat16":
        raise ConfigError("--dtype", dtype, "is not built yet; float32 is, and auto means float32")
    if dtype not in DTYPES:
        raise ConfigError("--dtype", dtype, f"known are {', '.join(DTYPES)}")
    return "float32"
