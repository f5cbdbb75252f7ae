"""What happens to a step's rows between two layers: they go on, leave, or come in.

The batch that a `Flow` is given holds the step's rows in the order online, offline, then the parked slices that join,
lowest layer first. So the rows that run are always a beginning of it: a join lengthens it, leaving cuts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.engine.outputs import ParkedSlice
from pyworker.runner.safepoint import Yield

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.runner.backends.base import Backend, Tensor
    from pyworker.runner.batch import Batch

State = tuple["Tensor", "Tensor | None", "Batch"]
"""Hidden rows, what the next norm adds to them, and the batch that they are of."""


@dataclass(eq=False, slots=True)
class ParkedRows:
    """The runner's part of a `ParkedSlice`: the hidden rows f32 `[n, H]`, all additions done."""

    hidden: NDArray[np.float32]


class Flow:
    """Asked before each layer of one step which rows go on.

    `whole` are all rows; `joins` the slices among them, lowest layer first. `signal[0]` is a `Yield`.
    """

    def __init__(
        self,
        backend: Backend,
        whole: Batch,
        joins: Sequence[ParkedSlice],
        signal: Sequence[int] | memoryview,
        progress: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._whole = whole
        self._joins = list(joins)
        self._signal = signal
        self._progress = progress
        num_running = whole.num_seqs - sum(len(parked.num_tokens) for parked in joins)
        self.batch = whole.prefix(num_running) if joins else whole
        """The rows that run, before the first layer."""
        self.parked: list[ParkedSlice] = []
        """What left in this step."""
        self._next_join = joins[0].layer if joins else -1
        self.first_layer = self._next_join if joins and num_running == 0 else 0
        """The layer to begin at: those before it have no rows."""

    def enter(self, layer: int, x: Tensor | None, delta: Tensor | None, batch: Batch) -> State | None:
        """Before `layer`: the rows that it computes, or `None` if there are none.

        `x` `[N, H]` and `delta`, which the layer's first norm would add to it, are `batch`'s; `x` is `None` before the
        first layer of a step that only takes on parked rows.
        """
        self._progress()
        if self._signal[0]:
            return self._leave(layer, x, delta, batch)
        if layer == self._next_join:
            x, delta, batch = self._join(layer, x, delta, batch)
        return x, delta, batch

    def must_abandon(self, batch: Batch) -> bool:
        """Before a layer of a model whose rows cannot leave between layers: whether computing `batch` is given up."""
        self._progress()
        level = self._signal[0]
        return level == Yield.STOP or (level != Yield.GO_ON and batch.num_online_seqs < batch.num_seqs)

    def put_back(self) -> list[ParkedSlice]:
        """All slices that there are after the step: what left, and what never came in."""
        return self.parked + self._joins

    def _leave(self, layer: int, x: Tensor | None, delta: Tensor | None, batch: Batch) -> State | None:
        # Rows come in behind all others of the batch: where some have left, there is no more such place.
        self._next_join = -1
        if self._signal[0] == Yield.STOP:
            return None
        num_online = batch.num_online_seqs
        if num_online < batch.num_seqs:
            first = batch.num_online_tokens
            x, delta, hidden = self._backend.park(x, delta, first)
            self.parked.append(self._slice(layer, batch, hidden))
            batch = batch.prefix(num_online)
        return (x, delta, batch) if batch.num_seqs else None

    def _join(self, layer: int, x: Tensor | None, delta: Tensor | None, batch: Batch) -> State:
        num_seqs = batch.num_seqs
        while self._joins and self._joins[0].layer == layer:
            parked = self._joins.pop(0)
            x, delta = self._backend.join(x, delta, hidden_of(parked))
            num_seqs += len(parked.num_tokens)
        self._next_join = self._joins[0].layer if self._joins else -1
        return x, delta, self._whole.prefix(num_seqs)

    @staticmethod
    def _slice(layer: int, batch: Batch, hidden: NDArray[np.float32]) -> ParkedSlice:
        seqs = range(batch.num_online_seqs, batch.num_seqs)
        num_tokens = {batch.seq_ids[s]: int(batch.seq_starts[s + 1] - batch.seq_starts[s]) for s in seqs}
        return ParkedSlice(layer, num_tokens, ParkedRows(hidden), hidden.nbytes)


def hidden_of(parked: ParkedSlice) -> NDArray[np.float32]:
    """The rows of a slice that a runner of this kind has parked.

    Raises:
        ValueError: another kind has.
    """
    if not isinstance(parked.state, ParkedRows):
        raise ValueError("a slice of another runner cannot join")
    return parked.state.hidden
