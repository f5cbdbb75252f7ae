"""The program `slackwater-loadgen`: reads the command line into options, and hands them to the command.

Every error that is not a bug is one line on stderr and an `ExitCode`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import TYPE_CHECKING, Final

from loadgen.cli_build import BUILDERS
from loadgen.cli_help import PROGRAM, help_for
from loadgen.cli_parse import parse
from loadgen.errors import BadInput, ExitCode, LoadgenError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP: Final = ("-h", "--help", "help")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE)
"""What the host has no more of, or does not give: no bug."""
_CLOSED_PIPE: Final = 141
"""As of a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; gives the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _main(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does. What is still held must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        sys.stderr.write(f"{PROGRAM}: error: {_one_line(str(error))}\n")
        return ExitCode.BAD_INPUT
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
