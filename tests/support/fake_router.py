"""The router's side of the worker link, for tests of workers: a libzmq ROUTER and the real codec.

It checks the worker's sequence numbers itself. Nothing here waits for a time: every wait is for a message or an event,
and fails after `PATIENCE` seconds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from pyworker.wire import messages as wire
from pyworker.wire.frame import Message, decode, encode, seq_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyworker.wire.frame import Body

PATIENCE = 20.0
"""Seconds after which something that was waited for will not happen any more."""

TOKEN = "00112233445566778899aabbccddeeff"
_BLOCKS = (wire.BlocksStored, wire.BlocksRemoved, wire.BlocksCleared)
_BACKGROUND = (wire.Heartbeat, wire.WorkerStats, *_BLOCKS)


class FakeRouter:
    """Listens at `FOLDER/w.sock` and writes `worker.token` beside it. One worker at a time."""

    def __init__(self, folder: Path, *, heartbeat_micros: int = 20_000, silence_micros: int = 60_000_000) -> None:
        self.path = folder / "w.sock"
        self.endpoint = f"ipc://{self.path}"
        self.terms = (heartbeat_micros, silence_micros)
        self.links = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.write_token(TOKEN)
        self.listen()

    def write_token(self, token: str) -> None:
        """Write the file that a worker reads at each HELLO."""
        self.path.with_name("worker.token").write_text(f"{token}\n")

    def listen(self) -> None:
        """Take connections (again)."""
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 1_000  # the last word is written out
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.bind(self.endpoint)

    def cut(self) -> None:
        """Close all connections and stop listening. Idempotent."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close()

    def hello(self) -> FakeLink:
        """The next worker's link, once it has said HELLO. What older links left behind is skipped."""
        deadline = time.monotonic() + PATIENCE
        while True:
            identity, message = self.receive(deadline)
            if isinstance(message.body, wire.Hello):
                self.links += 1
                return FakeLink(self, identity, message.body)

    def join(self) -> FakeLink:
        """The next worker's link, once it is ready."""
        link = self.hello()
        link.welcome()
        return link

    def receive(self, deadline: float) -> tuple[bytes, Message]:
        """The next message and its sender."""
        if not self.socket.poll(round(max(0.0, deadline - time.monotonic()) * 1000)):
            raise TimeoutError("no message from a worker")
        identity, *parts = self.socket.recv_multipart()
        return identity, decode(parts)

    def await_disconnect(self) -> None:
        """Wait until a worker has hung up."""
        if not self._monitor.poll(round(PATIENCE * 1000)):
            raise TimeoutError("no worker hung up")
        recv_monitor_message(self._monitor)

    def close(self) -> None:
        """Let go of everything."""
        self.cut()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeLink:
    """One worker's link as the router sees it."""

    def __init__(self, router: FakeRouter, identity: bytes, hello: wire.Hello) -> None:
        self.router = router
        self.identity = identity
        self.said_hello = hello
        self.ready: wire.Ready | None = None
        self.sent_seq = 0
        self.heard_seq = 0
        self.heartbeats: list[wire.Heartbeat] = []
        self.stats: list[wire.WorkerStats] = []
        self.blocks: list[Message] = []

    def welcome(self) -> wire.Ready:
        """Answer HELLO, and take READY."""
        heartbeat_micros, silence_micros = self.router.terms
        epoch = 2**63 + self.router.links
        terms = {"heartbeat_micros": heartbeat_micros, "silence_micros": silence_micros}
        self.send(wire.Welcome(worker_id=1, epoch=epoch, **terms))
        ready = self.next(wire.Ready).body
        assert isinstance(ready, wire.Ready)
        self.ready = ready
        return ready

    def send(self, body: Body, ids: Sequence[int] = (), *, skip: int = 0) -> None:
        """Send a message with the next sequence number; `skip` makes the number wrong by so many."""
        if not isinstance(body, wire.Hello | wire.Welcome):
            self.sent_seq += 1
            body.seq = self.sent_seq + skip
        self.send_raw(encode(body, ids))

    def send_raw(self, parts: Sequence[bytes]) -> None:
        """Send parts as they are."""
        self.router.socket.send_multipart([self.identity, *parts])

    def next(self, *kinds: type[Body]) -> Message:
        """The worker's next message, which must be of one of these kinds.

        Heartbeats, statistics and blocks are kept aside unless they are asked for. The sequence is checked.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            identity, message = self.router.receive(deadline)
            assert identity == self.identity, "a message of another link"
            body = message.body
            self.heard_seq += 1
            assert seq_of(body) == self.heard_seq, (body, self.heard_seq)
            if isinstance(body, kinds):
                return message
            assert isinstance(body, _BACKGROUND), (body, kinds)
            if isinstance(body, wire.Heartbeat):
                self.heartbeats.append(body)
            elif isinstance(body, _BLOCKS):
                self.blocks.append(message)
            else:
                self.stats.append(body)

    def submit(
        self,
        request_id: str,
        prompt: Sequence[int],
        history: Sequence[int] = (),
        *,
        attempt: int = 1,
        **changes: object,
    ) -> wire.Submit:
        """Send a `Submit`. `changes` are its fields or those of its parameters."""
        body = make_submit(request_id, attempt, len(history), **changes)
        self.send(body, [*prompt, *history])
        return body

    def cancel(self, request_id: str, attempt: int = 1) -> None:
        """Send a `Cancel`."""
        self.send(wire.Cancel(seq=0, request_id=request_id, attempt=attempt))

    def credit(self, request_id: str, up_to: int, attempt: int = 1) -> None:
        """Send a `Credit`."""
        self.send(wire.Credit(seq=0, request_id=request_id, attempt=attempt, up_to=up_to))

    def bye(self, code: wire.ByeCode, message: str = "for a test") -> None:
        """Send a `Bye`."""
        self.send(wire.Bye(seq=0, code=code, message=message))

    def collect(self, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Collected]:
        """All outputs until each of these (request id, attempt) has ended. `Accepted` is passed over."""
        found = {key: Collected() for key in wanted}
        while not all(each.finish for each in found.values()):
            message = self.next(wire.StepOutputs, wire.Accepted)
            if isinstance(message.body, wire.StepOutputs):
                for output, tokens in rows(message):
                    found[output.request_id, output.attempt].take(output, tokens)
        return found


class Collected:
    """What came of one attempt of a request."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.tokens: list[int] = []
        self.finish: wire.Finish | None = None
        self.error: wire.RequestFailure | None = None

    def take(self, output: wire.RequestOutput, tokens: Sequence[int]) -> None:
        """Add one output, which must follow on the last."""
        assert self.finish is None, "an output after the last one"
        if tokens:
            assert not self.starts or output.start == self.starts[0] + len(self.tokens), output
            self.starts.append(output.start)
        self.tokens += tokens
        self.finish, self.error = output.finish, output.error


