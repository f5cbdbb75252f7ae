"""What READY promised not to take, checked when a `Submit` comes in. The engine checks again, and more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pyworker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.interface import EngineCapabilities


class _Asked(Protocol):
    """The parameters of either side that not every engine knows."""

    @property
    def logprobs(self) -> int | None: ...

    @property
    def prompt_logprobs(self) -> int | None: ...

    @property
    def grammar(self) -> object | None: ...


def check_ids(ids: Sequence[int], limits: EngineCapabilities) -> None:
    """Check prompt and output history, together, against the lengths and the vocabulary of READY.

    Raises:
        InvalidRequest: no engine with this model would take it.
    """
    length = len(ids)
    if length + 1 > limits.max_model_len:
        text = f"{length} tokens and one of output do not fit the context of {limits.max_model_len} tokens"
        raise InvalidRequest("context_length_exceeded", text, param="prompt")
    blocks = -(-length // limits.block_size)
    if blocks > limits.num_blocks:
        text = f"the request needs {blocks} KV blocks, and the worker has {limits.num_blocks}"
        raise InvalidRequest("kv_never_fits", text, param="prompt")
    largest = max(ids)
    if largest >= limits.vocab_size:
        text = f"token id {largest} is not in 0..{limits.vocab_size - 1}"
        raise InvalidRequest("invalid_request", text, param="prompt")


def check_list_ids(ids: Sequence[int], limits: EngineCapabilities) -> None:
    """Check the ids of the parameters' lists (stop, allowed, bad words, bias) against the vocabulary.

    Raises:
        InvalidRequest: no engine with this model would take it.
    """
    largest = max(ids, default=0)
    if largest >= limits.vocab_size:
        text = f"token id {largest} in a list of tokens is not in 0..{limits.vocab_size - 1}"
        raise InvalidRequest("invalid_request", text)


def check_features(params: _Asked, limits: EngineCapabilities) -> None:
    """Check that the engine declares what is asked for: logprobs and grammars are optional features.

    Raises:
        InvalidRequest: the engine would have to leave something out.
    """
    asked = {
        "logprobs": params.logprobs is not None,
        "prompt_logprobs": params.prompt_logprobs is not None,
        "grammar": params.grammar is not None,
    }
    features = {"prompt_logprobs": "logprobs"}
    for param, wanted in asked.items():
        if wanted and features.get(param, param) not in limits.features:
            raise InvalidRequest("unsupported_parameter", f"this worker's engine has no {param}", param=param)
