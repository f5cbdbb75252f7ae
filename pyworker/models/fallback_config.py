"""What is known of a model that only transformers can build, and which of those are refused before any weight is read.

A model that would be computed wrongly is worse than none, so whatever is not an ordinary causal decoder is refused by
name here; what slips through meets the comparison that `fallback` makes at load.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyworker.errors import ModelLoadError, UnsupportedModel
from pyworker.runner.backends.base import AttnSpec, KVCacheSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_LAYERS = 1024
_MAX_SIZE = 2**31 - 1
_LAYER_TYPES = ("full_attention", "sliding_attention")
_MOVING_ROPES = ("dynamic", "longrope")
"""Their angles depend on how long the longest text of a batch is."""
_ALIBI_MODELS = ("bloom", "mpt")


@dataclass(frozen=True, slots=True)
class FallbackConfig:
    """The properties that the memory plan and the cache need.

    `parameter_shapes` counts a tied head twice: it is packed, and the embedding is not. What no backend packs is flat
    there: it stays float32. The last of `linear_shapes` is the head, the others are those of the layers. `windows` by
    layer.
    """

    folder: Path
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    parameter_shapes: tuple[tuple[int, ...], ...]
    linear_shapes: tuple[tuple[int, int], ...]
    windows: tuple[int | None, ...]

    @property
    def num_parameters(self) -> int:
        """Weights in all."""
        return sum(math.prod(shape) for shape in self.parameter_shapes)

    @property
    def attn_spec(self) -> AttnSpec:
        """The usual attention of this shape; the model says at each call what is special in it."""
        scale = 1.0 / math.sqrt(self.head_dim)
        return AttnSpec(self.num_attention_heads, self.num_key_value_heads, self.head_dim, scale, None)

    @property
    def kv_spec(self) -> KVCacheSpec:
        """What a token takes in the cache."""
        return KVCacheSpec(self.num_hidden_layers, self.num_key_value_heads, self.head_dim)

    @property
    def workspace_per_token(self) -> int:
        """Floats that one token of a step takes between operations, by the widest product."""
        qkv = (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        widest = max((out for out, _ in self.linear_shapes if out != self.vocab_size), default=self.hidden_size)
        return 8 * self.hidden_size + 4 * qkv + 5 * widest + 24 * 256 * self.num_attention_heads

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """None: transformers knows the names, and `load_fallback` asks it what was missing."""
        return {}

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """All names."""
        return ("",)


def read_fallback(folder: Path, data: Mapping[str, Any]) -> FallbackConfig:
    """From a folder with the `config.json` `data`.

    Raises:
        UnsupportedModel: not an ordinary causal decoder, or unknown to transformers.
        ModelLoadError: a value is missing or out of range.
    """
    path = str(folder / "config.json")
    _refuse_early(data, path)
    config = _transformers_config(folder, path)
    _refuse_config(config, path)
    model = empty_model(config, path)
    _refuse_model(model, path)
    heads = _count(config, "num_attention_heads", path)
    hidden = _count(config, "hidden_size", path)
    layers = _count(config, "num_hidden_layers", path)
    head = (_count(config, "vocab_size", path), hidden)
    linears = [module for module in model.modules() if type(module) is torch.nn.Linear]
    shapes = [(linear.out_features, linear.in_features) for linear in linears]
    return FallbackConfig(
        folder=folder,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_count(config, "num_key_value_heads", path, heads),
        head_dim=_count(config, "head_dim", path, max(1, hidden // heads)),
        hidden_size=hidden,
        vocab_size=_count(config, "vocab_size", path),
        max_position_embeddings=_count(config, "max_position_embeddings", path),
        parameter_shapes=_parameter_shapes(model),
        linear_shapes=(*dict.fromkeys(shape for shape in shapes if shape != head), head),
        windows=_windows(config, layers, path),
    )


def _parameter_shapes(model: Any) -> tuple[tuple[int, ...], ...]:  # noqa: ANN401
    shapes: list[tuple[int, ...]] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            packed = name == "weight" and type(module) is torch.nn.Linear
            shapes.append(tuple(parameter.shape) if packed else (parameter.numel(),))
    return tuple(shapes)


def empty_model(config: Any, path: str) -> Any:  # noqa: ANN401
    """The model without memory for its weights.

    Raises:
        UnsupportedModel: transformers cannot build it.
    """
    from transformers import AutoModelForCausalLM

    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModel(path, f"transformers cannot build it: {type(error).__name__}: {error}") from error


def _refuse_early(data: Mapping[str, Any], path: str) -> None:
    """What can be said without transformers."""
    if data.get("auto_map") is not None:
        raise UnsupportedModel(path, "auto_map: its code comes with it, and trust_remote_code is never set")
    if data.get("is_encoder_decoder"):
        raise UnsupportedModel(path, "it is an encoder-decoder; only decoders are built")
    if data.get("quantization_config") is not None:
        raise UnsupportedModel(path, "quantization_config: quantised weights are not built")
    if data.get("alibi") or data.get("model_type") in _ALIBI_MODELS:
        raise UnsupportedModel(path, "ALiBi is not built")
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        value = data.get(key)
        if type(value) is int and value > _MAX_LAYERS:
            raise ModelLoadError(path, f"{key} is {value}, expected 1 to {_MAX_LAYERS}")


def _transformers_config(folder: Path, path: str) -> Any:  # noqa: ANN401
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModel(path, f"transformers cannot read it: {type(error).__name__}: {error}") from error


def _refuse_config(config: Any, path: str) -> None:  # noqa: ANN401
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = config.model_type
    if config.is_encoder_decoder:
        raise UnsupportedModel(path, f"model_type {kind!r} is an encoder-decoder; only decoders are built")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(path, f"model_type {kind!r} is no causal language model")
    if getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_is_stateful", False):
        raise UnsupportedModel(path, f"model_type {kind!r} has state-space layers; only attention is built")
    if config.get_text_config() is not config:
        raise UnsupportedModel(path, f"model_type {kind!r} reads more than text")
    for rope in _rope_types(getattr(config, "rope_parameters", None)):
        if rope in _MOVING_ROPES:
            raise UnsupportedModel(path, f"rope type {rope!r}: its angles depend on the longest text of a batch")
    for layer_type in getattr(config, "layer_types", None) or ():
        if layer_type not in _LAYER_TYPES:
            raise UnsupportedModel(path, f"layer_types has {layer_type!r}; built are {', '.join(_LAYER_TYPES)}")


def _rope_types(parameters: object) -> list[object]:
    """The types in `rope_parameters`, which may hold one object for each kind of layer."""
    if not isinstance(parameters, dict):
        return []
    inner = [value for value in parameters.values() if isinstance(value, dict)]
    return [found.get("rope_type") for found in (parameters, *inner)]


def _refuse_model(model: Any, path: str) -> None:  # noqa: ANN401
    if not model._can_set_attn_implementation():
        what = "its attention does not go through transformers' AttentionInterface"
        raise UnsupportedModel(path, f"{type(model).__name__}: {what}")


def _windows(config: Any, layers: int, path: str) -> tuple[int | None, ...]:  # noqa: ANN401
    """The window that each layer should have by the configuration."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return (window,) * layers
    if len(kinds) != layers:
        raise ModelLoadError(path, f"layer_types has {len(kinds)} entries for {layers} layers")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _count(config: Any, key: str, path: str, default: int | None = None) -> int:  # noqa: ANN401
    value = getattr(config, key, None)
    if value is None:
        value = default
    if type(value) is not int or not 1 <= value <= _MAX_SIZE:
        raise ModelLoadError(path, f"{key} is {value!r}, expected 1 to {_MAX_SIZE}")
    return value
