"""Which process a fault means: by the server's own list of workers, by a file that says it, or by a file with a pid.

Nothing else is ever signalled: no name is searched for, and no number is taken from the command line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import msgspec

from loadgen.errors import BadData, BadInput
from loadgen.faults import call, procfs
from loadgen.faults.procfs import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_PID = re.compile(r"[1-9][0-9]{0,9}")
_WORKER = re.compile(r"(?:worker:|w)?([0-9]{1,4})")
_MOST_BYTES = 1 << 20
FLAG = "--fault"


class Workers(Protocol):
    """Says which pids the workers have now."""

    async def pids(self) -> Mapping[int, int]:
        """By the number of a worker, its pid.

        Raises:
            BadInput, BadData, Unreachable: nobody says so.
        """


class AdminWorkers:
    """`GET {admin}/admin/workers`, asked with the admin key."""

    def __init__(self, admin_url: str, key: str | None) -> None:
        self._url = f"{admin_url.rstrip('/')}/admin/workers"
        self._key = key

    async def pids(self) -> Mapping[int, int]:
        """As the server says now: a worker that was started again has another pid.

        Raises:
            Unreachable: no answer, or one that says nothing of workers.
            BadInput: the key is not taken.
        """
        answer = await call.send(call.Call("GET", self._url, self._key))
        if answer.status in (401, 403):
            raise BadInput("--admin-key-env", "", self._url, f"its key is not taken there (status {answer.status})")
        if answer.status != 200:
            raise BadInput("--admin-url", "", self._url, f"status {answer.status}, and no list of workers")
        return listed(answer.body, self._url)


class _Listed(msgspec.Struct):
    """A worker without a process on this host has no `pid`."""

    id: str | int | None = None
    name: str | None = None
    pid: int | None = None


class _List(msgspec.Struct):
    workers: list[_Listed] | None = None
    data: list[_Listed] | None = None


def listed(body: bytes, url: str) -> dict[int, int]:
    """Of `{"workers": [{"id": "w0", "pid": 71}]}`; `data` instead of `workers` is taken, and `name` beside `id`.

    Raises:
        BadData: something else.
    """
    try:
        found = msgspec.json.decode(body, type=_List)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadData(url, 0, "workers", f"no list of workers: {error}") from error
    workers = found.workers if found.workers is not None else found.data
    if workers is None:
        raise BadData(url, 0, "workers", "is missing")
    pids: dict[int, int] = {}
    for worker in workers:
        number = next((n for n in map(_number, (worker.name, worker.id)) if n is not None), None)
        if number is not None and worker.pid is not None and worker.pid > 0:
            pids[number] = worker.pid
    return pids


def _number(name: str | int | None) -> int | None:
    found = None if name is None else _WORKER.fullmatch(str(name))
    return None if found is None else int(found[1])


class PidsFile:
    """`--pids FILE`: a line a worker, its number and its pid, as in `w0 71`. Lines that begin with `#` are dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def pids(self) -> Mapping[int, int]:
        """As it stands in the file now.

        Raises:
            BadInput: it cannot be read.
            BadData: a line of another form, or a worker or pid that stands there twice.
        """
        found: dict[int, int] = {}
        for row, line in enumerate(_text(self._path, "--pids").splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            words = line.split()
            number = _number(words[0])
            if len(words) != 2 or number is None or _PID.fullmatch(words[1]) is None:
                raise BadData(str(self._path), row, "pid", "expected a worker's number and its pid, such as w0 71")
            pid = int(words[1])
            if number in found or pid in found.values():
                raise BadData(str(self._path), row, "pid", f"worker {number} or pid {pid} stands there twice")
            found[number] = pid
        return found


async def worker(number: int, workers: Workers | None) -> int:
    """Pid of `worker:N`.

    Raises:
        BadInput: nobody says which it is.
    """
    name = f"worker:{number}"
    if workers is None:
        raise BadInput(FLAG, "", name, "whose pid? give --admin-url or --pids FILE")
    known = await workers.pids()
    if number not in known:
        raise BadInput(FLAG, "", name, f"no such worker; there are {_names(known)}")
    return known[number]


def of_file(path: Path) -> int:
    """The pid in a file that holds nothing else.

    Raises:
        BadInput: no such file, or something else in it.
    """
    text = _text(path, FLAG).strip()
    if _PID.fullmatch(text) is None:
        raise BadInput(FLAG, "", str(path), "expected a file with a pid and nothing else")
    return int(text)


def may_be_signalled(pid: int, own: Iterable[int]) -> None:
    """The load generator's own processes are no targets: such a fault would stop the measuring, not the server.

    Raises:
        BadInput: it is one of them, or one that it comes from.
    """
    if pid in own or pid in procfs.ancestors():
        raise BadInput(FLAG, "", str(pid), "is this program itself, one of its processes, or one that it comes from")


def identity(pid: int) -> Identity:
    """Of the process that has this pid now; one that does not live has start time 0, which no process has."""
    return procfs.identity(pid) or Identity(pid, 0)


def _text(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("ascii")
    except OSError as error:
        raise BadInput(where, "", str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise BadInput(where, "", str(path), "is not text") from error


def _names(known: Mapping[int, int]) -> str:
    return ", ".join(f"worker:{number}" for number in sorted(known)) or "none"
