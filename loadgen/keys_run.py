"""The keys of a run as a whole: flags of `run`, and top-level keys of a scenario file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, get_args

from loadgen import forms, texts, units
from loadgen.keys import Key, choice, switch, table, whole
from loadgen.keys_fault import proxy, show_proxy
from loadgen.measure import expr
from loadgen.spec import Dialect
from loadgen.target import base_url, env_name, url

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.keys import Given

DIALECTS: Final = get_args(Dialect)
MAX_DURATION: Final = 30 * 60 * 1_000_000
MAX_PROCS: Final = 256
_LABEL = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)


def _auto_duration(text: str) -> int | None:
    return None if text == "auto" else units.duration(text)


def _auto_procs(text: str) -> int | None:
    return None if text == "auto" else whole(1, MAX_PROCS)(text)


def _tokens(text: str) -> tuple[str, int]:
    kind, _, number = text.partition(":")
    if kind == "sample":
        return kind, forms.count(number)
    if text not in ("all", "none"):
        raise ValueError("expected all, sample:N or none")
    return text, 0


def _show_tokens(found: tuple[str, int]) -> str:
    return f"sample:{found[1]}" if found[0] == "sample" else found[0]


def _label(text: str) -> tuple[str, str]:
    found = _LABEL.fullmatch(text)
    if found is None:
        raise ValueError("expected K=V")
    return found[1], found[2]


def _expression(where: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        return str(expr.parse(text, where))

    return parse


def _there(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _some_size(text: str) -> int:
    bytes_ = units.size(text)
    if bytes_ < 1:
        raise ValueError("must be above zero")
    return bytes_


KEYS = table(
    Key("target", base_url, "the server", form="URL"),
    Key("model", _there, "asked for in each request", "first of /v1/models", "M"),
    choice("dialect", DIALECTS, "how classes and lengths are told", "from /version, else openai"),
    choice("api", ("chat", "completions"), "of the online classes", "chat"),
    Key("probe", forms.positive_rate, "one-token requests beside, as class probe", "none", "RATE", texts.rate),
    Key("duration", forms.positive_duration, "of the measured window", "60s", "D", texts.duration),
    Key("max-duration", forms.positive_duration, "what --duration may be at most", "30m", "D", texts.duration),
    Key("warmup", _auto_duration, "before the window", "auto: a sixth, at most 60s", "D|auto", texts.duration),
    Key("drain", units.duration, "after it, for open requests", "30s", "D", texts.duration),
    Key("max-requests", whole(1), "send only the first so many of a larger plan (jobs must fit)", "1000000", "N"),
    Key("seed", whole(0, 2**63 - 1), "of all that is drawn", "0", "N"),
    Key("repeat", whole(1, 1000), "runs of the same plan", "1", "N"),
    Key("procs", _auto_procs, "load processes", "auto, by cores", "N|auto"),
    choice("cache", ("cold", "primed", "as-is"), "the server's prefix cache at the start", "cold"),
    Key("reset-url", url, "POSTed to clear the cache", form="URL"),
    choice("lengths", ("exact", "eos"), "force output lengths, or let the model end", "exact where the dialect can"),
    Key("tokenizer", _there, "counts prompt words", "server where it can, else words", "FILE|server|words"),
    Key("proxy", proxy, "a link that faults may cut", form="NAME=LISTEN>UPSTREAM", show=show_proxy, many=True),
    Key("assert", _expression("--assert"), "must hold, else exit 1", form="EXPR", many=True),
    Key("abort", _expression("--abort"), "ends the run when it holds, exit 3", form="EXPR", many=True),
    Key("metrics-url", url, "the server's counters, read once a second", form="URL"),
    Key("collect", _there, "files kept with the run", form="GLOB", many=True),
    Key("data", _there, "public traces and prompts", "SLACKWATER_DATA, else ../shared/data", "DIR"),
    Key("api-key-env", env_name, "environment variable with the key", form="NAME"),
    Key("admin-url", base_url, "the server's admin listener", form="URL"),
    Key("admin-key-env", env_name, "environment variable with its key", form="NAME"),
    Key("pids", _there, "which pid is which worker, for faults", form="FILE"),
    choice("scribe", ("live", "after"), "when records are parsed", "live above 4 cores"),
    Key("payload-limit", _some_size, "refuse a plan with more bytes", "4GiB", "BYTES", lambda found: f"{found}B"),
    switch("outputs", "keep the answers' text"),
    Key("tokens", _tokens, "whose token times are kept", "all", "all|sample:N|none", _show_tokens),
    Key("label", _label, "kept with the result", form="K=V", show="=".join, many=True),
    switch("allow-remote", "let the target be another machine"),
    switch("allow-lag", "warn where the client was too slow, and say so in every output"),
)

FIELDS: Final = {
    "proxy": "proxies",
    "assert": "asserts",
    "abort": "aborts",
    "outputs": "keep_outputs",
    "label": "labels",
}
"""Fields of `Scenario` that are not named as their keys."""


def field_of(key: str) -> str:
    """The field of `Scenario` for a key."""
    return FIELDS.get(key, key.replace("-", "_"))


def from_run_table(found: dict[str, object]) -> dict[str, object]:
    """`max_requests` is as good as `max-requests`, and labels may be a table."""
    named = {name.replace("_", "-"): value for name, value in found.items()}
    label = named.get("label")
    if isinstance(label, dict):
        named["label"] = [f"{key}={value}" for key, value in label.items()]
    return named


def merged(base: Given, over: Given) -> Given:
    """`over` wins key by key; what may be repeated is kept from both, except that a new proxy or label replaces."""
    result = dict(base)
    for name, given in over.items():
        key = KEYS.get(name)
        if key is None or not key.many:
            result[name] = given
        elif name in ("proxy", "label"):
            new = {text.partition("=")[0] for text in given}
            result[name] = [text for text in base.get(name, []) if text.partition("=")[0] not in new] + given
        else:
            result[name] = [*base.get(name, []), *given]
    return result
