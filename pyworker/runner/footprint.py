"""What a model takes under a backend, before anything is allocated: the figures that the memory plan is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.errors import ConfigError
from pyworker.models.decoder_config import DecoderConfig
from pyworker.runner.backends.base import BLOCK_SIZE, StepSizes

if TYPE_CHECKING:
    from pyworker.models.registry import ModelConfig
    from pyworker.runner.memory import Limits

PROMPT_TILE = 64
"""Prompt rows whose logits are computed at once."""
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes by part. `sizes` are what the backend takes for its steps, part of `workspace` and `logits`.

    `loading`: what the weights take for a moment before they are packed, where they are not packed one by one.
    """

    weights: int
    workspace: int
    logits: int
    kv_block: int
    sizes: StepSizes
    loading: int = 0


def reference_footprint(config: ModelConfig, limits: Limits, cache_bytes: int | None = None) -> Footprint:
    """Everything as float32 torch tensors, whatever was rounded before. `cache_bytes`: as of `native_footprint`."""
    activations = limits.max_num_batched_tokens * config.workspace_per_token
    logits = 2 * _logit_rows(limits) * config.vocab_size
    kv_block = config.kv_spec.block_bytes()
    sizes = StepSizes(activations, logits, _context(config, limits, kv_block, cache_bytes))
    return Footprint(4 * config.num_parameters, 4 * activations, 4 * logits, kv_block, sizes)


def native_footprint(
    config: ModelConfig, limits: Limits, dtype: str, kv_dtype: str, threads: int, cache_bytes: int | None = None
) -> Footprint:
    """Packed weights, and buffers that are cut from two pieces of memory.

    `cache_bytes` are the most that the cache may become: angles and attention need no room for a longer context.

    Raises:
        ConfigError: an attention that the kernels are not made for.
    """
    kv_block = config.kv_spec.block_bytes(_BYTES[kv_dtype])
    context = _context(config, limits, kv_block, cache_bytes)
    own = isinstance(config, DecoderConfig)
    layer = config.linear_shapes[:-1]
    hidden = config.linear_shapes[-1][1]
    widest = max(max(shape) for shape in layer)
    # What all products of a layer read and write is more than what lives at once; rounded inputs come on top.
    per_token = sum(rows + columns for rows, columns in layer) + 2 * widest
    activations = limits.max_num_batched_tokens * per_token + _attend_scratch(config, limits, context, threads)
    # A tile of prompt rows lives until the next one is there.
    rows = max(_logit_rows(limits), 2 * PROMPT_TILE)
    logits = rows * (config.vocab_size + hidden + BLOCK_SIZE)
    # The head of a model of transformers is a layer like others; torch copies what comes out of it, and caps the copy.
    sizes = StepSizes(activations, logits, context) if own else StepSizes(activations + logits, 1, context)
    angles = context * config.kv_spec.head_dim if own else 0
    return Footprint(
        weights=_packed_bytes(config, dtype),
        workspace=4 * (sizes.activations + angles),
        logits=4 * (logits if own else 2 * rows * config.vocab_size),
        kv_block=kv_block,
        sizes=sizes,
        loading=0 if own else 4 * config.num_parameters,
    )


def _packed_bytes(config: ModelConfig, dtype: str) -> int:
    """Matrices in blocks of 32 columns (K even in bfloat16), vectors in float32."""
    step = 4 // _BYTES[dtype]
    total = 0
    for shape in config.parameter_shapes:
        if len(shape) == 2:
            rows, columns = shape
            total += -(-rows // BLOCK_SIZE) * BLOCK_SIZE * -(-columns // step) * step * _BYTES[dtype]
        else:
            total += 4 * math.prod(shape)
    return total


def _attend_scratch(config: ModelConfig, limits: Limits, context: int, threads: int) -> int:
    from slackwater._native import kernels

    spec = config.attn_spec
    try:
        what = kernels.AttnSpec(spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.scale)
    except kernels.KernelError as error:
        raise ConfigError("--backend", "native", f"{error}; the backend reference has no such bound") from error
    return kernels.attend_scratch(what, limits.max_num_batched_tokens, context, threads)


def _logit_rows(limits: Limits) -> int:
    return min(limits.max_num_seqs + limits.max_step_drafts, limits.max_num_batched_tokens)


def _context(config: ModelConfig, limits: Limits, kv_block: int, cache_bytes: int | None) -> int:
    longest = min(limits.max_model_len or config.max_position_embeddings, config.max_position_embeddings)
    return longest if cache_bytes is None else max(1, min(longest, cache_bytes // kv_block * BLOCK_SIZE))
