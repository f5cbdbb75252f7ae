"""The composite values of SPEC keys: arrivals, sources, transforms, prefixes, sessions and client misbehaviour.

Each has a reader, which raises ValueError with what is expected, and a writer that the reader turns back.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, get_args

from loadgen import texts, units
from loadgen.keys import SecretValue
from loadgen.spec import ArrivalKind, Arrivals, PrefixSpec, SessionSpec, SourceSpec

if TYPE_CHECKING:
    from loadgen.units import Dist

NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET_HEADERS = ("authorization", "proxy-authorization", "x-api-key", "api-key", "cookie")
_OWN_HEADERS = ("host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding")
_OWN_FIELDS = ("messages", "prompt", "stream", "stream_options")
ARRIVALS: Final = get_args(ArrivalKind)
_COUNT = re.compile(r"[0-9]{1,12}")


def name(text: str) -> str:
    """Of a class, job, fault or proxy."""
    if NAME.fullmatch(text) is None:
        raise ValueError("a name is a small letter, then small letters, digits and _")
    if text == "all":
        raise ValueError("`all` stands for every class and is no name")
    return text


def count(text: str, low: int = 1) -> int:
    """A whole number."""
    if _COUNT.fullmatch(text) is None or int(text) < low:
        raise ValueError(f"expected a whole number, {low} or more")
    return int(text)


def positive_duration(text: str) -> int:
    """Microseconds above zero."""
    micros = units.duration(text)
    if micros <= 0:
        raise ValueError("must be above zero")
    return micros


def positive_rate(text: str) -> float:
    """Per second, above zero."""
    per_second = units.rate(text)
    if not 0 < per_second < float("inf"):
        raise ValueError("a rate must be above zero")
    return per_second


def arrivals(text: str) -> Arrivals:
    """`poisson:6/s` and the others of the page's section 9."""
    kind, _, rest = text.partition(":")
    if kind == "trace":
        if rest:
            raise ValueError("trace has no value: its times come from the source")
        return Arrivals("trace")
    if kind == "closed":
        slots, at, most = rest.partition("@")
        return Arrivals("closed", slots=count(slots), rate=positive_rate(most) if at else 0.0)
    if kind == "const":
        return Arrivals("const", rate=positive_rate(rest))
    if kind == "poisson":
        return Arrivals("poisson", rate=positive_rate(rest))
    if kind in ("gamma", "weibull"):
        per_second, at, cv = rest.partition("@cv=")
        if not at:
            raise ValueError(f"expected {kind}:RATE@cv=NUMBER, such as {kind}:6/s@cv=2")
        return Arrivals("gamma" if kind == "gamma" else "weibull", rate=positive_rate(per_second), cv=_positive(cv))
    if kind in ("onoff", "step"):
        return _levels(kind, rest)
    if kind in ("sine", "ramp"):
        return _span(kind, rest)
    raise ValueError(f"expected {', '.join(ARRIVALS)}")


def _levels(kind: str, text: str) -> Arrivals:
    levels = []
    for part in text.split(";"):
        per_second, at, length = part.partition("@")
        if not at:
            raise ValueError(f"expected {kind}:RATE@TIME;RATE@TIME, such as {kind}:2/s@60s;12/s@60s")
        levels.append((units.rate(per_second), positive_duration(length)))
    if kind == "onoff" and len(levels) != 2:
        raise ValueError("onoff has two states, such as onoff:20/s@5s;1/s@15s")
    if not any(level for level, _ in levels):
        raise ValueError("one of the rates must be above zero")
    return Arrivals("onoff" if kind == "onoff" else "step", levels=tuple(levels))


def _span(kind: str, text: str) -> Arrivals:
    rates, at, period = text.partition("@")
    low, dots, high = rates.partition("..")
    if not at or not dots:
        raise ValueError(f"expected {kind}:LOW..HIGH@TIME, such as {kind}:2..12/s@10m")
    # `2..12/s`: the unit may stand once, at the end.
    unit = high[high.find("/") :] if "/" in high else ""
    span = (units.rate(low if "/" in low else low + unit), units.rate(high))
    if max(span) <= 0:
        raise ValueError("one of the rates must be above zero")
    if kind == "sine" and span[0] > span[1]:
        raise ValueError("the lowest rate of sine comes first")
    return Arrivals("sine" if kind == "sine" else "ramp", span=span, period=positive_duration(period))


