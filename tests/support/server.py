"""A real `slackwater` process for tests: started on free ports, watched by its own words, ended by its id."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from typing import Self

from support.metrics import value

BIN = Path(sysconfig.get_path("scripts"))


_STARTED = re.compile(r"worker started.*worker=(?P<worker>w\d+).*pid=(?P<pid>\d+)")


class ServerEnded(RuntimeError):
    """The process ended, or said nothing in time, before the line that was waited for."""


class Server:
    """One `slackwater` process. `api` and `ops` are base URLs; `lines` holds all that it has said."""

    def __init__(self, *args: str, env: dict[str, str] | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp")
        root = Path(self.folder.name)
        self.socket = root / "run" / "w.sock"
        command = [
            str(BIN / "slackwater"),
            args[0],
            "--listen=127.0.0.1:0",
            "--ops-listen=127.0.0.1:0",
            f"--worker-socket={self.socket}",
            f"--state-dir={root / 'state'}",
            *args[1:],
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(env or {})},
            process_group=0,
        )
        self.lines: list[str] = []
        self.pids: dict[str, int] = {}
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.api = self.ops = ""

    def _read(self) -> None:
        stdout = self.process.stdout
        if stdout is None:
            return
        for line in stdout:
            if match := _STARTED.search(line):
                self.pids[match["worker"]] = int(match["pid"])
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """The match of the first line, from here on, that holds `pattern`.

        Raises:
            ServerEnded: the process ended first, or was silent for `timeout` seconds.
        """
        while True:
            try:
                line = self._queue.get(timeout=timeout)
            except queue.Empty:
                said = "\n".join(self.lines)
                raise ServerEnded(
                    f"nothing said for {timeout} s while waiting for {pattern!r}; before:\n{said}"
                ) from None
            if line is None:
                raise ServerEnded(
                    f"ended with {self.process.wait()} before {pattern!r}; said:\n" + "\n".join(self.lines)
                )
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match

    def wait_listening(self, timeout: float = 60.0) -> Self:
        """Wait until both addresses are open; workers may still load."""
        self.api = self.wait_for(r"API\s+(http://\S+)", timeout).group(1).removesuffix("/v1")
        self.ops = self.wait_for(r"ops\s+(http://\S+)").group(1)
        return self

    def wait_ready(self, timeout: float = 60.0) -> Self:
        """Wait until a worker is ready; `timeout` bounds each silence on the way."""
        if not self.api:
            self.wait_listening(timeout)
        self.wait_for(r"^ready", timeout)
        return self

    def kill_worker(self, worker: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to an own worker by its name, such as `w0`. A process that is gone is an error."""
        os.kill(self.pids[worker], sig)

    def busy_worker(self) -> str:
        """The first worker that holds a request, once there is one."""
        while True:
            for worker in self.pids:
                if value(self.ops, f'slackwater_worker_in_flight{{worker="{worker}"}}', default=0) > 0:
                    return worker

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 40.0) -> int:
        """End the process and give its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            status = self.process.wait(timeout)
        finally:
            self._end()
        return status

    def _end(self) -> None:
        """Whatever happened: no process, thread, pipe or folder is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout=5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if sys.exc_info()[0] is not None:
            while not self._queue.empty():
                if line := self._queue.get():
                    self.lines.append(line)
            sys.stdout.write("\n".join(["--- the server said:", *self.lines, ""]))
