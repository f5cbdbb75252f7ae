"""Chooses the next token from a row of logits, each row alone.

Order: numerics check, end-of-text mask, temperature or greedy, top-p, then Gumbel-max with counter-based randomness.
Gumbel-max needs neither a sorted order nor a running sum over the vocabulary, so the same numbers give the same token
on any device. Two rows of one request at one output position agree whatever batch they stood in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyworker.engine.outputs import RowResult
from pyworker.runner.philox import uniform_by_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pyworker.engine.request import Request

_GREEDY_BELOW = 1e-5
_HOPELESS = -20.0
"""The noise lies in [-2.81, 16.64]: a candidate this far below the best can never win."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """How one token is chosen: the parameters of the request at output position `position`."""

    position: int
    choice_index: int
    seed: int
    temperature: float
    top_p: float
    banned_ids: tuple[int, ...]

    @classmethod
    def of(cls, request: Request, eos_ids: tuple[int, ...]) -> SamplingRow:
        """The row of a request's next token: end-of-text ids are banned until `min_tokens` are out."""
        params = request.params
        position = len(request.output_ids)
        held_back = position < params.min_tokens and not params.ignore_eos
        return cls(
            position=position,
            choice_index=request.choice_index,
            seed=request.seed,
            temperature=params.temperature,
            top_p=params.top_p,
            banned_ids=eos_ids if held_back else (),
        )


def sample(logits: NDArray[np.float32], rows: Sequence[SamplingRow]) -> list[RowResult]:
    """One token for each row of `logits` f32 `[R, V]`; a row of NaN or infinity gets the error `numerics_error`."""
    return [_sample_row(logits[index], row) for index, row in enumerate(rows)]


def library_values() -> NDArray[np.float64]:
    """What numpy's functions give where sampling uses them: the last bits may differ from machine to machine."""
    grid = (np.arange(1021) + 0.5) / 1021
    inner = -np.log(grid)
    return np.concatenate([np.exp(_HOPELESS * grid), inner, np.log(inner)])


def _sample_row(logits: NDArray[np.float32], row: SamplingRow) -> RowResult:
    best = logits.max()
    if not np.isfinite(best):
        return RowResult(error="numerics_error", message=f"logits of output position {row.position} are not finite")
    if row.banned_ids:
        logits = logits.copy()
        logits[list(row.banned_ids)] = -np.inf
    if row.temperature < _GREEDY_BELOW:
        return RowResult(token_ids=[int(logits.argmax())])
    return RowResult(token_ids=[_gumbel(logits, row)])


def _gumbel(logits: NDArray[np.float32], row: SamplingRow) -> int:
    scaled = logits.astype(np.float64) / row.temperature
    scaled -= scaled.max()
    ids = np.flatnonzero(scaled >= _HOPELESS)
    if row.top_p < 1.0:
        ids = _nucleus(scaled, ids, row.top_p)
    noise = uniform_by_id(row.seed, ids, position=row.position, choice=row.choice_index)
    scores = scaled[ids] - np.log(-np.log(noise))
    # The ids ascend, and argmax takes the first of equals: ties go to the lower id.
    return int(ids[scores.argmax()])


def _nucleus(scaled: NDArray[np.float64], ids: NDArray[np.int64], top_p: float) -> NDArray[np.int64]:
    """Ids of the smallest set, by (logit descending, id ascending), whose probability reaches `top_p`; at least one.

    The probabilities are those of the whole row. Hopeless candidates need no place in the order: they come last in it.
    """
    total = np.exp(scaled).cumsum()[-1]
    order = ids[np.argsort(-scaled[ids], kind="stable")]
    mass = np.exp(scaled[order]).cumsum()
    before = np.concatenate([[0.0], mass[:-1]])
    kept = before < top_p * total
    kept[0] = True
    return np.sort(order[kept])
