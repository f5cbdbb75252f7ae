"""Kill and stop, at processes that really are there, that are not, and that are others by now."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest
from support.inject import FaultNotSeen, Kill, Stop, injected, of
from support.inject.rig import COUNTS, SHORT, child, clock, dead_pid

from loadgen.faults import procfs
from loadgen.faults.procfs import Identity

KINDS = [Kill, Stop]


def test_a_killed_process_is_gone() -> None:
    async def main(pid: int) -> None:
        async with injected(Kill("kill1", of(pid), clock())) as proof:
            assert proof.figures["pid"] == pid

    with child() as process:
        asyncio.run(main(process.pid))
        assert process.wait() == -signal.SIGKILL


def test_a_stopped_process_stands_and_goes_on() -> None:
    async def main(pid: int) -> None:
        async with injected(Stop("stop1", of(pid), clock())) as proof:
            assert proof.figures["state"] == "T"
            seen = procfs.look(pid)
            assert seen is not None
            assert seen.state == "T"
        seen = procfs.look(pid)
        assert seen is not None
        assert seen.state not in ("T", "Z")

    with child(COUNTS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asyncio.run(main(process.pid))
        process.stdin.write(b"1\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"1\n"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_seen_where_there_is_no_process(kind: type[Kill | Stop]) -> None:
    async def main() -> None:
        fault = kind("f", Identity(dead_pid(), 1), clock())
        with pytest.raises(FaultNotSeen, match="no process has pid"):
            await fault.inject()
        with pytest.raises(FaultNotSeen, match="nothing was signalled"):
            await fault.verify()
        await fault.heal()

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_pid_that_was_reused_is_not_signalled(kind: type[Kill | Stop]) -> None:
    """The child's pid with another start time: as if it had been given to the child after the one that was meant."""

    async def main(pid: int) -> None:
        meant = replace(of(pid), started=of(pid).started - 1)
        with pytest.raises(FaultNotSeen, match="another process by now"):
            async with injected(kind("f", meant, clock())):
                raise AssertionError

    with child(COUNTS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asyncio.run(main(process.pid))
        process.stdin.write(b"alive\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"alive\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_has_ended_proves_nothing(kind: type[Kill | Stop]) -> None:
    async def main(who: Identity) -> None:
        with pytest.raises(FaultNotSeen, match="ended already"):
            await kind("f", who, clock()).inject()

    with child() as process:
        who = of(process.pid)
        process.kill()
        # Ended, and not waited for yet.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.identity(process.pid) is None
        asyncio.run(main(who))


def test_a_process_that_stood_before_proves_nothing() -> None:
    async def main(pid: int) -> None:
        with pytest.raises(FaultNotSeen, match="was stopped before"):
            async with injected(Stop("f", of(pid), clock())):
                raise AssertionError
        # It is not woken either: somebody else stopped it.
        seen = procfs.look(pid)
        assert seen is not None
        assert seen.state == "T"

    with child() as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        asyncio.run(main(process.pid))


def test_a_process_that_was_woken_by_somebody_else_is_not_seen_to_stand() -> None:
    async def main(process_pid: int) -> None:
        fault = Stop("f", of(process_pid), clock(), patience=SHORT)
        await fault.inject()
        os.kill(process_pid, signal.SIGCONT)
        with pytest.raises(FaultNotSeen, match="does not stand"):
            await fault.verify()
        await fault.heal()

    with child() as process:
        asyncio.run(main(process.pid))


def test_a_stopped_process_that_is_killed_needs_no_healing() -> None:
    async def main(pid: int) -> None:
        who = of(pid)
        async with injected(Stop("stop1", who, clock())), injected(Kill("kill1", who, clock())):
            pass

    with child() as process:
        asyncio.run(main(process.pid))
        assert process.wait() == -signal.SIGKILL


def test_abandoning_wakes_at_once() -> None:
    async def main(pid: int) -> None:
        fault = Stop("stop1", of(pid), clock())
        await fault.inject()
        await fault.verify()
        fault.abandon()
        os.waitid(os.P_PID, pid, os.WCONTINUED | os.WNOWAIT)
        fault.abandon()
        await fault.heal()
        fault.abandon()

    with child() as process:
        asyncio.run(main(process.pid))


def test_names_with_parentheses_do_not_confuse() -> None:
    program = "open('/proc/self/comm', 'w').write('a) R 1 (b'); print('up', flush=True); import sys; sys.stdin.read()"
    with child(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        seen = procfs.look(process.pid)
        assert seen is not None
        assert seen.parent == os.getpid()


def test_this_program_comes_from_itself() -> None:
    assert {os.getpid(), os.getppid(), 1} <= procfs.ancestors()