def rows(message: Message) -> list[tuple[wire.RequestOutput, list[int]]]:
    """A step's outputs, each with its own tokens."""
    assert isinstance(message.body, wire.StepOutputs)
    found: list[tuple[wire.RequestOutput, list[int]]] = []
    start = 0
    for output in message.body.outputs:
        found.append((output, list(message.ids[start : start + output.num_tokens])))
        start += output.num_tokens
    return found


def make_submit(request_id: str, attempt: int = 1, num_output_tokens: int = 0, **changes: object) -> wire.Submit:
    """A `Submit` with ordinary values, less the changes."""
    params: dict[str, Any] = {
        "max_tokens": 8,
        "min_tokens": 0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "seed": 7,
        "ignore_eos": False,
        "logprobs": None,
        "prompt_logprobs": None,
        "grammar": None,
        "num_stop_token_ids": 0,
        "num_allowed_token_ids": None,
        "bad_word_lengths": [],
        "num_logit_bias": 0,
    }
    fields: dict[str, Any] = {
        "seq": 0,
        "request_id": request_id,
        "attempt": attempt,
        "group": None,
        "choice_index": 0,
        "class_": wire.RequestClass.standard,
        "salt": 0,
        "num_output_tokens": num_output_tokens,
        "credit_up_to": 1_024,
        "remaining_micros": None,
    }
    for name, value in changes.items():
        (params if name in params else fields)[name] = value
    return wire.Submit(**fields, params=wire.SamplingParams(**params))
