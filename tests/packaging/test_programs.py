"""The installed program `slackwater`: its status comes from the Rust side."""

from __future__ import annotations

import subprocess
import sysconfig
from importlib.metadata import version
from pathlib import Path

PROGRAM = Path(sysconfig.get_path("scripts")) / "slackwater"


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True)


def test_the_program_says_its_version() -> None:
    result = _run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"slackwater {version('slackwater')}\n", "")


def test_a_flag_that_is_not_there_is_one_error_and_status_2() -> None:
    result = _run("--nonsense")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--nonsense" in result.stderr.splitlines()[0]
