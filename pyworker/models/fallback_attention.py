"""What transformers calls instead of its own attention: our pages, our kernels.

The step travels through the model as a keyword, so nothing is global but the registered name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Never

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from pyworker.errors import SlackwaterError
from pyworker.runner.backends.base import AttnSpec

if TYPE_CHECKING:
    from pyworker.models.fallback_check import PlainAttention
    from pyworker.runner.backends.base import Backend, KVCache, KVCacheSpec
    from pyworker.runner.batch import Batch
    from pyworker.runner.flow import Flow

NAME = "slackwater"
"""The name of the attention, and the keyword that carries a `Run`."""

_UNKNOWN = ("s_aux", "position_bias", "head_mask")


@dataclass(slots=True)
class Run:
    """One pass through the layers; `seen` is what the attention of each layer asked for."""

    backend: Backend | PlainAttention
    batch: Batch
    kv: KVCache
    kv_spec: KVCacheSpec
    flow: Flow | None = None
    seen: dict[int, AttnSpec] = field(default_factory=dict)


class AttentionRefused(SlackwaterError):
    """The model asks for an attention that is not built."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """Attention of one layer: `[1, H, N, D]` and, twice, `[1, G, N, D]` to `[1, N, H, D]`. Keys come rotated.

    Raises:
        AttentionRefused: it is not causal attention by a window and a soft cap.
    """
    run, layer = options.get(NAME), getattr(module, "layer_idx", None)
    if not isinstance(run, Run) or not isinstance(layer, int):
        _refuse("does not hand the step on to its attention")
    if attention_mask is not None:
        _refuse("has a mask of its own")
    if options.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        _refuse("has attention that is not causal")
    for option in _UNKNOWN:
        if options.get(option) is not None:
            _refuse(f"has attention with {option}")
    _, heads, count, size = query.shape
    planned = (1, run.kv_spec.num_kv_heads, count, run.kv_spec.head_dim)
    if key.shape != planned or value.shape != planned or size != planned[-1] or heads % planned[1]:
        shapes = f"queries {list(query.shape)}, keys {list(key.shape)} and values {list(value.shape)}"
        _refuse(f"has {shapes}, which its config does not say")
    scale = size**-0.5 if scaling is None else float(scaling)
    spec = AttnSpec(heads, key.shape[1], size, scale, None, options.get("sliding_window"), options.get("softcap"))
    if layer in run.seen:
        _refuse(f"attends twice in layer {layer}")
    run.seen[layer] = spec
    qkv = torch.cat([query, key, value], dim=1)[0].transpose(0, 1).reshape(count, -1)
    backend = run.backend
    out = backend.to_torch(backend.attend(backend.from_torch(qkv), run.kv, layer, spec, run.batch))
    # A copy: the backend's memory is free again at its next operation.
    return out.clone().view(1, count, heads, size), None


def _refuse(what: str) -> Never:
    raise AttentionRefused(what)


# Ours is causal by construction and knows its window, so it needs no mask.
AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
