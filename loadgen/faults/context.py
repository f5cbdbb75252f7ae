"""What faults may reach, and the making of each from its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import BadInput
from loadgen.faults import exec as command
from loadgen.faults import flood, hangup, link, pids
from loadgen.faults.base import PATIENCE_MICROS
from loadgen.faults.call import Call
from loadgen.faults.http import Http
from loadgen.faults.process import Kill, Stop
from loadgen.keys_fault import hangup_of, http_of, worker_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.drive.clock import Clock
    from loadgen.faults.base import Fault
    from loadgen.faults.hangup import HangUp
    from loadgen.faults.link import Link
    from loadgen.faults.pids import Workers
    from loadgen.faults.procfs import Identity
    from loadgen.spec import FaultSpec

_ADMIN = "/admin/"
_TRUNCATE_PATIENCE = 60_000_000
"""A connection must pass its bytes before it can be cut."""


@dataclass(slots=True)
class FaultContext:
    """`target`, `admin_url`: base addresses; keys are shown nowhere. `pids`: the file of `--pids`. `links`: proxies by
    name. `own_pids`: this program's further processes, at which no fault is aimed. `patience`: microseconds.
    """

    target: str
    api_key: str | None = field(default=None, repr=False)
    admin_url: str | None = None
    admin_key: str | None = field(default=None, repr=False)
    pids: Path | None = None
    links: Mapping[str, Link] = field(default_factory=dict)
    hang_up: HangUp | None = None
    own_pids: frozenset[int] = frozenset()
    patience: int = PATIENCE_MICROS

    def workers(self) -> Workers | None:
        """Who knows the workers' pids."""
        if self.admin_url is not None:
            return pids.AdminWorkers(self.admin_url, self.admin_key)
        return None if self.pids is None else pids.PidsFile(self.pids)


class Maker:
    """Makes faults. What `check` found stays: a pid of a file is the process that had it before the run."""

    def __init__(self, context: FaultContext, clock: Clock) -> None:
        self._context, self._clock = context, clock
        self._known: dict[str, Identity] = {}

    async def check(self, specs: Sequence[FaultSpec]) -> None:
        """Look at all faults before anything is sent.

        Raises:
            BadInput: a pid that nobody names, a program, link or hook that is not there, two faults on a link at once.
            BadData, Unreachable: who should name the pids does not.
        """
        _no_two_on_a_link(specs)
        for spec in specs:
            if spec.kind in ("kill", "stop"):
                self._known[spec.name] = await self._identity(spec)
            elif spec.kind == "exec":
                command.words_of(spec.target)
            elif spec.kind == "net" and spec.target not in self._context.links:
                raise BadInput(pids.FLAG, "net", spec.target, "no such --proxy", self._context.links)
            elif spec.kind == "hangup" and self._context.hang_up is None:
                raise BadInput(pids.FLAG, "hangup", spec.target, "nobody here can hang up on requests")

    async def make(self, spec: FaultSpec) -> Fault:
        """The fault, ready to be injected.

        Raises:
            BadInput, BadData, Unreachable: as `check`.
        """
        patience = self._context.patience
        if spec.kind == "kill":
            return Kill(spec.name, await self._aimed(spec), self._clock, patience=patience)
        if spec.kind == "stop":
            return Stop(spec.name, await self._aimed(spec), self._clock, patience=patience)
        if spec.kind == "net":
            return self._net(spec)
        if spec.kind == "http":
            return Http(spec.name, self._call(spec))
        if spec.kind == "exec":
            return command.Exec(spec.name, command.words_of(spec.target))
        if spec.kind == "flood":
            return flood.Flood(spec.name, spec)
        if self._context.hang_up is None:
            raise BadInput(pids.FLAG, "hangup", spec.target, "nobody here can hang up on requests")
        return hangup.HangUpOn(spec.name, *hangup_of(spec.target), self._context.hang_up)

    async def _aimed(self, spec: FaultSpec) -> Identity:
        """A worker may have been started again since `check`; what a file with a pid meant then, it means now."""
        if worker_of(spec.target) is not None or spec.name not in self._known:
            self._known[spec.name] = await self._identity(spec)
        return self._known[spec.name]

    async def _identity(self, spec: FaultSpec) -> Identity:
        number = worker_of(spec.target)
        if number is None:
            pid = pids.of_file(Path(spec.target))
        else:
            pid = await pids.worker(number, self._context.workers())
        proxies = {each.pid for each in self._context.links.values() if each.pid is not None}
        pids.may_be_signalled(pid, self._context.own_pids | proxies)
        known = self._known.get(spec.name)
        # A list that names the same pid means the same process, not one that has taken its number.
        return known if known is not None and known.pid == pid else pids.identity(pid)

    def _net(self, spec: FaultSpec) -> link.Net:
        if spec.target not in self._context.links:
            raise BadInput(pids.FLAG, "net", spec.target, "no such --proxy", self._context.links)
        mode = link.mode_of(spec)
        patience = spec.duration or (_TRUNCATE_PATIENCE if mode.kind == "truncate" else self._context.patience)
        return link.Net(spec.name, self._context.links[spec.target], mode, self._clock, patience=patience)

    def _call(self, spec: FaultSpec) -> Call:
        method, path = http_of(spec.target)
        if path.startswith(_ADMIN) and self._context.admin_url is not None:
            return Call(method, self._context.admin_url.rstrip("/") + path, self._context.admin_key)
        return Call(method, self._context.target.rstrip("/") + path, self._context.api_key)


def _no_two_on_a_link(specs: Sequence[FaultSpec]) -> None:
    net = sorted((spec for spec in specs if spec.kind == "net"), key=lambda spec: spec.at)
    for first, second in combinations(net, 2):
        if first.target == second.target and second.at <= first.at + (first.duration or 0):
            why = f"{first.name} is on this link then, and a link is disturbed in one way at a time"
            raise BadInput(pids.FLAG, "net", second.name, why)
