"""The two servers: brought up and down by commands, and held still while the other is measured.

Only process groups that an up command of this program began are ever signalled, and each is continued before the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from loadgen.errors import BadInput, Unreachable
from loadgen.run.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

Idle = Literal["leave", "freeze", "stop"]
UP_PATIENCE = 180.0
"""Seconds until a server must answer."""
DOWN_PATIENCE = 30.0
_DOWN_COMMAND = 120.0
_STOP_PATIENCE = 5.0
_PAUSE = 0.02


class SideControl(Protocol):
    """One side, as the blocks see it."""

    def activate(self) -> None:
        """It is about to be measured.

        Raises:
            LoadgenError: it does not come up.
        """

    def rest(self) -> None:
        """The other is about to be measured."""

    def close(self) -> None:
        """The end, however it came. Idempotent."""


class Remote:
    """A server that somebody else runs: it is left alone."""

    def activate(self) -> None:
        """Nothing."""

    def rest(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Commanded:
    """A server with an up command, which may stay (the server itself) or return (a script that starts it)."""

    def __init__(self, name: str, url: str, up: str, down: str | None, idle: Idle, log: Path) -> None:
        self._name, self._url, self._up, self._down = name, url, up, down
        self._idle, self._log = idle, log
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    def activate(self) -> None:
        """Up if it is not, and running.

        Raises:
            Unreachable: nobody answers at its address in time, or the command failed.
        """
        if self._process is None:
            self._begin()
        self._continue()

    def rest(self) -> None:
        """As `--idle` says.

        Raises:
            BadInput: its processes cannot be held still.
        """
        if self._process is None or self._idle == "leave":
            return
        if self._idle == "stop":
            self._end()
            return
        self._frozen = True
        self._signal(signal.SIGSTOP)
        if not _until(lambda: all(state in "TZ" for state in self._states()), _STOP_PATIENCE) or not self._states():
            raise BadInput("--idle", "", "freeze", f"the processes of --{self._name}-up cannot be held still")

    def close(self) -> None:
        """Continued, then down."""
        self._end()

    @property
    def group(self) -> int | None:
        """Process group of the up command."""
        return None if self._process is None else self._process.pid

    def _begin(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                ["/bin/sh", "-c", self._up],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(self._url, timeout=2.0)
        end = time.monotonic() + UP_PATIENCE
        while True:
            try:
                if server.call("GET", "/v1/models").status < 500:
                    return
                why = "it answers with an error"
            except Unreachable as error:
                why = error.why
            finally:
                server.close()
            failed = _exit_status(self._process.pid)
            if failed:
                raise Unreachable(self._url, f"--{self._name}-up ended with status {failed}; see {self._log}")
            if time.monotonic() > end:
                raise Unreachable(self._url, f"not up {UP_PATIENCE:.0f} s after --{self._name}-up: {why}")
            time.sleep(_PAUSE)

    def _end(self) -> None:
        if self._process is None:
            return
        self._continue()
        if self._down is not None:
            self._run_down(self._down)
        if self._living():
            self._signal(signal.SIGTERM)
        # The leader is not reaped before this, so its number cannot be another's by now.
        if not _until(lambda: not self._living(), DOWN_PATIENCE):
            self._signal(signal.SIGKILL)
            _until(lambda: not self._living(), _STOP_PATIENCE)
        self._process.wait()
        self._process = None

    def _run_down(self, command: str) -> None:
        with self._log.open("ab") as log:
            try:
                subprocess.run(  # noqa: S603 - the user's own command
                    ["/bin/sh", "-c", command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=_DOWN_COMMAND,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                log.write(f"--{self._name}-down took over {_DOWN_COMMAND:.0f} s and was ended\n".encode())

    def _continue(self) -> None:
        if self._frozen:
            self._signal(signal.SIGCONT)
            self._frozen = False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return

    def _states(self) -> list[str]:
        return [] if self._process is None else list(group_states(self._process.pid).values())

    def _living(self) -> list[str]:
        return [state for state in self._states() if state not in "ZX"]


def group_states(group: int) -> dict[int, str]:
    """By pid, the letter of `/proc/PID/stat` of each process of the group."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[2]) == group:
            found[int(entry.name)] = fields[0]
    return found


def _exit_status(pid: int) -> int | None:
    """Of a child that has ended, without taking it away; None while it runs."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None if found is None else found.si_status


def _until(holds: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True
