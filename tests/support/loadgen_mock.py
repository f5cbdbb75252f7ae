"""`slackwater-loadgen mock` as a process, and the program itself as users call it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.run.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = [sys.executable, "-P"] if "PYTHONPATH" not in os.environ else [sys.executable]


@dataclass
class Mock:
    """A running mock."""

    url: str
    process: subprocess.Popen[str]
    server: Server

    def get(self, path: str) -> Any:
        return self.server.call("GET", path).json


@contextmanager
def mock(*flags: str) -> Iterator[Mock]:
    """A mock on a free port, ready when this returns, ended with the block."""
    line = [*PYTHON, "-m", "loadgen.mock", *flags]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = f"http://{json.loads(process.stdout.readline())['listening']}"
        server = Server(url)
        try:
            yield Mock(url, process, server)
        finally:
            server.close()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def command(*args: str) -> list[str]:
    """The program and its arguments."""
    return [*PYTHON, "-m", "loadgen.cli", *args]


def loadgen(*args: str, cwd: Path | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """The program, to its end."""
    line = command(*args)
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)
