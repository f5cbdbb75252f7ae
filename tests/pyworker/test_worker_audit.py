"""The audit hook bites, and a worker that serves gives it no reason to."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest
from support.fake_router import FakeRouter
from support.worker_process import ROOT, ended, run, started
from support.worker_rig import short_folder

from pyworker.wire import messages as wire

if TYPE_CHECKING:
    from pathlib import Path

A, B = "a" * 32, "b" * 32
HOOK = str(ROOT / "tests/support/audit_hook.py")
ALONE = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from support import audit_hook; audit_hook.install()"

CORRUPTIBLE = """
import os, pickle, sys
sys.path.insert(0, {tests!r})
from support import audit_hook
from support.worker_rig import oracle_engine
from pyworker.worker import Worker
engine, pickled = oracle_engine(), pickle.dumps(print)
engine.submit = lambda request: {code}
with Worker(engine=engine, router=sys.argv[1]) as worker:
    audit_hook.install()
    worker.run()
"""


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import os; os.system('true')", "os.system"),
        ("import subprocess; subprocess.Popen(['true'])", "subprocess.Popen"),
        ("import pickle; pickle.loads(pickle.dumps(print))", "pickle.find_class"),
        ("sys.audit('slackwater.ready'); eval('1')", "compile"),
        ("code = compile('1', 'x', 'eval'); sys.audit('slackwater.ready'); exec(code)", "exec"),
    ],
)
def test_the_hook_aborts(code: str, event: str, tmp_path: Path) -> None:
    status, _, err = run(sys.executable, "-c", f"{ALONE}; {code}", folder=tmp_path)
    assert status == 99
    assert err.startswith(f"audit: {event} ")


@pytest.mark.parametrize(
    ("code", "event"),
    [("pickle.loads(pickled)", "pickle.find_class"), ("eval('1')", "compile"), ("os.system('true')", "os.system")],
    ids=["pickle", "eval", "system"],
)
def test_a_worker_that_runs_code_for_a_request_is_aborted(code: str, event: str, tmp_path: Path) -> None:
    with short_folder() as folder, FakeRouter(folder) as router:
        program = CORRUPTIBLE.format(tests=str(ROOT / "tests"), code=code)
        with started(sys.executable, "-c", program, router.endpoint, folder=tmp_path) as process:
            link = router.join()
            link.submit(A, [1, 2, 3])
            status, _, err = ended(process)
            assert (status, err.startswith(f"audit: {event} ")) == (99, True), err


@pytest.mark.parametrize("args", [["sim", "--sim"], ["tiny", "--backend", "reference"]], ids=["sim", "tiny"])
def test_a_worker_serves_under_the_hook(args: list[str], tmp_path: Path) -> None:
    with short_folder() as folder, FakeRouter(folder) as router:
        command = (sys.executable, HOOK, *args, "--router", router.endpoint)
        with started(*command, folder=tmp_path, SLACKWATER_CACHE=str(tmp_path)) as process:
            link = router.join()
            link.submit(A, [1, 2, 3], max_tokens=9)
            link.submit(B, [1, 2, 3] * 20, max_tokens=9, temperature=0.0)
            link.collect([(A, 1), (B, 1)])
            link.submit(A, [10**6], attempt=2)
            link.next(wire.Refused)
            link.cancel(A)
            link.next(wire.StepOutputs)
            link.next(wire.WorkerStats)
            router.cut()
            router.listen()
            link = router.join()
            link.submit(A, [1, 2, 3], max_tokens=2)
            link.collect([(A, 1)])
            process.send_signal(signal.SIGTERM)
            link.next(wire.Bye)
            router.cut()
            status, _, err = ended(process)
            assert (status, "audit:" in err) == (0, False), err
