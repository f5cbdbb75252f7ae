"""Which code runs which model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pyworker.errors import ModelLoadError, UnsupportedModel
from pyworker.models.decoder_config import DecoderConfig
from pyworker.models.llama import read_llama
from pyworker.models.loader import Weights, read_json
from pyworker.models.mistral import read_mistral
from pyworker.models.qwen2 import read_qwen2
from pyworker.models.qwen3 import read_qwen3

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyworker.models.fallback_config import FallbackConfig
    from pyworker.runner.backends.base import Backend, KVCache, KVCacheSpec, Tensor
    from pyworker.runner.batch import Batch
    from pyworker.runner.flow import Flow

    ModelConfig: TypeAlias = DecoderConfig | FallbackConfig

_FAMILIES = {"llama": read_llama, "mistral": read_mistral, "qwen2": read_qwen2, "qwen3": read_qwen3}


class Model(Protocol):
    """A model ready to run. `max_model_len` is the context it was made for.

    `can_drop_rows`: rows may leave the batch between two layers. `batch_invariant`: a row has the same bits in any
    batch, on a backend that keeps the row rule.
    """

    kv_spec: KVCacheSpec
    vocab_size: int
    max_model_len: int
    can_drop_rows: bool
    batch_invariant: bool

    def forward(self, backend: Backend, batch: Batch, kv: KVCache, flow: Flow) -> tuple[Tensor, Batch] | None:
        """Compute a batch; `flow.enter` says before each layer from `flow.first_layer` on which rows go on.

        The hidden rows that are needed of those that came through (`Batch.kept_rows`), after the last norm `[K, H]`,
        and the batch; `None`: all have left. Where no row is needed, what stands for the rows is of no use.
        """

    def logits(self, backend: Backend, hidden: Tensor, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The head on some rows of what `forward` gave: f32 `[R, V]`."""


def read_config(folder: Path) -> ModelConfig:
    """The configuration in `config.json`. A family without a file of its own runs through transformers.

    Raises:
        UnsupportedModel: a family or a variant that is not built.
        ModelLoadError: no valid configuration.
    """
    path = folder / "config.json"
    data = read_json(path)
    kind = data.get("model_type")
    if not isinstance(kind, str):
        raise UnsupportedModel(str(path), f"model_type is {kind!r}; built are {', '.join(_FAMILIES)}")
    if kind not in _FAMILIES:
        # Here and not above: the import takes seconds, and most models do without.
        from pyworker.models.fallback_config import read_fallback

        return read_fallback(folder, data)
    return _FAMILIES[kind](data, str(path))


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


def check_weights(config: ModelConfig, weights: Weights) -> None:
    """Compare names and shapes before any memory is planned; those of a fallback model are checked as it is loaded.

    Raises:
        ModelLoadError: the weights are not those of `config`.
    """
    if isinstance(config, DecoderConfig):
        weights.check(config.tensor_shapes(), config.ignored_tensors)


def load_model(config: ModelConfig, weights: Weights, backend: Backend) -> Model:
    """Pack the weights for a backend.

    Raises:
        UnsupportedModel: a model that would be computed wrongly.
        ModelLoadError: the weights are not those of `config`.
    """
    if isinstance(config, DecoderConfig):
        from pyworker.models.decoder import DecoderModel

        return DecoderModel(config, weights, backend)
    from pyworker.models.fallback import load_fallback

    return load_fallback(config, weights, backend)
