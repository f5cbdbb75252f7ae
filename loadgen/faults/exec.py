"""A command as a fault: proved by exit status 0.

`exec=CMD` is cut into words as a shell would, and run without one. `exec=shell:CMD` is given to `/bin/sh`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from typing import TYPE_CHECKING

from loadgen.errors import BadInput
from loadgen.faults.base import FaultNotSeen, Proof

if TYPE_CHECKING:
    from collections.abc import Sequence

SHELL = "shell:"
LIMIT_MICROS = 60_000_000
"""The most that a command may take."""
MOST_OUTPUT = 4_096
"""Bytes that are kept, the last ones; the rest is read and dropped."""
_LAST_WORDS_SECONDS = 0.5


def words_of(text: str) -> tuple[str, ...]:
    """The program and its arguments.

    Raises:
        BadInput: no words, an open quote, or no such program.
    """
    if text.startswith(SHELL):
        return ("/bin/sh", "-c", text.removeprefix(SHELL))
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadInput("--fault", "exec", text, str(error).lower()) from error
    if not words or shutil.which(words[0]) is None:
        raise BadInput("--fault", "exec", text, "no such program")
    return words


class _Tail(asyncio.Protocol):
    """The last of what a command says."""

    def __init__(self) -> None:
        self.kept = b""
        self.count = 0
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        self.kept = (self.kept + data)[-MOST_OUTPUT:]

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.ended.set()


class Exec:
    """One command in a process group of its own."""

    def __init__(self, name: str, words: Sequence[str], *, patience: int = LIMIT_MICROS) -> None:
        """`patience`: microseconds after which it is killed with all that it started."""
        self.name, self.words = name, tuple(words)
        self._patience = patience
        self._process: asyncio.subprocess.Process | None = None
        self._tail = _Tail()
        self._pipe: asyncio.ReadTransport | None = None

    async def inject(self) -> None:
        """Start it.

        Raises:
            FaultNotSeen: it cannot be started.
        """
        # A pipe of our own: what the command leaves behind may keep it open, and asyncio's would be waited for.
        ours, theirs = os.pipe()
        loop = asyncio.get_running_loop()
        self._pipe, _ = await loop.connect_read_pipe(lambda: self._tail, os.fdopen(ours, "rb", 0))
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        except OSError as error:
            raise FaultNotSeen(self.name, f"{self.words[0]}: {error.strerror or error}") from error
        finally:
            os.close(theirs)

    async def verify(self) -> Proof:
        """It ended by itself, with 0."""
        process = self._process
        if process is None:
            raise FaultNotSeen(self.name, "nothing was started")
        try:
            async with asyncio.timeout(self._patience / 1e6):
                status = await process.wait()
        except TimeoutError:
            raise FaultNotSeen(self.name, f"{self.words[0]} did not end in {self._patience / 1e6:g} s") from None
        if status != 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tail.ended.wait(), _LAST_WORDS_SECONDS)
            said = ascii(self._tail.kept[-200:].decode("utf-8", errors="replace"))
            raise FaultNotSeen(self.name, f"{self.words[0]} ended with {status}: {said}")
        return Proof(f"{self.words[0]} ended with 0", {"status": 0, "output_bytes": self._tail.count})

    async def heal(self) -> None:
        """What it did stays done. If it runs yet, it is killed, with its children."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            # The leader is not reaped yet, so the number of its group is nobody else's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
