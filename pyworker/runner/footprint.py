"""What a model takes under a backend, before anything is allocated: the figures that the memory plan is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.runner.backends.base import BLOCK_SIZE, StepSizes

if TYPE_CHECKING:
    from pyworker.models.registry import ModelConfig
    from pyworker.runner.memory import Limits

PROMPT_TILE = 64
"""Prompt rows whose logits are computed at once."""
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes by part. `sizes` are what the backend takes for its steps, part of `workspace` and `logits`."""

    weights: int
    workspace: int
    logits: int
    kv_block: int
    sizes: StepSizes


def reference_footprint(config: ModelConfig, limits: Limits) -> Footprint:
    """Everything as float32 torch tensors, whatever was rounded before."""
    activations = limits.max_num_batched_tokens * config.workspace_per_token
    logits = 2 * _logit_rows(limits) * config.vocab_size
    sizes = StepSizes(activations, logits, _context(config, limits))
    return Footprint(4 * config.num_parameters, 4 * activations, 4 * logits, config.kv_spec.block_bytes(), sizes)


def native_footprint(config: ModelConfig, limits: Limits, dtype: str, kv_dtype: str, threads: int) -> Footprint:
    """Packed weights, and buffers that are cut from two pieces of memory."""
    context = _context(config, limits)
    layer = config.linear_shapes[:-1]
    hidden = config.linear_shapes[-1][1]
    widest = max(max(shape) for shape in layer)
    # What all products of a layer read and write is more than what lives at once; rounded inputs come on top.
    per_token = sum(rows + columns for rows, columns in layer) + 2 * widest
    activations = limits.max_num_batched_tokens * per_token + _attend_scratch(config, limits, context, threads)
    # A tile of prompt rows lives until the next one is there.
    rows = max(_logit_rows(limits), 2 * PROMPT_TILE)
    sizes = StepSizes(activations, rows * (config.vocab_size + hidden + BLOCK_SIZE), context)
    angles = context * config.kv_spec.head_dim
    return Footprint(
        weights=_packed_bytes(config, dtype),
        workspace=4 * (sizes.activations + angles),
        logits=4 * sizes.logits,
        kv_block=config.kv_spec.block_bytes(_BYTES[kv_dtype]),
        sizes=sizes,
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
    what = kernels.AttnSpec(spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.scale)
    return kernels.attend_scratch(what, limits.max_num_batched_tokens, context, threads)


def _logit_rows(limits: Limits) -> int:
    return min(limits.max_num_seqs + limits.max_step_drafts, limits.max_num_batched_tokens)


def _context(config: ModelConfig, limits: Limits) -> int:
    return min(limits.max_model_len or config.max_position_embeddings, config.max_position_embeddings)
