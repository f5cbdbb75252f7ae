"""KV events for routers that follow an engine's prefix cache: a PUB socket, and a ROUTER that says them again."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.mock.kv import KvEvent

_KEPT = 10_000
_POLL_MILLIS = 100
_END = (-1).to_bytes(8, "big", signed=True)


def encode_events(events: Sequence[KvEvent], block_size: int, seconds: float) -> bytes:
    """The payload of one message: msgpack of [time, events, rank]."""
    return msgspec.msgpack.encode([seconds, [_as_map(event, block_size) for event in events], 0])


def _as_map(event: KvEvent, block_size: int) -> dict[str, Any]:
    if event.kind == "cleared":
        return {"type": "AllBlocksCleared"}
    if event.kind == "removed":
        return {"type": "BlockRemoved", "block_hashes": list(event.hashes), "medium": "GPU"}
    return {
        "type": "BlockStored",
        "block_hashes": list(event.hashes),
        "parent_block_hash": event.parent,
        "token_ids": list(event.token_ids),
        "block_size": block_size,
        "lora_id": None,
        "medium": "GPU",
    }


class KvPublisher:
    """Publishes on `endpoint` and replays on the port after it; the newest 10,000 messages are kept for that.

    Raises:
        BadInput: an endpoint that cannot be bound.
    """

    def __init__(self, endpoint: str, block_size: int, topic: str = "kv-events") -> None:
        self._block_size, self._topic = block_size, topic.encode()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pub = self._context.socket(zmq.PUB)
        self._replay = self._context.socket(zmq.ROUTER)
        try:
            self._pub.bind(endpoint)
            self._replay.bind(replay_endpoint(endpoint))
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise BadInput("--kv-events", "", endpoint, str(error)) from error
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._seq = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kv-replay", daemon=True)
        self._thread.start()

    def publish(self, events: Sequence[KvEvent]) -> None:
        """One message, from the loop's thread. Who does not keep up loses it, and asks again."""
        payload = encode_events(events, self._block_size, time.time())
        with self._lock:
            seq, self._seq = self._seq, self._seq + 1
            self._kept.append((seq, payload))
        self._pub.send_multipart((self._topic, seq.to_bytes(8, "big"), payload), zmq.NOBLOCK)

    def close(self) -> None:
        """End the thread and the sockets."""
        self._ended.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while not self._ended.is_set():
            if self._replay.poll(_POLL_MILLIS):
                parts = self._replay.recv_multipart()
                if len(parts) >= 2 and len(parts[-1]) == 8:
                    self._say_again(parts[0], int.from_bytes(parts[-1], "big"))

    def _say_again(self, peer: bytes, start: int) -> None:
        with self._lock:
            kept = [each for each in self._kept if each[0] >= start]
        for seq, payload in kept:
            self._replay.send_multipart((peer, b"", self._topic, seq.to_bytes(8, "big"), payload))
        self._replay.send_multipart((peer, b"", b"", _END, b""))


def replay_endpoint(endpoint: str) -> str:
    """The endpoint one port up; of a path, the path with `.replay`."""
    head, _, port = endpoint.rpartition(":")
    return f"{head}:{int(port) + 1}" if port.isdigit() else f"{endpoint}.replay"
