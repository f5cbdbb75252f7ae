"""Servers as processes: real mocks on loopback, started, waited for, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.loadgen_experiment import small_plan

from loadgen.errors import BadInput
from loadgen.experiment import mock_truth, processes, server
from loadgen.experiment.armrun import set_aside

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.experiment.plan import Server

MOCK = "{python} -m loadgen.mock --listen 127.0.0.1:{port} --mode engine --preset cpu-small"


def made(**given: Any) -> Server:
    table = {"up": MOCK, "ready": "/health", "grace": "10s", **given}
    return small_plan(server={"fake": table}).servers["fake"]


def test_start_ask_and_stop(tmp_path: Path) -> None:
    asked = made(control="http://127.0.0.1:{port}", pids="server")
    running = server.start(asked, {}, tmp_path)
    pid = running.groups["server"]
    try:
        assert server.get_status(f"{running.target}/health") == 200
        assert mock_truth.routes(running.control or "")["GET /health"] >= 1
        assert running.dead() == []
        assert (tmp_path / "pids.txt").read_text() == f"w0 {pid}\n"
        reading = processes.read_part("server", pid, 0)
        assert reading.processes == 1
        assert reading.rss > 1 << 20
    finally:
        notes = server.stop(running)
    assert notes == []
    assert processes.group_members(pid) == []
    assert server.get_status(f"{running.target}/health") is None
    assert not running.short.exists()
    assert "listening" in (tmp_path / "server.log").read_text()


def test_two_parts_and_their_ports(tmp_path: Path) -> None:
    parts = [
        {"name": "a", "up": MOCK, "ready": "/health", "role": "router"},
        {"name": "b", "up": MOCK.replace("{port}", "{port_b}"), "ready": "http://127.0.0.1:{port_b}/health"},
    ]
    asked = small_plan(server={"fake": {"part": parts, "ready": "/health"}}).servers["fake"]
    running = server.start(asked, {}, tmp_path)
    try:
        assert len(set(running.ports)) == 2
        assert sorted(running.groups) == ["a", "b"]
    finally:
        assert server.stop(running) == []


@pytest.mark.parametrize(
    ("up", "why"),
    [
        ("{python} -m loadgen.mock --no-such-flag", "ended with 2 before it was ready"),
        ("no-such-program-here", "no program"),
    ],
)
def test_a_server_that_does_not_start(tmp_path: Path, up: str, why: str) -> None:
    with pytest.raises(server.ServerFailed, match=why):
        server.start(made(up=up), {}, tmp_path)


def test_a_server_that_is_never_ready(tmp_path: Path) -> None:
    with pytest.raises(server.ServerFailed, match=r"not ready within 0\.3 s"):
        server.start(made(ready="/no-such-route", within="300ms"), {}, tmp_path)
    left = server.reap(tmp_path)
    assert left == [], "it was ended when it failed"


STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('up', flush=True); time.sleep(600)"
)


def test_what_does_not_end_is_killed_with_its_children_and_said(tmp_path: Path) -> None:
    up = f'{{python}} -c "{STUBBORN}"'
    asked = small_plan(
        server={"fake": {"part": [{"name": "s", "up": up, "ready": "log:up"}], "ready": "", "grace": "200ms"}}
    ).servers["fake"]
    running = server.start(asked, {}, tmp_path)
    group = running.groups["s"]
    assert len(processes.group_members(group)) == 2
    notes = server.stop(running)
    assert notes == ["s did not end within 0.2 s of SIGTERM", "s left 2 processes, which were killed"]
    assert processes.group_members(group) == []


def test_a_killed_runner_leaves_servers_that_the_next_one_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    running = server.start(made(), {}, folder)
    # As if this process had died here: nobody stops it.
    set_aside(folder)
    assert processes.group_members(running.groups["server"]) == []
    assert not folder.exists()
    assert not running.short.exists()
    assert (tmp_path / "run.torn-1" / "server.log").is_file()
    running.processes["server"].wait()


def test_children_of_a_part_that_died_are_ended_too(tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    code = f"import subprocess, sys; print('ready', flush=True); subprocess.run({sleeper})"
    part = {"name": "a", "up": f'{{python}} -c "{code}"', "ready": "log:ready"}
    asked = small_plan(server={"fake": {"part": [part], "ready": ""}}).servers["fake"]
    running = server.start(asked, {}, folder)
    pid = running.groups["a"]
    while len(processes.group_members(pid)) < 2:
        assert running.dead() == []
    try:
        running.processes["a"].kill()
        running.processes["a"].wait()
        assert processes.group_members(pid)
        (other / server.PIDS).write_bytes((folder / server.PIDS).read_bytes())
        assert server.reap(other) == [], "the group writes to the log of another folder"
        assert processes.group_members(pid)
        assert server.reap(folder) == ["a"]
        assert processes.group_members(pid) == []
    finally:
        server._end_group(running.parts[0])


def test_a_pid_that_was_given_anew_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        (tmp_path / server.PIDS).write_text(
            f'{{"short":"{tmp_path}","parts":[{{"name":"x","pid":{other.pid},"started":12345}}]}}'
        )
        assert server.reap(tmp_path) == []
        assert other.poll() is None
        assert tmp_path.exists()
    finally:
        other.communicate()


def test_prepare_is_done_once(tmp_path: Path) -> None:
    code = "open('{shared}/made','a').write('x'); import json; print(json.dumps(dict(model_dir='M')))"
    asked = made(prepare=[f'{{python}} -c "{code}"'])
    for _ in range(2):
        assert server.prepare(asked, {}, tmp_path / "shared") == {"model_dir": "M"}
    assert (tmp_path / "shared" / "made").read_text() == "x"
    with pytest.raises(server.ServerFailed, match="ended with 3"):
        server.prepare(made(prepare=['{python} -c "raise SystemExit(3)"']), {}, tmp_path / "shared")


def test_prepare_that_never_ends(tmp_path: Path) -> None:
    endless = made(prepare=['{python} -c "import time; time.sleep(60)"'], within="300ms")
    with pytest.raises(server.ServerFailed, match="did not end within"):
        server.prepare(endless, {}, tmp_path / "shared")


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"\0")
    path.chmod(0o755)
    with pytest.raises(server.ServerFailed, match="Exec format error"):
        server.start(made(up=str(path)), {}, tmp_path)
    with pytest.raises(server.ServerFailed, match="Exec format error"):
        server.prepare(made(prepare=[str(path)]), {}, tmp_path / "shared")


def test_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="another machine"):
        server.start(made(target="http://192.0.2.1:{port}"), {}, tmp_path)


def test_usage_over_a_span(tmp_path: Path) -> None:
    rows = [processes.Reading(at, "r", cpu, rss, 1) for at, cpu, rss in ((0, 100, 5), (1_000, 600, 6), (2_000, 700, 9))]
    rows.append(processes.Reading(0, "other", 1, 1, 1))
    processes.write(rows, tmp_path / "p.csv", 0)
    back = processes.read(tmp_path / "p.csv")
    assert back == rows
    found = processes.usage(back, "r", (500, 2_000))
    assert found is not None
    assert (found.cpu_micros, found.rss_before, found.rss_after) == (350.0, 5, 9)
    assert found.cores == pytest.approx(350 / 1_500)
    assert processes.usage(back, "other", (0, 1)) is None


def test_own_process_is_read() -> None:
    stat = processes.stat_of(os.getpid())
    assert stat is not None
    assert stat.state in "RS"
    assert stat.pages > 0
