"""What happens before anything is sent: the target is looked at, words are counted, the cache is made cold."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import socket
from typing import TYPE_CHECKING

import pytest
from support.loadgen_mock import Mock, mock
from support.loadgen_records import record

from loadgen.errors import BadData, BadInput, Unreachable
from loadgen.measure.facts import Curve, JobFacts
from loadgen.plan.model import Plan, PlannedRequest, Prompt, Segment
from loadgen.run.cache import cache_state
from loadgen.run.checks import prompt_lengths
from loadgen.run.collect import collect
from loadgen.run.counting import counting
from loadgen.run.discover import Target, discover
from loadgen.run.facts import curve_agrees, steps
from loadgen.run.prepare import check_fits
from loadgen.run.prime import shared_prefixes
from loadgen.run.processes import check_files, connections, processes
from loadgen.run.server import Server
from loadgen.spec import Arrivals, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[Mock]:
    with mock("--model", "tiny") as found:
        yield found


def scenario(target: str = "http://127.0.0.1:1", **given: object) -> Scenario:
    return Scenario(target=target, online=(), **given)  # type: ignore[arg-type]


def test_the_model_and_the_dialect_are_asked_for(server: Mock) -> None:
    found = discover(scenario(server.url), server.server)
    assert (found.model, found.dialect, found.can_tokenize) == ("tiny", "slackwater", True)
    assert discover(scenario(server.url, dialect="vllm"), server.server).dialect == "vllm"


def test_a_model_that_the_server_has_not_is_named_with_the_one_that_it_has(server: Mock) -> None:
    with pytest.raises(BadInput, match="did you mean 'tiny'"):
        discover(scenario(server.url, model="tinny"), server.server)


def test_nobody_there_is_unreachable_after_its_patience() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    pauses: list[float] = []
    with pytest.raises(Unreachable, match="does not answer"):
        Server(f"http://127.0.0.1:{port}").wait("/v1/models", 0.1, pause=pauses.append)


def test_words_are_counted_by_the_server_or_left_unchecked(server: Mock) -> None:
    target = discover(scenario(server.url), server.server)
    by_server = counting(scenario(server.url), target, server.server)
    assert (by_server.name, by_server.checked) == ("server", True)
    assert len(by_server.words) >= 32
    cannot = Target("m", "openai", None, None, None, can_tokenize=False)
    assert counting(scenario(server.url), cannot, server.server).name == "words"
    with pytest.raises(BadInput, match="no POST /tokenize"):
        counting(scenario(server.url, tokenizer="server"), cannot, server.server)


def test_a_file_that_is_no_tokeniser_is_told(tmp_path: Path, server: Mock) -> None:
    pytest.importorskip("tokenizers")
    target = discover(scenario(server.url), server.server)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(BadData, match="no tokeniser"):
        counting(scenario(server.url, tokenizer=str(file)), target, server.server)
    with pytest.raises(BadData, match="No such file"):
        counting(scenario(server.url, tokenizer=str(tmp_path / "none")), target, server.server)


def test_a_cold_cache_by_the_surest_way(server: Mock) -> None:
    def state(dialect: str, **given: object) -> tuple[bool, bool, str]:
        target = Target("m", dialect, None, None, None, can_tokenize=False)  # type: ignore[arg-type]
        found = cache_state(scenario(server.url, **given), target, None)
        return found.cache_salt is not None, found.prompt_salt != "", found.words

    assert state("slackwater") == (True, False, "cold: cache_salt")
    assert state("openai") == (False, True, "cold: first words")
    assert state("openai", cache="as-is")[:2] == (False, False)
    assert state("vllm", cache="primed")[0]
    with pytest.raises(BadInput, match="answered 404, wanted 2xx"):
        state("vllm", reset_url=f"{server.url}/nowhere")


def test_two_runs_have_two_salts() -> None:
    target = Target("m", "openai", None, None, None, can_tokenize=False)
    assert cache_state(scenario(), target, None).prompt_salt != cache_state(scenario(), target, None).prompt_salt


def planned(number: int, due: int, tokens: int, out: int) -> PlannedRequest:
    return PlannedRequest(number, "chat", due, Prompt(tokens, (Segment(number, tokens),)), out)


def test_a_request_that_does_not_fit_the_model_ends_before_it_begins() -> None:
    plan = Plan(0, [planned(0, 0, 50, 50), planned(1, 0, 90, 20)], [], (0, 1))
    check_fits(plan, scenario(), 110)
    check_fits(plan, scenario(), None)
    with pytest.raises(BadInput, match="1 of 2 requests are longer than the model's 100 tokens, the longest 110"):
        check_fits(plan, scenario(), 100)


def test_prefixes_that_are_shared_are_found_once() -> None:
    a, b, c, d = (Segment(seed, 16) for seed in range(4))
    assert shared_prefixes([[a, b, c], [a, b, d], [a, c], [d]]) == [(a, b), (a,)]
    assert shared_prefixes([[a], [b]]) == []


def test_steps_of_load_are_known_from_the_scenario() -> None:
    stepped = Arrivals("step", levels=((2.0, 10), (12.0, 20)))
    found = [(each.at, each.until, each.before, each.after) for each in steps(stepped, 45)]
    assert found == [(10, 30, 2.0, 12.0), (30, 40, 12.0, 2.0), (40, 45, 2.0, 12.0)]
    assert steps(Arrivals("poisson", rate=1.0), 45) == ()


def test_the_servers_count_of_offline_tokens_must_agree_with_the_jobs() -> None:
    jobs = [JobFacts(name=name, cls="eval", submitted=0, items=1, out_tokens=500) for name in ("a", "b")]
    near, far = (Curve(times=(0, 1), counts=(7, 7 + grown)) for grown in (1_009, 1_011))
    assert curve_agrees(near, jobs)
    assert not curve_agrees(far, jobs)
    assert curve_agrees(None, jobs)
    assert curve_agrees(far, [])


def test_prompts_are_as_long_as_planned_or_the_run_says_so() -> None:
    def said(extra: list[int], template: bool, checked: bool = True) -> str | None:
        records = [record(place, 0, [(1, 1)], in_want=10, in_got=10 + more) for place, more in enumerate(extra)]
        return prompt_lengths(records, checked=checked, template=template)

    assert said([7, 7, 7], template=True) is None
    assert said([0, 0], template=False) is None
    assert said([7, 7, 8], template=True) == "1 of 3 prompts were not as long as planned, by the server's count"
    assert said([7, 7], template=False) is not None
    assert said([7, 8], template=False, checked=False) is None


def test_as_many_connections_as_may_be_wanted() -> None:
    burst = Plan(0, [planned(each, each * 1000, 1, 1) for each in range(500)], [], (0, 1))
    assert connections(burst, 32) == 532
    assert connections(Plan(0, [], [], (0, 1)), 0) == 8
    assert processes(3) == 3
    assert 1 <= processes(None) <= 4


def test_more_connections_than_files_end_it_before_it_begins() -> None:
    check_files(900, 1, 1_024)
    check_files(1_800, 2, 1_024)
    check_files(10**6, 1, resource.RLIM_INFINITY)
    with pytest.raises(BadInput, match="1800 connections may be wanted, and a process may open 1024 files"):
        check_files(1_800, 1, 1_024)


def test_files_are_collected_and_what_is_missing_is_said(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "steps.jsonl").write_text(folder)
    left = collect([str(tmp_path / "*/steps.jsonl"), str(tmp_path / "none")], tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["2-steps.jsonl", "steps.jsonl"]
    assert left == [f"--collect {tmp_path / 'none'}: no such file"]


def test_a_file_that_goes_away_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("x")

    def gone(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(shutil, "copyfile", gone)
    left = collect([str(tmp_path / "log")], tmp_path / "kept")
    assert left == [f"--collect {tmp_path / 'log'}: No such file or directory"]
