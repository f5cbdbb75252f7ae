"""What a class becomes on the wire of each kind of server: header lines and fields of the body."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from loadgen.spec import Dialect, OfflineSpec, OnlineSpec, Slo, Tier

EXACT: dict[Dialect, tuple[str, ...]] = {
    "slackwater": ("min_tokens", "ignore_eos"),
    "vllm": ("min_tokens", "ignore_eos"),
    "sglang": ("min_tokens", "ignore_eos"),
    "smg": ("min_tokens", "ignore_eos"),
    "dynamo": ("min_tokens", "ignore_eos"),
    "llamacpp": ("ignore_eos",),
    "openai": (),
}
"""Fields by which a server can be made to give just so many tokens; none: lengths stay free."""

SALTED: frozenset[Dialect] = frozenset({"slackwater", "vllm"})
"""Those that take `cache_salt`."""

# vLLM begins with the lowest number, Dynamo and SGLang with the highest.
_PRIORITY: dict[Dialect, dict[Tier, int]] = {
    "vllm": {"interactive": 0, "standard": 5, "offline": 10},
    "sglang": {"interactive": 10, "standard": 5, "offline": 0},
    "dynamo": {"interactive": 10, "standard": 5, "offline": 0},
}

_SLO_HEADERS = {
    "slackwater": {"ttft": "x-slackwater-ttft-ms", "tpot": "x-slackwater-tpot-ms"},
    "llm-d": {"ttft": "x-llm-d-slo-ttft-ms", "tpot": "x-llm-d-slo-tpot-ms"},
    "sgl": {"ttft": "x-sgl-ttft-slo-ms"},
    "none": {},
}


@dataclass(frozen=True, slots=True)
class Fields:
    """Of one class: `headers` lower case, `body` without model, prompt and length."""

    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, object] = field(default_factory=dict)


def class_fields(spec: OnlineSpec | OfflineSpec, dialect: Dialect, cache_salt: str | None = None) -> Fields:
    """What every request of a class carries. `cache_salt` is sent only where the dialect has it. The class's own
    `header=` and `body=` come last and win.
    """
    headers: dict[str, str] = {}
    body: dict[str, object] = {}
    if dialect == "slackwater":
        if spec.tier == "offline":
            body["service_tier"] = "flex"
        else:
            headers["x-slackwater-class"] = spec.tier
    elif dialect == "smg":
        headers["x-smg-priority"] = "bulk" if spec.tier == "offline" else "interactive"
    if spec.priority is not None or dialect in _PRIORITY:
        chosen = spec.priority if spec.priority is not None else _PRIORITY[dialect][spec.tier]
        body |= _priority(dialect, chosen)
    if cache_salt is not None and dialect in SALTED:
        body["cache_salt"] = cache_salt
    headers |= _slo_headers(spec, dialect)
    headers |= {name.lower(): value for name, value in spec.headers}
    return Fields(headers, body | spec.body)


def _priority(dialect: Dialect, value: int) -> dict[str, object]:
    if dialect == "dynamo":
        return {"nvext": {"agent_hints": {"priority": value}}}
    return {"priority": value}


def _slo_headers(spec: OnlineSpec | OfflineSpec, dialect: Dialect) -> dict[str, str]:
    slo: Slo | None = getattr(spec, "slo", None)
    if slo is None:
        return {}
    asked = getattr(spec, "send_slo", None) or ("slackwater" if dialect == "slackwater" else "none")
    names = _SLO_HEADERS[asked]
    return {names[term.metric]: f"{term.bound / 1000:g}" for term in slo.per_request if term.metric in names}


def length_fields(dialect: Dialect, lengths: Literal["exact", "eos"], tokens: int) -> dict[str, object]:
    """Fields of the body that ask for `tokens` output tokens."""
    found: dict[str, object] = {"max_tokens": tokens}
    if lengths == "exact":
        for name in EXACT[dialect]:
            found[name] = tokens if name == "min_tokens" else True
    return found
