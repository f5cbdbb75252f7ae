"""A layer out of single operations, for backends that have no quicker way to call them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyworker.runner.backends.base import Backend, KVCache, LayerWeights, Tensor
    from pyworker.runner.batch import Batch


class ComposedLayers:
    """The part of a `Backend` that is about whole layers. A prepared layer is the weights as they are."""

    def prepare_layer(self: Backend, weights: LayerWeights) -> LayerWeights:
        """The weights themselves."""
        self.prepare_attention(weights.spec)
        return weights

    def attention(
        self: Backend, x: Tensor, delta: Tensor | None, layer: LayerWeights, kv: KVCache, index: int, batch: Batch
    ) -> Tensor:
        """Three operations."""
        qkv = self.linear(self.add_norm(x, delta, layer.input_norm, layer.eps), layer.qkv)
        return self.attend(qkv, kv, index, layer.spec, batch, layer.qk_norm)

    def feed_forward(self: Backend, x: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
        """Four operations."""
        normed = self.add_norm(x, self.linear(attended, layer.o), layer.post_norm, layer.eps)
        return self.linear(self.gate_up_act(normed, layer.gate_up, layer.act), layer.down)

    def layer(
        self: Backend, x: Tensor, delta: Tensor | None, layer: LayerWeights, kv: KVCache, index: int, batch: Batch
    ) -> Tensor:
        """One half after the other."""
        return self.feed_forward(x, self.attention(x, delta, layer, kv, index, batch), layer)
