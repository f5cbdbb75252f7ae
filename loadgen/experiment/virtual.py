"""`--virtual`: runs are simulated by a command of the server's, from the same plan. What comes out is marked in every
file.

The command gets the planned workload in its folder and writes `result.json` there, which must say `"mode": "virtual"`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadgen.errors import ExitCode
from loadgen.experiment.fill import words
from loadgen.experiment.server import TREE, Running, ServerFailed
from loadgen.plan import build, workload
from loadgen.run.files import RunFolder
from loadgen.run.stage import RunOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.experiment.plan import Server
    from loadgen.options import RunOptions
    from loadgen.run.stage import Stage

WITHIN: Final = 1_800
"""Seconds that a simulation may take."""


class Simulation:
    """Stands for both: servers that are not started, and the runner that would send to them."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._command: list[str] = []
        self._server = ""

    def start(self, asked: Server, values: Mapping[str, str], folder: Path) -> Running:
        """Note the command of the arm that is next.

        Raises:
            ServerFailed: the server has none.
        """
        if asked.simulate is None:
            raise ServerFailed(asked.name, "", "has no command that simulates it")
        given = dict(values) | {"dir": str(folder), "python": sys.executable, "tree": str(TREE)}
        given |= {"workload": str(folder / "workload.jsonl.gz"), "port": "1", "ops": "1"}
        self._command, self._server = words(asked.simulate, given, f"[server.{asked.name}]"), asked.name
        return Running(asked, given, folder, folder, target="http://127.0.0.1:1")

    def stop(self, running: Running) -> list[str]:  # noqa: ARG002 - the form of `Servers`
        """Nothing runs."""
        return []

    def __call__(self, options: RunOptions, stage: Stage | None = None) -> RunOutcome:  # noqa: ARG002 - of a Runner
        """Plan, simulate, and read what came.

        Raises:
            ServerFailed: the command failed, or its result is not marked.
        """
        folder = RunFolder.create(options.out or "")
        workload.write(build.build(options.scenario, self._data), folder.workload)
        try:
            done = subprocess.run(  # noqa: S603 - the plan says what is started; no shell reads it
                self._command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WITHIN, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerFailed(self._server, self._command[0], str(error)) from error
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise ServerFailed(self._server, self._command[0], f"ended with {done.returncode}: {' '.join(last)}")
        result = folder.load_result()
        if result.mode != "virtual":
            raise ServerFailed(self._server, self._command[0], 'its result is not marked "mode": "virtual"')
        return RunOutcome(folder.path, result, frozenset((ExitCode.OK,)))
