"""`slackwater-loadgen mock`: serve made-up answers until a signal comes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from loadgen.mock.server import run

if TYPE_CHECKING:
    from loadgen.errors import ExitCode
    from loadgen.mock.options import MockOptions


def main(options: MockOptions) -> ExitCode:
    """Serve. One line of JSON on stdout says where, once it listens."""
    return run(options, _say)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
