"""Llama and SmolLM2: pre-norm decoder with rotary, grouped attention and a gated feed-forward layer.

The forward is a loop over layers of seven backend calls each, on one flat batch of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pyworker.models.llama_config import LlamaConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.models.loader import Weights
    from pyworker.runner.backends.base import Backend, KVCache, KVCacheSpec, Linear, Tensor
    from pyworker.runner.batch import Batch

__all__ = ["LlamaConfig", "LlamaModel"]


@dataclass(slots=True)
class _Layer:
    input_norm: Tensor
    qkv: Linear
    o: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear


class LlamaModel:
    """Weights prepared by one backend, and the forward over them."""

    def __init__(self, config: LlamaConfig, weights: Weights, backend: Backend) -> None:
        """Pack the weights, tensor by tensor.

        Raises:
            ModelLoadError: the weights are not those of `config`.
        """
        tied = config.tie_word_embeddings
        weights.check(config.tensor_shapes(), config.ignored_tensors)
        self.config = config
        self.kv_spec: KVCacheSpec = config.kv_spec
        self.vocab_size = config.vocab_size
        self.max_model_len = config.max_position_embeddings
        self._spec = config.attn_spec
        self._embed = backend.prepare_linear(weights.tensor("model.embed_tokens.weight"))
        self._layers = [_load_layer(weights, index, backend) for index in range(config.num_hidden_layers)]
        self._norm = weights.tensor("model.norm.weight").clone()
        self._head = self._embed if tied else backend.prepare_linear(weights.tensor("lm_head.weight"))

    def forward(self, backend: Backend, batch: Batch, kv: KVCache, progress: Callable[[], None]) -> NDArray[np.float32]:
        """Compute a batch, writing its keys and values: logits f32 `[R, V]` of the rows that need them.

        `progress` is called once a layer.
        """
        eps = self.config.rms_norm_eps
        x = backend.embed(batch.ids, self._embed)
        delta = None
        for index, layer in enumerate(self._layers):
            normed = backend.add_norm(x, delta, layer.input_norm, eps)
            attended = backend.attend(backend.linear(normed, layer.qkv), kv, index, self._spec, batch)
            normed = backend.add_norm(x, backend.linear(attended, layer.o), layer.post_norm, eps)
            delta = backend.linear(backend.gate_up_act(normed, layer.gate_up, "silu"), layer.down)
            progress()
        return backend.logits(backend.add_norm(x, delta, self._norm, eps), self._head, batch.logit_rows)


def _load_layer(weights: Weights, index: int, backend: Backend) -> _Layer:
    def tensor(name: str) -> torch.Tensor:
        return weights.tensor(f"model.layers.{index}.{name}.weight")

    return _Layer(
        input_norm=tensor("input_layernorm").clone(),
        qkv=backend.prepare_linear(torch.cat([tensor(f"self_attn.{part}_proj") for part in "qkv"])),
        o=backend.prepare_linear(tensor("self_attn.o_proj")),
        post_norm=tensor("post_attention_layernorm").clone(),
        gate_up=backend.prepare_linear(torch.cat([tensor(f"mlp.{part}_proj") for part in ("gate", "up")])),
        down=backend.prepare_linear(tensor("mlp.down_proj")),
    )
