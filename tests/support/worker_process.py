"""Worker programs as real processes, whose every line on stderr is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.fake_router import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "pyworker.cli")


@contextmanager
def started(
    *command: str, folder: Path, stdin: int | None = subprocess.DEVNULL, **env: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the block's end, if it has not ended by then. `folder` is its working folder."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(env),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr, once it has ended by itself."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def run(*command: str, folder: Path, **env: str) -> tuple[int, str, str]:
    """Run a program to its end."""
    done = subprocess.run(
        command, cwd=folder, env=_environment(env), capture_output=True, text=True, timeout=PATIENCE * 3, check=False
    )
    return done.returncode, done.stdout, done.stderr


def _environment(changes: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLACKWATER_", "XDG_"))}
    return kept | changes
