"""The forward of all built families: a pre-norm decoder with rotary, grouped attention and a gated feed-forward layer.

It is a loop over layers of one backend call each, on one flat batch of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pyworker.runner.backends.base import LayerWeights, QkNorm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyworker.models.decoder_config import DecoderConfig
    from pyworker.models.loader import Weights
    from pyworker.runner.backends.base import AttnSpec, Backend, KVCache, KVCacheSpec, Tensor
    from pyworker.runner.batch import Batch
    from pyworker.runner.flow import Flow


class DecoderModel:
    """Weights prepared by one backend, and the forward over them."""

    can_drop_rows = True
    """Whether rows may leave the batch between two layers."""
    batch_invariant = True
    """Whether a row has the same bits in any batch, on a backend that keeps the row rule."""

    def __init__(self, config: DecoderConfig, weights: Weights, backend: Backend) -> None:
        """Pack the weights, tensor by tensor.

        Raises:
            ModelLoadError: the weights are not those of `config`.
        """
        weights.check(config.tensor_shapes(), config.ignored_tensors)
        self.kv_spec: KVCacheSpec = config.kv_spec
        self.vocab_size = config.vocab_size
        self.max_model_len = config.max_position_embeddings
        self._eps = config.rms_norm_eps
        self._embed = backend.prepare_linear(weights.tensor("model.embed_tokens.weight"))
        self._layers = [
            backend.prepare_layer(_load_layer(config, spec, weights, index, backend))
            for index, spec in enumerate(config.attn_specs)
        ]
        self._norm = backend.prepare_vector(weights.tensor("model.norm.weight"))
        tied = config.tie_word_embeddings
        self._head = self._embed if tied else backend.prepare_linear(weights.tensor("lm_head.weight"))

    def forward(self, backend: Backend, batch: Batch, kv: KVCache, flow: Flow) -> tuple[Tensor, Batch] | None:
        """Compute a batch, writing its keys and values.

        `flow` is asked before each layer which rows go on. The hidden rows that are needed of those that came through
        (`Batch.kept_rows`), after the last norm `[K, H]`, and the batch; `None`: all have left. Once the last layer has
        its keys and values, only these rows are computed; where there are none, the hidden rows are `None`.
        """
        layers, last = self._layers, len(self._layers) - 1
        x = backend.embed(batch.ids, self._embed) if batch.num_tokens else None
        delta = None
        for index in range(flow.first_layer, last + 1):
            state = flow.enter(index, x, delta, batch)
            if state is None:
                return None
            x, delta, batch = state
            if index < last or (kept := batch.kept_rows) is None:
                delta = backend.layer(x, delta, layers[index], kv, index, batch)
                continue
            attended = backend.attention(x, delta, layers[index], kv, index, batch)
            if not len(kept):
                return None, batch
            x, attended = backend.take_rows(x, kept), backend.take_rows(attended, kept)
            delta = backend.feed_forward(x, attended, layers[index])
        return backend.add_norm(x, delta, self._norm, self._eps), batch

    def logits(self, backend: Backend, hidden: Tensor, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The head on some rows of what `forward` gave: f32 `[R, V]`."""
        return backend.logits(hidden, self._head, rows)


def _load_layer(config: DecoderConfig, spec: AttnSpec, weights: Weights, index: int, backend: Backend) -> LayerWeights:
    def tensor(name: str, kind: str = "weight") -> torch.Tensor:
        return weights.tensor(f"model.layers.{index}.{name}.{kind}")

    def joined(kind: str) -> torch.Tensor:
        return torch.cat([tensor(f"self_attn.{part}_proj", kind) for part in "qkv"])

    qk_norm = None
    if config.qk_norm:
        q, k = (backend.prepare_vector(tensor(f"self_attn.{part}_norm")) for part in "qk")
        qk_norm = QkNorm(q, k, config.rms_norm_eps)
    o_bias = tensor("self_attn.o_proj", "bias") if config.o_bias else None
    return LayerWeights(
        spec=spec,
        input_norm=backend.prepare_vector(tensor("input_layernorm")),
        qkv=backend.prepare_linear(joined("weight"), joined("bias") if config.qkv_bias else None),
        qk_norm=qk_norm,
        o=backend.prepare_linear(tensor("self_attn.o_proj"), o_bias),
        post_norm=backend.prepare_vector(tensor("post_attention_layernorm")),
        gate_up=backend.prepare_gate_up(tensor("mlp.gate_proj"), tensor("mlp.up_proj")),
        down=backend.prepare_linear(tensor("mlp.down_proj")),
        act="silu",
        eps=config.rms_norm_eps,
    )
