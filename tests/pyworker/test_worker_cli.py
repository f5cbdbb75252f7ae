"""`slackwater-worker` as a process: what it prints, how it ends, and how it is launched."""

from __future__ import annotations

import errno
import fcntl
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from safetensors import SafetensorError
from support.fake_router import TOKEN, FakeRouter
from support.worker_process import PROGRAM, ended, run, started
from support.worker_rig import short_folder

from pyworker.cli import main
from pyworker.models import tiny
from pyworker.runner.sim import oracle_tokens
from pyworker.wire import messages as wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A = "a" * 32


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    with short_folder() as folder, FakeRouter(folder) as router:
        yield router


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def launch_line(router: FakeRouter) -> str:
    return json.dumps({"endpoint": router.endpoint, "token": TOKEN}) + "\n"


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (["--slots", "3"], 2, "--slots 3: means something only with --sim"),
        (["--sim", "--threads", "2"], 2, "--threads 2: means something only without --sim"),
        (["--max-num-seqs", "0"], 2, "--max-num-seqs 0: at least 1"),
        (["--max-num-seqs", "many"], 2, "argument --max-num-seqs: invalid int value: 'many'"),
        (
            ["--sim", "--step-micros", "7"],
            2,
            "argument --step-micros: '7' is not two numbers with a comma between them",
        ),
        (["--sim", "--step-micros=-1,0"], 2, "--step-micros (-1, 0): at least 0"),
        (["--backend", "magic"], 2, "--backend magic: is not one of native, reference"),
        (["--dtype", "int8"], 2, "--dtype int8: is not one of auto, float32, bfloat16"),
        (["--no-such-flag"], 2, "unrecognized arguments: --no-such-flag"),
        (
            ["--router", "tcp://10.0.0.1:5"],
            2,
            "--router tcp://10.0.0.1:5: a path, ipc://PATH or tcp:// on loopback; other hosts are not built yet",
        ),
        (["nothing"], 3, None),
        (["tiny", "--backend", "reference", "--kv-dtype", "bfloat16"], 2, None),
        (["prepare"], 2, "the following arguments are required: MODEL"),
        (["prepare", "nothing"], 3, None),
        (["export", "smollm2", "x"], 2, None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_error_is_one_line_and_its_exit_code(
    args: list[str], code: int, line: str | None, cache: Path, tmp_path: Path
) -> None:
    status, out, err = run(*PROGRAM, *args, folder=tmp_path, SLACKWATER_CACHE=str(cache))
    assert (status, out) == (code, "")
    assert [each.startswith("slackwater-worker: error: ") for each in err.splitlines()] == [True]
    if line is not None:
        assert err == f"slackwater-worker: error: {line}\n"


def test_prepare_prints_one_line_that_can_be_read(cache: Path, tmp_path: Path) -> None:
    status, out, err = run(*PROGRAM, "prepare", "tiny", folder=tmp_path, SLACKWATER_CACHE=str(cache))
    assert (status, out.count("\n"), err.count("Traceback")) == (0, 1, 0)
    found = json.loads(out)
    assert found["name"] == "tiny"
    assert (cache / "models").resolve() in (tmp_path / found["model_dir"]).parents


def test_export_writes_a_folder_that_prepare_takes(tmp_path: Path, cache: Path) -> None:
    target = tmp_path / "here" / "toy"
    assert run(*PROGRAM, "export", "tiny", str(target), folder=tmp_path) == (0, "", "")
    status, out, _ = run(*PROGRAM, "prepare", str(target), folder=tmp_path, SLACKWATER_CACHE=str(cache))
    assert (status, json.loads(out)) == (0, {"name": "toy", "model_dir": str(target.resolve())})
    status, _, err = run(*PROGRAM, "export", "tiny", str(target), folder=tmp_path)
    assert (status, err) == (2, f"slackwater-worker: error: DIR {target}: is not empty\n")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), SafetensorError("disk full")])