def show_arrivals(found: Arrivals) -> str:
    """Back to text."""
    if found.kind == "trace":
        return "trace"
    if found.kind == "closed":
        return f"closed:{found.slots}" + (f"@{texts.rate(found.rate)}" if found.rate else "")
    if found.kind in ("gamma", "weibull"):
        return f"{found.kind}:{texts.rate(found.rate)}@cv={texts.decimal(found.cv)}"
    if found.kind in ("onoff", "step"):
        parts = (f"{texts.rate(per_second)}@{texts.duration(length)}" for per_second, length in found.levels)
        return f"{found.kind}:{';'.join(parts)}"
    if found.kind in ("sine", "ramp"):
        low, high = found.span
        return f"{found.kind}:{texts.rate(low)}..{texts.rate(high)}@{texts.duration(found.period)}"
    return f"{found.kind}:{texts.rate(found.rate)}"


def source(text: str) -> SourceSpec:
    """`kind:PATH+PATH;option=value`; `synth` has neither."""
    head, *rest = text.split(";")
    kind, _, where = head.partition(":")
    paths = tuple(where.split("+")) if where else ()
    if kind == "synth":
        if paths or rest:
            raise ValueError("synth has no file: give in= and out=")
        return SourceSpec("synth")
    if NAME.fullmatch(kind) is None:
        raise ValueError("expected KIND:FILE, such as azure:conv.csv")
    if not paths or not all(paths):
        raise ValueError(f"{kind} wants a file, such as {kind}:FILE")
    return SourceSpec(kind, paths, options(rest))


def options(parts: list[str]) -> dict[str, str]:
    """`key=value` each."""
    found: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key or key in found:
            raise ValueError(f"expected option=value, once each, and not {part!r}")
        found[key] = value
    return found


def show_source(found: SourceSpec) -> str:
    """Back to text."""
    head = f"{found.kind}:{'+'.join(found.paths)}" if found.paths else found.kind
    return ";".join([head, *(f"{key}={value}" for key, value in found.options.items())])


def prefix(text: str) -> PrefixSpec:
    """`tree:depth=3;fanout=8;block=64;zipf=1.1`, `groups:N;block=B`, `trace`, `none`."""
    kind, _, rest = text.partition(":")
    if text == "none":
        return PrefixSpec()
    if text == "trace":
        return PrefixSpec("trace")
    if kind == "tree":
        given = options([part for part in rest.split(";") if part])
        _only(given, ("depth", "fanout", "block", "zipf"))
        depth, fanout, block = (
            count(given.get(key, base)) for key, base in (("depth", "3"), ("fanout", "8"), ("block", "64"))
        )
        return PrefixSpec("tree", depth, fanout, block, _not_negative(given.get("zipf", "1")))
    if kind == "groups":
        head, *more = rest.split(";")
        given = options(more)
        _only(given, ("block",))
        return PrefixSpec("groups", block=count(given.get("block", "64")), groups=count(head))
    raise ValueError("expected tree:..., groups:N, trace or none")


def show_prefix(found: PrefixSpec) -> str:
    """Back to text."""
    if found.kind == "tree":
        zipf = texts.decimal(found.zipf)
        return f"tree:depth={found.depth};fanout={found.fanout};block={found.block};zipf={zipf}"
    if found.kind == "groups":
        return f"groups:{found.groups};block={found.block}"
    return found.kind


def session(text: str) -> SessionSpec:
    """`turns:4@2;think=lognormal:8s@1;mode=live`; without `turns` the source's own."""
    parts = text.split(";")
    turns = (0.0, 0.0)
    if parts[0].startswith("turns:"):
        mean, _, deviation = parts.pop(0).removeprefix("turns:").partition("@")
        turns = (_positive(mean), _not_negative(deviation or "0"))
        if turns[0] < 1:
            raise ValueError("a session has one turn or more")
    given = options(parts)
    _only(given, ("think", "mode"))
    mode = given.get("mode", "live")
    if mode not in ("live", "recorded"):
        raise ValueError("mode is live or recorded")
    if turns[0] and "think" not in given:
        raise ValueError("think is missing, such as think=lognormal:8s@1")
    think = units.dist(given["think"], "duration") if "think" in given else None
    return SessionSpec(*turns, think, "live" if mode == "live" else "recorded")


