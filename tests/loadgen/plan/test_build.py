"""A plan is fixed by scenario and seed alone, keeps what the trace says, and is cut without losing anything."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from loadgen.errors import BadData, BadInput
from loadgen.plan import payload, workload
from loadgen.plan.build import build
from loadgen.plan.dialects import class_fields
from loadgen.plan.model import NOT_DUE
from loadgen.plan.sources.azure import Azure
from loadgen.plan.text import CANDIDATES, Words, single_tokens
from loadgen.spec import Arrivals, OfflineSpec, OnlineSpec, PrefixSpec, Scenario, SessionSpec, SourceSpec, Transforms
from loadgen.units import Dist

NOWHERE = Path("/nowhere")
SYNTH = SourceSpec("synth")


def chat(**changes: object) -> OnlineSpec:
    spec = OnlineSpec("chat", Arrivals("poisson", rate=5.0), SYNTH, None, None)
    return replace(spec, **changes)  # type: ignore[arg-type]


def scenario(*online: OnlineSpec, **changes: object) -> Scenario:
    return replace(Scenario("http://127.0.0.1:8000", online, seed=7, warmup=0), **changes)  # type: ignore[arg-type]


EVERYTHING = scenario(
    chat(prefix=PrefixSpec("tree", depth=3, fanout=8, block=16, zipf=1.1), cancel=(0.1, Dist("exp", 1e6))),
    replace(chat(session=SessionSpec(4, 2, Dist("exp", 1e6))), name="talk"),
    offline=(OfflineSpec("eval", SYNTH, items=50),),
    probe=2.0,
)


def test_a_plan_is_the_same_in_every_process() -> None:
    """Mistake 11: under two values of PYTHONHASHSEED."""
    code = (
        "from test_build import EVERYTHING, NOWHERE\nfrom loadgen.plan import workload\n"
        "from loadgen.plan.build import build\nprint(workload.plan_hash(build(EVERYTHING, NOWHERE)))"
    )
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, str(Path(__file__).parents[3])])
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "12345")
    }
    assert found == {workload.plan_hash(build(EVERYTHING, NOWHERE)) + "\n"}


def test_a_class_that_is_added_changes_no_other() -> None:
    alone = build(scenario(chat()), NOWHERE)
    both = build(scenario(chat(), replace(chat(), name="code")), NOWHERE)
    assert [r for r in both.requests if r.cls == "chat"] == list(alone.requests)
    assert build(scenario(chat(), seed=8), NOWHERE).requests != alone.requests


def test_order_ids_and_window() -> None:
    plan = build(EVERYTHING, NOWHERE)
    keys = [(request.due, request.id) for request in plan.requests]
    assert keys == sorted(keys)
    assert sorted(number for _, number in keys) == list(range(len(keys)))
    assert plan.window == (0, max(keys)[0])
    auto = build(scenario(chat(), warmup=None), NOWHERE)
    assert auto.window[0] == 10_000_000
    assert auto.requests[-1].due > 60_000_000


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_slices_hold_all_and_keep_sessions(processes: int) -> None:
    plan = build(EVERYTHING, NOWHERE)
    cut = workload.slices(plan, processes)
    assert sorted(place for part in cut for place in part) == list(range(len(plan.requests)))
    homes: dict[object, set[int]] = {}
    for number, part in enumerate(cut):
        for place in part:
            request = plan.requests[place]
            if request.session is not None or request.job is not None:
                homes.setdefault((request.session, request.job), set()).add(number)
    assert {len(home) for home in homes.values()} == {1}
    loads = [sum(plan.requests[place].out for place in part) for part in cut]
    largest_group = max(sum(r.out for r in plan.requests if r.job == "eval"), *(r.out for r in plan.requests), 1)
    assert max(loads) - min(loads) <= largest_group


def test_a_plan_of_our_own_is_sent_again_with_all_that_it_shares(tmp_path: Path) -> None:
    prefix = PrefixSpec("tree", depth=3, fanout=8, block=16, zipf=1.1)
    first = build(scenario(chat(prefix=prefix)), NOWHERE)
    workload.write(first, tmp_path / "w.jsonl.gz")
    again = chat(arrivals=Arrivals("trace"), source=SourceSpec("work", (str(tmp_path / "w.jsonl.gz"),)))
    sent = build(scenario(again, seed=8), NOWHERE)
    assert [(r.due, r.prompt, r.out) for r in sent.requests] == [(r.due, r.prompt, r.out) for r in first.requests]
    assert sent.realised["chat.ideal_hits"] == first.realised["chat.ideal_hits"] > 0
    longer = build(scenario(replace(again, transforms=Transforms(length=2.0))), NOWHERE)
    assert [r.prompt.tokens for r in longer.requests] == [2 * (r.prompt.tokens or 0) for r in first.requests]
    twice = build(scenario(replace(again, transforms=Transforms(repeat=2))), NOWHERE)
    assert len({r.prompt for r in twice.requests}) == len(twice.requests) > len(first.requests)


def test_what_has_no_time_cannot_follow_a_trace(tmp_path: Path) -> None:
    """Else all items of a job would be due at once, at t0."""
    workload.write(build(EVERYTHING, NOWHERE), tmp_path / "w.jsonl.gz")
    source = SourceSpec("work", (str(tmp_path / "w.jsonl.gz"),))
    with pytest.raises(BadInput, match="without a time"):
        build(scenario(chat(arrivals=Arrivals("trace"), source=source)), NOWHERE)
    one = replace(source, options={"class": "chat"})
    sent = build(scenario(chat(arrivals=Arrivals("trace"), source=one)), NOWHERE)
    assert len(sent.requests) == sum(r.cls == "chat" for r in build(EVERYTHING, NOWHERE).requests)


@pytest.mark.parametrize(
    "changes",
    [
        {"arrivals": Arrivals("closed", slots=2)},
        {"arrivals": Arrivals("trace"), "session": SessionSpec(0, 0, None, "live")},
    ],
)
def test_prompts_with_their_history_do_not_get_it_twice(tmp_path: Path, changes: dict[str, object]) -> None:
    """An agent's later prompts begin with its earlier ones: a turn that waited would be sent with them before it."""
    calls = [{"timestamp": at, "input": "a" * at, "output": "b", "session_id": "s"} for at in (1, 2)]
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b"\n".join(msgspec.json.encode(call) for call in calls))
    spec = chat(source=SourceSpec("agent", (str(path),)), arrivals=Arrivals("trace"))
    assert [request.turn for request in build(scenario(spec), NOWHERE).requests] == [0, 1]
    with pytest.raises(BadInput, match="in its prompts already"):
        build(scenario(replace(spec, **changes)), NOWHERE)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = build(EVERYTHING, NOWHERE)
    workload.write(plan, tmp_path / "a.jsonl.gz")
    workload.write(plan, tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    again = workload.read(tmp_path / "a.jsonl.gz")
    assert again == plan
    assert workload.plan_hash(again) == workload.plan_hash(plan)
    (tmp_path / "c.jsonl").write_text('{"version":1}\n')
    with pytest.raises(BadData):
        workload.read(tmp_path / "c.jsonl")


def test_realised_figures_are_the_plans_own() -> None:
    """Mistake 15."""
    plan = build(scenario(chat(), duration=200_000_000), NOWHERE)
    due = np.array([request.due for request in plan.requests])
    assert plan.realised["chat.rate"] == len(due) / 200
    assert plan.realised["chat.cv"] == float(np.std(np.diff(due)) / np.mean(np.diff(due)))
    assert plan.realised["chat.rate"] == pytest.approx(5.0, rel=0.15)


def test_due_times_are_the_traces(data: Path) -> None:
    """Mistakes 9 and 10."""
    path = "azure-llm-2023/conv_first40min.csv"
    spec = chat(arrivals=Arrivals("trace"), source=SourceSpec("azure", (path,)), transforms=Transforms(scale=0.5))
    plan = build(scenario(spec, duration=600_000_000), data)
    rows = [row for row in Azure(data / path).rows() if round((row.time or 0) / 0.5) < 600_000_000]
    assert [request.due for request in plan.requests] == [round((row.time or 0) / 0.5) for row in rows]
    assert [request.prompt.tokens for request in plan.requests] == [row.in_tokens for row in rows]
    assert [request.out for request in plan.requests] == [row.out_tokens for row in rows]
    assert plan.transforms == {"chat": "scale=x0.5"}


def test_closed_loop_and_jobs_are_not_due() -> None:
    plan = build(scenario(chat(arrivals=Arrivals("closed", slots=2)), duration=1_000_000), NOWHERE)
    assert {request.due for request in plan.requests} == {NOT_DUE}
    assert "chat.rate" not in plan.realised
    jobs = build(EVERYTHING, NOWHERE).jobs
    assert [(job.name, len(job.items)) for job in jobs] == [("eval", 50)]
    pool = OfflineSpec("eval", SYNTH, items=3, pool_closed=True)
    assert [job.at for job in build(scenario(chat(), offline=(pool,)), NOWHERE).jobs[:3]] == [0, 0, NOT_DUE]


def test_bounds() -> None:
    assert len(build(scenario(chat(), max_requests=8), NOWHERE).requests) == 8
    with pytest.raises(BadInput, match="no times"):
        build(scenario(chat(arrivals=Arrivals("trace"))), NOWHERE)
    with pytest.raises(BadInput, match="did you mean 'azure'"):
        build(scenario(chat(source=SourceSpec("azur"))), NOWHERE)
    with pytest.raises(BadData, match="no such file"):
        build(scenario(chat(source=SourceSpec("azure", ("x.csv",)))), NOWHERE)


def test_live_turns_wait_and_recorded_ones_do_not() -> None:
    session = SessionSpec(4, 0, Dist("fixed", 2_000_000))
    live = build(scenario(chat(session=session)), NOWHERE)
    assert {request.due for request in live.requests if request.turn} == {NOT_DUE}
    assert {request.think for request in live.requests if request.turn} == {2_000_000}
    fixed = build(scenario(chat(session=replace(session, mode="recorded"))), NOWHERE)
    first = [request for request in fixed.requests if request.session == 0]
    assert np.diff([request.due for request in first]).tolist() == [2_000_000] * 3
    for before, after in itertools.pairwise(first):
        assert after.prompt.segments[: len(before.prompt.segments)] == before.prompt.segments


def wire(**changes: object) -> payload.Wire:
    return replace(payload.Wire("127.0.0.1:8000", "m", "vllm", "exact", Words()), **changes)  # type: ignore[arg-type]


def test_payload_has_every_request() -> None:
    plan = build(EVERYTHING, NOWHERE)
    file = io.BytesIO()
    fields = {spec.name: class_fields(spec, "vllm", "salt") for spec in (*EVERYTHING.online, *EVERYTHING.offline)}
    index = payload.write(plan, wire(fields=fields), ("chat", "talk", "eval", "probe"), 1 << 30, file)
    whole = file.getvalue()
    assert int(index["length"].sum()) == len(whole)
    for entry, request in zip(index, plan.requests, strict=True):
        part = whole[int(entry["offset"]) :][: int(entry["length"])]
        head, _, content = part.partition(b"\r\n\r\n")
        assert f"content-length: {len(content)}".encode() in head
        assert b"authorization" not in part
        body = msgspec.json.decode(content)
        assert body["max_tokens"] == body["min_tokens"] == request.out == entry["chunks"]
        assert len(body["messages"][0]["content"].split()) == request.prompt.tokens
        if request.cls == "chat":
            assert (body["priority"], body["cache_salt"]) == (0, "salt")
    live = (index["flags"] & payload.LIVE) > 0
    assert live.tolist() == [request.turn > 0 for request in plan.requests]
    assert part[: payload.key_at("chat")] == b"POST /v1/chat/completions HTTP/1.1\r\n"


def test_payload_limit_and_bad_headers() -> None:
    plan = build(scenario(chat()), NOWHERE)
    with pytest.raises(BadInput, match="payload-limit"):
        payload.write(plan, wire(), ("chat",), 1000, io.BytesIO())
    for header in (("x", "a\r\nb"), ("authorization", "Bearer k")):
        bad = {"chat": class_fields(chat(headers=(header,)), "openai")}
        with pytest.raises(BadInput, match="header"):
            payload.serialise(plan.requests[0], wire(fields=bad))


def test_history_is_put_before_a_live_turn() -> None:
    plan = build(scenario(chat(session=SessionSpec(3, 0, Dist("fixed", 1)))), NOWHERE)
    later = next(request for request in plan.requests if request.turn)
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": 'b "ü"'}]
    made = payload.with_history(payload.serialise(later, wire()), history)
    head, _, content = made.partition(b"\r\n\r\n")
    assert f"content-length: {len(content)}".encode() in head
    assert msgspec.json.decode(content)["messages"][:2] == history


def test_words() -> None:
    from loadgen.plan.model import Segment

    words = Words()
    text = words.of((Segment(1, 30), Segment(2, 5)))
    assert len(text.split()) == 35
    assert words.of((Segment(1, 10),)) == " ".join(text.split()[:10])
    salted = Words(salt="run").of((Segment(1, 30), Segment(2, 5)))
    assert len(salted.split()) == 35
    assert salted.split()[4:] == text.split()[4:]
    assert salted.split()[:4] != text.split()[:4]
    assert len(CANDIDATES) == len(set(CANDIDATES))


def test_only_words_of_one_token_are_kept() -> None:
    """Here a word of more than three letters is two tokens, and there is a token before each text."""

    def count(texts: list[str]) -> list[int]:
        return [1 + sum(1 + (len(word) > 3) for word in text.split()) for text in texts]

    kept = single_tokens(CANDIDATES, count)  # type: ignore[arg-type]
    assert kept == tuple(word for word in CANDIDATES if len(word) <= 3)
    with pytest.raises(BadInput):
        single_tokens(("four", "letter"), count)  # type: ignore[arg-type]


def test_dialects() -> None:
    offline = OfflineSpec("eval", SYNTH)
    assert class_fields(chat(), "slackwater").headers == {"x-slackwater-class": "interactive"}
    assert class_fields(offline, "slackwater").body == {"service_tier": "flex"}
    vllm = class_fields(chat(), "vllm").body["priority"], class_fields(offline, "vllm").body["priority"]
    assert vllm == (0, 10)
    dynamo = class_fields(chat(priority=3), "dynamo").body
    assert dynamo == {"nvext": {"agent_hints": {"priority": 3}}}
    assert class_fields(offline, "smg").headers == {"x-smg-priority": "bulk"}
    assert class_fields(chat(), "openai", "salt") == class_fields(chat(), "llamacpp", "salt")
    assert class_fields(chat(body={"priority": 9}), "vllm").body == {"priority": 9}


def test_an_agents_sessions_keep_their_own_times(data: Path) -> None:
    source = SourceSpec("agent", ("agent-runs/miniswe_even_sessions.jsonl.gz",))
    spec = chat(source=source, arrivals=Arrivals("poisson", rate=0.05), output=Dist("fixed", 8))
    plan = build(scenario(spec, duration=600_000_000), data)
    first = [request for request in plan.requests if request.session == 0]
    assert len(first) > 3
    assert min(request.due for request in first) >= 0
    assert [request.turn for request in first] == list(range(len(first)))


def test_jobs_of_data_sets(data: Path) -> None:
    source = SourceSpec("mmlu", ("mmlu/test_even_subjects.csv.gz",), {"shots": "5"})
    plan = build(scenario(chat(), offline=(OfflineSpec("eval", source, items=100),)), data)
    items = [request for request in plan.requests if request.job == "eval"]
    assert [request.item for request in items] == list(range(100))
    assert {request.out for request in items} == {1}
    with pytest.raises(BadInput, match="7675 rows"):
        build(scenario(chat(), offline=(OfflineSpec("eval", source, items=8_000),)), data)
