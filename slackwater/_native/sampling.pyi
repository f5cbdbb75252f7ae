"""The sampler: from rows of logits to next tokens, each row alone.

Order, in place on the row: raw logprobs and the check for NaN; masks (grammar, `allowed_token_ids`, `bad_words`, ids
held back until `min_tokens`; with a grammar nothing is held back); `logit_bias`, repetition, frequency and presence
penalty; temperature, below 1e-5 the likeliest token; `min_p`, `top_k`, `top_p`; then Gumbel-max over Philox4x32-10.
Every bit depends on the row, its request, its position and its drafts alone.
"""

from collections.abc import Sequence
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from slackwater._native.kernels import Pool

__all__ = ["RequestSampler", "SampledToken", "prompt_logprobs", "sample"]

@final
class RequestSampler:
    """A request's parameters and what it has said so far: counts by token and the end of the output, where needed."""

    def __new__(
        cls,
        vocab_size: int,
        *,
        seed: int = 0,
        choice_index: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        logit_bias: Sequence[tuple[int, float]] = ...,
        allowed_token_ids: Sequence[int] | None = None,
        bad_words: Sequence[Sequence[int]] = ...,
        min_tokens: int = 0,
        held_back_ids: Sequence[int] = ...,
        logprobs: int | None = None,
        prompt_ids: Sequence[int] = ...,
        output_ids: Sequence[int] = ...,
    ) -> Self:
        """Ids are below `vocab_size`; `output_ids` is the output so far. `held_back_ids` may not come at output
        positions below `min_tokens`. The last token of a sequence in `bad_words` may not come where the output ends in
        the others.

        Raises:
            KernelError: a value out of its bounds.
            OverflowError: a negative id, or a seed of more than 64 bits.
        """

    def extend(self, output_ids: Sequence[int]) -> None:
        """Take tokens that were accepted.

        Raises:
            KernelError: an id that is no token.
        """

    @property
    def num_output_tokens(self) -> int:
        """Output tokens so far."""

@final
class SampledToken:
    """What became of one row: a token or an error, and logprobs if they were asked for."""

    @property
    def token_id(self) -> int | None:
        """The token; in a prompt, the one that was named."""

    @property
    def error(self) -> str | None:
        """`numerics_error`: NaN or plus infinity in the row; `grammar_dead_end`: nothing may come."""

    @property
    def logprob(self) -> float | None:
        """Natural logarithm of the token's probability in the raw distribution."""

    @property
    def top_ids(self) -> tuple[int, ...]:
        """The likeliest tokens of the raw distribution, descending, equal ones by id."""

    @property
    def top_logprobs(self) -> tuple[float, ...]:
        """Their logprobs."""

def sample(
    logits: NDArray[np.float32],
    rows: Sequence[tuple[RequestSampler, int, Sequence[int], int]],
    masks: NDArray[np.int32] | None,
    pool: Pool,
) -> list[SampledToken]:
    """A token for each row of `logits` `[R, V]`, which are overwritten. Gives up the interpreter.

    A row is (request, output position, drafts between its history and this row, index of its mask or -1). `masks` is
    `[M, ceil(V / 32)]`: bit `v % 32` of word `v // 32` allows token v.

    Raises:
        KernelError: a wrong shape, or a mask or an id that does not exist.
        KernelPanic: a bug.
    """

def prompt_logprobs(logits: NDArray[np.float32], next_ids: Sequence[int], top_n: int, pool: Pool) -> list[SampledToken]:
    """Raw logprobs of the token that follows each row of `logits` `[R, V]`, and of the `top_n` (0 to 20) likeliest.

    Raises:
        KernelError: a wrong shape, an id that does not exist, or too many.
        KernelPanic: a bug.
    """
