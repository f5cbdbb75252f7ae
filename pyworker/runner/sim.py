"""The simulated runner: tokens that anybody can recompute, at a cost that is only slept. No torch.

Token i of a request is a function of its prompt, its seed and all its tokens before i, chained by a hash. A token that
is lost, repeated, out of order or another request's breaks the chain from there on, and so does a resume with a wrong
history. The runner keeps a model of the KV cache too: for each slot a hash of everything up to that position. So a
block table that is too short, a block that was given away or a prefix that was shared by mistake is an error here, as
it would be a wrong token on a real model.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

from pyworker.engine.interface import EngineCapabilities
from pyworker.engine.outputs import ModelRunnerOutput, RowResult
from pyworker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.interface import EngineHost
    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.engine.request import Request

FIRST = 256
"""The lowest id that the chain gives; those below are bytes."""

_LINK = struct.Struct("<QI")


def oracle_tokens(prompt_ids: Sequence[int], seed: int, n: int, vocab: int) -> list[int]:
    """The first `n` output tokens of an undisturbed request. `vocab` is the width of the logits, over 256.

    s[0]   = XXH3_64(le_u32(prompt_ids) || le_u64(seed))
    t[i]   = 256 + s[i] mod (vocab - 256)
    s[i+1] = XXH3_64(le_u64(s[i]) || le_u32(t[i]))
    """
    state, tokens = _first_state(prompt_ids, seed), []
    for _ in range(n):
        tokens.append(_token(state, vocab))
        state = _next_state(state, tokens[-1])
    return tokens


class SimFault(Exception):
    """The runner was given rows that a real one would have computed wrongly."""


@dataclass(slots=True)
class _Row:
    """What the runner remembers of one request: the chain's state after `num_output` tokens, and the hash of the
    known tokens up to each position.
    """

    attempt: int
    state: int
    num_output: int = 0
    prefix: list[int] = field(default_factory=list)


class SimRunner:
    """A `ModelRunner` without a model.

    A step costs `step_micros[0]` plus `step_micros[1]` for each token of the batch, spent in `layers` equal sleeps.
    `sleep` takes microseconds; without one a step takes no time.

    Raises:
        ConfigError: the vocabulary has no id above the bytes.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        step_micros: tuple[int, int] = (0, 0),
        layers: int = 1,
        sleep: Callable[[int], None] | None = None,
    ) -> None:
        if config.vocab_size <= FIRST:
            raise ConfigError("vocab_size", config.vocab_size, f"over {FIRST}, the first id that is no byte")
        self._vocab = config.vocab_size
        self._block_size = config.block_size
        self._step_micros = step_micros
        self._layers = layers
        self._sleep = sleep
        self._rows: dict[str, _Row] = {}
        self._kv: dict[int, int] = {}

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Compute one step.

        Raises:
            SimFault: a row does not fit its block table, or its blocks hold something else than its tokens.
        """
        for request_id in out.finished_ids:
            self._rows.pop(request_id, None)
        scheduled = out.num_scheduled_tokens.items()
        rows = {request_id: self._compute(out.requests[request_id], n) for request_id, n in scheduled}
        micros = self._step_micros[0] + self._step_micros[1] * out.total_tokens
        for _ in range(self._layers):
            if self._sleep is not None:
                self._sleep(micros // self._layers)
            host.progress()
        return ModelRunnerOutput(rows, micros)

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing worth counting."""
        return {}

    def close(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._kv.clear()

    def _compute(self, request: Request, num_tokens: int) -> RowResult:
        start = request.num_computed_tokens
        stop = start + num_tokens
        if num_tokens < 1 or stop > request.num_tokens:
            raise SimFault(f"{request.request_id}: tokens {start}..{stop} of {request.num_tokens}")
        if stop > len(request.block_table) * self._block_size:
            raise SimFault(f"{request.request_id}: {len(request.block_table)} blocks for {stop} tokens")
        row = self._row(request)
        for token in request.token_ids(len(row.prefix), request.num_tokens):
            row.prefix.append(_next_state(row.prefix[-1] if row.prefix else 0, token))
        self._read(request, row, start)
        for position in range(start, stop):
            self._kv[self._slot(request, position)] = row.prefix[position]
        if stop < request.num_tokens:
            return RowResult()
        return RowResult([_token(row.state, self._vocab)])

    def _row(self, request: Request) -> _Row:
        """The row, with its chain moved on over the output tokens that the request has now."""
        row = self._rows.get(request.request_id)
        if row is None or row.attempt != request.attempt:
            row = _Row(request.attempt, _first_state(request.prompt_ids, request.seed))
            self._rows[request.request_id] = row
        for token in request.output_ids[row.num_output :]:
            row.state = _next_state(row.state, token)
        row.num_output = len(request.output_ids)
        return row

    def _read(self, request: Request, row: _Row, computed: int) -> None:
        """Look at the first and the last computed slot of each block, as attention would at all of them."""
        for first in range(0, computed, self._block_size):
            for position in (first, min(first + self._block_size, computed) - 1):
                if self._kv.get(self._slot(request, position)) != row.prefix[position]:
                    raise SimFault(f"{request.request_id}: position {position} holds another text's KV")

    def _slot(self, request: Request, position: int) -> int:
        block = request.block_table[position // self._block_size]
        if block.block_id == 0:
            raise SimFault(f"{request.request_id}: position {position} lies in the null block")
        return block.block_id * self._block_size + position % self._block_size


def sim_capabilities(
    config: EngineConfig, *, model_name: str = "sim", text_hash: str = "0" * 16, slots: int | None = None
) -> EngineCapabilities:
    """What an engine over a `SimRunner` says of itself. `text_hash` is that of the model folder, where there is one."""
    return EngineCapabilities(
        model_name=model_name,
        weights_hash="0" * 16,
        text_hash=text_hash,
        vocab_size=config.vocab_size,
        block_size=config.block_size,
        num_blocks=config.num_blocks,
        max_model_len=config.max_model_len,
        slots=config.max_num_seqs if slots is None else slots,
        dtype="none",
        numerics="sim",
        kv_layout="sim",
        features=("seeded_exact",),
    )


def _first_state(prompt_ids: Sequence[int], seed: int) -> int:
    return xxhash.xxh3_64_intdigest(struct.pack(f"<{len(prompt_ids)}IQ", *prompt_ids, seed))


def _token(state: int, vocab: int) -> int:
    return FIRST + state % (vocab - FIRST)


def _next_state(state: int, token: int) -> int:
    return xxhash.xxh3_64_intdigest(_LINK.pack(state, token))
