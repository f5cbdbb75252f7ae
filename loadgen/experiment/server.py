"""An arm's server: started fresh for a run, waited for, ended, and checked to be gone.

Each part leads a session of its own, so that its children are known by its process group. Only groups that were started
here are ever signalled. Their pids stand in a file, so that a runner that was killed can end them when it comes back.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from loadgen.errors import LoadgenError
from loadgen.experiment.fill import fill, names_in, words
from loadgen.experiment.plan import OWN_PORTS
from loadgen.experiment.processes import group_members, stat_of
from loadgen.experiment.state import write_atomic
from loadgen.target import check_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.experiment.plan import Part, Server

_POLL: Final = 0.05
_LAST_WAIT: Final = 5.0
"""Seconds that a group has after SIGKILL."""
_SHORT: Final = "slackwater-run-"
_TAIL_BYTES: Final = 2_000
PIDS: Final = "pids.json"
TREE: Final = Path(__file__).resolve().parent.parent.parent
"""Folder of the project, or of the installed packages."""


class StartedPart(msgspec.Struct, frozen=True):
    """`started`: of `/proc/PID/stat`, so that a pid that was given anew is not taken for it."""

    name: str
    pid: int
    started: int


class StartedServer(msgspec.Struct, frozen=True):
    """`pids.json`. `short`: its folder for sockets, which goes when it ends."""

    short: str
    parts: list[StartedPart]


class ServerFailed(LoadgenError):
    """A part did not start, was not ready in time, or did not end. `part` may be empty: the server as a whole."""

    def __init__(self, server: str, part: str, why: str) -> None:
        self.server, self.part, self.why = server, part, why
        super().__init__(f"server {server}{f', {part}' if part else ''}: {why}")


@dataclass(slots=True)
class Running:
    """A server that is ready. `values`: all placeholders, ports among them."""

    server: Server
    values: dict[str, str]
    folder: Path
    short: Path
    target: str = ""
    metrics: str | None = None
    control: str | None = None
    pids_file: Path | None = None
    parts: list[StartedPart] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def groups(self) -> dict[str, int]:
        """Process group by part."""
        return {part.name: part.pid for part in self.parts}

    def dead(self) -> list[str]:
        """Parts that ended by themselves."""
        return [name for name, process in self.processes.items() if process.poll() is not None]


def search_path(server: Server, values: Mapping[str, str]) -> str:
    """Where programs are looked for: the server's own folders, that of this Python, and PATH."""
    own = [fill(each, values, f"[server.{server.name}]") for each in server.path]
    return os.pathsep.join([*own, str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def missing(server: Server, values: Mapping[str, str]) -> str | None:
    """Why it cannot run here, as a sentence; None: it can."""
    path = search_path(server, values)
    for program in server.needs:
        if shutil.which(fill(program, values, f"[server.{server.name}]"), path=path) is None:
            return f"{server.name} is not installed: {program} is in none of its folders"
    return None


def start(server: Server, values: Mapping[str, str], folder: Path) -> Running:
    """Start all parts, each when the one before is ready. `folder` exists and keeps the logs.

    Raises:
        ServerFailed: what was started is ended again.
        BadInput: a placeholder without a value.
    """
    short = Path(tempfile.mkdtemp(prefix=_SHORT))
    given = dict(values) | {"dir": str(folder), "run": str(short), "python": sys.executable}
    given |= {"log": str(folder / f"{server.parts[-1].name if server.parts else 'server'}.log")}
    running = Running(server, given, folder, short)
    try:
        _give_ports(running)
        where = f"[server.{server.name}]"
        running.target = fill(server.target, given, where)
        check_loopback(running.target, where, allow_remote=False)
        running.metrics = fill(server.metrics, given, where) if server.metrics else None
        running.control = fill(server.control, given, where) if server.control else None
        for part in server.parts:
            _start_part(running, part)
        _wait_ready(running, "", server.ready)
        _write_pids(running)
    except BaseException:
        stop(running, quiet=True)
        raise
    return running


def prepare(server: Server, values: Mapping[str, str], shared: Path) -> dict[str, str]:
    """Carry out what must be done once, unless it is, and give the placeholders that it told. A command that was broken
    off is begun anew.

    Raises:
        ServerFailed: a command failed.
    """
    shared.mkdir(parents=True, exist_ok=True)
    given = dict(values) | {"shared": str(shared), "python": sys.executable}
    told: dict[str, str] = {}
    for each in server.prepare:
        command = words(each, given, f"[server.{server.name}]")
        mark = shared / f".done-{blake2b(' '.join(command).encode(), digest_size=8).hexdigest()}.json"
        if not mark.is_file():
            write_atomic(mark, msgspec.json.encode(_told(_prepared(server, command, given))))
        told |= msgspec.json.decode(mark.read_bytes(), type=dict[str, str])
    return told


def _prepared(server: Server, command: list[str], values: Mapping[str, str]) -> bytes:
    path = search_path(server, values)
    program = shutil.which(command[0], path=path)
    if program is None:
        raise ServerFailed(server.name, "prepare", f"no program {command[0]!r}")
    own = command[0] == sys.executable
    try:
        done = subprocess.run(  # noqa: S603 - the plan says what is started; no shell reads it
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=server.within / 1e6,
            env=dict(os.environ) | {"PATH": path, "PYTHONPATH": _python_path(own=own)},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        why = f"{command[0]} did not end within {server.within / 1e6:g} s"
        raise ServerFailed(server.name, "prepare", why) from error
    except OSError as error:
        raise ServerFailed(server.name, "prepare", f"{command[0]}: {error.strerror or error}") from error
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise ServerFailed(server.name, "prepare", f"{command[0]} ended with {done.returncode}: {' '.join(last)}")
    return done.stdout


def _told(output: bytes) -> dict[str, str]:
    """The JSON object of the last line; empty where it is none."""
    lines = output.strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1], type=dict[str, str]) if lines else {}
    except msgspec.DecodeError:
        return {}


def _give_ports(running: Running) -> None:
    server = running.server
    texts = [server.target, server.ready, server.metrics or "", server.control or "", *server.env.values()]
    texts += [text for part in server.parts for text in (part.up, part.ready)] + list(running.values.values())
    wanted = {name for text in texts for name in names_in(text) if name in OWN_PORTS or name.startswith("port_")}
    # All are held until all are known, so that none is given twice.
    held = [socket.create_server(("127.0.0.1", 0)) for _ in wanted]
    for name, each in zip(sorted(wanted), held, strict=True):
        port = each.getsockname()[1]
        running.values[name] = str(port)
        running.ports.append(port)
    for each in held:
        each.close()


def _start_part(running: Running, part: Part) -> None:
    server = running.server
    where = f"[server.{server.name}], {part.name}"
    command = words(part.up, running.values, where)
    running.commands.append(shlex.join(command))
    environment = dict(os.environ) | {name: fill(text, running.values, where) for name, text in server.env.items()}
    environment["PATH"] = search_path(server, running.values)
    environment["PYTHONPATH"] = _python_path(own=command[0] == sys.executable)
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise ServerFailed(server.name, part.name, f"no program {command[0]!r}")
    with (running.folder / f"{part.name}.log").open("ab") as log:
        try:
            process = subprocess.Popen(  # noqa: S603 - the plan says what is started; no shell reads it
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ServerFailed(server.name, part.name, f"{command[0]}: {error.strerror or error}") from error
    running.processes[part.name] = process
    stat = stat_of(process.pid)
    running.parts.append(StartedPart(part.name, process.pid, stat.started if stat else 0))
    _write_parts(running)
    _wait_ready(running, part.name, part.ready)


def _python_path(*, own: bool) -> str:
    """Our own Python finds the packages of this tree, also where they are not installed. Every other program finds
    those that it was installed with: another project's Python has its own versions of what it needs.
    """
    known = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    others = [each for each in known if Path(each).resolve() != TREE]
    return os.pathsep.join([str(TREE), *others] if own else others)


def _wait_ready(running: Running, part: str, ready: str) -> None:
    if not ready:
        return
    until = time.monotonic() + running.server.within / 1e6
    while not _is_ready(running, part, fill(ready, running.values, f"[server.{running.server.name}]")):
        dead = running.dead()
        if dead:
            code = running.processes[dead[0]].returncode
            raise ServerFailed(
                running.server.name, dead[0], f"ended with {code} before it was ready{_tail(running, dead[0])}"
            )
        if time.monotonic() > until:
            why = f"was not ready within {running.server.within / 1e6:g} s ({ready})"
            raise ServerFailed(running.server.name, part, why + _tail(running, part))
        time.sleep(_POLL)


def _is_ready(running: Running, part: str, ready: str) -> bool:
    if ready.startswith("log:"):
        return ready[4:].encode() in (running.folder / f"{part}.log").read_bytes()
    return get_status(ready if "://" in ready else running.target + ready) == 200


def get_status(address: str, within: float = 2.0) -> int | None:
    """Status of a GET on this machine; None: no answer."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=within)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _tail(running: Running, part: str) -> str:
    path = running.folder / f"{part}.log"
    if not part or not path.is_file():
        return ""
    text = path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
    return f"; its log ends: {text.splitlines()[-1]}" if text else ""


def stop(running: Running, *, quiet: bool = False) -> list[str]:
    """End the parts, the last one first, and see that they are gone and their ports free; what was not as it should be,
    each a sentence.

    Raises:
        ServerFailed: a process or a port is left. Not with `quiet`.
    """
    notes: list[str] = []
    for part in reversed(running.parts):
        process = running.processes[part.name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(running.server.grace / 1e6)
            except subprocess.TimeoutExpired:
                notes.append(f"{part.name} did not end within {running.server.grace / 1e6:g} s of SIGTERM")
        notes += _end_group(part)
        process.wait()
    shutil.rmtree(running.short, ignore_errors=True)
    left = [name for name, group in running.groups.items() if group_members(group)]
    busy = [port for port in running.ports if not _is_free(port)]
    if (left or busy) and not quiet:
        raise ServerFailed(running.server.name, ", ".join(left), f"is left after its end; ports in use: {busy}")
    return notes


def _end_group(part: StartedPart) -> list[str]:
    """SIGKILL for those of the group that are left."""
    left = group_members(part.pid)
    if not left:
        return []
    for pid in left:
        # One that ended meanwhile is what is wanted.
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    until = time.monotonic() + _LAST_WAIT
    while any(pid != part.pid for pid in group_members(part.pid)) and time.monotonic() < until:
        time.sleep(_POLL)
    return [f"{part.name} left {len(left)} processes, which were killed"]


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def collect(running: Running) -> list[str]:
    """Files that are kept with the run and lie elsewhere; those already in its folder stay. Names of what is
    missing.
    """
    absent = []
    for pattern in running.server.collect:
        path = Path(fill(pattern, running.values, f"[server.{running.server.name}]"))
        found = sorted(path.parent.glob(path.name))
        if not found:
            absent.append(str(path))
        for each in found:
            if each.is_file() and running.folder not in each.parents:
                shutil.copy2(each, running.folder / each.name)
    return absent


def _write_parts(running: Running) -> None:
    (running.folder / PIDS).write_bytes(msgspec.json.encode(StartedServer(str(running.short), running.parts)))


def _write_pids(running: Running) -> None:
    """`pids.txt`: a line a worker, such as `w0 71`, for faults."""
    names = running.server.pids.split()
    if names:
        running.pids_file = running.folder / "pids.txt"
        lines = [f"w{number} {running.groups[name]}" for number, name in enumerate(names)]
        running.pids_file.write_text("\n".join(lines) + "\n")


def reap(folder: Path) -> list[str]:
    """End what a runner that was killed has left running from this folder; names of the parts."""
    path = folder / PIDS
    if not path.is_file():
        return []
    try:
        left = msgspec.json.decode(path.read_bytes(), type=StartedServer)
    except msgspec.DecodeError:
        return []
    ended = []
    for part in left.parts:
        stat = stat_of(part.pid)
        lives = stat is not None and stat.started == part.started and stat.state != "Z" and part.started
        if lives or (stat is None and _is_orphaned(part, folder)):
            _end_group(part)
            ended.append(part.name)
    # Only what `start` made, whatever stands in the file.
    if Path(left.short).name.startswith(_SHORT):
        shutil.rmtree(left.short, ignore_errors=True)
    return ended


def _is_orphaned(part: StartedPart, folder: Path) -> bool:
    """Whether the children of a part that has ended live on. They are known by the log that they write to: the number
    of a group alone may be another's by now.
    """
    log = str((folder / f"{part.name}.log").resolve())
    members = group_members(part.pid)
    return bool(members) and all(log in _outputs(pid) for pid in members)


def _outputs(pid: int) -> list[str]:
    try:
        return [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (1, 2)]
    except OSError:
        return []


def programs(server: Server, values: Mapping[str, str]) -> Sequence[str]:
    """First word of each part's command, for the hashes of what is measured."""
    found = []
    for part in server.parts:
        first = part.up.split()[0] if part.up.split() else ""
        found.append(fill(first, dict(values) | {"python": sys.executable}, f"[server.{server.name}]"))
    return sorted(set(found))
