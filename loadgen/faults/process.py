"""Kill and stop: SIGKILL, and SIGSTOP with SIGCONT afterwards, at a process that is known by pid and start time.

A process is held by a pidfd from before its start time is compared, so that a pid which is reused at any moment can
never lead the signal to somebody else.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

from loadgen.faults import procfs
from loadgen.faults.base import PATIENCE_MICROS, FaultNotSeen, Proof, Value, look_until

if TYPE_CHECKING:
    from loadgen.drive.clock import Clock
    from loadgen.faults.procfs import Identity


class _Held:
    """A process that is held by a pidfd."""

    def __init__(self, fault: str, who: Identity) -> None:
        """
        Raises:
            FaultNotSeen: it is gone, or its pid is another's now.
        """
        self.who, self._fault, self._fd = who, fault, -1
        try:
            self._fd = os.pidfd_open(who.pid)
        except ProcessLookupError:
            raise FaultNotSeen(fault, f"no process has pid {who.pid}") from None
        seen = procfs.look(who.pid)
        if seen is None or seen.state in procfs.GONE:
            self.close()
            raise FaultNotSeen(fault, f"the process of pid {who.pid} has ended already")
        if seen.started != who.started:
            self.close()
            raise FaultNotSeen(fault, f"pid {who.pid} is another process by now")

    def state(self) -> str:
        """The letter of `/proc/PID/stat`; empty: it is gone."""
        seen = procfs.look(self.who.pid)
        if seen is None or seen.started != self.who.started or seen.state in procfs.GONE:
            return ""
        return seen.state

    def has_ended(self) -> bool:
        """A pidfd can be read from when its process has ended, reaped or not."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, what: signal.Signals) -> None:
        """Signal it.

        Raises:
            FaultNotSeen: it is gone, or may not be signalled.
        """
        try:
            signal.pidfd_send_signal(self._fd, what)
        except ProcessLookupError:
            raise FaultNotSeen(self._fault, f"the process of pid {self.who.pid} has ended already") from None
        except PermissionError:
            raise FaultNotSeen(self._fault, f"this user may not signal pid {self.who.pid}") from None

    def close(self) -> None:
        """Let it go. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Kill:
    """SIGKILL. Nothing brings the process back: `heal` only lets go of it."""

    def __init__(self, name: str, who: Identity, clock: Clock, *, patience: int = PATIENCE_MICROS) -> None:
        """`patience`: microseconds from the signal within which the process must be gone."""
        self.name, self.who = name, who
        self._clock, self._patience = clock, patience
        self._held: _Held | None = None
        self._at = 0

    async def inject(self) -> None:
        """Send it.

        Raises:
            FaultNotSeen: there is no such process.
        """
        self._held = _Held(self.name, self.who)
        self._at = self._clock.now()
        self._held.send(signal.SIGKILL)

    async def verify(self) -> Proof:
        """It lived when the signal was sent, and has ended since."""
        if self._held is None:
            raise FaultNotSeen(self.name, "nothing was signalled")
        if not await look_until(self._clock, self._held.has_ended, self._at + self._patience):
            raise FaultNotSeen(self.name, f"pid {self.who.pid} lives on, in state {self._held.state()}")
        return Proof(f"pid {self.who.pid} is gone", {"pid": self.who.pid, "started_ticks": self.who.started})

    async def heal(self) -> None:
        """Nothing can be undone."""
        if self._held is not None:
            self._held.close()
            self._held = None


class Stop:
    """SIGSTOP; `heal` is SIGCONT."""

    def __init__(self, name: str, who: Identity, clock: Clock, *, patience: int = PATIENCE_MICROS) -> None:
        """`patience`: microseconds within which it must stand, and go on afterwards."""
        self.name, self.who = name, who
        self._clock, self._patience = clock, patience
        self._held: _Held | None = None
        self._at = 0

    async def inject(self) -> None:
        """Send it.

        Raises:
            FaultNotSeen: there is no such process, or it stands already, so that its standing would prove nothing.
        """
        held = _Held(self.name, self.who)
        if held.state() == procfs.STOPPED:
            held.close()
            raise FaultNotSeen(self.name, f"pid {self.who.pid} was stopped before")
        self._held = held
        self._at = self._clock.now()
        held.send(signal.SIGSTOP)

    async def verify(self) -> Proof:
        """Its state is `T`."""
        held = self._held
        if held is None:
            raise FaultNotSeen(self.name, "nothing was signalled")
        if not await look_until(self._clock, lambda: held.state() == procfs.STOPPED, self._at + self._patience):
            raise FaultNotSeen(self.name, f"pid {self.who.pid} does not stand: {held.state() or 'it is gone'}")
        figures: dict[str, Value] = {"pid": self.who.pid, "started_ticks": self.who.started, "state": procfs.STOPPED}
        return Proof(f"pid {self.who.pid} stands", figures)

    def abandon(self) -> None:
        """SIGCONT at once, without looking whether it helped: for a program that is about to end."""
        if self._held is not None:
            try:
                self._held.send(signal.SIGCONT)
            except FaultNotSeen:
                return  # it is gone

    async def heal(self) -> None:
        """SIGCONT, until it does not stand any more. A process that ended meanwhile needs no healing.

        Raises:
            FaultNotSeen: it stands still.
        """
        held, self._held = self._held, None
        if held is None:
            return
        try:
            try:
                held.send(signal.SIGCONT)
            except FaultNotSeen:
                if held.has_ended():
                    return
                raise
            deadline = self._clock.now() + self._patience
            if not await look_until(self._clock, lambda: held.state() != procfs.STOPPED, deadline):
                raise FaultNotSeen(self.name, f"pid {self.who.pid} still stands after SIGCONT")
        finally:
            held.close()
