"""What a run leaves behind when it ends before its time: no half plan, no stale answers, no window that never was."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.drive.spool import MAGIC
from loadgen.errors import Unreachable
from loadgen.options import RunOptions
from loadgen.plan.model import Plan
from loadgen.run import execute as module
from loadgen.run.conduct import _signals, server_url
from loadgen.run.files import RunFolder
from loadgen.spec import ProxySpec, Scenario

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = RunOptions(Scenario("http://127.0.0.1:1", ()))


@dataclass(frozen=True)
class Stub:
    """Of `Prepared`, what is looked at."""

    plan: Plan
    sent: Plan


@pytest.mark.parametrize("error", [KeyboardInterrupt, Unreachable("there", "no answer")])
@pytest.mark.parametrize("place", ["prepare", "prime"])
def test_an_end_before_the_first_request_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, place: str
) -> None:
    def fails(*given: Any) -> None:
        folder: RunFolder = given[2]
        (folder.path / "payload.bin").write_bytes(b"big")
        if place == "prime":
            folder.write_scenario("")
        raise error

    monkeypatch.setattr(module, "_prepared", fails)
    for path, is_new in ((tmp_path / "new", True), (tmp_path, False)):
        with pytest.raises((KeyboardInterrupt, Unreachable)):
            module.execute(RunOptions(OPTIONS.scenario, out=str(path)))
        assert path.exists() is not is_new
    assert not (tmp_path / "payload.bin").exists()


def test_a_folder_in_which_somebody_was_asked_is_kept(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    assert folder.is_unsent
    (folder.path / "spool.0").write_bytes(MAGIC)
    assert folder.is_unsent
    (folder.path / "spool.0").write_bytes(MAGIC + b"entry")
    assert not folder.is_unsent


def test_answers_of_an_incomplete_run_are_not_those_of_the_next(tmp_path: Path) -> None:
    for name in ("spool.0", "spool.0.parsed", "spool.txt"):
        (tmp_path / name).write_bytes(b"old")
    RunFolder.create(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"spool.txt", "hist", "jobs"}


@pytest.mark.parametrize(("stopped", "end"), [(None, 60), (25, 25), (5, 10), (70, 60)])
def test_the_window_ends_where_the_issuing_did(stopped: int | None, end: int) -> None:
    plan = Plan(0, [], [], (10, 60))
    found = module._cut_short(Stub(plan, plan), stopped)  # type: ignore[type-var, arg-type]
    assert (found.plan.window, found.sent.window) == ((10, end), (10, end))


def test_a_server_behind_a_proxy_is_known_by_its_own_port() -> None:
    """Else its processes would be strangers who disturb the run."""
    link = ProxySpec("link", "127.0.0.1:8020", "127.0.0.1:8000")
    scenario = Scenario("http://127.0.0.1:8020", (), proxies=(ProxySpec("wire", "unix:/a", "unix:/b"), link))
    assert server_url(scenario) == "http://127.0.0.1:8000"
    assert server_url(replace(scenario, target="http://127.0.0.1:8021")) == "http://127.0.0.1:8021"


def test_signals_are_given_back() -> None:
    """While results are written, Ctrl-C is the loop's again: it waits for them, and the second one does not."""

    class Run:
        def interrupt(self) -> None:
            """Nothing."""

    async def main() -> None:
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        with _signals(Run()):  # type: ignore[arg-type]
            assert signal.getsignal(signal.SIGINT) != before[0]
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before

    asyncio.run(main())
