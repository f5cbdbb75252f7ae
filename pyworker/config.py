"""The worker's options, each declared once, and the engine that they make.

`slackwater-worker` reads them as flags, `Worker` and `LLM` as keywords of the same names.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pyworker.engine.config import EngineConfig
from pyworker.engine.core import EngineCore
from pyworker.engine.planner_thread import ThreadPlanner
from pyworker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyworker.engine.interface import EngineCapabilities, GrammarEngine
    from pyworker.engine.policies import Policies
    from pyworker.models.prepare import Prepared
    from pyworker.runner.build import BuiltRunner

_logger = logging.getLogger(__name__)

MODEL_NAME: Final = "SLACKWATER_MODEL_NAME"
"""Set by a router for the workers that it starts: they are given a folder, and clients use another name."""

WORKERS: Final = "SLACKWATER_WORKERS"
"""Set by a router for the workers that it starts: how many they are, and so share this machine's memory."""

_DTYPES: Final = ("auto", "float32", "bfloat16")
_CHOICES: Final = {
    "backend": ("native", "reference"),
    "dtype": _DTYPES,
    "kv_dtype": _DTYPES,
    "isa": ("auto", "portable", "avx2", "avx512", "avx512bf16"),
    "speculative": ("off", "ngram", "suffix"),
}
_SIM_ONLY: Final = ("step_micros", "slots", "num_blocks")
_MODEL_ONLY: Final = ("backend", "dtype", "kv_dtype", "isa", "kv_cache_bytes", "threads", "speculative", "max_drafts")
_MOST_DRAFTS_A_STEP: Final = 64
_SIM_BLOCKS: Final = 2_049


def _option(text: str, default: object = None, *, least: int | None = None, metavar: str | None = None) -> Any:  # noqa: ANN401 - it stands for a field of any type
    return field(default=default, metadata={"help": text, "least": least, "metavar": metavar})


@dataclass(frozen=True, slots=True)
class Options:
    """What kind of engine is wanted. Numbers are tokens, requests, blocks, bytes or threads as the name says.

    Raises:
        ConfigError: a value or a combination that cannot work.
    """

    backend: str = _option("what computes: native (Rust kernels) or reference (plain torch, slow)", "native")
    dtype: str = _option("type of the weights: float32, bfloat16 or auto (bfloat16 from avx2 on)", "auto")
    kv_dtype: str = _option("type of keys and values: float32, bfloat16 or auto (as the weights)", "auto")
    isa: str = _option("instruction set: auto (the best), portable, avx2, avx512 or avx512bf16", "auto")
    max_num_seqs: int = _option("requests that run at once", 64, least=1)
    max_num_batched_tokens: int = _option("tokens of one step at most", 512, least=1)
    max_model_len: int | None = _option("longest prompt plus output; default: the model's context", least=2)
    kv_cache_bytes: int | None = _option("memory of the KV cache; default: a share of what is free", least=1)
    park_max_bytes: int = _option("memory for rows that left a step in the middle", 64 << 20, least=0)
    speculative: str = _option("what guesses tokens: ngram, suffix or off; never changes what comes out", "ngram")
    max_drafts: int = _option("guesses for one request in one step at most", 7, least=1)
    threads: int | None = _option("threads that compute; default: the cores that this process may use", least=1)
    async_scheduling: bool = _option("do not plan the next step while one runs (the tokens are the same)", default=True)
    sim: bool = _option("compute nothing: tokens are a hash, for tests", default=False)
    step_micros: tuple[int, int] = _option(
        "with --sim: time of a step, base and for each token", (0, 0), least=0, metavar="BASE,SLOPE"
    )
    slots: int | None = _option("with --sim: requests that may be submitted at once", least=1)
    num_blocks: int | None = _option("with --sim: KV blocks", least=2)

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(flag_of(name), value, f"is not one of {', '.join(allowed)}")
        for declared in fields(self):
            least, value = declared.metadata["least"], getattr(self, declared.name)
            if least is not None and value is not None:
                _check_numbers(declared.name, value, least)
        others, when = (_MODEL_ONLY, "without") if self.sim else (_SIM_ONLY, "with")
        for name in others:
            if getattr(self, name) != default_of(name):
                raise ConfigError(flag_of(name), getattr(self, name), f"means something only {when} --sim")


def default_of(name: str) -> object:
    """An option's default."""
    return next(declared.default for declared in fields(Options) if declared.name == name)


def flag_of(name: str) -> str:
    """An option's flag; of one that is on by default, the flag that turns it off."""
    off = "no-" if default_of(name) is True else ""
    return f"--{off}{name.replace('_', '-')}"


