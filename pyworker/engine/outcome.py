"""What a row's result means for its request: whether it can be true, and whether it is the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.engine.outputs import RowResult
from pyworker.engine.request import RequestStatus

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.request import Request

INTERNAL = "internal"


def checked_row(request: Request, num_tokens: int, row: RowResult | None, vocab_size: int) -> RowResult:
    """The row, or an error where the runner gave what it must not give: no row, a token too many, an id too high."""
    if row is None:
        return RowResult(error=INTERNAL, message="the runner lost this row")
    if row.error is not None:
        return row
    expected = int(request.num_computed_tokens + num_tokens == request.num_tokens)
    if len(row.token_ids) == expected and all(0 <= token < vocab_size for token in row.token_ids):
        return row
    return RowResult(error=INTERNAL, message="the runner gave tokens that cannot be")


def end_status(request: Request, config: EngineConfig) -> RequestStatus | None:
    """How the request ends with its newest output token; `None`: it goes on. The end token counts as output."""
    params, num_output = request.params, len(request.output_ids)
    is_eos = request.output_ids[-1] in config.eos_ids
    if is_eos and not params.ignore_eos and num_output > params.min_tokens:
        return RequestStatus.FINISHED_STOPPED
    if num_output >= params.max_tokens or request.num_tokens >= config.max_model_len:
        return RequestStatus.FINISHED_LENGTH
    return None
