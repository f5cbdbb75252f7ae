"""Reads the text form of Prometheus' metrics, and finds in it what every server tells under another name. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

MOST_SAMPLES: Final = 20_000
_LINE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?[0-9]+)?[ \t]*")
_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the page."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float

    def label(self, name: str) -> str | None:
        """The value of a label, None where there is none of that name."""
        return next((value for key, value in self.labels if key == name), None)


def parse(page: str) -> list[Sample]:
    """The samples of a page, at most `MOST_SAMPLES`. A line that is none is passed over: other lines still count."""
    found: list[Sample] = []
    for line in page.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        name, labels, text = match.groups()
        try:
            value = float(text)
        except ValueError:
            continue
        found.append(Sample(name, _labels(labels or ""), value))
        if len(found) == MOST_SAMPLES:
            break
    return found


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((match[1], _ESCAPE.sub(_unescape, match[2])) for match in _LABEL.finditer(text))


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


@dataclass(frozen=True, slots=True)
class Role:
    """What one column of `server.csv` stands for.

    `names`: families that tell it, best first; all samples of the first that is there are taken together by `fold`.
    `also`: a family whose samples are added to those. `only`: a label that samples must have.
    """

    fold: Literal["gauge", "share", "counter"]
    names: tuple[str, ...]
    also: tuple[str, ...] = ()
    only: tuple[str, str] | None = None


_OUTPUT: Final = (
    "slackwater_worker_generation_tokens_total",
    "vllm:generation_tokens_total",
    "sglang:generation_tokens_total",
    "llamacpp:tokens_predicted_total",
)

ROLES: Final[dict[str, Role]] = {
    "queue": Role(
        "gauge",
        ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"),
        # A router holds requests back before any worker sees them.
        also=("slackwater_queue_depth",),
    ),
    "running": Role("gauge", ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing")),
    "kv_use": Role(
        "share",
        (
            "vllm:kv_cache_usage_perc",
            "vllm:gpu_cache_usage_perc",
            "sglang:token_usage",
            "llamacpp:kv_cache_usage_ratio",
        ),
    ),
    "preemptions": Role("counter", ("vllm:num_preemptions_total", "sglang:num_retracted_reqs_total")),
    "prompt_tokens": Role(
        "counter",
        (
            "slackwater_worker_prompt_tokens_total",
            "vllm:prompt_tokens_total",
            "sglang:prompt_tokens_total",
            "llamacpp:prompt_tokens_total",
        ),
    ),
    "output_tokens": Role("counter", _OUTPUT),
    "cached_tokens": Role("counter", ("vllm:prefix_cache_hits_total", "sglang:cached_tokens_total")),
    "offline_tokens": Role("counter", ("slackwater_tokens_total", *_OUTPUT), only=("class", "offline")),
}
"""By column: a dialect needs no name of its own here, since no two servers use one family for different things."""


class Folder:
    """Pages to one number a role. Counters only grow here: a worker that starts anew begins at 0 again, and what it
    counted before is kept.
    """

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._last: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}

    def fold(self, samples: list[Sample]) -> dict[str, float | None]:
        """By role; None where the page does not tell it."""
        by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            if math.isfinite(sample.value):
                by_name.setdefault(sample.name, []).append(sample)
        return {name: self._role(name, role, by_name) for name, role in ROLES.items()}

    def _role(self, name: str, role: Role, by_name: dict[str, list[Sample]]) -> float | None:
        chosen = _first(role, by_name)
        chosen = [*chosen, *(sample for family in role.also for sample in by_name.get(family, ()))]
        if not chosen:
            return self._totals.get(name)
        values = [sample.value for sample in chosen]
        if role.fold == "gauge":
            return sum(values)
        if role.fold == "share":
            return sum(values) / len(values)
        for sample in chosen:
            key = (name, sample.name, sample.labels)
            before = self._last.get(key, 0.0)
            grown = sample.value - before if sample.value >= before else sample.value
            self._last[key] = sample.value
            self._totals[name] = self._totals.get(name, 0.0) + grown
        return self._totals[name]


def _first(role: Role, by_name: dict[str, list[Sample]]) -> list[Sample]:
    for family in role.names:
        found = by_name.get(family, [])
        if role.only is not None:
            found = [sample for sample in found if sample.label(role.only[0]) == role.only[1]]
        if found:
            return found
    return []
