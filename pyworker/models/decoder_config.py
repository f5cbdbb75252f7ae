"""Shapes and constants of the pre-norm decoders that are built: what their families' files make of `config.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.errors import ModelLoadError
from pyworker.models.rope import ROPE_KEYS, read_rope
from pyworker.runner.backends.base import AttnSpec, KVCacheSpec, Rope

if TYPE_CHECKING:
    from pyworker.models.fields import Fields

_MAX_LAYERS = 1024
_MAX_HEAD_DIM = 8192

DECODER_KEYS = ROPE_KEYS | {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "max_position_embeddings",
    "tie_word_embeddings",
    "hidden_act",
}
"""What `read_decoder` looks at."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A decoder of layers alike. `windows` by layer, `None` where a token sees all before it.

    `qkv_bias`, `o_bias`: those projections have a bias. `qk_norm`: each query and key head has an RMS norm.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope: Rope
    max_position_embeddings: int
    tie_word_embeddings: bool
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False

    @property
    def attn_specs(self) -> tuple[AttnSpec, ...]:
        """The attention of each layer."""
        return tuple(self._attn_spec(window) for window in self.windows)

    @property
    def attn_spec(self) -> AttnSpec:
        """The attention of the first layer; the others differ in their window at most."""
        return self._attn_spec(self.windows[0])

    def _attn_spec(self, window: int | None) -> AttnSpec:
        heads, kv_heads, size = self.num_attention_heads, self.num_key_value_heads, self.head_dim
        return AttnSpec(heads, kv_heads, size, 1.0 / math.sqrt(size), self.rope, window)

    @property
    def kv_spec(self) -> KVCacheSpec:
        """What a token takes in the cache."""
        return KVCacheSpec(self.num_hidden_layers, self.num_key_value_heads, self.head_dim)

    @property
    def parameter_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of each weight that is kept; a tied head is the embedding."""
        return tuple(self.tensor_shapes().values())

    @property
    def num_parameters(self) -> int:
        """Weights in all; a tied head counts once."""
        return sum(math.prod(shape) for shape in self.parameter_shapes)

    @property
    def workspace_per_token(self) -> int:
        """Floats that one token of a step takes between operations, with the scores of one split and their copies."""
        qkv = (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        return 4 * self.hidden_size + 3 * qkv + 5 * self.intermediate_size + 24 * 256 * self.num_attention_heads

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the weight files by its name, as transformers writes them."""
        layer = self._layer_shapes()
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, self.hidden_size)}
        for index in range(self.num_hidden_layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (self.hidden_size,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes

    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        hidden, inner = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (q, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, q),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        }
        if self.qkv_bias:
            layer |= {f"self_attn.{part}_proj.bias": (q if part == "q" else kv,) for part in "qkv"}
        if self.o_bias:
            layer["self_attn.o_proj.bias"] = (hidden,)
        if self.qk_norm:
            layer |= {f"self_attn.{part}_norm.weight": (self.head_dim,) for part in "qk"}
        return layer

    @property
    def linear_shapes(self) -> tuple[tuple[int, int], ...]:
        """`(out, in)` of the matrix products, as they are fused: of one layer, and the head."""
        hidden, inner = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return (q + 2 * kv, hidden), (hidden, q), (2 * inner, hidden), (hidden, inner), (self.vocab_size, hidden)

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """Endings of names that a file may hold and that follow from the rest.

        Old checkpoints carry the rotary frequencies; a tied head is the embedding again.
        """
        derived = ("rotary_emb.inv_freq",)
        return (*derived, "lm_head.weight") if self.tie_word_embeddings else derived


def read_decoder(
    fields: Fields,
    *,
    windows: tuple[int | None, ...] | None = None,
    head_dim: int | None = None,
    max_position_embeddings: int | None = None,
    **extras: bool,
) -> DecoderConfig:
    """What all families have. `head_dim` and `max_position_embeddings` are the family's defaults; `extras` its flags.

    Raises:
        UnsupportedModel: a key that changes the maths has a value that is not built.
        ModelLoadError: a value is missing, of the wrong type or out of range.
    """
    fields.fixed("hidden_act", "silu")
    heads = fields.count("num_attention_heads")
    hidden = fields.count("hidden_size")
    layers = read_num_layers(fields)
    size = fields.count("head_dim", default=head_dim or max(1, hidden // heads), most=_MAX_HEAD_DIM)
    if size % 2:
        raise ModelLoadError(fields.path, f"head_dim {size} is odd: it cannot be rotated in pairs")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise ModelLoadError(fields.path, f"{heads} heads do not divide into {kv_heads} groups")
    return DecoderConfig(
        hidden_size=hidden,
        intermediate_size=fields.count("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=size,
        vocab_size=fields.count("vocab_size"),
        rms_norm_eps=fields.positive("rms_norm_eps", fields.data.get("rms_norm_eps", 1e-6)),
        rope=read_rope(fields, size),
        max_position_embeddings=fields.count("max_position_embeddings", default=max_position_embeddings),
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        windows=windows or (None,) * layers,
        **extras,
    )


def read_num_layers(fields: Fields) -> int:
    """The number of layers."""
    return fields.count("num_hidden_layers", most=_MAX_LAYERS)


def need_key_value_heads(fields: Fields) -> None:
    """Raise `ModelLoadError` where the key is missing: the family's own default is a number of some model's."""
    if "num_key_value_heads" not in fields.data:
        raise ModelLoadError(fields.path, "num_key_value_heads is missing")
