"""The keys of `--offline` and `[[offline]]`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from loadgen import forms, keys_source, texts, units
from loadgen.keys import Key, choice, one_of, read, table, whole
from loadgen.keys_online import WHO_KEYS
from loadgen.keys_source import ANSWERED, CONTENT_KEYS, OFFLINE_SOURCES, TRANSFORM_KEYS, Refuse
from loadgen.spec import OfflineSpec, SourceSpec

if TYPE_CHECKING:
    from loadgen.keys import Given

VERIFY: Final = ("count", "answers", "reference")


def _verify(text: str) -> tuple[str, str]:
    kind, _, where = text.partition(":")
    if kind not in VERIFY or (kind == "reference") != bool(where):
        raise ValueError("expected count, answers or reference:DIR")
    return kind, where


def _show_verify(found: tuple[str, str]) -> str:
    return ":".join(part for part in found if part)


KEYS = table(
    Key("name", forms.name, "job class name, used everywhere", "job", "NAME"),
    Key(
        "source",
        forms.source,
        f"where items come from: {' '.join(OFFLINE_SOURCES)}",
        "synth",
        "mmlu:FILE;shots=5|KIND:FILE",
        forms.show_source,
        choices=OFFLINE_SOURCES,
    ),
    choice("submit", ("batch", "stream"), "Files and Batches API, or direct requests of lowest priority", "batch"),
    Key("at", units.duration, "when the job starts", "0s", "60s", texts.duration),
    Key("jobs", forms.arrivals, "several jobs, by these arrivals", "one job", "poisson:1/10m", forms.show_arrivals),
    Key("pool", one_of("closed"), "closed: there is always work", form="closed", choices=("closed",)),
    Key("items", whole(1), "items of a job", "all of the source", "2000"),
    Key("window", whole(1), "items in flight, of submit=stream", "64", "N"),
    Key("deadline", forms.positive_duration, "from submission", "none", "30m", texts.duration),
    Key(
        "verify",
        _verify,
        "answers against the data set, or against another run's",
        "count",
        "count|answers|reference:DIR",
        _show_verify,
        choices=VERIFY,
    ),
    *CONTENT_KEYS.values(),
    *(TRANSFORM_KEYS[name] for name in ("len", "cap", "floor")),
    *WHO_KEYS.values(),
)

_PLAIN: Final = ("submit", "at", "jobs", "items", "window", "deadline", "verify", "tier", "priority", "tenant", "body")


def offline(given: Given, where: str = "--offline") -> OfflineSpec:
    """A kind of job.

    Raises:
        BadInput: an unknown key, a bad value, or keys that do not go together.
        BadData: a histogram file that cannot be used.
    """
    values = read(KEYS, given, where)
    refuse = Refuse(where, given)
    source: SourceSpec = values.get("source", SourceSpec("synth"))
    kind = keys_source.kind_of(source, OFFLINE_SOURCES, refuse)
    keys_source.check_content(kind, values, refuse)
    refuse.unless(values.get("submit") == "stream", "window", "applies to submit=stream only")
    if "jobs" in values and values["jobs"].kind in ("closed", "trace"):
        raise refuse.key("jobs", "jobs have open arrivals: say pool=closed for work without end")
    refuse.unless("jobs" not in values, "at", "contradicts jobs, which says when they start")
    refuse.unless("jobs" not in values, "pool", "contradicts jobs, which says when they start")
    if values.get("verify", ("count", ""))[0] == "answers" and kind.name not in ANSWERED:
        raise refuse.key("verify", f"{kind.name} does not say which answers are right: {' and '.join(ANSWERED)} do")
    if kind.name == "synth" and "items" not in values:
        raise refuse.key("items", "synth has no end: say how many")
    input_lengths, output_lengths = keys_source.lengths(kind, values)
    return OfflineSpec(
        name=values.get("name", "job"),
        source=source,
        input=input_lengths,
        output=output_lengths,
        # Of a job `window` is how many items are in flight; its trace is used whole.
        transforms=keys_source.transforms({name: each for name, each in values.items() if name != "window"}),
        pool_closed="pool" in values,
        **{name: values[name] for name in _PLAIN if name in values},
        **({"headers": values["header"]} if "header" in values else {}),
        **keys_source.prefix_of(kind, values),
    )


def values_of(spec: OfflineSpec) -> dict[str, Any]:
    """Back to keys, for the scenario that is written with the run."""
    base = {declared.name: declared.default for declared in fields(OfflineSpec)}
    renamed = {"in": "input", "out": "output", "header": "headers"}
    found: dict[str, Any] = {"name": spec.name, "source": spec.source}
    for key in ("in", "out", "prefix", "header", *_PLAIN):
        field = renamed.get(key, key)
        value = getattr(spec, field)
        if key in ("tier", "submit", "verify") or (value != base[field] and value not in (None, {}, ())):
            found[key] = value
    if spec.pool_closed:
        found["pool"] = "closed"
    found |= keys_source.transform_values(spec.transforms)
    return {name: found[name] for name in KEYS if name in found}
