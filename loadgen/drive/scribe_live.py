"""The scribe beside the run: a process that follows growing spools and parses them as they come, at the lowest
priority.

`python -m loadgen.drive.scribe_live SPOOL...`: looks for more each time that a byte comes by stdin, reads to the end
once stdin ends, and writes `SPOOL.parsed` beside each spool. What it leaves undone, `records_of` does itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from loadgen.drive import parsed_file
from loadgen.drive.parsed import read
from loadgen.drive.spool import MAGIC, SpoolError, read_entry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_EVERY_SECONDS = 0.5
_END_SECONDS = 120.0


class Follower:
    """One spool and its parsed file."""

    def __init__(self, spool: Path, *, keep_text: bool) -> None:
        self._spool, self._keep_text = spool, keep_text
        self._source: BinaryIO | None = None
        self._target = parsed_file.beside(spool).open("wb")
        parsed_file.write_begin(self._target, keep_text=keep_text)

    def catch_up(self) -> None:
        """Parse all that is whole by now; half an entry is left for the next time.

        Raises:
            SpoolError: it is no spool.
        """
        if self._source is None:
            if not self._spool.exists() or self._spool.stat().st_size < len(MAGIC):
                return
            self._source = self._spool.open("rb")
            if self._source.read(len(MAGIC)) != MAGIC:
                raise SpoolError(str(self._spool), 0, "not a spool of this version")
        while True:
            place = self._source.tell()
            try:
                entry = read_entry(self._source, str(self._spool))
            except SpoolError:
                entry = None
            if entry is None:
                self._source.seek(place)
                return
            parsed_file.write(self._target, read(entry, keep_text=self._keep_text))

    def close(self) -> None:
        """It is whole: nothing more comes."""
        self.catch_up()
        parsed_file.write_end(self._target)
        self._target.close()
        if self._source is not None:
            self._source.close()


class LiveScribe:
    """The parent's end. While it is entered, spools are parsed as they grow; on leaving, to their ends."""

    def __init__(self, spools: Sequence[Path], *, keep_text: bool = False) -> None:
        self._spools, self._keep_text = list(spools), keep_text
        self._process: asyncio.subprocess.Process | None = None
        self._ticks: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        arguments = ["-m", "loadgen.drive.scribe_live", *(["--keep-text"] if self._keep_text else [])]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            *map(str, self._spools),
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._ticks = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The spools are closed by now."""
        process = self._process
        if process is None or process.stdin is None or self._ticks is None:
            return
        self._ticks.cancel()
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _tick(self) -> None:
        while self._process is not None and self._process.stdin is not None and self._process.returncode is None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(b".")
            await asyncio.sleep(_EVERY_SECONDS)


def main() -> int:
    """Follow until stdin ends."""
    parser = argparse.ArgumentParser("loadgen.drive.scribe_live")
    parser.add_argument("--keep-text", action="store_true")
    parser.add_argument("spools", nargs="+", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(19)
    followers = [Follower(spool, keep_text=args.keep_text) for spool in args.spools]
    while os.read(sys.stdin.fileno(), 4_096):
        for follower in followers:
            follower.catch_up()
    for follower in followers:
        follower.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
