"""An engine of one's own behind a router: it answers with the prompt's own tokens, over and over.

Arguments: the model folder that the router has, its name there, and the router's worker socket.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pyworker.engine.config import EngineConfig
from pyworker.engine.interface import EngineCapabilities, EngineHost, EngineStats
from pyworker.engine.metrics import EngineMetrics
from pyworker.engine.outputs import FinishReason, RequestOutput, StepOutputs, cancelled_output
from pyworker.engine.request import Request
from pyworker.engine.validation import check_request
from pyworker.models.hashes import text_hash
from slackwater import Worker


class Parrot:
    """Everything a `Worker` asks of an engine."""

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.config = EngineConfig(num_blocks=1024, max_model_len=2048, vocab_size=vocab_size)
        self.identity = (name, "parrot", text_hash(folder), vocab_size)
        self.requests: dict[str, Request] = {}
        self.metrics = EngineMetrics()

    def attach(self, host: EngineHost) -> EngineCapabilities:
        """Say what this engine is."""
        self.host = host
        sizes = (self.config.block_size, self.config.num_blocks, self.config.max_model_len, self.config.max_num_seqs)
        return EngineCapabilities(*self.identity, *sizes, "none", "parrot-1", "none", ("seeded_exact",))

    def submit(self, request: Request) -> None:
        """Take a request, or raise `InvalidRequest`."""
        check_request(request, self.config)
        self.requests[request.request_id] = request

    def grant(self, request_id: str, up_to: int) -> None:
        """The client can take more."""
        if request := self.requests.get(request_id):
            request.credit_up_to = max(request.credit_up_to, up_to)

    def cancel(self, request_id: str) -> None:
        """The client wants no more: say so once."""
        if request := self.requests.pop(request_id, None):
            end = cancelled_output(request_id, request.attempt, len(request.output_ids))
            self.host.send(StepOutputs([end]))

    def step(self) -> bool:
        """One token for each request that may go on."""
        outputs = [self._speak(request) for request in list(self.requests.values()) if request.has_credit]
        if outputs:
            self.metrics.observe_step(len(outputs))
            self.host.progress()
            self.host.send(StepOutputs(outputs))
        return bool(outputs)

    def stats(self) -> EngineStats:
        """For the router's metrics."""
        return EngineStats(num_running=len(self.requests), metrics=self.metrics.snapshot({}))

    def close(self) -> None:
        """Nothing to let go of."""

    def _speak(self, request: Request) -> RequestOutput:
        start = len(request.output_ids)
        token = request.prompt_ids[start % len(request.prompt_ids)]
        request.output_ids.append(token)
        self.metrics.add("generation_tokens", 1)
        output = RequestOutput(request.request_id, request.attempt, start, [token])
        if len(request.output_ids) == request.params.max_tokens or request.num_tokens == self.config.max_model_len:
            output.finish = FinishReason.LENGTH
            del self.requests[request.request_id]
        return output


if __name__ == "__main__":
    folder, name, router = sys.argv[1:4]
    with Worker(engine=Parrot(Path(folder), name, vocab_size=512), router=router) as worker:
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        worker.run()
