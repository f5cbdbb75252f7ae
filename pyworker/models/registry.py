"""Which code runs which model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pyworker.errors import ModelLoadError, UnsupportedModel
from pyworker.models.llama import LlamaConfig, LlamaModel
from pyworker.models.loader import Weights, read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.runner.backends.base import Backend, KVCache, KVCacheSpec
    from pyworker.runner.batch import Batch

_FAMILIES = {"llama": LlamaConfig}


class Model(Protocol):
    """A model ready to run. `max_model_len` is the context it was made for."""

    kv_spec: KVCacheSpec
    vocab_size: int
    max_model_len: int

    def forward(self, backend: Backend, batch: Batch, kv: KVCache, progress: Callable[[], None]) -> NDArray[np.float32]:
        """Logits f32 `[R, V]` of the batch's `logit_rows`."""


def read_config(folder: Path) -> LlamaConfig:
    """The configuration in `config.json`.

    Raises:
        UnsupportedModel: a family or a variant that is not built.
        ModelLoadError: no valid configuration.
    """
    path = folder / "config.json"
    data = read_json(path)
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise UnsupportedModel(str(path), f"model_type {kind!r} is not built; known: {', '.join(_FAMILIES)}")
    return _FAMILIES[kind].parse(data, str(path))


def read_eos_ids(folder: Path, vocab_size: int) -> tuple[int, ...]:
    """Ids that end a text: of `generation_config.json`, else of `config.json`; none is possible.

    Raises:
        ModelLoadError: an id that the logits do not have.
    """
    value: Any = None
    path = folder / "generation_config.json"
    if path.is_file():
        value = read_json(path).get("eos_token_id")
    if value is None:
        path = folder / "config.json"
        value = read_json(path).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(item) is not int or not 0 <= item < vocab_size for item in ids):
        raise ModelLoadError(str(path), f"eos_token_id is {value!r}, expected ids below {vocab_size}")
    return tuple(dict.fromkeys(ids))


def load_model(config: LlamaConfig, weights: Weights, backend: Backend) -> Model:
    """Pack the weights for a backend.

    Raises:
        ModelLoadError: the weights are not those of `config`.
    """
    return LlamaModel(config, weights, backend)
