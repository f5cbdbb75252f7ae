"""What goes wrong before the first request: one clear line, an exit status that is not 0, and nothing left behind."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from support.http import call
from support.server import BIN, Server


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "slackwater"), *args],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=60,
        check=False,
    )


def doors(folder: Path) -> list[str]:
    return [
        "--listen=127.0.0.1:0",
        "--ops-listen=127.0.0.1:0",
        f"--worker-socket={folder}/r/w.sock",
        f"--state-dir={folder}/s",
    ]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing said, which must be the program's own line and no traceback."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "tiny", f"--listen=127.0.0.1:{port}", *doors(folder)[1:])
    assert done.returncode == 2
    assert f"--listen 127.0.0.1:{port}" in one_line(done)


def test_a_second_server_on_the_same_port_and_socket_refuses_and_the_first_goes_on(oracle: Server) -> None:
    port = oracle.api.rsplit(":", 1)[1]
    assert run("serve", "sim", f"--listen=127.0.0.1:{port}").returncode == 2
    done = run("serve", "sim", "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", f"--worker-socket={oracle.socket}")
    assert done.returncode == 2
    assert "--worker-socket" in one_line(done)
    assert call(oracle.api, "GET", "/ready").status == 200


@pytest.mark.parametrize("flag", ["--listen", "--ops-listen"])
def test_an_open_address_without_keys(folder: Path, flag: str) -> None:
    kept = [door for door in doors(folder) if not door.startswith(f"{flag}=")]
    done = run("serve", "tiny", f"{flag}=0.0.0.0:0", *kept)
    assert done.returncode == 2
    assert f"{flag} 0.0.0.0:0" in one_line(done)
    assert "--allow-no-auth" in one_line(done)


def test_a_model_that_cannot_be_had(folder: Path) -> None:
    done = run("serve", "llama-900b", *doors(folder))
    assert done.returncode == 3
    assert "smollm2" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_model_file(folder: Path) -> None:
    model = folder / "broken"
    model.mkdir()
    (model / "config.json").write_text("{")
    (model / "model.safetensors").write_bytes(b"\xff" * 64)
    done = run("serve", str(model), *doors(folder))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert str(model) in done.stderr


def test_a_cache_folder_that_cannot_be_written(folder: Path) -> None:
    file = folder / "file"
    file.write_text("")
    done = run("serve", "tiny", *doors(folder), SLACKWATER_CACHE=str(file / "below"))
    assert done.returncode != 0
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_dies_at_its_start_ends_serve_with_its_status(folder: Path) -> None:
    done = run("serve", "tiny", *doors(folder), "--", "--max-num-seqs=0")
    assert done.returncode == 2
    assert "--max-num-seqs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_command_that_does_not_exist(folder: Path) -> None:
    done = run("serve", "sim", *doors(folder), "--worker-command", "no-such-program")
    assert done.returncode == 1
    assert "no-such-program" in one_line(done)


def test_ctrl_c_stops_at_once_and_leaves_nothing() -> None:
    with Server("serve", "sim", "--worker-command", "slackwater-worker --sim") as server:
        server.wait_ready()
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        pid = server.pids["w0"]
        assert server.stop(signal.SIGINT, timeout=10) == 0
        assert not Path(f"/proc/{pid}").exists()
        assert not server.socket.exists()


def test_ready_only_while_a_worker_is() -> None:
    with Server("serve", "sim", "--worker-command", "slackwater-worker --sim") as server:
        server.wait_listening()
        # The worker needs longer to start than this request to arrive, or it is ready already and says so.
        assert call(server.api, "GET", "/live").status == 200
        server.wait_ready()
        assert call(server.api, "GET", "/ready").status == 200
        server.kill_worker("w0")
        server.wait_for("worker ended")
        not_ready = call(server.api, "GET", "/ready")
        assert (not_ready.status, not_ready.json()["error"]["code"]) == (503, "no_worker")
        server.wait_for("worker ready worker=w0")
        assert call(server.api, "GET", "/ready").status == 200


def test_a_worker_whose_router_is_killed_ends_by_itself() -> None:
    with Server("serve", "sim", "--worker-command", "slackwater-worker --sim") as server:
        server.wait_ready()
        pidfd = os.pidfd_open(server.pids["w0"])
        server.process.kill()
        server.process.wait()
        try:
            # Readable once the process has ended; the test's own timeout is the limit.
            assert select.select([pidfd], [], [], 30)[0]
        finally:
            os.close(pidfd)


def test_the_server_outlives_the_reader_of_its_log(folder: Path) -> None:
    command = [str(BIN / "slackwater"), "serve", "sim", *doors(folder), "--worker-command", "slackwater-worker --sim"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("  curl"):
                break
        process.stdout.close()
        api, pid = re.findall(r"API +(http://[^/]+)", said)[0], int(re.findall(r"pid=(\d+)", said)[0])
        os.kill(pid, signal.SIGKILL)
        # What the router wants to say of it reaches nobody.
        while call(api, "GET", "/ready").status == 200:
            pass
        while call(api, "GET", "/ready").status != 200:
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