def show_session(found: SessionSpec) -> str:
    """Back to text."""
    turns = f"turns:{texts.decimal(found.turns_mean)}@{texts.decimal(found.turns_deviation)}"
    think = f"think={texts.dist(found.think, 'duration')}" if found.think else ""
    return ";".join(part for part in (turns if found.turns_mean else "", think, f"mode={found.mode}") if part)


def header(text: str) -> tuple[str, str]:
    """`K:V`."""
    key, colon, value = text.partition(":")
    if not colon or _HEADER_NAME.fullmatch(key) is None:
        raise ValueError("expected NAME:VALUE")
    if key.lower() in _SECRET_HEADERS:
        # Headers are written into the run's files, and keys must not be.
        raise SecretValue("keys come from the environment: --api-key-env NAME")
    if key.lower() in _OWN_HEADERS:
        raise ValueError("this header is the client's own")
    value = value.strip()
    if not value.isascii() or not value.isprintable():
        raise ValueError("a header's value is printable ASCII")
    return key, value


def show_header(found: tuple[str, str]) -> str:
    """Back to text."""
    return f"{found[0]}:{found[1]}"


def body(text: str) -> dict[str, object]:
    """Fields for every request of the class, as a JSON object."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ValueError(f"expected a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise ValueError('expected a JSON object, such as {"temperature":0}')
    own = [key for key in _OWN_FIELDS if key in found]
    if own:
        raise ValueError(f"{own[0]} is made by the plan")
    return found


def show_body(found: dict[str, object]) -> str:
    """Back to text."""
    return json.dumps(found, ensure_ascii=False)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def cancel(text: str) -> tuple[float, Dist]:
    """`2%@lognormal:3s`: share, and time after sending; without `@cv` its coefficient of variation is 1."""
    part, at, after = text.partition("@")
    if not at:
        raise ValueError("expected SHARE@TIME, such as 2%@lognormal:3s@1")
    if after.startswith("lognormal:") and "@" not in after:
        after += "@1"
    return units.share(part), units.dist(after, "duration")


def show_cancel(found: tuple[float, Dist]) -> str:
    """Back to text."""
    return f"{texts.decimal(found[0])}@{texts.dist(found[1], 'duration')}"


def reader(text: str) -> tuple[float, int]:
    """`slow:1%@8KB/s`: share, and bytes a second."""
    part, at, speed = text.removeprefix("slow:").partition("@")
    if not text.startswith("slow:") or not at:
        raise ValueError("expected slow:SHARE@BYTES/s, such as slow:1%@8KB/s")
    return units.share(part), byte_rate(speed)


def show_reader(found: tuple[float, int]) -> str:
    """Back to text."""
    return f"slow:{texts.decimal(found[0])}@{found[1]}B/s"


def byte_rate(text: str) -> int:
    """Bytes a second of `1MB/s`."""
    if not text.endswith("/s"):
        raise ValueError("expected bytes a second, such as 8KB/s")
    value = units.size(text[:-2])
    if value < 1:
        raise ValueError("must be above zero")
    return value


def factor(text: str) -> float:
    """`x0.1` or `0.1`."""
    return _positive(text.removeprefix("x"))


def show_factor(found: float) -> str:
    """Back to text."""
    return f"x{texts.decimal(found)}"


def floor(text: str) -> tuple[int, int]:
    """`4/2` or `4`: least prompt and output tokens."""
    prompt, _, out = text.partition("/")
    return count(prompt), count(out or prompt)


def time_range(text: str) -> tuple[int, int]:
    """`10m..20m`."""
    low, dots, high = text.partition("..")
    if not dots:
        raise ValueError("expected FROM..TO, such as 10m..20m")
    found = units.duration(low), units.duration(high)
    if found[0] >= found[1]:
        raise ValueError("the end must lie after the beginning")
    return found


def show_time_range(found: tuple[int, int]) -> str:
    """Back to text."""
    return f"{texts.duration(found[0])}..{texts.duration(found[1])}"


def _only(given: dict[str, str], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"{key} is unknown: expected {', '.join(known)}")


def _positive(text: str) -> float:
    value = _not_negative(text)
    if value == 0:
        raise ValueError("must be above zero")
    return value


def _not_negative(text: str) -> float:
    if re.fullmatch(r"[0-9]*\.?[0-9]+", text) is None:
        raise ValueError("expected a number, not negative")
    return float(text)
