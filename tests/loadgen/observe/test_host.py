"""The watch of the host, over a `/proc` that the test writes."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from loadgen.drive.clock import VirtualClock
from loadgen.drive.gate import HostMeters
from loadgen.observe import machine, procfs
from loadgen.observe.host import HostWatch

if TYPE_CHECKING:
    from pathlib import Path

S = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")


class Proc:
    """A folder like `/proc`. `tasks`: by pid, (parent, group, CPU ticks, start)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tasks: dict[int, tuple[int, int, int, int]] = {}

    def write(self, *, steal: int = 0, total: int = 0, swapped: int = 0, mhz: float = 2000.0) -> None:
        (self.root / "stat").write_text(f"cpu  {total - steal} 0 0 0 0 0 0 {steal} 0 0\ncpu0 1 2 3\n")
        (self.root / "vmstat").write_text(f"nr_free 1\npswpin {swapped}\npswpout 0\n")
        (self.root / "cpuinfo").write_text(
            f"processor : 0\nmodel name : Model X\nflags : fpu avx2 avx512f\ncpu MHz : {mhz}\n\n"
            f"processor : 1\ncpu MHz : {mhz}\n"
        )
        for folder in self.root.iterdir():
            if folder.name.isdigit() and int(folder.name) not in self.tasks:
                (folder / "stat").unlink()
        for pid, (parent, group, ticks, start) in self.tasks.items():
            (self.root / str(pid) / "fd").mkdir(parents=True, exist_ok=True)
            rest = f"S {parent} {group} 1 0 -1 0 0 0 0 0 {ticks - 1} 1 9 9 20 0 1 0 {start} 0 0"
            (self.root / str(pid) / "stat").write_text(f"{pid} (a b) c) {rest}\n")

    def listen(self, pid: int, port: int, inode: int = 4242) -> None:
        (self.root / "net").mkdir(exist_ok=True)
        row = f"   0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1"
        (self.root / "net" / "tcp").write_text(f"  sl  local_address\n{row}\n")
        link = self.root / str(pid) / "fd" / "3"
        link.unlink(missing_ok=True)
        link.symlink_to(f"socket:[{inode}]")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    made = Proc(tmp_path / "proc")
    made.root.mkdir()
    made.tasks = {
        1: (0, 1, 10, 1),
        2: (0, 0, 500, 1),
        3: (2, 0, 500, 1),
        10: (1, 10, 100, 5),
        11: (10, 10, 50, 5),
        20: (1, 20, 100, 6),
        21: (20, 20, 100, 6),
        22: (1, 20, 100, 6),
        30: (1, 30, 100, 7),
    }
    made.write(total=1000)
    made.listen(20, 8000)
    return made


def watch(proc: Proc, clock: VirtualClock, target: str = "http://127.0.0.1:8000") -> HostWatch:
    return HostWatch(clock, target, proc=proc.root, own=10)


def grow(proc: Proc, **by: int) -> None:
    for name, ticks in by.items():
        pid = int(name[1:])
        parent, group, before, start = proc.tasks[pid]
        proc.tasks[pid] = (parent, group, before + ticks, start)


