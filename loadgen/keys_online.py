"""The keys of `--online` and `[[online]]`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, get_args

from loadgen import forms, keys_source, slo_text, texts
from loadgen.keys import Key, choice, read, table, whole
from loadgen.keys_source import CONTENT_KEYS, ONLINE_SOURCES, TRANSFORM_KEYS, Refuse
from loadgen.spec import Arrivals, OnlineSpec, Slo, SourceSpec, Tier

if TYPE_CHECKING:
    from loadgen.keys import Given

TIERS: Final = get_args(Tier)
DEFAULT_ARRIVALS: Final = Arrivals("poisson", rate=1.0)

WHO_KEYS = table(
    choice("tier", TIERS, "how urgent the server shall take it", "interactive online, offline for jobs"),
    Key("priority", whole(-(2**31), 2**31 - 1), "sent as it is, instead of the tier's", form="N"),
    Key("tenant", forms.name, "who asks", form="t1"),
    Key("header", forms.header, "sent as it is", form="K:V", show=forms.show_header, many=True),
    Key("body", forms.body, "fields of every request", form="{...}", show=forms.show_body),
)
"""The same for online classes and jobs."""

KEYS = table(
    Key("name", forms.name, "class name, used everywhere", "chat", "NAME"),
    Key(
        "arrivals",
        forms.arrivals,
        "when requests are due: also gamma:6/s@cv=3 weibull:6/s@cv=2 onoff:20/s@5s;1/s@15s sine:2..12/s@10m "
        "ramp:1..10/s@10m step:2/s@60s;12/s@60s closed:32 trace",
        "the source's times, else poisson:1/s",
        "const:RATE|poisson:RATE",
        forms.show_arrivals,
        choices=forms.ARRIVALS,
    ),
    Key(
        "source",
        forms.source,
        f"where requests come from: {' '.join(ONLINE_SOURCES)}",
        "synth",
        "KIND:FILE",
        forms.show_source,
        choices=ONLINE_SOURCES,
    ),
    *CONTENT_KEYS.values(),
    *TRANSFORM_KEYS.values(),
    Key(
        "session",
        forms.session,
        "several turns by one user: mean and deviation, think time",
        form="turns:4@2;think=DIST;mode=live|recorded",
        show=forms.show_session,
    ),
    Key(
        "slo",
        slo_text.parse,
        "ttft ttfo tpot max_gap e2e late; p99.ttft<=1s",
        form="ttft<=T&...",
        show=slo_text.show,
        many=True,
    ),
    *WHO_KEYS.values(),
    choice("send_slo", ("slackwater", "llm-d", "sgl", "none"), "headers that tell the SLO", "by dialect"),
    choice("retry", ("none", "sdk"), "after a refusal: nothing, or as the OpenAI SDK does", "none"),
    Key("inflight", whole(1), "at most so many at once; their wait counts", "no limit", "N"),
    choice("connections", ("keep", "fresh"), "keep them alive, or one each request", "keep"),
    Key("timeout", forms.positive_duration, "give up after", "never", "60s", texts.duration),
    Key("cancel", forms.cancel, "this share hangs up after a drawn time", form="2%@DIST", show=forms.show_cancel),
    Key("reader", forms.reader, "this share reads slowly", form="slow:1%@8KB/s", show=forms.show_reader),
)

_RENAMED: Final = {"in": "input", "out": "output", "header": "headers", "reader": "slow_reader"}
_PLAIN: Final = (
    "tier",
    "priority",
    "tenant",
    "body",
    "send_slo",
    "retry",
    "inflight",
    "connections",
    "timeout",
    "cancel",
)


def online(given: Given, where: str = "--online") -> OnlineSpec:
    """A class.

    Raises:
        BadInput: an unknown key, a bad value, or keys that do not go together.
        BadData: a histogram file that cannot be used.
    """
    values = read(KEYS, given, where)
    refuse = Refuse(where, given)
    source: SourceSpec = values.get("source", SourceSpec("synth"))
    kind = keys_source.kind_of(source, ONLINE_SOURCES, refuse)
    arrivals: Arrivals = values.get("arrivals", Arrivals("trace") if kind.times else DEFAULT_ARRIVALS)
    traced = arrivals.kind == "trace"
    refuse.unless(kind.times or not traced, "arrivals", f"contradicts source={kind.name}, which has no times")
    keys_source.check_content(kind, values, refuse)
    keys_source.check_times(kind, traced, refuse)
    refuse.unless(arrivals.kind != "closed", "inflight", "does not apply: closed has its own bound")
    _check_session(kind, values, refuse)
    made_slo = _slo(values, refuse)
    input_lengths, output_lengths = keys_source.lengths(kind, values)
    return OnlineSpec(
        name=values.get("name", "chat"),
        arrivals=arrivals,
        source=source,
        input=input_lengths,
        output=output_lengths,
        transforms=keys_source.transforms(values),
        slo=made_slo,
        **{name: values[name] for name in (*_PLAIN, "session") if name in values},
        **{_RENAMED[name]: values[name] for name in ("header", "reader") if name in values},
        **keys_source.prefix_of(kind, values),
    )


def _check_session(kind: keys_source.SourceKind, values: dict[str, Any], refuse: Refuse) -> None:
    session = values.get("session")
    if session is None:
        return
    if kind.name == "work":
        raise refuse.key("session", "does not apply: the plan has its own")
    if session.turns_mean and kind.sessions:
        raise refuse.key("session", f"{kind.name} has its own turns: say mode alone")
    if not session.turns_mean and not kind.sessions:
        raise refuse.key("session", f"{kind.name} has no turns: turns:MEAN@DEVIATION is missing")


def _slo(values: dict[str, Any], refuse: Refuse) -> Slo:
    try:
        made = slo_text.join(values.get("slo", ()))
    except ValueError as error:
        raise refuse.key("slo", str(error)) from error
    if slo_text.needs_pace(made):
        raise refuse.key("slo", "late counts from bounds on ttft and tpot, which are missing")
    told = {term.metric for term in made.per_request} & {"ttft", "tpot"}
    refuse.unless(bool(told) or values.get("send_slo") == "none", "send_slo", "there is no slo on ttft or tpot to send")
    return made


def values_of(spec: OnlineSpec) -> dict[str, Any]:
    """Back to keys, for the scenario that is written with the run: those that say something."""
    base = {declared.name: declared.default for declared in fields(OnlineSpec)}
    found: dict[str, Any] = {"name": spec.name, "arrivals": spec.arrivals, "source": spec.source}
    for key in ("in", "out", "prefix", "session", "header", "reader", *_PLAIN):
        field = _RENAMED.get(key, key)
        value = getattr(spec, field)
        # `tier` is always told, so that a reader need not know the default.
        if key == "tier" or (value != base[field] and value not in (None, {}, ())):
            found[key] = value
    found |= keys_source.transform_values(spec.transforms)
    if spec.slo != Slo():
        found["slo"] = slo_text.split(spec.slo)
    return {name: found[name] for name in KEYS if name in found}
