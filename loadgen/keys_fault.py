"""The keys of `--fault` and `[[fault]]`, and of `--proxy`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from loadgen import forms, texts, units
from loadgen.errors import BadInput
from loadgen.keys import Key, read, switch, table
from loadgen.keys_source import Refuse
from loadgen.spec import FaultSpec, ProxySpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.keys import Given

ACTIONS: Final = ("kill", "stop", "net", "http", "exec", "flood", "hangup")
NET: Final = ("delay", "reset", "blackhole", "rate", "truncate")
_LASTING: Final = ("stop", "flood")
_LASTING_NET: Final = ("delay", "blackhole", "rate")
_WORKER = re.compile(r"worker:([0-9]{1,4})")
_HTTP = re.compile(r"(GET|POST|PUT|DELETE):(/[!-~]*)")


def worker_of(target: str) -> int | None:
    """N of `worker:N`; None for a file with a pid."""
    found = _WORKER.fullmatch(target)
    return int(found[1]) if found else None


def http_of(target: str) -> tuple[str, str]:
    """Method and path of `POST:/path`."""
    found = _HTTP.fullmatch(target)
    if found is None:
        raise ValueError("expected METHOD:/path with GET, POST, PUT or DELETE")
    return found[1], found[2]


def flood_of(target: str) -> tuple[str, float]:
    """Tenant and rate of `tenant:t2@50/s`."""
    tenant, at, per_second = target.removeprefix("tenant:").partition("@")
    if not target.startswith("tenant:") or not at:
        raise ValueError("expected tenant:NAME@RATE, such as tenant:t2@50/s")
    return forms.name(tenant), forms.positive_rate(per_second)


def hangup_of(target: str) -> tuple[str, float]:
    """Class and share of `chat:50%`."""
    cls, colon, part = target.partition(":")
    if not colon:
        raise ValueError("expected CLASS:SHARE, such as chat:50%")
    return forms.name(cls), units.share(part)


def _process(text: str) -> str:
    if text.startswith("worker:") and worker_of(text) is None:
        raise ValueError("expected worker:N, or a file with a pid")
    return _there(text)


def _there(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _kept(text: str, parse: Callable[[str], object]) -> str:
    parse(text)
    return text


KEYS = table(
    Key("name", forms.name, "used in during NAME and after NAME", "the action", "kill1"),
    Key("at", units.duration, "when, from the first due time on", form="120s", show=texts.duration),
    Key("for", forms.positive_duration, "how long", form="30s", show=texts.duration),
    Key("kill", _process, "SIGKILL", form="worker:N|PIDFILE"),
    Key("stop", _process, "SIGSTOP, and SIGCONT after", form="worker:N|PIDFILE"),
    Key("net", forms.name, "at this proxy: one of the five keys below", form="PROXY"),
    Key("delay", lambda text: _kept(text, forms.positive_duration), "of net: hold bytes so long", form="200ms"),
    switch("reset", "of net: close the connections with a reset"),
    switch("blackhole", "of net: keep them open, and pass nothing"),
    Key("rate", lambda text: _kept(text, forms.byte_rate), "of net: pass so many bytes a second", form="1MB/s"),
    Key("truncate", lambda text: _kept(text, units.size), "of net: cut after so many bytes", form="64KB"),
    Key("http", lambda text: _kept(text, http_of), "call the server", form="POST:/path"),
    Key("exec", _there, "run a command", form="CMD"),
    Key("flood", lambda text: _kept(text, flood_of), "more requests by one tenant", form="tenant:t2@50/s"),
    Key("hangup", lambda text: _kept(text, hangup_of), "this share of open requests is closed", form="chat:50%"),
)
BARE: Final = ("reset", "blackhole")


def fault(given: Given, where: str = "--fault") -> FaultSpec:
    """A fault.

    Raises:
        BadInput: an unknown key, a bad value, no action or several, or a key that the action does not have.
    """
    values = read(KEYS, given, where)
    refuse = Refuse(where, given)
    actions = [name for name in ACTIONS if name in values]
    if len(actions) != 1:
        why = f"contradicts {actions[0]}: one action a fault" if actions else f"one of {', '.join(ACTIONS)} is missing"
        raise refuse.key(actions[1] if actions else "name", why)
    if "at" not in values:
        raise BadInput(where, "at", "", "is missing: when shall it happen?")
    kind: Any = actions[0]
    ways = [name for name in NET if name in values and values[name] is not False]
    if kind == "net" and len(ways) != 1:
        raise refuse.key(ways[1] if ways else "net", f"expected exactly one of {', '.join(NET)}")
    for name in NET:
        refuse.unless(kind == "net", name, "applies to net only")
    lasting = kind in _LASTING or (kind == "net" and ways[0] in _LASTING_NET)
    if lasting and "for" not in values:
        raise BadInput(where, "for", "", f"is missing: how long shall {ways[0] if kind == 'net' else kind} last?")
    refuse.unless(lasting or kind == "net", "for", f"does not apply to {kind}")
    options: dict[str, str] = {name: "true" if values[name] is True else values[name] for name in ways}
    return FaultSpec(values.get("name", kind), values["at"], kind, values[kind], values.get("for"), options)


def values_of(spec: FaultSpec) -> dict[str, Any]:
    """Back to keys."""
    found: dict[str, Any] = {"name": spec.name, "at": spec.at, spec.kind: spec.target, **spec.options}
    if spec.duration is not None:
        found["for"] = spec.duration
    return {name: True if name in BARE else found[name] for name in KEYS if name in found}


def proxy(text: str) -> ProxySpec:
    """`NAME=LISTEN>UPSTREAM`, each `host:port` or `unix:PATH`."""
    name, equals, rest = text.partition("=")
    listen, arrow, upstream = rest.partition(">")
    if not equals or not arrow:
        raise ValueError("expected NAME=LISTEN>UPSTREAM, such as link=127.0.0.1:9000>127.0.0.1:8000")
    return ProxySpec(forms.name(name), _address(listen), _address(upstream))


def show_proxy(found: ProxySpec) -> str:
    """Back to text."""
    return f"{found.name}={found.listen}>{found.upstream}"


def _address(text: str) -> str:
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"expected host:port or unix:PATH, and not {text!r}")
    return text
