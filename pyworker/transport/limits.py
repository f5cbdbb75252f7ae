"""What READY promised not to take, checked when a `Submit` comes in. The engine checks again, and more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.interface import EngineCapabilities


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
