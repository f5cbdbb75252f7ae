"""Chooses the next tokens from rows of logits: the worker's requests on one side, the native sampler on the other.

The rules are in the native module (`slackwater._native.sampling`); nothing of the vocabulary's size is touched here.
A request's verify rows are told apart by the drafts before them, and its tokens are those that it would have got one
by one: each draft counts only if the row before it chose that very token.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyworker.engine.outputs import RowResult, TokenLogprobs
from pyworker.spec_decode.rejection import num_emitted
from slackwater._native import sampling

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from pyworker.engine.outputs import TokenMasks
    from pyworker.engine.request import Request
    from slackwater._native.kernels import Pool


@dataclass(slots=True)
class SampleRow:
    """A request whose known tokens are all computed, and its drafts: `len(drafts) + 1` rows of logits in turn.

    The first row follows the last known token, each further one a draft.
    """

    request: Request
    drafts: Sequence[int] = ()


@dataclass(slots=True)
class _Kept:
    """The native side of one attempt of a request, and how many output tokens it has been told."""

    attempt: int
    sampler: sampling.RequestSampler
    num_output: int


class Sampler:
    """Samples for the requests of one worker. Keeps what each has said so far, until it is told to forget it."""

    def __init__(self, vocab_size: int, eos_ids: Sequence[int], pool: Pool) -> None:
        self._vocab_size = vocab_size
        # A model may name end tokens that its head does not have.
        self._eos_ids = tuple(token for token in eos_ids if token < vocab_size)
        self._pool = pool
        self._kept: dict[str, _Kept] = {}
        self._masks = np.zeros((0, -(-vocab_size // 32)), dtype=np.int32)

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drop what is kept of these requests; unknown ids are ignored."""
        for request_id in request_ids:
            self._kept.pop(request_id, None)

    def sample(
        self, logits: NDArray[np.float32], rows: Sequence[SampleRow], masks: TokenMasks | None = None
    ) -> list[RowResult]:
        """Tokens for each of `rows`, from `logits` f32 `[R, V]` with the rows of each request in turn; overwrites them.

        A row with drafts gives as many tokens as drafts turn out right, and one more. `error` is `numerics_error` (NaN
        or +inf among the logits) or `grammar_dead_end` (nothing may come); tokens chosen before it are given first,
        without the error, which the next step will find again.

        Raises:
            KernelError: the logits are not `[R, V]`, or a parameter or id is out of bounds.
        """
        mask_rows = self._fill_masks(rows, masks)
        plan: list[tuple[sampling.RequestSampler, int, Sequence[int], int]] = []
        for row in rows:
            sampler, first = self._sampler_of(row.request), len(row.request.output_ids)
            mask = mask_rows.get(row.request.request_id, -1) if mask_rows else -1
            plan.append((sampler, first, _NO_DRAFTS, mask))
            for count in range(1, len(row.drafts) + 1):
                plan.append((sampler, first + count, row.drafts[:count], mask if mask < 0 else mask + count))
        chosen = iter(sampling.sample(logits, plan, self._masks if mask_rows else None, self._pool))
        return [_verified(row, list(itertools.islice(chosen, len(row.drafts) + 1))) for row in rows]

    def prompt_logprobs(
        self, logits: NDArray[np.float32], next_ids: Sequence[int], top_n: int
    ) -> list[TokenLogprobs] | None:
        """Raw logprobs of the token that follows each row of `logits` f32 `[R, V]`; `None` if one is not finite."""
        found = sampling.prompt_logprobs(logits, next_ids, top_n, self._pool)
        if any(entry.error is not None for entry in found):
            return None
        return _logprobs(found)

    def _sampler_of(self, request: Request) -> sampling.RequestSampler:
        kept, num_output = self._kept.get(request.request_id), len(request.output_ids)
        if kept is None or kept.attempt != request.attempt or kept.num_output > num_output:
            kept = self._kept[request.request_id] = _Kept(request.attempt, self._made(request), num_output)
        elif kept.num_output < num_output:
            kept.sampler.extend(request.output_ids[kept.num_output :])
            kept.num_output = num_output
        return kept.sampler

    def _made(self, request: Request) -> sampling.RequestSampler:
        params = request.params
        return sampling.RequestSampler(
            self._vocab_size,
            seed=request.seed,
            choice_index=request.choice_index,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            repetition_penalty=params.repetition_penalty,
            logit_bias=params.logit_bias,
            allowed_token_ids=params.allowed_token_ids,
            bad_words=params.bad_words,
            min_tokens=params.min_tokens,
            held_back_ids=(*(() if params.ignore_eos else self._eos_ids), *params.stop_token_ids),
            logprobs=params.logprobs,
            prompt_ids=request.prompt_ids,
            output_ids=request.output_ids,
        )

    def _fill_masks(self, rows: Sequence[SampleRow], masks: TokenMasks | None) -> dict[str, int]:
        """Write the masks of requests with a grammar; gives the first mask row of each."""
        if masks is None:
            return {}
        asked: list[tuple[str, int]] = []
        first: dict[str, int] = {}
        for row in rows:
            request_id = row.request.request_id
            if request_id in masks:
                first[request_id] = len(asked)
                asked.extend((request_id, count) for count in range(len(row.drafts) + 1))
        if len(asked) > len(self._masks):
            self._masks = np.zeros((len(asked), self._masks.shape[1]), dtype=np.int32)
        if asked:
            masks.fill(asked, self._masks[: len(asked)])
        return first


def _verified(row: SampleRow, chosen: Sequence[sampling.SampledToken]) -> RowResult:
    """The tokens up to and with the first that is not the draft in its place, or that there is none of."""
    if not row.drafts and (token := chosen[0].token_id) is not None:
        return RowResult([token], _logprobs(chosen))
    tokens = [entry.token_id for entry in itertools.takewhile(lambda entry: entry.token_id is not None, chosen)]
    if not tokens:
        position, error = len(row.request.output_ids), chosen[0].error
        return RowResult(error=error, message=f"{_MESSAGES[error]} (output position {position})")
    count = num_emitted(row.drafts[: len(tokens) - 1], tokens)
    return RowResult(
        token_ids=[token for token in tokens[:count] if token is not None],
        logprobs=_logprobs(chosen[:count]),
    )


def _logprobs(chosen: Sequence[sampling.SampledToken]) -> list[TokenLogprobs]:
    return [
        TokenLogprobs(logprob, entry.top_ids, entry.top_logprobs)
        for entry in chosen
        if (logprob := entry.logprob) is not None
    ]


_NO_DRAFTS: tuple[int, ...] = ()


_MESSAGES: dict[str | None, str] = {
    "numerics_error": "the logits are not finite",
    "grammar_dead_end": "no token is allowed",
}
