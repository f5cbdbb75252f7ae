"""The simulated runner: tokens that anybody can recompute, at a cost that is only slept. No torch.

Token i of a request is a function of its prompt, its seed and all its tokens before i, chained by a hash. A token that
is lost, repeated, out of order or another request's breaks the chain from there on, and so does a resume with a wrong
history. The runner keeps a model of the KV cache too: for each slot a hash of everything up to that position. So a
block table that is too short, a block that was given away or a prefix that was shared by mistake is an error here, as
it would be a wrong token on a real model. Rows leave and join at layers as on a real model, and a slot says how many
layers its rows have been through.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from pyworker.engine.interface import EngineCapabilities
from pyworker.engine.outputs import ModelRunnerOutput, ParkedSlice, RowResult, TokenLogprobs
from pyworker.engine.request import RequestClass
from pyworker.errors import ConfigError
from pyworker.runner.safepoint import Safepoint, Yield
from pyworker.spec_decode.rejection import num_emitted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.interface import EngineHost
    from pyworker.engine.outputs import SchedulerOutput, TokenMasks
    from pyworker.engine.request import Request

FIRST = 256
"""The lowest id that the chain gives; those below are bytes."""

_LINK = struct.Struct("<QI")
_PARKED_BYTES = 4
"""What a parked token is said to hold."""


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


def sim_logprobs(state: int, token: int, num_top: int, vocab: int) -> TokenLogprobs:
    """What the simulated model says of `token` where its state is `state`: a made-up number, and the ids from it on.

    The token is the likeliest; each next one is less likely by 1.
    """
    logprob = -((state >> 32) % 1024) / 256.0
    top_ids = tuple((token + index) % vocab for index in range(num_top))
    return TokenLogprobs(logprob, top_ids, tuple(logprob - index for index in range(num_top)))


@dataclass(slots=True)
class _Row:
    """What the runner remembers of one request: the chain's state after `num_output` tokens, and the hash of the
    known tokens up to each position.
    """

    attempt: int
    state: int
    num_output: int = 0
    prefix: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Span:
    """A request's tokens of one step: the slots they are written to, and the hash of everything up to each."""

    request: Request
    row: _Row
    slots: list[int]
    hashes: list[int]
    drafts: Sequence[int]

    @property
    def is_online(self) -> bool:
        """Whether somebody waits for it."""
        return self.request.klass is not RequestClass.OFFLINE