def options_of(given: Mapping[str, object]) -> Options:
    """Options from keywords.

    Raises:
        ConfigError: an unknown name, or a value that cannot work.
    """
    known = [declared.name for declared in fields(Options)]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(name, value, f"is no option; known are {', '.join(known)}")
    try:
        return msgspec.convert(dict(given), Options)
    except msgspec.ValidationError as error:
        raise ConfigError("options", dict(given), str(error)) from error


def build_engine(prepared: Prepared, options: Options, env: Mapping[str, str] = os.environ) -> EngineCore:
    """Load a model, or a simulator in its place.

    Raises:
        ConfigError: options that cannot work with this model.
        ModelLoadError: a model that cannot be read.
    """
    name = env.get(MODEL_NAME) or prepared.name
    if options.sim:
        return _build_sim(prepared.model_dir, name, options)
    from pyworker.runner.build import NativeOptions, build_runner
    from pyworker.runner.memory import Limits

    limits = Limits(
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
        kv_cache_bytes=options.kv_cache_bytes,
        max_step_drafts=0 if options.speculative == "off" else _MOST_DRAFTS_A_STEP,
        park_max_bytes=options.park_max_bytes,
        workers=_workers(env),
    )
    built = build_runner(
        prepared.model_dir,
        name,
        backend=options.backend,
        dtype=options.dtype,
        native=NativeOptions(options.kv_dtype, options.isa, options.threads),
        limits=limits,
    )
    _logger.info("memory plan:\n%s", built.plan.table())
    config = replace(built.config, async_scheduling=options.async_scheduling)
    policies = _policies(prepared.model_dir, built, options)
    capabilities = built.capabilities
    if policies.grammar is None:
        capabilities = replace(capabilities, features=tuple(w for w in capabilities.features if w != "grammar"))
    return EngineCore(config, built.runner, MonotonicClock(), capabilities, policies=policies, planner=ThreadPlanner())


def _policies(model_dir: Path, built: BuiltRunner, options: Options) -> Policies:
    """What the engine decides with: guesses, grammars, and when parked rows go on."""
    from pyworker.engine.parking import JoinWhenCalm
    from pyworker.engine.policies import Policies
    from pyworker.spec_decode.speculator import make_speculator

    safepoint = built.runner.safepoint
    return Policies(
        joins=JoinWhenCalm(lambda: safepoint.level > 0),
        speculator=make_speculator(options.speculative, options.max_drafts),
        grammar=_grammar(model_dir, built),
    )


def _grammar(model_dir: Path, built: BuiltRunner) -> GrammarEngine | None:
    """What follows grammars; none for a tokeniser that it cannot read, which is no reason to serve nothing."""
    from pyworker.structured.guide import LLGuidance

    try:
        return LLGuidance.for_model(model_dir, built.config.vocab_size, sorted(built.config.eos_ids))
    except (ValueError, RuntimeError) as error:
        _logger.warning("no structured output: the tokeniser cannot be read for grammars: %s", error)
        return None


def _workers(env: Mapping[str, str]) -> int:
    text = env.get(WORKERS) or "1"
    if not (text.isdecimal() and int(text) >= 1):
        raise ConfigError(WORKERS, text, "a number, at least 1")
    return int(text)


class MonotonicClock:
    """The engine's clock in a real worker: microseconds of the same clock that deadlines are put on."""

    def now(self) -> int:
        """Microseconds since the machine's start."""
        return time.monotonic_ns() // 1_000


def _build_sim(model_dir: Path, name: str, options: Options) -> EngineCore:
    from pyworker.models.hashes import text_hash
    from pyworker.models.loader import read_json
    from pyworker.runner.sim import SimRunner, sim_capabilities

    model = read_json(model_dir / "config.json")
    config = EngineConfig(
        num_blocks=options.num_blocks or _SIM_BLOCKS,
        max_model_len=options.max_model_len or int(model["max_position_embeddings"]),
        vocab_size=int(model["vocab_size"]),
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        park_max_bytes=options.park_max_bytes,
        async_scheduling=options.async_scheduling,
    )
    runner = SimRunner(config, step_micros=options.step_micros, sleep=_sleep_micros)
    capabilities: EngineCapabilities = sim_capabilities(
        config, model_name=name, text_hash=text_hash(model_dir), slots=options.slots
    )
    return EngineCore(config, runner, MonotonicClock(), capabilities, planner=ThreadPlanner())


def _sleep_micros(micros: int) -> None:
    if micros:
        time.sleep(micros * 1e-6)


def _check_numbers(name: str, value: object, least: int) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if any(type(number) is not int or number < least for number in numbers):
        raise ConfigError(flag_of(name), value, f"at least {least}")
