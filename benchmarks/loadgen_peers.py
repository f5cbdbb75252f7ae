"""Other tools on the same mock: a cap of one, a second's standstill, 300 streams. Whose p99 TTFT is true?

The truth is when the mock sent the first token, less when the request was due: constant arrivals from the first on.
Tools live in the folder of peers, each in an environment of its own: `vllm/bin/vllm`, `guidellm/bin/guidellm`,
`aiperf/bin/aiperf`. A tool that is not there is reported as missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.engine.figures import Figure
from benchmarks.loadgen.bench import forget, run, truth
from loadgen.measure import metrics
from loadgen.run.server import Server
from loadgen.selftest.mock_process import MockProcess
from pyworker.models.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.loadgen.bench import Bench

_PROMPT = 16
_PATIENCE = 600


@dataclass(frozen=True, slots=True)
class Scene:
    """`cap`: requests at once on the client's side. `stall`: the mock stands still for a second in the middle."""

    name: str
    mock: tuple[str, ...]
    rate: float
    requests: int
    tokens: int
    cap: int | None = None
    stall: bool = False


SCENES = (
    Scene("cap 1", ("--mode", "engine", "--ttft", "fixed:500ms", "--tpot", "fixed:1ms"), 10, 8, 2, cap=1),
    Scene("1 s stall", ("--mode", "engine", "--ttft", "fixed:50ms", "--tpot", "fixed:5ms"), 100, 2_000, 2, stall=True),
    Scene("300 streams", ("--shape", "paced:100@20ms"), 150, 3_000, 100),
)


def measure(bench: Bench) -> None:
    """Our error over the smallest of the others', a scene at a time, and everybody's error in the raw numbers."""
    tools: dict[str, Callable[[MockProcess, Scene], float]] = {"ours": ours}
    vllm = bench.peers / "vllm" / "bin" / "vllm"
    if vllm.exists():
        tools["vllm bench serve"] = lambda mock, scene: vllm_bench(vllm, mock, scene)
    missing = [name for name in ("guidellm", "aiperf") if not (bench.peers / name / "bin" / name).exists()]
    if not vllm.exists():
        missing.append("vllm bench serve")
    note = f"not installed, or not driven here: {', '.join(missing)}" if missing else ""
    for scene in SCENES:
        raw: list[dict[str, object]] = []

        def one_round(scene: Scene = scene, raw: list[dict[str, object]] = raw) -> dict[str, float]:
            errors = {}
            for name, tool in tools.items():
                told, true = _told(scene, tool)
                raw.append({"tool": name, "told_s": told, "true_s": true})
                errors[name] = abs(told - true)
            return errors

        rounds, discarded = bench.undisturbed(one_round)
        name = f"error of p99 TTFT, {scene.name}: ours"
        bench.results.add(
            Figure(
                f"{name}, absolute", [each["ours"] * 1e3 for each in rounds], None, True, " ms", discarded, note, raw
            )
        )
        others = [name for name in tools if name != "ours"]
        values = [each["ours"] / max(1e-9, min(each[other] for other in others)) for each in rounds if others]
        bench.results.add(Figure(f"{name} over the best other", values, 1.0, True, "x", discarded, note))


def _told(scene: Scene, tool: Callable[[MockProcess, Scene], float]) -> tuple[float, float]:
    with MockProcess(*scene.mock) as mock:
        forget(mock)
        with _standstill(mock, scene.requests // 2) if scene.stall else nullcontext():
            told = tool(mock, scene)
        known = truth(mock)[-scene.requests :]
    first = known[0].received
    waits = [each.emits[0] - first - round(number * 1e6 / scene.rate) for number, each in enumerate(known)]
    return told, float(np.quantile(waits, 0.99, method="higher")) / 1e6


@contextmanager
def _standstill(mock: MockProcess, after: int) -> Iterator[None]:
    """SIGSTOP for a second once so many requests have come."""
    ended = threading.Event()
    stood: list[int] = []

    def wait() -> None:
        server = Server(mock.control)
        while not ended.is_set():
            routes = server.call("GET", "/mock/routes").json["routes"]
            if routes.get("POST /v1/chat/completions", 0) >= after:
                os.kill(mock.pid, signal.SIGSTOP)
                time.sleep(1.0)
                os.kill(mock.pid, signal.SIGCONT)
                stood.append(mock.pid)
                break
            ended.wait(0.05)
        server.close()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        ended.set()
        waiting.join()
    if not stood:
        raise RuntimeError("the mock never stood still, so this scene did not happen")


def ours(mock: MockProcess, scene: Scene) -> float:
    """Our p99 TTFT, seconds."""
    cap = f",inflight={scene.cap}" if scene.cap else ""
    spec = f"name=chat,arrivals=const:{scene.rate:g}/s,in=fixed:{_PROMPT},out=fixed:{scene.tokens}{cap}"
    # Nothing is sent after the run's time, so it must be long enough for those that wait behind the cap.
    seconds = scene.requests / scene.rate + (5 if scene.cap else 0)
    ran = run(mock, [spec], seconds, warmup="0s", max_requests=str(scene.requests))
    return float(np.nanquantile(metrics.ttft(ran.evidence.at), 0.99, method="higher")) / 1e6


def vllm_bench(program: Path, mock: MockProcess, scene: Scene) -> float:
    """Its p99 TTFT, seconds; arrivals as even as it can make them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program), "bench", "serve", "--backend", "openai-chat", "--base-url", mock.url]
        command += ["--endpoint", "/v1/chat/completions", "--model", "mock"]
        command += ["--tokenizer", str(prepare("smollm2").model_dir), "--dataset-name", "random"]
        command += ["--random-input-len", str(_PROMPT), "--random-output-len", str(scene.tokens), "--ignore-eos"]
        command += ["--num-prompts", str(scene.requests), "--request-rate", f"{scene.rate:g}", "--burstiness", "1e6"]
        command += ["--percentile-metrics", "ttft", "--metric-percentiles", "99", "--disable-tqdm", "--save-result"]
        command += ["--result-dir", folder, "--result-filename", "result.json", "--num-warmups", "0"]
        if scene.cap:
            command += ["--max-concurrency", str(scene.cap)]
        environ = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE, env=environ)
        told = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return float(told["p99_ttft_ms"]) / 1e3


if __name__ == "__main__":
    from benchmarks.loadgen.__main__ import main

    main(("peers",))