class SimRunner:
    """A `ModelRunner` without a model.

    A step costs `step_micros[0]` plus `step_micros[1]` for each token of the batch, a `layers`-th of it for each layer
    that runs and of each token for each layer that it goes through. `sleep` takes microseconds; without one a step
    takes no time.

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
        self._kv: dict[int, tuple[int, int]] = {}
        self._ask: tuple[int, Yield] | None = None
        self.safepoint = Safepoint()

    def ask_at(self, layer: int, level: Yield = Yield.OFFLINE_LEAVES) -> None:
        """Raise the safepoint's byte as the next step comes to this layer."""
        self._ask = (layer, level)

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Compute one step.

        Raises:
            SimFault: a row does not fit its block table, its blocks hold something else than its tokens, drafts are not
                where they can be, online rows stand behind others, or a slice is not scheduled as it was parked.
        """
        for request_id in out.finished_ids:
            self._rows.pop(request_id, None)
        for source, target in out.block_copies:
            self._copy_block(source, target)
        spans = {request_id: self._span(out, request_id, n) for request_id, n in out.num_scheduled_tokens.items()}
        joins = sorted(out.joins, key=lambda parked: parked.layer)
        running = self._running(spans, joins)
        result = ModelRunnerOutput({request_id: RowResult(parked=True) for request_id in spans})
        running, result.step_micros = self._run_layers(running, spans, joins, result.parked, host)
        result.parked += joins
        for span in running:
            result.rows[span.request.request_id] = self._emit(span, out.masks)
        return result

    def memory_bytes(self) -> Mapping[str, int]:
        """Nothing worth counting."""
        return {}

    def close(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._kv.clear()

    def _run_layers(
        self,
        running: list[_Span],
        spans: dict[str, _Span],
        joins: list[ParkedSlice],
        parked: list[ParkedSlice],
        host: EngineHost,
    ) -> tuple[list[_Span], int]:
        """Take the rows through the layers: those that came through, and the microseconds.

        Takes from `joins` what comes in, and adds to `parked` what leaves.
        """
        spent = 0
        asked, self._ask = self._ask, None
        for layer in range(0 if running or not joins else joins[0].layer, self._layers):
            host.progress()
            if asked is not None and asked[0] == layer:
                self.safepoint.ask(asked[1])
            if level := self.safepoint.level:
                running = self._leave(level, layer, running, parked)
            else:
                while joins and joins[0].layer == layer:
                    running = running + self._joining(joins.pop(0), spans)
            if not running:
                break
            before, spent = spent, spent + self._layer_cost(running)
            if self._sleep is not None:
                self._sleep(spent // self._layers - before // self._layers)
        for span in running:
            self._write(span, self._layers)
        return running, spent // self._layers

    def _layer_cost(self, running: list[_Span]) -> int:
        """Microseconds of one layer, times the number of layers."""
        return self._step_micros[0] + self._step_micros[1] * sum(len(span.slots) for span in running)

    def _leave(self, level: Yield, layer: int, running: list[_Span], parked: list[ParkedSlice]) -> list[_Span]:
        """Who goes on where the byte is up."""
        if level is Yield.STOP:
            return []
        online = [span for span in running if span.is_online]
        # Those that joined stand behind the online rows whoever they are, and leave with the rest.
        online = online[: next((i for i, span in enumerate(running) if not span.is_online), len(online))]
        leaving = running[len(online) :]
        if leaving:
            num_tokens = {span.request.request_id: len(span.slots) for span in leaving}
            state = {span.request.request_id: list(span.hashes) for span in leaving}
            parked.append(ParkedSlice(layer, num_tokens, state, num_bytes=sum(num_tokens.values()) * _PARKED_BYTES))
        for span in leaving:
            self._write(span, layer)
        return online

    def _write(self, span: _Span, layers: int) -> None:
        """Say that the tokens have been through so many layers; equal ones that were there before lose nothing."""
        for slot, mark in zip(span.slots, span.hashes, strict=True):
            found, reached = self._kv.get(slot, (0, 0))
            self._kv[slot] = (mark, max(layers, reached) if found == mark else layers)

    def _joining(self, parked: ParkedSlice, spans: dict[str, _Span]) -> list[_Span]:
        """The rows of a slice, which must be what they were, with what they have written still in place."""
        rows = [spans[request_id] for request_id in parked.num_tokens]
        for span in rows:
            name = span.request.request_id
            if not isinstance(parked.state, dict) or parked.state.get(name) != span.hashes:
                raise SimFault(f"{name}: joins with other tokens than were parked")
            for slot, mark in zip(span.slots, span.hashes, strict=True):
                if (found := self._kv.get(slot)) is None or found[0] != mark or found[1] < parked.layer:
                    raise SimFault(f"{name}: slot {slot} holds another text's KV below layer {parked.layer}")
        return rows

    @staticmethod
    def _running(spans: dict[str, _Span], joins: list[ParkedSlice]) -> list[_Span]:
        """The rows that run from the first layer on."""
        joining: set[str] = set()
        for parked in joins:
            for request_id, count in parked.num_tokens.items():
                if request_id not in spans or len(spans[request_id].slots) != count or request_id in joining:
                    raise SimFault(f"{request_id}: joins with {count} tokens, and is not scheduled so")
                joining.add(request_id)
        running = [span for request_id, span in spans.items() if request_id not in joining]
        online = [span.is_online for span in running]
        if sorted(online, reverse=True) != online:
            raise SimFault("an online request stands behind an offline one")
        return running

    def _span(self, out: SchedulerOutput, request_id: str, num_tokens: int) -> _Span:
        request, drafts = out.requests[request_id], out.drafts.get(request_id, ())
        start = request.num_computed_tokens
        stop = start + num_tokens
        known = stop - len(drafts)
        if not start < known <= request.num_tokens or (drafts and known != request.num_tokens):
            raise SimFault(f"{request_id}: tokens {start}..{stop} of {request.num_tokens}, {len(drafts)} drafts")
        if stop > len(request.block_table) * self._block_size:
            raise SimFault(f"{request_id}: {len(request.block_table)} blocks for {stop} tokens")
        row = self._row(request)
        hashes = row.prefix[start:known]
        for token in drafts:
            hashes.append(_next_state(hashes[-1], token))
        self._read(request, row, start)
        slots = [self._slot(request, position) for position in range(start, stop)]
        return _Span(request, row, slots, hashes, drafts)

    def _emit(self, span: _Span, masks: TokenMasks | None) -> RowResult:
        """What comes of rows that are through: one token after another, each from the state that the last one left."""
        request, params = span.request, span.request.params
        result = RowResult(prompt_logprobs=self._prompt_logprobs(span))
        if request.num_computed_tokens + len(span.slots) - len(span.drafts) < request.num_tokens:
            return result
        state, states, sampled = span.row.state, [], []
        for count in range(len(span.drafts) + 1):
            token = self._allowed(_token(state, self._vocab), request, count, masks)
            if token is None:
                break
            states.append(state)
            sampled.append(token)
            if count < len(span.drafts):
                state = _next_state(state, span.drafts[count])
        if not sampled:
            result.error, result.message = "grammar_dead_end", "no token is allowed"
            return result
        result.token_ids = sampled[: num_emitted(span.drafts[: len(sampled) - 1], sampled)]
        if params.logprobs is not None:
            pairs = zip(states, result.token_ids, strict=False)
            result.logprobs = [sim_logprobs(*pair, params.logprobs, self._vocab) for pair in pairs]
        return result

    def _prompt_logprobs(self, span: _Span) -> list[TokenLogprobs]:
        request, num_top = span.request, span.request.params.prompt_logprobs
        if num_top is None:
            return []
        first = request.num_computed_tokens + 1
        follow = request.prompt_ids[first : first + len(span.slots)]
        pairs = zip(span.hashes, follow, strict=False)
        return [sim_logprobs(*pair, num_top, self._vocab) for pair in pairs]

    def _allowed(self, token: int, request: Request, num_drafts: int, masks: TokenMasks | None) -> int | None:
        """The chain's token, or the next higher one that the request's grammar allows, from 0 again after the last."""
        if masks is None or request.request_id not in masks:
            return token
        words = np.zeros((1, -(-self._vocab // 32)), dtype=np.int32)
        masks.fill([(request.request_id, num_drafts)], words)
        allowed = np.flatnonzero(np.unpackbits(words[0].view(np.uint8), bitorder="little")[: self._vocab])
        if not len(allowed):
            return None
        return int(allowed[np.searchsorted(allowed, token) % len(allowed)])

    def _row(self, request: Request) -> _Row:
        """The row, with its chain and its hashes moved on over the tokens that the request has now."""
        row = self._rows.get(request.request_id)
        if row is None or row.attempt != request.attempt:
            row = _Row(request.attempt, _first_state(request.prompt_ids, request.seed))
            self._rows[request.request_id] = row
        for token in request.output_ids[row.num_output :]:
            row.state = _next_state(row.state, token)
        row.num_output = len(request.output_ids)
        for token in request.token_ids(len(row.prefix), request.num_tokens):
            row.prefix.append(_next_state(row.prefix[-1] if row.prefix else 0, token))
        return row

    def _read(self, request: Request, row: _Row, computed: int) -> None:
        """Look at the first and the last computed slot of each block, as attention would at all of them."""
        for first in range(0, computed, self._block_size):
            for position in (first, min(first + self._block_size, computed) - 1):
                if self._kv.get(self._slot(request, position)) != (row.prefix[position], self._layers):
                    raise SimFault(f"{request.request_id}: position {position} holds another text's KV")

    def _copy_block(self, source: int, target: int) -> None:
        for offset in range(self._block_size):
            found = self._kv.get(source * self._block_size + offset)
            if found is not None:
                self._kv[target * self._block_size + offset] = found

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
        features=("seeded_exact", "logprobs"),
    )


def _first_state(prompt_ids: Sequence[int], seed: int) -> int:
    return xxhash.xxh3_64_intdigest(struct.pack(f"<{len(prompt_ids)}IQ", *prompt_ids, seed))


def _token(state: int, vocab: int) -> int:
    return FIRST + state % (vocab - FIRST)


def _next_state(state: int, token: int) -> int:
    return xxhash.xxh3_64_intdigest(_LINK.pack(state, token))
