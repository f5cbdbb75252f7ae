"""The Python entry and the plain binary are one program: they print the same help."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def binary() -> Path:
    """The router as cargo builds it, without Python."""
    command = ["cargo", "build", "--locked", "-p", "slackwater-server", "--bin", "slackwater", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    executables = [json.loads(line).get("executable") for line in done.stdout.splitlines() if line.startswith("{")]
    return Path(next(path for path in reversed(executables) if path))


@pytest.mark.parametrize("args", [["--help"], ["serve", "--help"], ["router", "--help"], ["--version"]])
def test_both_print_the_same(binary: Path, args: list[str]) -> None:
    installed = Path(sysconfig.get_path("scripts")) / "slackwater"
    said = [
        subprocess.run([str(program), *args], capture_output=True, text=True, check=True, timeout=60).stdout
        for program in (installed, binary)
    ]
    assert said[0] == said[1]
    assert "slackwater" in said[0]
