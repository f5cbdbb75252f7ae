"""Whole runs by the command line against the mock: what people type, what they get, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support.loadgen_mock import Mock, command, free_port, loadgen, mock

from loadgen.run.files import RunFolder
from loadgen.selftest import limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadgen.record import Record
    from loadgen.result import Result

CHAT = "name=chat,arrivals=const:20/s,in=fixed:16,out=fixed:4,slo=ttft<=5s&tpot<=1s"
QUIET = ("--warmup", "0s", "--allow-lag", "--ui", "none")
SHORT = ("--duration", "2s", "--drain", "2s", *QUIET)


@pytest.fixture(scope="module")
def canned() -> Iterator[Mock]:
    with mock() as found:
        yield found


@dataclass
class Run:
    """What a run left."""

    code: int
    out: str
    err: str
    folder: RunFolder

    @property
    def result(self) -> Result:
        return self.folder.load_result()

    @property
    def records(self) -> list[Record]:
        return list(self.folder.read_records())


def run(server: Mock | str, folder: Path, *flags: str, timeout: float = 60) -> Run:
    url = server if isinstance(server, str) else server.url
    done = loadgen("run", "--target", url, "--out", str(folder), *flags, timeout=timeout)
    assert "Traceback" not in done.stderr, done.stderr
    return Run(done.returncode, done.stdout, done.stderr, RunFolder(folder))


def test_a_newcomer_gets_an_answer(canned: Mock, tmp_path: Path) -> None:
    """One flag; here the time is short too, and the client may be slow, since a test must not wait nor depend on it."""
    done = loadgen("run", "--target", canned.url, "--duration", "4s", "--allow-lag", "--ui", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs").iterdir()
    assert "What this run cannot claim" in done.stdout
    assert "chat" in done.stdout
    kept = {path.name for path in folder.iterdir()}
    assert {"scenario.toml", "workload.jsonl.gz", "records.jsonl.gz", "result.json", "intervals.csv"} <= kept
    assert {"host.csv", "summary.md", "facts.json", "hist", "jobs"} <= kept
    assert not {"payload.bin", "index.npy"} & kept
    assert RunFolder(folder).load_result().notes != []


def test_every_request_is_accounted_for_and_recomputed_from_the_records(canned: Mock, tmp_path: Path) -> None:
    flags = ("--online", CHAT, "--assert", "chat.attainment>=0.99", "--scribe", "live")
    found = run(canned, tmp_path / "run", *SHORT, *flags)
    assert (found.code, found.err) == (0, "")
    assert list(found.folder.path.glob("spool*")) == []
    chat = found.result.classes["chat"]
    assert (chat.planned, chat.outcomes["ok"]) == (40, 40)
    assert all((each.sent_micros or 0) >= each.due_micros for each in found.records)
    again = loadgen("report", str(found.folder.path), "--format", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["runs"][0]["result"] == json.loads(found.folder.result.read_bytes())


def test_failures_stay_in_the_attainment(tmp_path: Path) -> None:
    with mock("--fault", "status:500;rate=20%") as server:
        found = run(server, tmp_path / "run", *SHORT, "--online", CHAT, "--assert", "chat.attainment>0.99")
    chat = found.result.classes["chat"]
    assert chat.attainment is not None
    assert chat.outcomes["error"] > 0
    assert chat.messages == {"status_500": "made by a fault"}
    assert chat.attainment.value == pytest.approx(chat.outcomes["ok"] / 40)
    assert found.code == 1
    assert "chat.attainment>0.99" in found.out


def test_what_never_ends_does_not_vanish(tmp_path: Path) -> None:
    with mock("--fault", "hang:after=1;rate=25%") as server:
        flags = ("--duration", "2s", "--drain", "1s", *QUIET)
        found = run(server, tmp_path / "run", *flags, "--online", CHAT.replace("5s", "500ms"))
    chat = found.result.classes["chat"]
    assert sum(chat.outcomes.values()) == chat.offered == chat.planned == 40
    assert chat.outcomes["cut"] + chat.outcomes["censored"] == 40 - chat.outcomes["ok"] > 0


def test_a_wait_behind_the_clients_own_cap_is_latency(tmp_path: Path) -> None:
    """Eight are due within 0.8 s and one at a time is served in half a second: the last waits through the drain."""
    online = "name=chat,arrivals=const:10/s,in=fixed:4,out=fixed:1,inflight=1"
    with mock("--mode", "engine", "--ttft", "fixed:500ms") as server:
        found = run(server, tmp_path / "run", "--duration", "750ms", "--drain", "10s", *QUIET, "--online", online)
    waits = [(each.end_micros or 0) - each.due_micros for each in found.records]
    assert len(waits) == found.result.classes["chat"].outcomes["ok"] == 8
    assert max(waits) >= 3_300_000


def test_beyond_this_hosts_limits_nothing_is_sent(
    canned: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    slow = limits.Highest(rate=5, cpu=1, micros=None, all_micros=None, limited_by="gate", reason="")
    found = limits.Limits(
        host=limits.host(), taken="", timers={}, limits=[limits.Limit(procs=1, requests=slow, chunks=slow)]
    )
    limits.path().parent.mkdir(parents=True)
    limits.path().write_bytes(limits.encode(found))
    fast = [each for each in SHORT if each != "--allow-lag"]
    done = run(canned, tmp_path / "run", *fast, "--online", CHAT)
    assert (done.code, "20 requests/s are planned" in done.err, done.folder.path.exists()) == (2, True, False)
    assert run(canned, tmp_path / "run", *SHORT, "--online", CHAT).code == 0


def most_at_once(records: list[Record]) -> int:
    times = [(each.sent_micros or 0, 1) for each in records] + [(each.end_micros or 0, -1) for each in records]
    most = now = 0
    for _, change in sorted(times):
        now += change
        most = max(most, now)
    return most


def test_two_thousand_at_once(tmp_path: Path) -> None:
    """No limit hides in the client: what is due is sent, whatever is still open."""
    online = "name=chat,arrivals=const:1000/s,in=fixed:4,out=fixed:2"
    with mock("--shape", "paced:2@2500ms") as server:
        found = run(server, tmp_path / "run", "--duration", "2s", "--drain", "10s", *QUIET, "--online", online)
    assert most_at_once(found.records) >= 1_900
    assert found.result.classes["chat"].outcomes["ok"] == 2_000


def test_a_second_run_does_not_meet_the_cache_of_the_first(tmp_path: Path) -> None:
    online = "name=chat,arrivals=const:10/s,in=fixed:128,out=fixed:2,prefix=groups:3"
    cached = []
    with mock("--mode", "engine", "--speed", "20") as server:
        for name in ("first", "second"):
            found = run(server, tmp_path / name, *SHORT, "--online", online, "--seed", "5")
            cached.append([each.cached_tokens for each in sorted(found.records, key=lambda each: each.id)])
    assert cached[0] == cached[1]
    assert sum(tokens or 0 for tokens in cached[0]) > 0


def test_chunks_are_no_tokens(tmp_path: Path) -> None:
    online = CHAT.replace("out=fixed:4", "out=fixed:16")
    with mock("--tokens-per-chunk", "4") as server:
        tokens = run(server, tmp_path / "usage", *SHORT, "--online", online).result.classes["chat"].tokens
    assert (tokens.out_got, tokens.sources["usage"]) == (16 * 40, 1.0)
    with mock("--tokens-per-chunk", "4", "--fault", "no_usage") as server:
        found = run(server, tmp_path / "chunks", *SHORT, "--online", online)
    assert found.result.classes["chat"].tokens.sources["chunks"] == 1.0
    assert any("counted as chunks" in note for note in found.result.notes)


def test_the_plan_came_out_as_it_is_told(canned: Mock, tmp_path: Path) -> None:
    found = run(canned, tmp_path / "run", *SHORT, "--online", CHAT.replace("const", "poisson"), "--seed", "3")
    due = sorted(each.due_micros for each in found.records)
    assert found.result.realised["chat.rate"] == pytest.approx(len(due) / 2)
    assert found.result.identity["lengths"] == "exact"
    assert found.result.identity["cache"] == "cold: cache_salt"


def test_a_job_beside_the_stream(canned: Mock, tmp_path: Path) -> None:
    offline = ("name=eval,source=synth,in=fixed:8,out=fixed:4,items=30,deadline=5s", "name=bulk,source=synth,items=10")
    flags = ("--offline", offline[0], "--offline", f"{offline[1]},in=fixed:8,out=fixed:4,submit=stream,window=4")
    found = run(
        canned, tmp_path / "run", *SHORT, "--online", CHAT, *flags,
        "--assert", "eval.deadline_met==1", "--assert", "bulk.lost==0", "--assert", "eval.lost==0",
    )  # fmt: skip
    assert found.code == 0, (found.out, found.err)
    jobs = found.result.jobs
    assert [(jobs[name].items, jobs[name].completed) for name in ("eval", "bulk")] == [(30, 30), (10, 10)]


def test_a_closed_pool_of_direct_requests_keeps_to_its_window_and_says_when_it_ran_dry(
    canned: Mock, tmp_path: Path
) -> None:
    bulk = "name=bulk,source=synth,in=fixed:8,out=fixed:4,submit=stream,pool=closed"
    with mock("--shape", "paced:4@50ms") as server:
        found = run(server, tmp_path / "run", *SHORT, "--offline", f"{bulk},items=50,window=4")
    assert found.code == 0, (found.out, found.err)
    assert most_at_once(found.records) == 4
    dry = run(canned, tmp_path / "dry", *SHORT, "--offline", f"{bulk},items=1,window=4")
    assert (dry.code, len(dry.records)) == (4, 32)
    assert "bulk ran out of planned requests" in dry.out


def test_a_fault_that_did_nothing_makes_the_run_invalid(canned: Mock, tmp_path: Path) -> None:
    port = canned.url.rpartition(":")[2]
    link = f"unused=unix:{tmp_path}/link>127.0.0.1:{port}"
    flags = ("--proxy", link, "--fault", "name=cut1,at=500ms,net=unused,reset")
    found = run(canned, tmp_path / "run", *SHORT, "--online", CHAT, *flags)
    assert found.code == 4
    assert found.out.startswith("INVALID")
    assert "cut1" in found.out


def test_a_link_that_is_cut_is_seen_in_the_records(tmp_path: Path) -> None:
    with mock("--shape", "paced:4@100ms") as server:
        port = server.url.rpartition(":")[2]
        listen = free_port()
        flags = (
            "--proxy", f"link=127.0.0.1:{listen}>127.0.0.1:{port}",
            "--fault", "name=cut1,at=1s,net=link,reset",
        )  # fmt: skip
        found = run(f"http://127.0.0.1:{listen}", tmp_path / "run", *SHORT, "--online", CHAT, *flags)
    assert found.result.faults["cut1"].proved
    assert found.result.faults["cut1"].lost > 0


def test_nobody_at_the_target(tmp_path: Path) -> None:
    found = run(f"http://127.0.0.1:{free_port()}", tmp_path / "run", *SHORT)
    assert found.code == 3
    assert found.err.count("\n") == 1
    assert "does not answer" in found.err


def test_a_target_that_dies_in_the_middle(tmp_path: Path) -> None:
    with mock("--fault", "die:after=2;nth=15") as server:
        found = run(server, tmp_path / "run", *SHORT, "--online", CHAT)
    chat = found.result.classes["chat"]
    assert sum(chat.outcomes.values()) == 40
    assert chat.outcomes["refused"] >= 20
    assert found.code == 0, found.out


def test_a_hopeless_run_is_ended_early(tmp_path: Path) -> None:
    with mock("--fault", "status:500;rate=100%") as server:
        flags = ("--duration", "60s", *QUIET, "--abort", "chat.errors>=5")
        found = run(server, tmp_path / "run", *flags, "--online", CHAT, timeout=30)
    assert found.code == 3
    assert found.folder.complete


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_it_with_its_results(tmp_path: Path, times: int) -> None:
    with mock("--fault", "hang:after=1;rate=50%") as server:
        flags = ("--duration", "60s", "--warmup", "0s", "--drain", "1s" if times == 1 else "60s", "--allow-lag")
        line = [*command("run", "--target", server.url, "--out", str(tmp_path / "run")), *flags, "--online", CHAT]
        process = subprocess.Popen([*line, "--ui", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for told in process.stdout:
            if _sent(json.loads(told)) > 0:
                break
        process.send_signal(signal.SIGINT)
        if times == 2:
            for told in process.stdout:
                if json.loads(told)["phase"] == "drain":
                    break
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (130, False), err
    folder = RunFolder(tmp_path / "run")
    result, chat = folder.load_result(), folder.load_result().classes["chat"]
    assert result.interrupted
    assert result.records == chat.planned == 1_200
    # What was due after it was never offered, so that no rate counts it and none is spread over it.
    assert result.window.end < 59 * 1_000_000
    assert sum(chat.outcomes.values()) == chat.offered < 1_200
    late = [each for each in folder.read_records() if each.due_micros > result.window.end]
    assert len(late) == 1_200 - chat.offered
    # One may have gone out before the word reached the load process.
    assert sum(each.sent_micros is not None for each in late) <= 1


def _sent(told: dict[str, Any]) -> int:
    return sum(int(each["sent"]) for each in told["classes"].values())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target", "http://192.0.2.1:80"], "--allow-remote"),
        (["--target", "{url}", "--payload-limit", "1KB"], "--payload-limit"),
        (["--target", "{url}", "--online", "name=chat,arivals=const:1/s"], "did you mean 'arrivals'"),
        (["--target", "{url}", "--online", "name=chat,arrivals=const:-1/s"], "arrivals"),
        (["--target", "{url}", "--abort", "chat.p99.gap>1s"], "not known while a run goes on"),
        (["--target", "{url}", "--online", "name=chat,source=azure:none.csv,arrivals=trace"], "none.csv"),
        (["--target", "{url}", "--model", "other"], "--model"),
        (["--target", "{url}", "--fault", "name=k,at=1s,kill=worker:1"], "worker"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_sent(canned: Mock, tmp_path: Path, flags: list[str], said: str) -> None:
    before = canned.get("/mock/truth?since=0") or []
    done = loadgen("run", *(each.replace("{url}", canned.url) for each in flags), *SHORT, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert (canned.get("/mock/truth?since=0") or []) == before
    assert list((tmp_path / "runs").glob("*")) == []


def test_a_finished_run_is_never_written_over(canned: Mock, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    found = run(canned, tmp_path / "run", *SHORT)
    assert found.code == 2
    assert (tmp_path / "run" / "result.json").read_text() == "{}"


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    done = loadgen("run", "--target", f"http://127.0.0.1:{free_port()}", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "chat" in done.stdout
    assert list(tmp_path.iterdir()) == []
