"""The router's end of ZMTP as a process that sends messages back, and a peer's bytes made by hand.

The process is `router/zmtp/examples/link_echo.rs`, which says on stdout what happens, a line each.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


def frame(flags: int, body: bytes) -> bytes:
    """A frame, long where it must be."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return announced(flags, len(body)) + body


def announced(flags: int, length: int) -> bytes:
    """The header of a long frame whose body may never come."""
    return bytes([flags | 2]) + length.to_bytes(8, "big")


def command(name: bytes, data: bytes = b"") -> bytes:
    """A command frame."""
    return frame(4, bytes([len(name)]) + name + data)


def ready(socket_type: bytes = b"DEALER", padding: int = 0) -> bytes:
    """READY of a socket, with a further property of `padding` bytes."""
    data = b"\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type
    if padding:
        data += b"\x01p" + padding.to_bytes(4, "big") + bytes(padding)
    return command(b"READY", data)


HELLO = GREETING + ready() + frame(0, b"first")


class Echo:
    """A running link_echo."""

    def __init__(self, binary: Path, endpoint: str, *settings: str) -> None:
        self.process = subprocess.Popen([binary, endpoint, *settings], stdout=subprocess.PIPE, text=True)
        if self.process.stdout is None:
            raise ValueError("the process has no stdout")
        self.output = self.process.stdout
        self.endpoint = self.line("listening").split()[1]

    def line(self, start: str) -> str:
        """The next line that begins so; those before it are dropped."""
        for line in self.output:
            if line.startswith(start):
                return line.strip()
        raise EOFError(f"link_echo ended with {self.process.wait()} before {start!r}")

    def raw(self, data: bytes = b"") -> socket.socket:
        """A raw connection that has sent these bytes, as far as the other side takes them."""
        scheme, address = self.endpoint.split("://")
        if scheme == "ipc":
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(address)
        else:
            host, port = address.split(":")
            peer = socket.create_connection((host, int(port)))
        # It may close before it has all: that is what such a test is about.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(data)
        return peer

    def peak_bytes(self) -> int:
        """The most memory that it ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self.output.close()


def build() -> Path:
    """Builds link_echo and returns its path."""
    command = ["cargo", "build", "--locked", "-p", "slackwater-zmtp", "--example", "link_echo", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    found = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "link_echo"]
    return Path(found[0])


def received(peer: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes."""
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise EOFError(f"closed after {data!r}")
        data += piece
    return data
