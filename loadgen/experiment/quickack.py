"""Finds a server that sends small pieces without TCP_NODELAY: its streams wait for the client's delayed
acknowledgement.

The same short stream is read many times with and without TCP_QUICKACK. Where the option takes some 40 ms away, it was
that wait. One connection, one request at a time, blocking: nothing here is a measure of anything else.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from typing import Final
from urllib.parse import urlsplit

ROUNDS: Final = 24
STALL: Final = (30.0, 50.0)
"""Milliseconds that the option takes away where the stall is there: Linux acknowledges after 40."""
_TOKENS: Final = 16
_WITHIN: Final = 20.0
_BODY: Final = {
    "messages": [{"role": "user", "content": "say something short"}],
    "max_tokens": _TOKENS,
    "stream": True,
    "ignore_eos": True,
}


def measure(target: str, model: str | None = None, rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of a stream, `plain` and `quickack`, in turns; empty where a stream did not end well."""
    name = model or _first_model(target)
    times: dict[str, list[float]] = {"plain": [], "quickack": []}
    for _ in range(rounds):
        for kind, kept in times.items():
            took = _stream(target, name, quickack=kind == "quickack")
            if took is None:
                return {}
            kept.append(took)
    return {kind: statistics.median(kept) for kind, kept in times.items()}


def verdict(through: dict[str, float], direct: dict[str, float]) -> str:
    """Of a router against the mock itself; empty where either is not known."""
    if not through or not direct:
        return ""
    stall = (through["plain"] - direct["plain"]) - (through["quickack"] - direct["quickack"])
    return "Nagle stall, no TCP_NODELAY" if STALL[0] <= stall <= STALL[1] else "none"


def _first_model(target: str) -> str:
    from loadgen.experiment.mock_truth import get_json

    found = get_json(f"{target}/v1/models") or {}
    rows = found.get("data") or [{}]
    return str(rows[0].get("id", "mock"))


def _stream(target: str, model: str, *, quickack: bool) -> float | None:
    parts = urlsplit(target)
    body = json.dumps({"model": model, **_BODY}).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        "accept: text/event-stream",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), _WITHIN) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begun = time.monotonic_ns()
            link.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            return _read(link, begun, quickack=quickack)
    except OSError:
        return None


def _read(link: socket.socket, begun: int, *, quickack: bool) -> float | None:
    last = b""
    first = True
    while True:
        if quickack:
            # The kernel takes it back by itself, so it is set before each read.
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        found = link.recv(1 << 16)
        if not found:
            return None
        if first and not found.startswith(b"HTTP/1.1 200"):
            return None
        first, last = False, (last + found)[-64:]
        if b"[DONE]" in last:
            return (time.monotonic_ns() - begun) / 1e6
