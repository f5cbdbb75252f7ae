"""`gen`, `inspect` and `mock` as they are called: exit codes, one line on stderr, never a traceback; golden values."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from loadgen import cli
from loadgen.plan import workload

PYTHON = [sys.executable, "-W", "error", "-m", "loadgen.cli"]
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
STAMP = "2023-11-16 18:17:0{}.0000000,{},{}\n"


def program(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTHON, *args], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def data() -> Path:
    folder = Path(os.environ.get("SLACKWATER_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}; set SLACKWATER_DATA")
    return folder


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE + STAMP.format(1, 100, 10) + STAMP.format(2, 200, 20) + STAMP.format(5, 300, 60))
    return path


# Right input, as a program.


def test_gen_writes_the_same_plan_twice(tmp_path: Path) -> None:
    args = ("--online", "name=chat,arrivals=poisson:5/s,in=fixed:20,out=fixed:4", "--duration", "10s", "--seed", "3")
    first, second = (program("gen", *args, "-o", str(tmp_path / name)) for name in ("a.gz", "b.gz"))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gz", "b.gz"]
    plan = workload.read(tmp_path / "a.gz")
    assert plan.seed == 3
    assert workload.plan_hash(plan) in first.stdout
    assert f"{len(plan.requests)}" in first.stdout


def test_inspect_reads_what_gen_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.jsonl.gz"
    assert (
        cli.main(["gen", "--online", "arrivals=const:5/s,in=fixed:20,out=fixed:4", "--duration", "9s", "-o", str(path)])
        == 0
    )
    capsys.readouterr()
    found = inspected(capsys, str(path))
    plan = workload.read(path)
    assert found["source"] == "work:w.jsonl.gz"
    assert found["rows"] == len(plan.requests)
    assert found["arrivals"]["cv"] == pytest.approx(0, abs=1e-5)
    assert (found["prompt"]["mean"], found["output"]["most"]) == (20.0, 4)
    assert found["more"] == {"plan_hash": workload.plan_hash(plan), "seed": 0, "jobs": 0}


def test_inspect_as_text(trace: Path) -> None:
    done = program("inspect", str(trace), "--capacity", "300,100", "--scale", "x2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "azure:trace.csv",
        "  rows        3",
        "  transforms  scale=x2",
        "  span        2.0 s",
        "  rate        1.5/s, CV of gaps 0.5, 3 different times",
        "  dispersion  0.667 at 1s (1: Poisson)",
        "  prompt      600 tokens, mean 200.0, p50 200, p90 300, p99 300, most 300",
        "  output      90 tokens, mean 30.0, p50 20, p90 60, p99 60, most 60",
        "  prefill     300 tok/s: 100.0% of the capacity",
        "  decode      45 tok/s: 45.0% of the capacity",
    ]


def test_mock_serves_until_a_signal() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [*PYTHON, "mock", "--shape", "json:5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            with urllib.request.urlopen(f"http://{said['listening']}/v1/models", timeout=10) as answer:
                assert json.load(answer)["data"][0]["id"] == "mock"
            process.send_signal(number)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
        assert (process.returncode, errors) == (0, b"")


# Wrong input, as a program: one line, the code, no traceback.


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("gen", "--duration", "5s"), "-o: is missing"),
        (("gen", "--online", "arrivals=trace", "-o", "x"), "arrivals"),
        (("gen", "--duration", "5s", "-o", "/no/such/folder/x.gz"), "-o: /no/such/folder/x.gz: No such file"),
        (("gen", "--target", "http://127.0.0.1:1", "-o", "x"), "--target: no such flag"),
        (("inspect", "no/such.csv"), "no such file"),
        (("inspect", "azzure:x.csv"), "did you mean 'azure'?"),
        (("inspect", "synth"), "no such file"),
        (("mock", "--mode", "engnie"), "did you mean 'engine'?"),
        (("mock", "--fault", "dye:after=2"), "dye"),
        (("mock", "--shape", "paced:4"), "--shape: paced:4: is json, burst:N or paced:N@20ms"),
        (("mock", "--wire", "ipc:///tmp/none", "--model-dir", "/no/such"), "--model-dir: /no/such: is no folder"),
    ],
)
def test_wrong_input_is_one_line(args: tuple[str, ...], says: str) -> None:
    done = program(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("slackwater-loadgen: error: ")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--speed", "2"), "--speed: 2: applies to --mode engine only"),
        (("--mode", "engine", "--shape", "json"), "--shape: json: applies to --mode canned only"),
        (("--mode", "engine", "--procs", "2"), "--procs: 2: applies to --mode canned only"),
        (("--mode", "engine", "--slots", "2"), "--slots: 2: applies with --ttft or --tpot only"),
        (("--mode", "engine", "--ttft", "5ms", "--preset", "cpu-small"), "--preset: cpu-small: contradicts"),
        (("--workers", "2"), "--workers: 2: applies with --wire only"),
        (("--wire", "ipc://x", "--listen", "127.0.0.1:0"), "--listen: 127.0.0.1:0: contradicts --wire"),
        (("--listen", "0.0.0.0:80"), "--listen: 0.0.0.0:80: the mock listens on this machine only"),
        (("--listen", "127.0.0.1:70000"), "--listen"),
        (("--vocab", "10"), "--vocab: 10: vocab lies between"),
        (("--tokens-per-chunk", "0"), "--tokens-per-chunk: 0: expected a whole number, 1 to 10000"),
        (("--fault", "status"), "--fault"),
        (("--ttft", "soon", "--mode", "engine"), "--ttft: soon: "),
    ],
)
def test_flags_of_the_mock_that_contradict(
    flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["mock", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert cli.main(["mock", "--listen", address]) == 2
    assert f"--listen: {address}: Address already in use" in capsys.readouterr().err


# What `inspect` finds.


def inspected(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert cli.main(["inspect", *args, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return found[0] if len(found) == 1 else found


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "out", "cv", "dispersion"),
    [("conv", 14_176, 16_942_346, 2_856_415, 1.08, 1.33), ("code", 7_491, 15_282_456, 206_626, 12.6, 12.9)],
)
def test_azure(
    data: Path, capsys: pytest.CaptureFixture[str], name: str, rows: int, prompt: int, out: int, cv: float,
    dispersion: float,
) -> None:  # fmt: skip
    found = inspected(capsys, f"azure-llm-2023/{name}_first40min.csv", "--data", str(data))
    assert (found["rows"], found["prompt"]["total"], found["output"]["total"]) == (rows, prompt, out)
    assert found["arrivals"]["cv"] == pytest.approx(cv, rel=0.005)
    assert found["arrivals"]["dispersion"]["1s"] == pytest.approx(dispersion, rel=0.005)
    assert found["hits"] is None


def test_mooncake(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--cache-blocks", "1000,10000,50000", "--data", str(data))
    both = ("mooncake/conversation_before_2400000ms.jsonl.gz", "mooncake/synthetic_before_680000ms.jsonl.gz")
    conversation, synthetic = inspected(capsys, *both, *flags)
    assert (conversation["rows"], conversation["prompt"]["total"]) == (7_851, 97_571_920)
    assert conversation["output"]["total"] == 2_724_903
    assert conversation["arrivals"]["instants"] == 800
    hits = conversation["hits"]
    assert (hits["blocks"], hits["endless"]) == (194_284, 68_181)
    assert hits["lru"] == {"1000": 8_559, "10000": 39_980, "50000": 67_107}
    assert (synthetic["rows"], synthetic["prompt"]["total"]) == (2_597, 34_256_229)
    assert (synthetic["hits"]["blocks"], synthetic["hits"]["endless"]) == (68_538, 29_303)
    assert synthetic["hits"]["lru"] == {"1000": 1_454, "10000": 14_940, "50000": 29_303}


def test_mooncake_scaled_keeps_its_sharing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = "mooncake/synthetic_before_680000ms.jsonl.gz"
    found = inspected(capsys, path, "--len", "x0.125", "--scale", "x0.5", "--capacity", "1000,100", "--data", str(data))
    assert (found["hits"]["block_tokens"], found["hits"]["endless"]) == (64, 29_303)
    cost = found["cost"]
    assert cost["prefill"] == pytest.approx(found["prompt"]["total"] / found["arrivals"]["span_seconds"])
    assert cost["prefill_share"] == pytest.approx(cost["uncached"] / 1000)
    assert cost["uncached"] == pytest.approx(cost["prefill"] * (1 - 29_303 * 64 / found["prompt"]["total"]))


@pytest.mark.parametrize(
    ("name", "clients", "rates", "share"),
    [("m-small_week1", 35, 19_640, 0.38), ("deepseek-r1_day_oddrank", 37, 1_602, 0.91)],
)
def test_servegen(
    data: Path, capsys: pytest.CaptureFixture[str], name: str, clients: int, rates: int, share: float
) -> None:
    path = f"servegen:servegen/{name}_rates.csv.gz+servegen/{name}_lengths.jsonl.gz"
    found = inspected(capsys, path, "--missing", "drop", "--window", "0s..5s", "--data", str(data))
    more = found["more"]
    assert (more["clients"], more["rate_rows"], more["clients_with_lengths"]) == (clients, rates, 12)
    assert more["volume_with_lengths"] == pytest.approx(share, abs=0.005)
    assert found["arrivals"]["span_seconds"] == 5.0
    slow = inspected(capsys, path, "--missing", "drop", "--window", "0s..5s", "--scale", "x0.5", "--data", str(data))
    assert (slow["rows"], slow["arrivals"]["span_seconds"]) == (found["rows"], 10.0)
    assert slow["arrivals"]["rate"] == pytest.approx(found["arrivals"]["rate"] / 2)
    assert cli.main(["inspect", path, "--data", str(data)]) == 2
    assert "say pool or drop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "kind", "rows", "more"),
    [
        ("mmlu/test_even_subjects.csv.gz", "mmlu", 7_675, {"groups": 29, "answers": 7_675}),
        ("gsm8k:gsm8k/train_rows0-2999.jsonl.gz;shots=0", "gsm8k", 3_000, {"answers": 3_000}),
        ("qmsum/val.jsonl.gz", "documents", 272, {"groups": 35}),
        ("squality/v1-3_dev.jsonl.gz", "documents", 125, {"groups": 25}),
        ("loogle/wikipedia_qa_dev.jsonl.gz", "documents", 67, {"groups": 5}),
        ("length-stats/sharegpt_8k_first2of3.csv.gz", "lengths", 20_487, {}),
        ("length-stats/arxiv_summarization_first2of3.csv.gz", "lengths", 18_838, {}),
        ("length-stats/bwb_translation_first2of3.csv.gz", "lengths", 22_512, {}),
        ("agent-runs/taubench_even_sessions.jsonl.gz", "agent", 249, {"sessions": 12}),
        ("agent-runs/miniswe_even_sessions.jsonl.gz", "agent", 176, {"sessions": 9}),
        ("sgd-dialogues/dev_001-006.jsonl.gz", "chat", 5_465, {"sessions": 768, "more": {"turns": 10_930}}),
        ("spec-bench/question_dev.jsonl.gz", "prompts", 290, {}),
        ("mt-bench/question_dev.jsonl", "prompts", 80, {"sessions": 40}),
        ("humaneval/tasks_000-109.jsonl.gz", "prompts", 110, {}),
    ],
)
def test_sets(
    data: Path, capsys: pytest.CaptureFixture[str], path: str, kind: str, rows: int, more: dict[str, object]
) -> None:
    found = inspected(capsys, path, "--data", str(data))
    assert found["source"].partition(":")[0] == kind
    assert found["rows"] == rows if kind != "prompts" else found["rows"] >= rows
    assert {name: found[name] for name in more} == more


def test_burstgpt(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = "burstgpt-derived/hourly_sessions_days00-39.csv"
    found = inspected(capsys, path, "--window", "0s..2h", "--data", str(data))
    assert (found["more"]["hours"], found["more"]["sessions"]) == (563, 780_328)
    assert found["prompt"] is None


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "a,b\n1,2\n", "no source begins so"),
        ("a.jsonl", "{broken\n", "no source begins so"),
        ("a.jsonl", '{"client_id": 1, "input_tokens": {}}\n', "half of a ServeGen profile"),
        ("empty.csv", "", "no source begins so"),
        ("a.csv", AZURE + STAMP.format(1, 0, 10), "row 2, ContextTokens: 0 is below 1"),
        ("a.csv", AZURE, "it has no rows"),
    ],
)
def test_files_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, says: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert cli.main(["inspect", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_transform_that_a_source_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "say it"}\n')
    assert cli.main(["inspect", str(path), "--scale", "x2"]) == 2
    assert "want a source with times" in capsys.readouterr().err
    assert inspected(capsys, str(path))["texts"] == 1


def test_the_guide_has_the_tables_of_the_program() -> None:
    script = Path(__file__).parents[2] / "scripts" / "loadgen-reference"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
