"""The program `slackwater-loadgen`: reads the command line into options, and hands them to the command.

Every error that is not a bug is one line on stderr and an `ExitCode`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Final

from loadgen.cli_build import BUILDERS
from loadgen.cli_help import PROGRAM, help_for
from loadgen.cli_parse import parse
from loadgen.errors import BadInput, ExitCode, LoadgenError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP: Final = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(args)
    except LoadgenError as error:
        sys.stderr.write(f"{PROGRAM}: error: {_one_line(str(error))}\n")
        return error.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _main(args: list[str]) -> int:
    if not args or args[0] in _HELP:
        sys.stdout.write(help_for(args[1] if len(args) > 1 else None))
        return ExitCode.OK if args else ExitCode.BAD_INPUT
    name, rest = args[0], args[1:]
    if name not in BUILDERS:
        raise BadInput(PROGRAM, "", name, "no such command", BUILDERS)
    if any(arg in ("-h", "--help") for arg in rest):
        sys.stdout.write(help_for(name))
        return ExitCode.OK
    options = BUILDERS[name](parse(name, rest))
    # Imported only now: each command pulls in its own part, and none of them another's libraries.
    command = importlib.import_module(f"loadgen.commands.{name}")
    return int(command.main(options))


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


if __name__ == "__main__":
    raise SystemExit(main())
