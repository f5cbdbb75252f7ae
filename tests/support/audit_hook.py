"""Runs a worker that aborts when it does what no worker may: unpickle, start a program, or run code from data.

    python tests/support/audit_hook.py WORKER-ARGUMENTS...

stands in for `slackwater-worker`, for example as `slackwater serve --worker-command`. While the worker loads, Python
itself compiles and runs modules; from READY on (an audit event of our own) that is over, and `exec` and `compile` are
forbidden too.
"""

from __future__ import annotations

import os
import sys

ABORTED = 99
"""Exit status of a worker that was caught; the event is on stderr."""
FORBIDDEN = frozenset({"pickle.find_class", "os.system", "subprocess.Popen"})
FORBIDDEN_ONCE_READY = FORBIDDEN | {"exec", "compile"}
READY = "slackwater.ready"
LOADER = "/sbin/ldconfig"
"""What Python's `find_library`, which torch calls when it is imported, asks for the libraries of the system."""


def install() -> None:
    """Watch this process from now on. There is no way back."""
    forbidden = FORBIDDEN

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal forbidden
        if event == READY:
            forbidden = FORBIDDEN_ONCE_READY
        elif event == "subprocess.Popen" and args[0] == LOADER and forbidden is FORBIDDEN:
            return
        elif event in forbidden:
            os.write(2, f"audit: {event} {args!r}\n".encode(errors="replace"))
            os._exit(ABORTED)

    sys.addaudithook(watch)


def main() -> int:
    """Install the hook, then be the worker."""
    from pyworker.cli import main as worker

    install()
    return worker()


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules would stand in for Python's own
    sys.exit(main())
