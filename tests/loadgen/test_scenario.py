"""Files and flags into one scenario, and back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import scenario
from loadgen.errors import BadData, BadInput, LoadgenError
from loadgen.spec import Scenario
from loadgen.target import env_name, is_loopback, secret

S = 1_000_000
TARGET = "http://127.0.0.1:8000"


def make(
    online: tuple[str, ...] = (), offline: tuple[str, ...] = (), fault: tuple[str, ...] = (), **run: Any
) -> Scenario:
    texts = {name.replace("_", "-").strip("-"): [v] if isinstance(v, str) else v for name, v in run.items()}
    return scenario.build(scenario.from_flags({"target": [TARGET]} | texts, online, offline, fault))


def again(found: Scenario) -> Scenario:
    return scenario.build(scenario.from_tables(tomllib.loads(scenario.to_toml(found)), "t"))


def test_defaults() -> None:
    found = make()
    assert (found.duration, found.drain, found.warmup, found.max_requests) == (60 * S, 30 * S, None, 1_000_000)
    assert (found.model, found.dialect, found.lengths, found.procs, found.cache) == (None, None, None, None, "cold")
    assert (found.seed, found.repeat, found.api, found.tokens) == (0, 1, "chat", ("all", 0))
    assert (found.payload_limit, found.allow_remote, found.allow_lag, found.tokenizer) == (4 << 30, False, False, None)
    only = found.online[0]
    assert (only.name, only.arrivals.kind, only.arrivals.rate) == ("chat", "poisson", 1.0)
    assert [(d.kind, d.first, d.second) for d in (only.input, only.output) if d] == [
        ("lognormal", 128.0, 0.5),
        ("lognormal", 64.0, 0.5),
    ]
    assert found.offline == ()
    assert make(offline=("items=1",)).online == ()


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"target": "http://10.1.2.3:80"}, "--target"),
    ({"target": "http://example.com"}, "--target"),
    ({"target": "127.0.0.1:8000"}, "--target"),
    ({"target": f"{TARGET}/v1"}, "--target"),
    ({"metrics_url": "http://10.1.2.3/m"}, "--metrics-url"),
    ({"duration": "31m"}, "--duration"),
    ({"duration": "60"}, "--duration"),
    ({"duration": "0s"}, "--duration"),
    ({"seed": "-1"}, "--seed"),
    ({"seed": "1_0"}, "--seed"),
    ({"dialect": "vlm"}, "--dialect"),
    ({"api_key_env": "sk-hunter2"}, "--api-key-env"),
    ({"admin_key_env": "K"}, "--admin-key-env"),
    ({"admin_url": TARGET, "pids": "f"}, "--pids"),
    ({"reset_url": TARGET, "cache": "as-is"}, "--reset-url"),
    ({"lengths": "exact", "dialect": "openai"}, "--lengths"),
    ({"online": ("name=a", "name=a")}, "name"),
    ({"online": ("name=a",), "offline": ("name=a,items=1",)}, "name"),
    ({"online": ("name=probe",), "probe": "1/s"}, "name"),
    ({"assert": "chta.errors==0"}, "--assert"),
    ({"assert": "chat.attainment>=1"}, "--assert"),
    ({"abort": "chat.items_per_s>=1"}, "--abort"),
    ({"assert": "chat.p9.ttft(during k)<=1s"}, "--assert"),
    ({"fault": ("at=1s,kill=worker:1",)}, "--fault"),
    ({"fault": ("at=10m,kill=pid",)}, "--fault"),
    ({"fault": ("at=1s,net=link,reset",)}, "--fault"),
    ({"fault": ("at=1s,hangup=chta:5%",)}, "--fault"),
    ({"fault": ("at=1s,kill=p", "at=2s,kill=p")}, "--fault"),
    ({"proxy": ["a=127.0.0.1:1>10.0.0.1:2"]}, "--proxy"),
    ({"proxy": ["a=1>2"]}, "--proxy"),
    ({"tokens": "sample:0"}, "--tokens"),
    ({"label": ["x"]}, "--label"),
    ({"payload_limit": "4XB"}, "--payload-limit"),
    ({"procs": "0"}, "--procs"),
]


@pytest.mark.parametrize(("given_", "where"), ERRORS)
def test_refused(given_: dict[str, Any], where: str) -> None:
    with pytest.raises(BadInput) as caught:
        make(**given_)
    assert caught.value.where == where
    assert caught.value.code == 2
    assert "hunter2" not in str(caught.value)


def test_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(BadInput) as caught:
        make(target="http://me:hunter2@127.0.0.1")
    assert "hunter2" not in str(caught.value)


def test_remote_and_long_by_name() -> None:
    assert make(target="http://10.1.2.3:80", allow_remote="true").target == "http://10.1.2.3:80"
    assert make(duration="40m", max_duration="1h").duration == 2400 * S
    assert make(max_requests="5000000").max_requests == 5_000_000


@pytest.mark.parametrize("host", ["localhost", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.com", "127.0.0.1.nip.io", "2130706433"]
)
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_key_comes_from_the_environment() -> None:
    assert secret(None, "--api-key-env", {}) is None
    assert secret(env_name("API_KEY"), "--api-key-env", {"API_KEY": "k\n"}) == "k"
    for value in ("", "a\r\nb"):
        with pytest.raises(BadInput):
            secret("API_KEY", "--api-key-env", {"API_KEY": value})


def test_flags_over_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        f"""
        target = "{TARGET}"
        seed = 1
        label = {{a = "1", b = "2"}}
        assert = ["chat.errors==0"]
        [run]
        max_requests = 10
        [[online]]
        name = "chat"
        arrivals = "poisson:2/s"
        slo = "ttft<=1s"
        [[offline]]
        items = 3
        """
    )
    flags = scenario.from_flags(
        {"seed": ["2"], "label": ["b=3"], "assert": ["all.cut==0"]}, ["name=chat,arrivals=const:9/s", "name=x"], [], []
    )
    found = scenario.build(scenario.merge(scenario.from_file(str(file)), flags))
    assert (found.seed, found.max_requests, found.labels) == (2, 10, {"a": "1", "b": "3"})
    assert found.asserts == ("chat.errors==0", "all.cut==0")
    assert [(spec.name, spec.arrivals.kind, len(spec.slo.per_request)) for spec in found.online] == [
        ("chat", "const", 1),
        ("x", "poisson", 0),
    ]
    assert found.offline[0].items == 3


@pytest.mark.parametrize("text", ["a = ", "\x00", "seed = 1\nseed = 2"])
def test_no_toml(text: str, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(BadData) as caught:
        scenario.from_file(str(file))
    assert caught.value.file == str(file)
    with pytest.raises(BadData):
        scenario.from_file(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sede = 1", "sede"),
        ("seed = 1\n[run]\nseed = 1", "seed"),
        ("online = 1", "online"),
        ("seed = 1979-05-27", "seed"),
        ("run = 1", "run"),
        ("seed = [1, 2]", "seed"),
        ("[[online]]\nnaem = 'a'", "naem"),
    ],
)
def test_bad_tables(text: str, key: str) -> None:
    with pytest.raises(BadInput) as caught:
        scenario.build(scenario.from_tables({"target": TARGET} | tomllib.loads(text), "f"))
    assert caught.value.key == key


FULL = {
    "online": (
        "name=chat,slo=ttft<=800ms&tpot<=60ms,slo=p99.ttft<=1s,cancel=2%@exp:3s,reader=slow:1%@8KB/s",
        "name=code,source=azure:a+b,scale=x0.1,len=x0.125,window=1m..2m,dequantise=3s,thin=0.3,repeat=2,cap=9,floor=2/1",
        'name=more,arrivals=onoff:20/s@5s;1/s@15s,body={"a":null,"é":"\\u007f"},header=a:b,session=turns:4@2;think=exp:1s',
        "name=bare,source=agent:f,session=mode=live,priority=3,tenant=t",
    ),
    "offline": (
        "name=eval,source=mmlu:f;shots=5,deadline=18m,verify=answers",
        "items=3,pool=closed,submit=stream,window=2",
    ),
    "fault": ("name=k,at=1s,kill=worker:1", "at=2s,net=link,delay=200ms,for=3s", "name=r,at=3s,net=link,reset"),
}
FULL_RUN: dict[str, Any] = {
    "pids": "p", "proxy": ["link=127.0.0.1:1>unix:/x"], "probe": "1/10m", "warmup": "7s", "duration": "1m30s",
    "tokens": "sample:9", "label": ["a=b=c", 'q="\x7f\n'], "outputs": "true", "collect": ["*.log"], "model": "m\t\\",
    "assert": ["chat.p99.9.ttft(during k)<=1s", "chat.recovery(after k)<=10s"], "api_key_env": "K", "procs": "2",
}  # fmt: skip


def test_written_back_in_full() -> None:
    found = make(**FULL, **FULL_RUN)
    assert again(found) == found
    assert scenario.to_toml(again(found)) == scenario.to_toml(found)


def test_histogram_is_written_as_its_file(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    file.write_text("10,1\n20,3\n")
    found = make(online=(f"in=hist:{file}",))
    assert again(found) == found


rates = (
    st.floats(1e-6, 1e6)
    .map(lambda value: f"{value:.12f}".rstrip("0") + "/s")
    .filter(lambda text: float(text[:-2]) > 0 and text[-3] != ".")
)
times = st.integers(1, 10**10).map(lambda value: f"{value}us")
numbers = st.integers(1, 10**6).map(lambda value: f"{value / 1000}")
plain = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(lambda text: text.strip())
lengths = st.one_of(
    numbers.map("fixed:{}".format),
    numbers.map("exp:{}".format),
    st.builds("lognormal:{}@{}".format, numbers, numbers),
    st.tuples(numbers, numbers).map(lambda pair: "uniform:{}..{}".format(*sorted(pair, key=float))),
)
arrivals = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["const", "poisson"]), rates),
    st.builds("{}:{}@cv={}".format, st.sampled_from(["gamma", "weibull"]), rates, numbers),
    st.builds("step:{}@{};{}@{}".format, rates, times, rates, times),
    st.builds("ramp:{}..{}@{}".format, rates, rates, times),
    st.integers(1, 999).map("closed:{}".format),
)


@settings(max_examples=60, deadline=None)
@given(
    arrivals,
    lengths,
    lengths,
    st.lists(times, min_size=3, max_size=3),
    plain,
    st.floats(0, 1),
    st.integers(0, 2**63 - 1),
)
def test_written_back(arrive: str, prompt: str, out: str, bounds: list[str], text: str, part: float, seed: int) -> None:
    spec = {
        "arrivals": [arrive], "in": [prompt], "out": [out], "timeout": [bounds[0]],
        "slo": [f"ttft<={bounds[1]}&tpot<={bounds[2]}&late<={part!r}"], "cancel": [f"{part!r}@exp:{bounds[2]}"],
    }  # fmt: skip
    run = {"target": [TARGET], "model": [text], "label": [f"k={text}"], "seed": [str(seed)], "collect": [text]}
    found = scenario.build(scenario.Raw(run, (("--online", spec),)))
    assert again(found) == found


@settings(max_examples=200, deadline=None)
@given(st.text('acelnorst=:;,@./{}[]"%<>&x0159~ é', max_size=40))
def test_any_spec_is_read_or_refused(text: str) -> None:
    for kind in ("online", "offline", "fault"):
        try:
            make(**{kind: (text,)})
        except LoadgenError as error:
            code = error.code
        else:
            continue
        assert code == 2
