"""`slackwater-loadgen selftest`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from loadgen.campaign import say_on_stderr
from loadgen.compare.client import one_client
from loadgen.errors import ExitCode
from loadgen.run.files import write_whole
from loadgen.selftest import limits
from loadgen.selftest.driver import Selftest, processes_to_try, text

if TYPE_CHECKING:
    from loadgen.options import SelftestOptions


def main(options: SelftestOptions) -> ExitCode:
    """Find the limits of this host, print them, and keep them where runs look for them.

    Raises:
        LoadgenError: the mock or a load process does not come up.
    """
    procs = processes_to_try(options.procs, len(os.sched_getaffinity(0)))
    found = Selftest(one_client, say_on_stderr).run(procs)
    kept = limits.path()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, limits.encode(found))
    except OSError as error:
        say_on_stderr(f"{kept} cannot be written, so that no run will know these limits: {error.strerror}")
    sys.stdout.write(limits.encode(found).decode() if options.json else f"{text(found)}{kept}\n")
    return ExitCode.OK
