"""One client for both sides: the same load processes send every block, so that what is compared is the servers."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen.campaign import QUIET, own_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadgen.campaign import Tools
    from loadgen.drive.crew import Crew
    from loadgen.options import RunOptions
    from loadgen.run.stage import RunOutcome, Stage


@contextmanager
def one_client(procs: int | None, say: Callable[[str], None]) -> Iterator[tuple[Tools, Stage]]:
    """Tools whose runs share load processes, and the stage with these in it. `procs` None: as many as `run` would have.

    Raises:
        LoadgenError: they do not come up.
    """
    from loadgen.drive.crew import Crew
    from loadgen.run.execute import execute_here
    from loadgen.run.processes import processes

    with asyncio.Runner() as loop:
        crew = Crew(processes(procs))

        def run(options: RunOptions, stage: Stage | None = None) -> RunOutcome:
            return loop.run(execute_here(options, stage))

        loop.run(_enter(crew))
        try:
            yield replace(own_tools(say), runner=run), replace(QUIET, crew=crew)
        finally:
            loop.run(_leave(crew))


async def _enter(crew: Crew) -> None:
    await crew.__aenter__()


async def _leave(crew: Crew) -> None:
    await crew.__aexit__(None, None, None)