def test_three_kinds_of_processes(proc: Proc) -> None:
    clock = VirtualClock()
    seen = watch(proc, clock)
    # Ours: 10 and its child. The server has the listener, its child, and its group. Kernel threads are nobody.
    grow(proc, p10=TICKS // 10, p11=TICKS // 10, p20=TICKS, p21=TICKS // 2, p22=TICKS // 2, p30=TICKS // 4, p3=TICKS)
    proc.write(total=1400, steal=20, swapped=3, mhz=1800.0)
    clock.run_until(S)
    seen.once()
    (row,) = seen.rows
    assert (row.t_micros, row.own_cpu, row.server_cpu, row.foreign_cpu) == (S, 0.2, 2.0, 0.25)
    assert (row.steal, row.swapped_bytes, row.clock_mhz) == (0.05, 3 * os.sysconf("SC_PAGE_SIZE"), 1800.0)


def test_a_pid_that_was_given_again_is_another_process(proc: Proc) -> None:
    clock = VirtualClock()
    seen = watch(proc, clock)
    proc.tasks[30] = (1, 30, 40, 99)
    proc.tasks[31] = (1, 31, 10, 99)
    proc.write(total=1400)
    clock.run_until(S)
    seen.once()
    assert seen.rows[0].foreign_cpu == 50 / TICKS


def test_a_server_that_cannot_be_seen_is_not_foreign(proc: Proc) -> None:
    clock = VirtualClock()
    hidden = watch(proc, clock, "http://127.0.0.1:8001")
    remote = watch(proc, clock, "http://192.0.2.1:8000")
    grow(proc, p30=TICKS // 2)
    proc.write(total=1400)
    clock.run_until(S)
    for each in (hidden, remote):
        each.once()
    assert (hidden.rows[0].foreign_cpu, hidden.rows[0].server_cpu) == (None, None)
    assert (remote.rows[0].foreign_cpu, remote.rows[0].server_cpu) == (0.5, None)


def test_a_server_that_starts_anew_is_found_again(proc: Proc) -> None:
    clock = VirtualClock()
    seen = watch(proc, clock)
    for second in (1, 2):
        clock.run_until(second * S)
        if second == 2:
            del proc.tasks[20], proc.tasks[21], proc.tasks[22]
            proc.tasks[40] = (1, 40, TICKS, 50)
            proc.write(total=2000)
            proc.listen(40, 8000, 77)
        seen.once()
    assert [(row.server_cpu, row.foreign_cpu) for row in seen.rows] == [(0.0, 0.0), (1.0, 0.0)]


def test_a_server_that_is_never_found_is_looked_for_less_often(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look means to read every open file of the host, on the loop that has faults to inject in time."""
    clock = VirtualClock()
    seen = watch(proc, clock, "http://127.0.0.1:8001")
    searches: list[int] = []
    monkeypatch.setattr(procfs, "listeners", lambda *_: searches.append(clock.now() // S) or set())
    for second in range(1, 121):
        clock.run_until(second * S)
        seen.once()
    assert searches == [1, 2, 4, 8, 16, 32, 63, 94]


def test_named_pids_belong_to_the_server(proc: Proc) -> None:
    clock = VirtualClock()
    seen = HostWatch(clock, "http://127.0.0.1:8000", proc=proc.root, own=10, related=lambda: [30])
    grow(proc, p30=TICKS)
    proc.write(total=1400)
    clock.run_until(S)
    seen.once()
    assert (seen.rows[0].server_cpu, seen.rows[0].foreign_cpu) == (1.0, 0.0)


def test_meters_are_of_the_window(proc: Proc, tmp_path: Path) -> None:
    clock = VirtualClock()
    seen = watch(proc, clock)
    for second, (steal, mhz) in enumerate([(50, 1000.0), (0, 2000.0), (4, 1500.0), (50, 500.0)], 1):
        clock.run_until(second * S)
        grow(proc, p30=TICKS // 10)
        before = 1000 + 100 * second
        proc.write(total=before, steal=steal + (0 if second == 1 else 50 if second < 4 else 54), mhz=mhz)
        seen.once()
    # The first second ended before the window, the last began after it.
    assert seen.meters((S, 2_500_000)) == HostMeters(
        steal=pytest.approx(0.02), foreign_cpu=pytest.approx(0.1), swapped_bytes=0, clock_change=0.25
    )
    assert seen.meters((90 * S, 99 * S)) == HostMeters()
    seen.write_csv(tmp_path / "host.csv")
    lines = (tmp_path / "host.csv").read_text().splitlines()
    assert lines[0] == "t_micros,steal,foreign_cpu,server_cpu,own_cpu,swapped_bytes,clock_mhz"
    assert lines[2] == "2000000,0,0.1,0,0,0,2000"


def test_a_host_that_says_nothing(tmp_path: Path) -> None:
    clock = VirtualClock()
    bare = Proc(tmp_path)
    bare.tasks = {10: (1, 10, 5, 1)}
    (tmp_path / "10").mkdir()
    seen = watch(bare, clock)
    clock.run_until(S)
    seen.once()
    row = seen.rows[0]
    assert (row.steal, row.foreign_cpu, row.swapped_bytes, row.clock_mhz) == (None, None, None, None)


def test_this_host_finds_a_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert os.getpid() in procfs.listeners(server.getsockname()[1])
    assert procfs.tasks()[os.getpid()].parent == os.getppid()


def test_identity(proc: Proc, tmp_path: Path) -> None:
    governor = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("performance\n")
    found = machine.identity(proc.root, tmp_path / "sys")
    assert (found["cpu"], found["cpu_flags"], found["governor"]) == ("Model X", "avx2 avx512f", "performance")
    assert "memory" not in found
    assert all(machine.identity().values())


def test_a_server_in_our_own_process_group_makes_nobody_else_a_server(proc: Proc) -> None:
    """Started from one script, the server and this program are one group, and so is whatever else it started."""
    clock = VirtualClock()
    proc.tasks |= {20: (1, 10, 100, 6), 50: (1, 10, 100, 8)}
    proc.write(total=1000)
    seen = watch(proc, clock)
    grow(proc, p20=TICKS, p50=TICKS // 2)
    proc.write(total=1400)
    clock.run_until(S)
    seen.once()
    assert (seen.rows[0].server_cpu, seen.rows[0].foreign_cpu) == (1.0, 0.5)
