"""The memory plan: what the worker will take, known before anything big is allocated.

Limit = what the control group and the machine leave. Weights, workspace and logits are what they are; the KV cache gets
what was asked for, or a share of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyworker.errors import ConfigError
from pyworker.runner.backends.base import BLOCK_SIZE

if TYPE_CHECKING:
    from pyworker.models.llama import LlamaConfig

_HEADROOM = 1 << 30
_KV_SHARE = 2
"""The default cache takes at most one part in this many of the limit."""
_KV_DEFAULT_MAX = 4 << 30
_INTERPRETER = 320 << 20
"""Resident set of Python with torch imported, before a model is read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of the engine. `max_model_len` counts a request's prompt and output; `max_num_batched_tokens` a step's."""

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None


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


def memory_limit(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may take: the lesser of available memory and what its control group has left."""
    available = _available(proc / "meminfo")
    own = _own_cgroup(proc / "self" / "cgroup")
    for folder in (cgroup / own, cgroup):
        limit, used = _read_number(folder / "memory.max"), _read_number(folder / "memory.current")
        if limit is not None:
            available = min(available, max(0, limit - (used or 0)))
    return available


def plan_memory(config: LlamaConfig, limits: Limits, limit: int) -> MemoryPlan:
    """Lay out the memory of a model under `limits` within `limit` bytes.

    Raises:
        ConfigError: it cannot fit; the text has the table and the largest cache that would.
    """
    block = config.kv_spec.block_bytes()
    max_model_len = limits.max_model_len or config.max_position_embeddings
    parts = {
        "weights": config.num_parameters * 4,
        "workspace": limits.max_num_batched_tokens * config.workspace_per_token * 4,
        "logits": limits.max_num_seqs * config.vocab_size * 4 * 2,
        "interpreter": _INTERPRETER,
    }
    rest = limit - sum(parts.values())
    most = limits.max_num_seqs * -(-max_model_len // BLOCK_SIZE)
    if limits.kv_cache_bytes is not None:
        blocks = limits.kv_cache_bytes // block
    else:
        blocks = min(max(0, rest - _HEADROOM), limit // _KV_SHARE, _KV_DEFAULT_MAX) // block
        blocks = min(blocks, most)
    plan = MemoryPlan({**parts, "kv_cache": (blocks + 1) * block}, blocks + 1, limit)
    if blocks < 1 or plan.total > limit:
        _refuse(plan, limits, rest // block - 1, block)
    return plan


def _refuse(plan: MemoryPlan, limits: Limits, fitting: int, block: int) -> None:
    if limits.kv_cache_bytes is not None:
        flag, value = "--kv-cache-bytes", limits.kv_cache_bytes
    else:
        flag, value = "--max-num-seqs", limits.max_num_seqs
    if fitting > 0:
        allowed = f"a cache of {fitting * block} bytes at most fits, {fitting * BLOCK_SIZE} tokens in all"
    else:
        allowed = "nothing fits beside the weights"
    allowed = f"{allowed}; one block takes {block} bytes; the plan is\n{plan.table()}"
    raise ConfigError(flag, value, allowed)


def _available(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise ConfigError("memory", meminfo, "has no line MemAvailable")


def _own_cgroup(path: Path) -> Path:
    """Folder of this process's control group (version 2) below the mount, or the mount itself."""
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("0::/"):
                return Path(line[len("0::/") :])
    return Path()


def _read_number(path: Path) -> int | None:
    """The number in a control file; `None` where there is no file or no limit."""
    if not path.is_file():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None
