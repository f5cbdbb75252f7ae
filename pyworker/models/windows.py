"""Which layers of the Qwen families look at a sliding window only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.errors import ModelLoadError, UnsupportedModel

if TYPE_CHECKING:
    from pyworker.models.fields import Fields

WINDOW_KEYS = frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"})
"""What `read_windows` looks at."""

_DEFAULT_WINDOW = 4096
_DEFAULT_FULL_LAYERS = 28
_KINDS = ("full_attention", "sliding_attention")


def read_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    """The window of each layer: none unless `use_sliding_window`; then by `layer_types`, else from layer
    `max_window_layers` on.

    Raises:
        UnsupportedModel: a kind of layer that is not built.
        ModelLoadError: a value of the wrong type or out of range.
    """
    window = _window(fields)
    kinds = fields.data.get("layer_types")
    if kinds is None:
        first = _first_sliding(fields) if window is not None else layers
        return tuple(window if index >= first else None for index in range(layers))
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ModelLoadError(fields.path, f"layer_types is {kinds!r}, expected a list of {layers}")
    for kind in kinds:
        if kind not in _KINDS:
            raise UnsupportedModel(fields.path, f"layer_types has {kind!r}; built are {', '.join(_KINDS)}")
    if window is None and "sliding_attention" in kinds:
        raise ModelLoadError(fields.path, "layer_types has sliding_attention, but there is no sliding_window in use")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _window(fields: Fields) -> int | None:
    if not fields.flag("use_sliding_window"):
        return None
    if "sliding_window" in fields.data and fields.data["sliding_window"] is None:
        return None
    return fields.count("sliding_window", default=_DEFAULT_WINDOW)


def _first_sliding(fields: Fields) -> int:
    value = fields.data.get("max_window_layers", _DEFAULT_FULL_LAYERS)
    if type(value) is not int or value < 0:
        raise ModelLoadError(fields.path, f"max_window_layers is {value!r}, expected 0 or more")
    return value
