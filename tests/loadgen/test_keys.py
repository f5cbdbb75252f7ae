"""Every key of the page's section 9, as SPEC and as TOML, and what is refused."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from loadgen import keys, keys_fault, keys_offline, keys_online, keys_source
from loadgen.errors import BadData, BadInput
from loadgen.keys import split_spec
from loadgen.spec import Arrivals, PrefixSpec, SessionSpec, Slo, SloTerm, SourceSpec, Transforms
from loadgen.units import Dist

S = 1_000_000
AZURE = "source=azure:f.csv"


def both(kind: str, spec: str) -> Any:
    """The class from SPEC text, after the TOML form gave the same."""
    make = {"online": keys_online.online, "offline": keys_offline.offline, "fault": keys_fault.fault}[kind]
    given = split_spec(spec, f"--{kind}", keys_fault.BARE)
    lines = [f"{name} = {values if len(values) > 1 else repr(values[0])}" for name, values in given.items()]
    from_toml = keys.from_toml(tomllib.loads("\n".join(lines)), "t")
    made = make(given)
    assert make(from_toml) == made
    return made


ONLINE = [
    ("name=a_1", "name", "a_1"),
    ("arrivals=const:6/s", "arrivals", Arrivals("const", rate=6.0)),
    ("arrivals=poisson:1/10m", "arrivals", Arrivals("poisson", rate=1 / 600)),
    ("arrivals=gamma:6/s@cv=3", "arrivals", Arrivals("gamma", rate=6.0, cv=3.0)),
    ("arrivals=weibull:6/s@cv=2", "arrivals", Arrivals("weibull", rate=6.0, cv=2.0)),
    ("arrivals=onoff:20/s@5s;1/s@15s", "arrivals", Arrivals("onoff", levels=((20.0, 5 * S), (1.0, 15 * S)))),
    ("arrivals=step:2/s@60s;12/s@60s", "arrivals", Arrivals("step", levels=((2.0, 60 * S), (12.0, 60 * S)))),
    ("arrivals=sine:2..12/s@10m", "arrivals", Arrivals("sine", span=(2.0, 12.0), period=600 * S)),
    ("arrivals=ramp:1..10/s@10m", "arrivals", Arrivals("ramp", span=(1.0, 10.0), period=600 * S)),
    ("arrivals=closed:32", "arrivals", Arrivals("closed", slots=32)),
    (f"{AZURE},arrivals=trace", "arrivals", Arrivals("trace")),
    ("source=azure:a+b", "source", SourceSpec("azure", ("a", "b"))),
    ("source=servegen:r+l", "source", SourceSpec("servegen", ("r", "l"))),
    *(
        (f"source={kind}:f", "source", SourceSpec(kind, ("f",)))
        for kind in ("mooncake", "burstgpt", "lengths", "prompts")
    ),
    *((f"source={kind}:f", "source", SourceSpec(kind, ("f",))) for kind in ("chat", "agent", "work")),
    ("source=synth", "source", SourceSpec("synth")),
    ("in=fixed:9", "input", Dist("fixed", 9.0)),
    ("out=uniform:1..9", "output", Dist("uniform", 1.0, 9.0)),
    (f"{AZURE},window=10m..20m", "transforms", Transforms(window=(600 * S, 1200 * S))),
    (f"{AZURE},dequantise=3s", "transforms", Transforms(dequantise=3 * S)),
    (f"{AZURE},scale=x0.5", "transforms", Transforms(scale=0.5)),
    (f"{AZURE},thin=0.2", "transforms", Transforms(thin=0.2)),
    (f"{AZURE},repeat=3", "transforms", Transforms(repeat=3)),
    (f"{AZURE},len=x0.1", "transforms", Transforms(length=0.1)),
    (f"{AZURE},cap=4096", "transforms", Transforms(cap=4096)),
    (f"{AZURE},floor=4/2", "transforms", Transforms(floor=(4, 2))),
    ("source=servegen:r+l,missing=pool", "transforms", Transforms(missing="pool")),
    ("prefix=tree:depth=3;fanout=8;block=64;zipf=1.1", "prefix", PrefixSpec("tree", 3, 8, 64, 1.1)),
    ("prefix=groups:5", "prefix", PrefixSpec("groups", block=64, groups=5)),
    ("source=mooncake:f,prefix=trace", "prefix", PrefixSpec("trace")),
    ("source=mooncake:f", "prefix", PrefixSpec("trace")),
    ("prefix=none", "prefix", PrefixSpec()),
    (
        "session=turns:4@2;think=lognormal:8s@1;mode=live",
        "session",
        SessionSpec(4.0, 2.0, Dist("lognormal", 8 * S, 1.0), "live"),
    ),
    ("source=chat:f,session=mode=recorded", "session", SessionSpec(0.0, 0.0, None, "recorded")),
    ("slo=ttft<=500ms&tpot<=50ms", "slo", Slo((SloTerm("ttft", 500_000.0), SloTerm("tpot", 50_000.0)))),
    ("slo=ttft<=1s,slo=p99.ttft<=1s", "slo", Slo((SloTerm("ttft", 1e6),), (SloTerm("ttft", 1e6, 0.99),))),
    (
        "slo=ttfo<=1s&max_gap<=1s&e2e<=9s",
        "slo",
        Slo(tuple(SloTerm(m, b) for m, b in (("ttfo", 1e6), ("max_gap", 1e6), ("e2e", 9e6)))),
    ),
    ("slo=ttft<=1s&tpot<=1s&late==0", "slo", Slo((SloTerm("ttft", 1e6), SloTerm("tpot", 1e6), SloTerm("late", 0.0)))),
    ("tier=standard", "tier", "standard"),
    ("priority=-3", "priority", -3),
    ("tenant=t1", "tenant", "t1"),
    ("header=x-a:b c,header=x-d:e", "headers", (("x-a", "b c"), ("x-d", "e"))),
    ('body={"top_k":1,"a":[1,{"b":"},"}]}', "body", {"top_k": 1, "a": [1, {"b": "},"}]}),
    ("slo=ttft<=1s,send_slo=llm-d", "send_slo", "llm-d"),
    ("retry=sdk", "retry", "sdk"),
    ("inflight=4", "inflight", 4),
    ("connections=fresh", "connections", "fresh"),
    ("timeout=60s", "timeout", 60 * S),
    ("cancel=2%@lognormal:3s", "cancel", (0.02, Dist("lognormal", 3 * S, 1.0))),
    ("reader=slow:1%@8KB/s", "slow_reader", (0.01, 8000)),
]
OFFLINE = [
    ("source=mmlu:f;shots=5", "source", SourceSpec("mmlu", ("f",), {"shots": "5"})),
    ("source=gsm8k:f;shots=8", "source", SourceSpec("gsm8k", ("f",), {"shots": "8"})),
    ("source=documents:f", "source", SourceSpec("documents", ("f",))),
    ("items=2000", "items", 2000),
    ("items=1,submit=stream", "submit", "stream"),
    ("items=1,at=60s", "at", 60 * S),
    ("items=1,jobs=poisson:1/10m", "jobs", Arrivals("poisson", rate=1 / 600)),
    ("items=1,pool=closed", "pool_closed", True),
    ("items=1,submit=stream,window=8", "window", 8),
    ("items=1,deadline=30m", "deadline", 1800 * S),
    ("items=1,verify=count", "verify", ("count", "")),
    ("source=mmlu:f,verify=answers", "verify", ("answers", "")),
    ("items=1,verify=reference:d", "verify", ("reference", "d")),
    ("items=1", "tier", "offline"),
]
FAULT = [
    ("name=kill1,at=120s,kill=worker:1", ("kill1", 120 * S, "kill", "worker:1", None, {})),
    ("at=0s,stop=pid,for=20s", ("stop", 0, "stop", "pid", 20 * S, {})),
    ("at=1s,net=a,delay=200ms,for=30s", ("net", S, "net", "a", 30 * S, {"delay": "200ms"})),
    ("at=1s,net=a,reset", ("net", S, "net", "a", None, {"reset": "true"})),
    ("at=1s,net=a,blackhole,for=1s", ("net", S, "net", "a", S, {"blackhole": "true"})),
    ("at=1s,net=a,rate=1MB/s,for=1s", ("net", S, "net", "a", S, {"rate": "1MB/s"})),
    ("at=1s,net=a,truncate=64KB", ("net", S, "net", "a", None, {"truncate": "64KB"})),
    ("at=1s,http=POST:/p", ("http", S, "http", "POST:/p", None, {})),
    ("at=1s,exec=true", ("exec", S, "exec", "true", None, {})),
    ("at=1s,flood=tenant:t2@50/s,for=30s", ("flood", S, "flood", "tenant:t2@50/s", 30 * S, {})),
    ("at=1s,hangup=chat:50%", ("hangup", S, "hangup", "chat:50%", None, {})),
]


@pytest.mark.parametrize(("spec", "field", "value"), ONLINE)
def test_online_keys(spec: str, field: str, value: object) -> None:
    assert getattr(both("online", spec), field) == value


@pytest.mark.parametrize(("spec", "field", "value"), OFFLINE)
def test_offline_keys(spec: str, field: str, value: object) -> None:
    assert getattr(both("offline", spec), field) == value


@pytest.mark.parametrize(("spec", "values"), FAULT)
def test_fault_keys(spec: str, values: tuple[object, ...]) -> None:
    made = both("fault", spec)
    assert (made.name, made.at, made.kind, made.target, made.duration, made.options) == values


@pytest.mark.parametrize(
    ("table", "rows"), [(keys_online.KEYS, ONLINE), (keys_offline.KEYS, OFFLINE + ONLINE), (keys_fault.KEYS, FAULT)]
)
def test_no_key_is_left_out(table: keys.Table, rows: list[tuple[str, ...]]) -> None:
    told = {name for row in rows for name in split_spec(row[0], "t", keys_fault.BARE)}
    assert set(table) <= told


@pytest.mark.parametrize(
    ("kind", "spec", "key", "nearest"),
    [
        ("online", "arivals=trace", "arivals", "arrivals"),
        ("online", "arrivals=possion:1/s", "arrivals", "poisson"),
        ("online", "arrivals=poisson:6", "arrivals", None),
        ("online", "arrivals=poisson:0/s", "arrivals", None),
        ("online", "arrivals=trace,source=synth", "arrivals", None),
        ("online", "arrivals=trace,source=prompts:f", "arrivals", None),
        ("online", "source=azur:f", "source", "azure"),
        ("online", "source=mmlu:f", "source", None),
        ("online", "source=azure", "source", None),
        ("online", "source=servegen:r", "source", None),
        ("online", "scale=x0.5", "scale", None),
        ("online", f"{AZURE},arrivals=poisson:1/s,thin=0.1", "thin", None),
        ("online", f"{AZURE},in=5", "in", None),
        ("online", f"{AZURE},out=5", "out", None),
        ("online", f"{AZURE},missing=pool", "missing", None),
        ("online", f"{AZURE},prefix=trace", "prefix", None),
        ("online", f"{AZURE},thin=2", "thin", None),
        ("online", "in=fixed:0", "in", None),
        ("online", "arrivals=closed:4,inflight=2", "inflight", None),
        ("online", "send_slo=sgl", "send_slo", None),
        ("online", "slo=ttft<=1s&p99.ttft<=1s", "slo", None),
        ("online", "slo=ttft<=1s,slo=ttft<=2s", "slo", None),
        ("online", "slo=late<=0", "slo", None),
        ("online", "slo=ttft<=5", "slo", None),
        ("online", "retry=skd", "retry", "sdk"),
        ("online", "tier=ofline", "tier", "offline"),
        ("online", "inflight=0", "inflight", None),
        ("online", "name=all", "name", None),
        ("online", "name=a,name=b", "name", None),
        ("online", 'body={"stream":true}', "body", None),
        ("online", "session=mode=live", "session", None),
        ("online", "header=host:x", "header", None),
        ("offline", "source=synth", "items", None),
        ("offline", "items=1,window=4", "window", None),
        ("offline", "items=1,at=1s,jobs=poisson:1/s", "at", None),
        ("offline", "items=1,jobs=closed:3", "jobs", None),
        ("offline", "items=1,verify=answers", "verify", None),
        ("offline", "items=1,verfy=count", "verfy", "verify"),
        ("offline", "source=azure:f", "source", None),
        ("fault", "at=1s", "name", None),
        ("fault", "kill=worker:1", "at", None),
        ("fault", "at=1s,kill=worker:x", "kill", None),
        ("fault", "at=1s,kill=p,stop=p", "stop", None),
        ("fault", "at=1s,stop=p", "for", None),
        ("fault", "at=1s,kill=p,for=1s", "for", None),
        ("fault", "at=1s,net=a", "net", None),
        ("fault", "at=1s,kill=p,delay=1s", "delay", None),
        ("fault", "at=1s,flod=tenant:a@1/s", "flod", "flood"),
    ],
)
def test_refused(kind: str, spec: str, key: str, nearest: str | None) -> None:
    with pytest.raises(BadInput) as caught:
        both(kind, spec)
    assert (caught.value.key, caught.value.nearest, int(caught.value.code)) == (key, nearest, 2)


def test_spec_that_does_not_split() -> None:
    for spec in ("name", "body={", 'body={"a}'):
        with pytest.raises(BadInput):
            split_spec(spec, "--online")


def test_secret_headers_are_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput) as caught:
        both("online", "header=Authorization:Bearer hunter2")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.__dict__)


def test_histogram_file_that_is_missing_is_bad_data() -> None:
    with pytest.raises(BadData) as caught:
        keys_online.online(split_spec("in=hist:nowhere.csv", "--online"))
    assert caught.value.file == "nowhere.csv"


def test_a_trace_keeps_its_times_unless_told_otherwise() -> None:
    assert both("online", AZURE).arrivals.kind == "trace"
    assert both("online", "name=x").arrivals == Arrivals("poisson", rate=1.0)


def test_toml_numbers_and_tables_read_as_their_text() -> None:
    table = tomllib.loads(
        'priority = 3\nscale = 0.5\nsource = "azure:f"\nbody = {top_k = 1}\nslo = ["ttft<=1s", "p99.e2e<=9s"]'
    )
    made = keys_online.online(keys.from_toml(table, "t"), "t")
    assert (made.priority, made.transforms.scale, made.body) == (3, 0.5, {"top_k": 1})
    assert len(made.slo.population) == 1
    assert keys_source.transform_values(made.transforms) == {"scale": 0.5}


def test_markdown_has_a_row_for_each_key() -> None:
    assert len(keys.markdown(keys_online.KEYS).splitlines()) == len(keys_online.KEYS) + 2
