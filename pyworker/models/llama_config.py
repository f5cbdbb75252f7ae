"""The configuration of a Llama-family model, read strictly: what would change the maths and is not built is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyworker.errors import ModelLoadError, UnsupportedModel
from pyworker.runner.backends.base import AttnSpec, KVCacheSpec, Rope

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_INT = 2**31 - 1
_MAX_LAYERS = 1024
_DEFAULT_THETA = 10_000.0
# Keys that say nothing about how logits are computed.
_HARMLESS = frozenset(
    {
        "architectures",
        "model_type",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "use_cache",
        "initializer_range",
        "attention_dropout",
        "is_llama_config",
        "transformers.js_config",
        "_name_or_path",
        "name_or_path",
        "_model_name_or_path",
        "_attn_implementation",
        "return_dict",
    }
)
_READ = frozenset(
    {
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
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "pretraining_tp",
    }
)


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Shapes and constants of the model."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool

    @classmethod
    def parse(cls, data: Mapping[str, Any], path: str) -> LlamaConfig:
        """From a `config.json` of transformers 4 or 5; `path` is for the errors.

        Raises:
            UnsupportedModel: a key that changes the maths has a value that is not built.
            ModelLoadError: a value is missing, of the wrong type or out of range.
        """
        _refuse_unknown(data, path)
        fields = _Fields(data, path)
        heads = fields.count("num_attention_heads")
        hidden = fields.count("hidden_size")
        config = cls(
            hidden_size=hidden,
            intermediate_size=fields.count("intermediate_size"),
            num_hidden_layers=fields.count("num_hidden_layers", most=_MAX_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=fields.count("num_key_value_heads", default=heads),
            head_dim=fields.count("head_dim", default=max(1, hidden // heads)),
            vocab_size=fields.count("vocab_size"),
            rms_norm_eps=fields.positive("rms_norm_eps", data.get("rms_norm_eps", 1e-6)),
            rope_theta=_rope_theta(fields),
            max_position_embeddings=fields.count("max_position_embeddings", default=2048),
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
        )
        if heads % config.num_key_value_heads:
            raise ModelLoadError(path, f"{heads} heads do not divide into {config.num_key_value_heads} groups")
        if config.head_dim % 2:
            raise ModelLoadError(path, f"head_dim {config.head_dim} is odd: it cannot be rotated in pairs")
        return config

    @property
    def attn_spec(self) -> AttnSpec:
        """The attention of every layer."""
        scale = 1.0 / math.sqrt(self.head_dim)
        return AttnSpec(self.num_attention_heads, self.num_key_value_heads, self.head_dim, scale, Rope(self.rope_theta))

    @property
    def kv_spec(self) -> KVCacheSpec:
        """What a token takes in the cache."""
        return KVCacheSpec(self.num_hidden_layers, self.num_key_value_heads, self.head_dim)

    @property
    def num_parameters(self) -> int:
        """Weights in all; a tied head counts once."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    @property
    def workspace_per_token(self) -> int:
        """Floats that one token of a step takes between operations, with the scores of one split and their copies."""
        qkv = (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        return 4 * self.hidden_size + 3 * qkv + 5 * self.intermediate_size + 24 * 256 * self.num_attention_heads

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the weight files by its name, as transformers writes them."""
        hidden, inner = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        layer = {
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
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, hidden)}
        for index in range(self.num_hidden_layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (hidden,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

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


class _Fields:
    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        self.data = data
        self.path = path

    def count(self, key: str, *, default: int | None = None, most: int = _MAX_INT) -> int:
        value = self.data.get(key)
        if value is None:
            value = default
        if type(value) is not int or not 1 <= value <= most:
            raise ModelLoadError(self.path, f"{key} is {value!r}, expected 1 to {most}")
        return value

    def positive(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ModelLoadError(self.path, f"{key} is {value!r}, expected a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise ModelLoadError(self.path, f"{key} is {value!r}, expected true or false")
        return value


def _refuse_unknown(data: Mapping[str, Any], path: str) -> None:
    for key, value in data.items():
        # A switch that is off or empty cannot change anything.
        if key not in _HARMLESS and key not in _READ and value is not None and value is not False:
            raise UnsupportedModel(path, f"{key} = {value!r} may change the maths and is not built")
    fixed = {"hidden_act": "silu", "pretraining_tp": 1}
    for key, expected in fixed.items():
        if data.get(key, expected) != expected:
            raise UnsupportedModel(path, f"{key} = {data[key]!r}; only {expected!r} is built")


def _rope_theta(fields: _Fields) -> float:
    """Base of the rotary embedding, from either version's keys; where both are there they must agree."""
    data, path = fields.data, fields.path
    old = data.get("rope_theta")
    new = data.get("rope_parameters")
    for key in ("rope_scaling", "rope_parameters"):
        _check_rope(data.get(key), key, path)
    thetas = []
    if old is not None:
        thetas.append(fields.positive("rope_theta", old))
    if new is not None and "rope_theta" in new:
        thetas.append(fields.positive("rope_parameters.rope_theta", new["rope_theta"]))
    if len(set(thetas)) > 1:
        raise ModelLoadError(path, f"rope_theta {thetas[0]} and rope_parameters.rope_theta {thetas[1]} disagree")
    return thetas[0] if thetas else _DEFAULT_THETA


def _check_rope(rope: object, key: str, path: str) -> None:
    if rope is None:
        return
    if not isinstance(rope, dict):
        raise ModelLoadError(path, f"{key} is {rope!r}, expected an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnsupportedModel(path, f"{key} has rope type {kind!r}; only 'default' is built")
    extra = sorted(set(rope) - {"rope_type", "type", "rope_theta"})
    if extra:
        raise UnsupportedModel(path, f"{key} has {extra[0]} = {rope[extra[0]]!r}, which is not built")
