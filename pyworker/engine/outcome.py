"""What a row's result means for its request: whether it can be true, what of it is kept, and whether it is the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.engine.outputs import FinishReason, RequestOutput, RowResult, TokenLogprobs
from pyworker.engine.request import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.interface import GrammarEngine
    from pyworker.engine.request import Request

INTERNAL = "internal"


@dataclass(slots=True)
class Kept:
    """How many of a row's tokens the request keeps, how it ends with them (`None`: it goes on), and whether its grammar
    allowed them all.
    """

    num_tokens: int
    status: RequestStatus | None = None
    allowed: bool = True


def checked_row(
    request: Request, num_tokens: int, drafts: Sequence[int], row: RowResult | None, vocab_size: int
) -> RowResult:
    """The row, or an error where the runner gave what it must not give: no row, a token too many, an id too high."""
    if row is None:
        return RowResult(error=INTERNAL, message="the runner lost this row")
    if row.error is not None or row.parked:
        return row
    tokens = row.token_ids
    if request.num_computed_tokens + num_tokens - len(drafts) == request.num_tokens:
        expected = 1 <= len(tokens) <= len(drafts) + 1 and tokens[:-1] == list(drafts[: len(tokens) - 1])
    else:
        expected = not tokens
    logprobs_fit = not row.logprobs or len(row.logprobs) == len(tokens)
    if expected and logprobs_fit and (not tokens or (min(tokens) >= 0 and max(tokens) < vocab_size)):
        return row
    return RowResult(error=INTERNAL, message="the runner gave tokens that cannot be")


def append_tokens(
    request: Request, token_ids: Sequence[int], config: EngineConfig, grammar: GrammarEngine | None
) -> Kept:
    """Add sampled tokens to a request's output, up to and including the one that ends it.

    One after another, so that what is kept does not depend on how many came at once. If the grammar refuses a token,
    none is added.
    """
    follows = grammar if request.params.grammar is not None else None
    for index, token in enumerate(token_ids):
        request.output_ids.append(token)
        if follows is not None:
            if not follows.accept(request, [token]):
                del request.output_ids[-(index + 1) :]
                return Kept(0, allowed=False)
            if follows.is_ended(request):
                return Kept(index + 1, RequestStatus.FINISHED_STOPPED)
        status = end_status(request, config)
        if status is not None:
            return Kept(index + 1, status)
    return Kept(len(token_ids))


def end_status(request: Request, config: EngineConfig) -> RequestStatus | None:
    """How the request ends with its newest output token; `None`: it goes on. The end token counts as output.

    Where there is a grammar, it alone says where the text may end, whatever `min_tokens` is.
    """
    params, num_output = request.params, len(request.output_ids)
    token = request.output_ids[-1]
    is_end = token in params.stop_token_ids or (token in config.eos_ids and not params.ignore_eos)
    if is_end and (num_output > params.min_tokens or params.grammar is not None):
        return RequestStatus.FINISHED_STOPPED
    if num_output >= params.max_tokens or request.num_tokens >= config.max_model_len:
        return RequestStatus.FINISHED_LENGTH
    return None


def failed(output: RequestOutput, code: str, message: str) -> RequestOutput:
    """The output of a request that ends here with an error."""
    output.finish, output.error_code, output.error_message = FinishReason.ERROR, code, message
    return output


def new_prompt_logprobs(request: Request, row: RowResult) -> list[TokenLogprobs]:
    """Logprobs of prompt positions that were not handed out before: a preempted request computes its prompt again.

    What is computed at one position tells of the next one, so the row's begin behind the first position of the step.
    """
    if request.params.prompt_logprobs is None:
        return []
    fresh = row.prompt_logprobs[max(0, request.num_prompt_logprobs - request.num_computed_tokens) :]
    request.num_prompt_logprobs += len(fresh)
    return fresh