def test_an_export_to_a_full_disk_is_one_line_and_leaves_nothing(
    error: Exception, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(folder: Path, _: str) -> None:
        (folder / "config.json").write_text("{")
        (folder / "more").mkdir()
        raise error

    monkeypatch.setattr(tiny, "write_tiny", full)
    target = tmp_path / "toy"
    if there:
        target.mkdir()
    assert main(["export", "tiny", str(target)]) == 2
    assert capsys.readouterr() == ("", f"slackwater-worker: error: DIR {target}: cannot be written: disk full\n")
    assert [path.name for path in tmp_path.rglob("*")] == (["toy"] if there else [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_loads_ends_it_quietly(number: signal.Signals, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with (models / ".tiny-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it cannot load the model before this is given up
        router = str(tmp_path / "worker.sock")
        args = ("tiny", "--router", router, "--log-level", "debug")
        with started(*PROGRAM, *args, folder=tmp_path, SLACKWATER_CACHE=str(tmp_path)) as process:
            assert process.stderr is not None
            assert process.stderr.readline().endswith(" DEBUG pyworker: loading tiny\n")
            process.send_signal(number)
            assert ended(process) == (0, "", "")


def test_threads_take_turns_quickly(tmp_path: Path) -> None:
    code = "import sys; from pyworker.cli import main; main(['--slots', '3']); print(round(sys.getswitchinterval(), 6))"
    status, out, _ = run(sys.executable, "-c", code, folder=tmp_path)
    assert (status, out) == (0, "0.0001\n")


def test_a_joined_worker_serves_and_drains_on_sigterm(router: FakeRouter, tmp_path: Path, cache: Path) -> None:
    args = ("sim", "--sim", "--router", router.endpoint, "--slots", "5", "--max-model-len", "100")
    with started(*PROGRAM, *args, folder=tmp_path, SLACKWATER_CACHE=str(cache)) as process:
        link = router.join()
        assert link.ready is not None
        assert (link.said_hello.pid, link.said_hello.token) == (process.pid, TOKEN)
        assert (link.ready.model_name, link.ready.slots, link.ready.max_model_len) == ("sim", 5, 100)
        link.submit(A, [1, 2, 3], max_tokens=20, credit_up_to=10)
        found: list[int] = []
        while len(found) < 10:
            found += link.next(wire.StepOutputs, wire.Accepted).ids
        process.send_signal(signal.SIGTERM)
        link.credit(A, 20)
        rest = link.collect([(A, 1)])[A, 1]
        assert found + rest.tokens == oracle_tokens([1, 2, 3], 7, 20, link.ready.vocab_size)
        bye = link.next(wire.Bye).body
        assert isinstance(bye, wire.Bye)
        assert bye.code is wire.ByeCode.drain
        router.cut()
        assert ended(process)[0] == 0


def test_a_refused_worker_says_why(router: FakeRouter, tmp_path: Path, cache: Path) -> None:
    args = ("sim", "--sim", "--log-level", "error", "--router", str(router.path))
    with started(*PROGRAM, *args, folder=tmp_path, SLACKWATER_CACHE=str(cache)) as process:
        router.join().bye(wire.ByeCode.model_mismatch, "serve the model of this router")
        what = "the router refuses this worker (model_mismatch): serve the model of this router"
        assert ended(process) == (4, "", f"slackwater-worker: error: {router.endpoint}: {what}\n")


def test_a_launched_worker_reads_its_stdin_and_ends_with_it(router: FakeRouter, tmp_path: Path, cache: Path) -> None:
    env = {"SLACKWATER_CACHE": str(cache), "SLACKWATER_LAUNCHED": "1", "SLACKWATER_MODEL_NAME": "mine"}
    router.write_token("0" * 32)  # not for this worker
    with started(*PROGRAM, "sim", "--sim", folder=tmp_path, stdin=subprocess.PIPE, **env) as process:
        assert process.stdin is not None
        process.stdin.write(launch_line(router))
        process.stdin.flush()
        link = router.join()
        assert link.ready is not None
        assert (link.said_hello.token, link.ready.model_name) == (TOKEN, "mine")
        link.submit(A, [1], max_tokens=1_000, credit_up_to=5)
        link.next(wire.Accepted)
        process.stdin.close()
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("line", ["", "not json\n", '{"endpoint": 5}\n'])
def test_a_launch_without_its_line_is_an_error(line: str, tmp_path: Path, cache: Path) -> None:
    env = {"SLACKWATER_CACHE": str(cache), "SLACKWATER_LAUNCHED": "1"}
    with started(*PROGRAM, "sim", "--sim", folder=tmp_path, stdin=subprocess.PIPE, **env) as process:
        out, err = process.communicate(line, timeout=20)
        assert (process.returncode, out) == (4, "")
        assert err.startswith("slackwater-worker: error: stdin: ")


def test_an_orphan_ends_though_its_engine_hangs(router: FakeRouter, tmp_path: Path, cache: Path) -> None:
    env = {"SLACKWATER_CACHE": str(cache), "SLACKWATER_LAUNCHED": "1"}
    args = ("sim", "--sim", "--step-micros", "600000000,0")
    with started(*PROGRAM, *args, folder=tmp_path, stdin=subprocess.PIPE, **env) as process:
        assert process.stdin is not None
        process.stdin.write(launch_line(router))
        process.stdin.flush()
        link = router.join()
        link.submit(A, [1])
        link.next(wire.Accepted)
        process.stdin.close()
        assert process.wait(timeout=20) == 0
