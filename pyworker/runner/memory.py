"""The memory plan: what the worker will take, known before anything big is allocated.

Limit = what the control groups and the machine leave, divided by the workers that share it. Weights, workspace, logits
and parked rows are what they are; the KV cache gets what was asked for, or a share of the rest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.errors import ConfigError
from pyworker.runner.backends.base import BLOCK_SIZE

if TYPE_CHECKING:
    from pyworker.models.registry import ModelConfig
    from pyworker.runner.footprint import Footprint

_logger = logging.getLogger(__name__)

_HEADROOM = 1 << 30
_KV_SHARE = 2
"""The default cache takes at most one part in this many of the limit."""
_KV_DEFAULT_MAX = 4 << 30
_INTERPRETER = 550 << 20
"""Resident set of Python with all that a worker imports, torch first of all, before a model is read."""
_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of the engine. `max_model_len` counts a request's prompt and output; `max_num_batched_tokens` a step's.

    `max_step_drafts` are drafts of a step, at most. Rows that left a step in the middle are kept in `park_max_bytes`.
    `workers` share the memory that this process finds, itself included.
    """

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    max_step_drafts: int = 0
    park_max_bytes: int = 64 << 20
    workers: int = 1


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by part, and the number of KV blocks that they buy, the null block included."""

    parts: dict[str, int]
    num_blocks: int
    limit: int

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    def table(self) -> str:
        """One line a part, in MiB."""
        rows = [*self.parts.items(), ("total", self.total), ("limit", self.limit)]
        return "\n".join(f"  {name:<12}{size / (1 << 20):>10.1f} MiB" for name, size in rows)


def most_cache_bytes(limits: Limits, limit: int) -> int:
    """The most that the KV cache may become within this worker's share of `limit` bytes, whatever else there is."""
    if limits.kv_cache_bytes is not None:
        return limits.kv_cache_bytes
    return min(limit // limits.workers // _KV_SHARE, _KV_DEFAULT_MAX)


def plan_memory(config: ModelConfig, limits: Limits, limit: int, footprint: Footprint) -> MemoryPlan:
    """Lay out the memory of a model under `limits` within this worker's share of `limit` bytes.

    Raises:
        ConfigError: it cannot fit; the text has the table and the largest cache, context and slots that would.
    """
    most_cache = most_cache_bytes(limits, limit)
    limit //= limits.workers
    block = footprint.kv_block
    max_model_len = limits.max_model_len or config.max_position_embeddings
    parts = {
        "weights": footprint.weights,
        "workspace": footprint.workspace,
        "logits": footprint.logits,
        "parked": limits.park_max_bytes,
        "interpreter": _INTERPRETER,
    }
    rest = limit - sum(parts.values())
    most = limits.max_num_seqs * -(-max_model_len // BLOCK_SIZE)
    blocks = most_cache // block
    if limits.kv_cache_bytes is None:
        blocks = min(blocks, max(0, rest - _HEADROOM) // block, most)
    plan = MemoryPlan({**parts, "kv_cache": (blocks + 1) * block}, blocks + 1, limit)
    if blocks < 1 or plan.total > limit:
        _refuse(plan, limits, rest // block - 1, block, max_model_len)
    loading = _INTERPRETER + footprint.workspace + footprint.loading
    if loading > limit:
        allowed = f"at least {loading} bytes: it is loaded in float32 before it is packed"
        raise ConfigError("memory", limit, allowed)
    return plan


def fit_model_len(config: ModelConfig, limits: Limits, plan: MemoryPlan) -> int:
    """The longest prompt plus output that the model, the flag and the cache allow.

    Raises:
        ConfigError: the flag asks for more than the model or the cache can take.
    """
    asked, longest = limits.max_model_len, config.max_position_embeddings
    if asked is not None and not 2 <= asked <= longest:
        raise ConfigError("--max-model-len", asked, f"2 to {longest}, the context that the model was made for")
    held = (plan.num_blocks - 1) * BLOCK_SIZE
    if asked is not None and asked > held:
        raise ConfigError("--max-model-len", asked, f"at most {held}, the tokens that the KV cache holds")
    if asked is None and longest > held:
        _logger.warning("max_model_len is %d, as the KV cache holds no more; the model could %d", held, longest)
    return min(asked or longest, held)


def check_resident(plan: MemoryPlan, before: int, after: int) -> bool:
    """Log how far what loading added to the resident set is from the plan; whether that is within a tenth of the plan.

    Parked rows are not there yet, and the interpreter was there `before`.
    """
    planned = plan.total - plan.parts["interpreter"] - plan.parts["parked"]
    found = after - before
    near = abs(found - planned) <= _TOLERANCE * plan.total
    _logger.log(
        logging.INFO if near else logging.WARNING,
        "the model takes %.1f MiB, planned were %.1f MiB; the process takes %.1f MiB",
        found / (1 << 20),
        planned / (1 << 20),
        after / (1 << 20),
    )
    return near


def _refuse(plan: MemoryPlan, limits: Limits, fitting: int, block: int, max_model_len: int) -> None:
    if limits.kv_cache_bytes is not None:
        flag, value = "--kv-cache-bytes", limits.kv_cache_bytes
    else:
        flag, value = "--max-num-seqs", limits.max_num_seqs
    if fitting > 0:
        tokens = fitting * BLOCK_SIZE
        context = min(max_model_len, tokens)
        allowed = (
            f"a cache of {fitting * block} bytes at most fits, {tokens} tokens in all: a context of {context} with "
            f"{max(1, min(limits.max_num_seqs, tokens // context))} slots of that length"
        )
    else:
        allowed = "nothing fits beside the weights"
    allowed = f"{allowed}; one block takes {block} bytes; the plan is\n{plan.table()}"
    raise ConfigError(flag, value, allowed)
