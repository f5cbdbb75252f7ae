"""The mock as workers of a Slackwater router: the same engine behind our wire. Only this file knows `pyworker`."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import BadInput, ExitCode, Unreachable
from loadgen.mock.work import Work

if TYPE_CHECKING:
    from loadgen.mock.options import MockOptions
    from loadgen.mock.work import Finish, Load
    from pyworker.engine.interface import EngineCapabilities, EngineHost, EngineStats
    from pyworker.engine.outputs import RequestOutput
    from pyworker.engine.request import Request

_SLOTS = 4_096
_CONTEXT = 1 << 20
_ENDLESS = 1 << 20
"""Blocks that are told of an engine without a cache: no request may be refused for want of memory."""
_MOST_WAIT = 0.002
"""Seconds that a step may block with nothing due: orders come in between steps only."""


class WireEngine:
    """A `MockEngine` as the engine of a `Worker`: `step` waits until something is due and sends it."""

    def __init__(self, options: MockOptions, text_hash: str, vocab: int) -> None:
        self._options, self._text_hash, self._vocab = options, text_hash, vocab
        self._engine = options.make_engine()
        self._works: dict[str, tuple[Work, Request]] = {}
        self._names: dict[Work, str] = {}
        self._cancelled: list[Request] = []
        self._count = 0
        self._host: EngineHost | None = None

    def attach(self, host: EngineHost) -> EngineCapabilities:
        """Take the host and say what this is."""
        from pyworker.engine.interface import EngineCapabilities

        self._host = host
        load = self._engine.load()
        blocks = _blocks(load)
        return EngineCapabilities(
            model_name=self._options.model,
            weights_hash="0" * 16,
            text_hash=self._text_hash,
            vocab_size=self._vocab,
            block_size=load.block,
            num_blocks=blocks,
            max_model_len=min(_CONTEXT, load.kv_total or _CONTEXT),
            slots=_SLOTS,
            dtype="float32",
            numerics="mock",
            kv_layout="mock",
            features=("seeded_exact",),
        )

    def submit(self, request: Request) -> None:
        """Take a request; a higher attempt replaces a lower one.

        Raises:
            InvalidRequest: it can never fit.
        """
        from pyworker.errors import InvalidRequest

        known = self._works.get(request.request_id)
        if known is not None:
            if request.attempt <= known[1].attempt:
                return
            self._engine.cancel(known[0], _now())
            self._names.pop(known[0], None)
        self._count += 1
        work = Work(
            self._count,
            tuple(request.prompt_ids),
            request.params.max_tokens,
            request.seed,
            request.salt,
            output=list(request.output_ids),
            credit=request.credit_up_to,
        )
        why = self._engine.submit(work, _now())
        if why is not None:
            raise InvalidRequest("context_length_exceeded", why)
        self._works[request.request_id] = (work, request)
        self._names[work] = request.request_id

    def grant(self, request_id: str, up_to: int) -> None:
        """Let a request go on."""
        known = self._works.get(request_id)
        if known is not None:
            self._engine.grant(known[0], up_to, _now())

    def cancel(self, request_id: str) -> None:
        """End a request; confirmed by the next step."""
        known = self._works.pop(request_id, None)
        if known is not None:
            self._engine.cancel(known[0], _now())
            self._names.pop(known[0], None)
            known[1].output_ids[:] = known[0].output
            self._cancelled.append(known[1])

    def step(self) -> bool:
        """Send what is due; wait for it a little."""
        from pyworker.engine.outputs import FinishReason, RequestOutput, StepOutputs

        outputs = [
            RequestOutput(r.request_id, r.attempt, len(r.output_ids), [], finish=FinishReason.CANCELLED)
            for r in self._cancelled
        ]
        self._cancelled.clear()
        begun = _now()
        due = self._engine.due()
        if due is not None and not outputs and due > begun:
            time.sleep(min((due - begun) / 1e6, _MOST_WAIT))
        together: dict[Work, tuple[list[int], Finish | None]] = {}
        for each in self._engine.advance(_now()):
            tokens = together.get(each.work, ([], None))[0]
            together[each.work] = ([*tokens, *each.tokens], each.finish)
        outputs += [
            self._output(work, tokens, finish) for work, (tokens, finish) in together.items() if work in self._names
        ]
        if outputs and self._host is not None:
            self._host.send(StepOutputs(outputs, _now() - begun))
        return bool(outputs) or self._engine.due() is not None

    def stats(self) -> EngineStats:
        """Queue and blocks."""
        from pyworker.engine.interface import EngineStats

        load = self._engine.load()
        return EngineStats(load.running, load.waiting, load.kv_used // load.block, _blocks(load))

    def close(self) -> None:
        """Nothing is held."""

    def _output(self, work: Work, tokens: list[int], finish: Finish | None) -> RequestOutput:
        from pyworker.engine.outputs import FinishReason, RequestOutput

        name = self._names[work]
        attempt = self._works[name][1].attempt
        if finish is not None:
            del self._works[name], self._names[work]
        start = len(work.output) - len(tokens)
        reason = None if finish is None else FinishReason(finish)
        return RequestOutput(name, attempt, start, tokens, num_cached_tokens=work.cached or 0, finish=reason)


def run_workers(options: MockOptions, endpoint: str, count: int, model_dir: str | None) -> ExitCode:
    """Serve a router as `count` workers, each with an engine and a thread of its own, until it says goodbye.

    Raises:
        BadInput: no folder of the model.
        Unreachable: the router refuses.
    """
    from pyworker.errors import SlackwaterError
    from pyworker.models.hashes import text_hash
    from pyworker.worker import Worker

    if model_dir is None or not Path(model_dir).is_dir():
        raise BadInput("--model-dir", "", str(model_dir), "is no folder; the router must have been given the same")
    try:
        digest = text_hash(Path(model_dir))
        workers = [Worker(engine=WireEngine(options, digest, options.vocab), router=endpoint) for _ in range(count)]
    except SlackwaterError as error:
        raise Unreachable(endpoint, str(error)) from error
    failed: list[str] = []

    def serve(worker: Worker) -> None:
        try:
            with worker:
                worker.run()
        except SlackwaterError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
    if failed:
        raise Unreachable(endpoint, failed[0])
    return ExitCode.OK


def _blocks(load: Load) -> int:
    return max(2, load.kv_total // load.block) if load.kv_total else _ENDLESS


def _now() -> int:
    return time.monotonic_ns() // 1_000
