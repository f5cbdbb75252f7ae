"""The angles of rotary embeddings, by the rules of the models' training code, out of `config.json`.

Version 5 of transformers writes one object, `rope_parameters`; version 4 wrote `rope_theta` and `rope_scaling`. Both
are read; where both are there they must agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyworker.errors import ModelLoadError, UnsupportedModel
from pyworker.runner.backends.base import Rope

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyworker.models.fields import Fields

Floats: TypeAlias = NDArray[np.float32]

ROPE_KEYS = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})
"""What `read_rope` looks at."""

_DEFAULT_THETA = 10_000.0
_KEYS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        {
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "original_max_position_embeddings",
            "truncate",
        }
    ),
}
"""Parameters of each type that is built, beside its base."""


def default_inv_freq(theta: float, head_dim: int) -> tuple[float, ...]:
    """`theta^(-2i / head_dim)` for each pair i, float32 values as the training code rounds them: `[D / 2]`."""
    return tuple((np.float32(1.0) / _wavelengths(theta, head_dim)).tolist())


def read_rope(fields: Fields, head_dim: int) -> Rope:
    """The rotary embedding of a model.

    Raises:
        UnsupportedModel: a type, or a parameter of a type, that is not built.
        ModelLoadError: a value of the wrong type or out of range, or both versions' keys with different values.
    """
    parameters = _parameters(fields)
    kind = parameters.pop("rope_type")
    theta = fields.positive("rope_theta", parameters.pop("rope_theta"))
    make: dict[str, Callable[[_Scaling], Rope]] = {
        "default": _default,
        "linear": _linear,
        "llama3": _llama3,
        "yarn": _yarn,
    }
    with np.errstate(all="ignore"):
        return make[kind](_Scaling(fields, parameters, theta, head_dim))


class _Scaling:
    """Parameters of a scaled type, checked as they are asked for."""

    def __init__(self, fields: Fields, parameters: dict[str, Any], theta: float, head_dim: int) -> None:
        self._fields = fields
        self._parameters = parameters
        self.theta = theta
        self.head_dim = head_dim

    def get(self, key: str) -> float | None:
        value = self._parameters.get(key)
        return None if value is None else self._fields.positive(f"rope parameter {key}", value)

    def need(self, key: str) -> float:
        return self._fields.positive(f"rope parameter {key}", self._parameters.get(key))

    def flag(self, key: str, default: bool) -> bool:
        value = self._parameters.get(key, default)
        if not isinstance(value, bool):
            raise ModelLoadError(self._fields.path, f"rope parameter {key} is {value!r}, expected true or false")
        return value

    @property
    def longest(self) -> float:
        return self._fields.positive("max_position_embeddings", self._fields.data.get("max_position_embeddings"))

    @property
    def original(self) -> float:
        """The context before it was stretched."""
        value = self.get("original_max_position_embeddings")
        return self.longest if value is None else value

    def refuse(self, what: str) -> ModelLoadError:
        return ModelLoadError(self._fields.path, what)


def _default(scaling: _Scaling) -> Rope:
    return _rope(scaling, np.array(default_inv_freq(scaling.theta, scaling.head_dim), dtype=np.float32))


def _linear(scaling: _Scaling) -> Rope:
    inverse = np.array(default_inv_freq(scaling.theta, scaling.head_dim), dtype=np.float32)
    return _rope(scaling, inverse / np.float32(scaling.need("factor")))


def _llama3(scaling: _Scaling) -> Rope:
    """Long waves are stretched, short ones kept, those between smoothly shared out (Llama 3.1)."""
    factor, original = scaling.need("factor"), scaling.original
    low, high = scaling.need("low_freq_factor"), scaling.need("high_freq_factor")
    if high <= low:
        raise scaling.refuse(f"rope parameters: high_freq_factor {high} is not above low_freq_factor {low}")
    inverse = np.array(default_inv_freq(scaling.theta, scaling.head_dim), dtype=np.float32)
    waves = np.float32(2 * math.pi) / inverse
    smooth = (np.float32(original) / waves - np.float32(low)) / np.float32(high - low)
    between = (np.float32(1.0) - smooth) * inverse / np.float32(factor) + smooth * inverse
    scaled = np.where(waves > np.float32(original / low), inverse / np.float32(factor), between)
    return _rope(scaling, np.where(waves < np.float32(original / high), inverse, scaled))


def _yarn(scaling: _Scaling) -> Rope:
    """Pairs that turn often keep their angle, those that turn seldom are stretched (Peng and others 2023)."""
    original, size = scaling.original, scaling.head_dim
    factor = scaling.get("factor") or scaling.longest / original
    if scaling.theta <= 1.0:
        raise scaling.refuse(f"rope_theta {scaling.theta} is not above 1")

    def pair_turning(times: float) -> float:
        """The pair that turns so many times within the original context."""
        return size * math.log(original / (times * 2 * math.pi)) / (2 * math.log(scaling.theta))

    low, high = pair_turning(scaling.get("beta_fast") or 32.0), pair_turning(scaling.get("beta_slow") or 1.0)
    if scaling.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    spread = np.float32(high - low if high != low else 0.001)
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - np.float32(low)) / spread, 0.0, 1.0)
    waves, one = _wavelengths(scaling.theta, size), np.float32(1.0)
    kept = one - ramp
    stretched = one / (np.float32(factor) * waves)
    return _rope(scaling, stretched * (one - kept) + one / waves * kept, _yarn_scale(scaling, factor))


def _yarn_scale(scaling: _Scaling, factor: float) -> float:
    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0

    given = scaling.get("attention_factor")
    if given is not None:
        return given
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return magnitude(above) / magnitude(below) if above and below else magnitude(1.0)


def _rope(scaling: _Scaling, inverse: Floats, scale: float = 1.0) -> Rope:
    if not np.isfinite(inverse).all():
        raise scaling.refuse("rope parameters give angles that are not finite")
    return Rope(tuple(inverse.tolist()), scale)


def _wavelengths(theta: float, head_dim: int) -> Floats:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.power(theta, exponents.astype(np.float64)).astype(np.float32)


def _parameters(fields: Fields) -> dict[str, Any]:
    """Both versions' keys as one object, checked for agreement; with `rope_type` and `rope_theta`."""
    data, path = fields.data, fields.path
    new = _object(fields, "rope_parameters")
    old = _object(fields, "rope_scaling")
    theta = data.get("rope_theta")
    if theta is not None:
        fields.positive("rope_theta", theta)
    for key, found in (("rope_parameters", new), ("rope_scaling", old)):
        inner = None if found is None else found.get("rope_theta")
        if theta is not None and inner is not None and fields.positive(f"{key}.rope_theta", inner) != theta:
            raise ModelLoadError(path, f"rope_theta {theta} and {key}.rope_theta {inner} disagree")
    if new is not None and old is not None and {**new, "rope_theta": 0} != {**old, "rope_theta": 0}:
        raise ModelLoadError(path, f"rope_parameters {new} and rope_scaling {old} disagree")
    thetas = [found["rope_theta"] for found in (new, old) if found is not None and "rope_theta" in found]
    if len(thetas) == 2 and thetas[0] != thetas[1]:
        raise ModelLoadError(path, f"rope_parameters.rope_theta {thetas[0]} and rope_scaling.rope_theta {thetas[1]}")
    base = theta if theta is not None else thetas[0] if thetas else _DEFAULT_THETA
    return {"rope_type": "default", **(new or old or {}), "rope_theta": base}


def _object(fields: Fields, key: str) -> dict[str, Any] | None:
    """An object of rope parameters without what is null, its type under `rope_type`; `None` where there is none."""
    value, path = fields.data.get(key), fields.path
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ModelLoadError(path, f"{key} is {value!r}, expected an object")
    given = {name: item for name, item in value.items() if item is not None}
    kinds = [given.pop(name) for name in ("rope_type", "type") if name in given]
    kind = kinds[0] if kinds else "default"
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise ModelLoadError(path, f"{key} has rope_type {kinds[0]!r} and type {kinds[1]!r}")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise UnsupportedModel(path, f"{key} has rope type {kind!r}; built are {', '.join(_KEYS)}")
    if given.get("partial_rotary_factor") == 1:
        del given["partial_rotary_factor"]
    for name in sorted(set(given) - _KEYS[kind] - {"rope_theta"}):
        raise UnsupportedModel(path, f"{key} has {name} = {given[name]!r}, which is not built")
    return {"rope_type": kind, **given}
