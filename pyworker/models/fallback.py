"""Any other decoder: transformers' own code, with its attention over our pages and its linear layers in our packing.

Rows cannot leave in the middle of a step, and operations that stay in torch do not keep the row rule. A model whose
attention is not what we take it for would be silently wrong: so each is compared with itself before it is used.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import MoeModelOutputWithPast
from transformers.utils import logging

from pyworker.errors import ModelLoadError, UnsupportedModel
from pyworker.models.fallback_attention import NAME, AttentionRefused, Run
from pyworker.models.fallback_check import check_fallback, check_prompts, own_logits
from pyworker.models.fallback_config import FallbackConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyworker.models.loader import Weights
    from pyworker.runner.backends.base import Backend, KVCache, KVCacheSpec, Linear
    from pyworker.runner.batch import Batch
    from pyworker.runner.flow import Flow


class FallbackModel:
    """A model of transformers behind the `Model` protocol. Its hidden rows are torch tensors."""

    can_drop_rows = False
    batch_invariant = False

    def __init__(self, config: FallbackConfig, model: Any) -> None:  # noqa: ANN401
        """Take over `model`, a causal language model of transformers in float32.

        Raises:
            UnsupportedModel: its layers cannot be found.
        """
        self.kv_spec: KVCacheSpec = config.kv_spec
        self.vocab_size = config.vocab_size
        self.max_model_len = config.max_position_embeddings
        self._model = model
        self._body = model.base_model
        self._given = _Given()
        for layer in _find_layers(self._body, config):
            layer.register_forward_pre_hook(_before_layer, with_kwargs=True)
        model.set_attn_implementation(NAME)
        setattr(model, model.base_model_prefix, self._given)

    def swap_linears(self, backend: Backend) -> None:
        """Have `backend` pack each linear layer; its tensor is dropped at once."""
        _swap(self._body, backend)
        _swap(self._model, backend)

    def forward(self, backend: Backend, batch: Batch, kv: KVCache, flow: Flow) -> tuple[torch.Tensor, Batch] | None:
        """Compute a batch, writing its keys and values.

        Where rows are to leave, the step is given up and its online rows are computed again without the others.
        The hidden rows that are needed of those that came through (`Batch.kept_rows`), after the last norm `[K, H]`,
        and the batch; `None`: all have left.
        """
        while batch.num_seqs:
            try:
                hidden, kept = self.hidden(Run(backend, batch, kv, self.kv_spec, flow)), batch.kept_rows
                return hidden if kept is None else hidden[torch.from_numpy(kept).long()], batch
            except _Abandoned:
                if batch.num_online_seqs == batch.num_seqs:
                    return None
                batch = batch.prefix(batch.num_online_seqs)
        return None

    def hidden(self, run: Run) -> torch.Tensor:
        """One pass through the layers: rows after the last norm `[N, H]`."""
        ids, positions = (torch.from_numpy(array).long()[None] for array in (run.batch.ids, run.batch.positions))
        with torch.no_grad():
            out = self._body(input_ids=ids, position_ids=positions, use_cache=False, **{NAME: run})
        rows: torch.Tensor = out.last_hidden_state[0]
        return rows

    def logits(self, backend: Backend, hidden: torch.Tensor, rows: NDArray[np.int32]) -> NDArray[np.float32]:  # noqa: ARG002
        """The model's own way from hidden rows to logits, with whatever it does after its head: f32 `[R, V]`."""
        picked = hidden[torch.from_numpy(rows).long()][None]
        self._given.rows = picked
        with torch.no_grad():
            out = self._model(input_ids=torch.zeros(1, len(rows), dtype=torch.long), use_cache=False)
        self._given.rows = None
        logits: NDArray[np.float32] = out.logits[0].float().numpy()
        return logits


def load_fallback(config: FallbackConfig, weights: Weights, backend: Backend) -> FallbackModel:
    """Read the weights through transformers, compare the model with itself, and pack it for `backend`.

    Raises:
        UnsupportedModel: with our attention it computes something else than with its own.
        ModelLoadError: the weights are not those of the model.
    """
    path = str(weights.folder / "config.json")
    model = _read(config, path)
    prompts = check_prompts(config)
    own = own_logits(model, prompts)
    try:
        made = FallbackModel(config, model)
        check_fallback(made, config, prompts, own)
    except AttentionRefused as error:
        raise UnsupportedModel(path, f"{type(model).__name__} {error}") from error
    except Exception as error:
        what = f"{type(model).__name__} cannot be run: {type(error).__name__}: {error}"
        raise UnsupportedModel(path, what) from error
    made.swap_linears(backend)
    return made


def _read(config: FallbackConfig, path: str) -> Any:  # noqa: ANN401
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # With `output_loading_info` it is a pair, which its annotation does not say.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                config.folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options
            )
            model, info = loaded
    except Exception as error:
        raise ModelLoadError(path, f"transformers cannot load it: {type(error).__name__}: {error}") from error
    for key, what in (("missing_keys", "is missing"), ("unexpected_keys", "is not a tensor of this model")):
        for name in sorted(info[key]):
            raise ModelLoadError(str(config.folder), what, tensor=name)
    return model.eval()


def _find_layers(body: torch.nn.Module, config: FallbackConfig) -> list[torch.nn.Module]:
    """The decoder layers: the one list in the body that has as many members as the model has layers."""
    lists = [
        child
        for child in body.children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == config.num_hidden_layers
    ]
    if len(lists) != 1:
        raise AttentionRefused("has no one list of layers")
    return list(lists[0])


def _before_layer(_: torch.nn.Module, args: tuple[object, ...], options: dict[str, object]) -> None:
    del args
    run = options.get(NAME)
    if isinstance(run, Run) and run.flow is not None and run.flow.must_abandon(run.batch):
        raise _Abandoned


class _Abandoned(Exception):
    """Leaves the forward between two layers."""


class _Given(torch.nn.Module):
    """Stands where the model's body was, and hands out rows that were computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: torch.Tensor | None = None

    def forward(self, *_: object, **__: object) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=self.rows)


class _BackendLinear(torch.nn.Module):
    """A linear layer in a backend's packing."""

    def __init__(self, linear: torch.nn.Linear, backend: Backend) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Some models ask a layer for its type or place.
        self.weight = torch.empty(0)
        self._backend = backend
        bias: torch.Tensor | None = linear.bias
        self._packed: Linear = backend.prepare_linear(linear.weight.detach(), None if bias is None else bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features).contiguous()
        backend = self._backend
        out: torch.Tensor = backend.to_torch(backend.linear(backend.from_torch(rows), self._packed))
        # A copy: the backend's memory is free again at its next operation.
        return out.clone().view(*x.shape[:-1], self.out_features)


def _swap(module: torch.nn.Module, backend: Backend) -> None:
    for name, child in module.named_children():
        if type(child) is torch.nn.Linear:
            setattr(module, name, _BackendLinear(child, backend))
        else:
            _swap(child, backend)
