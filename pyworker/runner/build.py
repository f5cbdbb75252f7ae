"""From a model folder and flags to a runner that is ready: the one place that chooses a backend."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyworker.engine.config import EngineConfig
from pyworker.engine.interface import EngineCapabilities
from pyworker.errors import ConfigError
from pyworker.models.hashes import text_hash, weights_hash
from pyworker.models.loader import Weights
from pyworker.models.registry import check_weights, load_model, read_config, read_eos_ids
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.footprint import Footprint, native_footprint, reference_footprint
from pyworker.runner.host_memory import memory_limit, resident_bytes
from pyworker.runner.memory import Limits, MemoryPlan, check_resident, fit_model_len, most_cache_bytes, plan_memory
from pyworker.runner.model_runner import TorchModelRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyworker.models.registry import Model, ModelConfig
    from pyworker.runner.backends.base import Backend, StepSizes

_logger = logging.getLogger(__name__)

BACKENDS = ("native", "reference")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class NativeOptions:
    """What only the native backend can be asked for.

    `kv_dtype` of keys and values (`auto`: that of the weights); `isa` the instruction set (`auto`: the best); `threads`
    that compute (none: the cores that this process may use).
    """

    kv_dtype: str = "auto"
    isa: str = "auto"
    threads: int | None = None


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
    native: NativeOptions | None = None,
    limits: Limits | None = None,
) -> BuiltRunner:
    """Plan the memory, load the weights, make the runner. Sets torch to one thread in this process.

    Raises:
        ConfigError: a flag that cannot work, or a plan that does not fit.
        ModelLoadError: a folder that cannot be loaded.
    """
    asked = Asked(backend, dtype, native or NativeOptions())
    limits = limits or Limits()
    config = read_config(model_dir)
    weights = Weights(model_dir)
    check_weights(config, weights)
    eos_ids = read_eos_ids(model_dir, config.vocab_size)
    limit = memory_limit()
    footprint = asked.footprint(config, limits, most_cache_bytes(limits, limit))
    plan = plan_memory(config, limits, limit, footprint)
    max_model_len = fit_model_len(config, limits, plan)
    hashed = weights_hash((*weights.files, model_dir / "config.json"))
    before = resident_bytes()
    made = asked.make(footprint.sizes)
    with _taking(plan):
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
        dtype=made.dtype,
        numerics=_numerics(made, config, model, hashed),
        kv_layout=made.kv_layout,
        features=(*_features(model), *asked.features()),
    )
    engine_config = EngineConfig(
        num_blocks=plan.num_blocks,
        max_model_len=max_model_len,
        vocab_size=config.vocab_size,
        eos_ids=frozenset(eos_ids),
        block_size=BLOCK_SIZE,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        park_max_bytes=limits.park_max_bytes,
        max_step_drafts=limits.max_step_drafts,
    )
    with _taking(plan):
        runner = TorchModelRunner(model, made, plan, limits, eos_ids)
    if made.name == "native":
        # The others touch their memory when a step needs it.
        check_resident(plan, before, resident_bytes())
    return BuiltRunner(runner, engine_config, capabilities, plan)


@contextmanager
def _taking(plan: MemoryPlan) -> Iterator[None]:
    """Memory that the plan counted on and the system does not give is the plan's error."""
    from slackwater._native import kernels

    try:
        yield
    except kernels.KernelError as error:
        raise ConfigError("memory", plan.total, f"planned, but the kernels refuse: {error}") from error


def _features(model: Model) -> tuple[str, ...]:
    """Words of READY that follow from the model."""
    words = ["kv_events", "logprobs", "grammar"]
    if model.batch_invariant:
        words.append("seeded_exact")
    if model.can_drop_rows:
        words += ["row_drop", "safepoint"]
    return tuple(words)


def _numerics(backend: Backend, config: ModelConfig, model: Model, hashed: str) -> str:
    """Equal ids give equal bits; a model that breaks the row rule is never equal to one that keeps it."""
    kind = "" if model.batch_invariant else "-fallback"
    return f"{backend.numerics(config.attn_spec, config.linear_shapes)}{kind}-{hashed}"


class Asked:
    """A backend by name, with what `auto` means on this machine. Nothing big is allocated before `make`."""

    def __init__(self, name: str, dtype: str, native: NativeOptions) -> None:
        """Raises `ConfigError` for what is unknown, not installed, or not to be had on this machine."""
        torch.set_num_threads(1)
        self._name = name
        self._native = native
        for flag, value, known in (
            ("--backend", name, BACKENDS),
            ("--dtype", dtype, DTYPES),
            ("--kv-dtype", native.kv_dtype, DTYPES),
        ):
            if value not in known:
                raise ConfigError(flag, value, f"known are {', '.join(known)}")
        self._isa = _choose_isa(native.isa) if name == "native" else None
        self.dtype = dtype
        if dtype == "auto":
            self.dtype = "float32" if self._isa in (None, "portable") else "bfloat16"
        self.kv_dtype = self.dtype if native.kv_dtype == "auto" else native.kv_dtype
        if self._isa is None and self.kv_dtype != self.dtype:
            raise ConfigError("--kv-dtype", native.kv_dtype, f"backend {name} keeps keys and values in {self.dtype}")

    def footprint(self, config: ModelConfig, limits: Limits, cache_bytes: int) -> Footprint:
        """What a model will take with a cache of at most so many bytes.

        Raises:
            ConfigError: an attention that the backend is not made for.
        """
        if self._isa is None:
            return reference_footprint(config, limits, cache_bytes)
        return native_footprint(config, limits, self.dtype, self.kv_dtype, self._threads(), cache_bytes)

    def features(self) -> tuple[str, ...]:
        """Words of READY: the instruction set in use."""
        return () if self._isa is None else (f"isa:{self._isa}",)

    def make(self, sizes: StepSizes) -> Backend:
        """The backend, with its threads and its memory for steps.

        Raises:
            ConfigError: threads or memory that cannot be had.
        """
        if self._isa is None:
            from pyworker.runner.backends.reference import ReferenceBackend

            return ReferenceBackend(self.dtype)
        from pyworker.runner.backends.native import NativeBackend
        from slackwater._native import kernels

        try:
            return NativeBackend(self._threads(), self.dtype, kv_dtype=self.kv_dtype, isa=self._isa, sizes=sizes)
        except kernels.KernelError as error:
            raise ConfigError("--threads", self._threads(), str(error)) from error

    def _threads(self) -> int:
        from slackwater._native import kernels

        return self._native.threads or kernels.available_threads()


def _choose_isa(asked: str) -> str:
    """The instruction set that `asked` means here.

    Raises:
        ConfigError: this machine lacks it, or there are no native kernels.
    """
    try:
        from slackwater._native import kernels
    except ImportError as error:
        raise ConfigError(
            "--backend", "native", f"the native module is not installed ({error}); see make serve"
        ) from error
    fault = kernels.bf16_fault()
    if fault is not None:
        _logger.warning("this machine's bf16 dot product is not used: %s", fault)
    usable = [isa for isa in kernels.available_isas() if isa != "avx512bf16" or fault is None]
    if asked not in ("auto", *usable):
        raise ConfigError("--isa", asked, f"this machine has {', '.join(('auto', *usable))}")
    return usable[-1] if asked == "auto" else asked
