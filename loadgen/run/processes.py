"""How many load processes, and what each is told."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import numpy as np

from loadgen.drive.orders import Orders, classes_of, divide
from loadgen.errors import BadInput
from loadgen.plan import payload
from loadgen.plan.model import NOT_DUE
from loadgen.selftest import limits

if TYPE_CHECKING:
    from loadgen.plan.model import Plan
    from loadgen.run.files import RunFolder
    from loadgen.run.prepare import Prepared

_MOST_AUTO: Final = 4
_LEAST_CONNECTIONS: Final = 8
_OWN_FILES: Final = 64
"""Of a load process, beside its connections."""
MOST_CONNECTIONS: Final = 1_000
"""Opened before the run; servers refuse more from one address, and what is missing is opened on demand."""


def processes(asked: int | None) -> int:
    """`--procs`, or by the cores: one below four, since the server needs the rest."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0))
    return 1 if cores < _MOST_AUTO else max(1, min(_MOST_AUTO, cores // 2 - 1))


def pins(procs: int) -> list[int | None]:
    """A core for each load process, from the last one down, where there are enough to leave the server its own."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 * procs + 2:
        return [None] * procs
    return [cores[-1 - number] for number in range(procs)]


def check_limits(plan: Plan, procs: int) -> None:
    """Refuse what is beyond this host, where `selftest` has found out what it can do.

    Raises:
        BadInput: its figures would be the client's.
    """
    known = limits.load(limits.path())
    if known is None:
        return
    beyond = limits.exceeded(known, procs, *limits.planned_rates(plan))
    if beyond:
        raise BadInput("--procs", "", str(procs), f"{'; '.join(beyond)}; more processes, a lower rate, or --allow-lag")


def scribe_beside(asked: str | None) -> bool:
    """Whether records are parsed while the run goes on: as asked, or where there are cores to spare."""
    return asked == "live" or (asked is None and len(os.sched_getaffinity(0)) > _MOST_AUTO)


def orders_for(prepared: Prepared, folder: RunFolder, procs: int) -> list[Orders]:
    """One for each load process.

    Raises:
        BadInput: more connections than a process may open.
    """
    scenario, plan = prepared.scenario, prepared.sent
    parts = urlsplit(scenario.target)
    tls = parts.scheme == "https"
    slots = {spec.name: spec.arrivals.slots for spec in scenario.online if spec.arrivals.kind == "closed"}
    streams = {spec.name: spec.window for spec in scenario.offline if spec.submit == "stream"}
    wanted = connections(plan, sum(slots.values()) + sum(streams.values()))
    check_files(wanted, procs, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    base = Orders(
        host=parts.hostname or "",
        port=parts.port or (443 if tls else 80),
        tls=tls,
        payload=str(folder.path / "payload.bin"),
        index=str(folder.path / "index.npy"),
        classes=classes_of(scenario, prepared.classes),
        window=plan.window,
        spool=str(folder.spool),
        key_at=payload.key_at(scenario.api),
        connections=wanted,
    )
    end = scenario.warmup_micros + scenario.duration
    return divide(plan, base, procs, closed=slots, streams=streams, stop=end)


def check_files(wanted: int, procs: int, most: int) -> None:
    """Refuse what would run into the limit of open files, `most` of a process, in the middle of the run.

    Raises:
        BadInput: so many connections cannot be opened.
    """
    if most != resource.RLIM_INFINITY and wanted / procs + _OWN_FILES > most:
        why = f"{wanted} connections may be wanted, and a process may open {most} files; ulimit -n, or more processes"
        raise BadInput("--procs", "", str(procs), why)


def connections(plan: Plan, slots: int) -> int:
    """Those that may be wanted at once: the most that are due within two seconds, and every slot."""
    due = np.array([each.due for each in plan.requests if each.due != NOT_DUE], dtype=np.int64)
    peak = int(np.max(np.searchsorted(due, due + 2_000_000) - np.arange(len(due)))) if len(due) else 0
    return min(MOST_CONNECTIONS, max(_LEAST_CONNECTIONS, peak) + slots)
