"""What must be known of a run beside its records: the plan's facts, faults, jobs, and what the gate said.

`summarise` needs nothing else. All of it stands in the files of a run, so a report made later says the same.
Times are microseconds from `t0`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from loadgen.spec import Slo


class LoadStep(msgspec.Struct, frozen=True, kw_only=True):
    """A planned change of online load at `at`, which lasts until `until`."""

    at: int
    until: int
    before: float
    """Requests a second."""
    after: float


class ClassFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one class of the scenario."""

    online: bool = True
    slo: Slo = Slo()
    closed: bool = False
    """A closed loop: no attainment against rate can be shown."""
    exact: bool = True
    """Output lengths were forced, so another count than the one asked for is not good."""
    planned: int | None = None
    """Requests in the plan, warm-up included; `None` where only the run decides (closed loop, live turns)."""
    supply: int | None = None
    """Requests that the plan of a closed loop holds; having sent them all, it has run dry."""
    live: bool = False
    """Later turns wait for the answer before them."""
    messages: dict[str, str] = {}
    """By reason code: what the server said with the first such error."""
    ideal_cached_tokens: int | None = None
    """Prompt tokens that an endless cache would have held, over the window."""
    steps: tuple[LoadStep, ...] = ()


class Integrity(msgspec.Struct, frozen=True, kw_only=True):
    """What the outputs of the requests that a fault met say, token by token, against those that should have come."""

    checked: int
    """Requests of which both are known."""
    lost: int = 0
    """Tokens that are missing from answers; the rest of an answer that failed is not counted."""
    repeated: int = 0
    wrong: int = 0
    """Tokens that belong to no place of the answer."""
    billed: int = 0
    """Output tokens by usage beyond those in the text."""


class FaultFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A fault as it was injected; `until` `None`: it was not undone. `why`: the proof, or why there is none."""

    name: str
    at: int
    until: int | None = None
    proved: bool = True
    kind: str | None = None
    why: str | None = None
    integrity: Integrity | None = None
    """`None`: no outputs were kept, or nobody knows what they should be."""


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An offline job as its client saw it. For `submit=stream` the records of its items say the rest."""

    name: str
    cls: str = msgspec.field(name="class")
    submitted: int
    finished: int | None = None
    """`None`: it had not ended when the run did."""
    deadline: int | None = None
    """Microseconds from `submitted`."""
    deadline_judge: Literal["server", "client"] = "client"
    items: int
    completed: int = 0
    failed: int = 0
    expired: int = 0
    lost: int = 0
    repeated: int = 0
    unknown: int = 0
    wrong: int = 0
    retries: int = 0
    in_tokens: int | None = None
    out_tokens: int | None = None
    wasted_tokens: int | None = None
    """Tokens computed more than once, where the server counts them."""
    curve: tuple[tuple[int, int], ...] = ()
    """(time, items completed) as polled."""
    usage_disagrees: bool = False
    unfinished: int = 0
    """Items that nobody finished because the job was cancelled or its server was gone."""
    right: int | None = None
    """Items that the data set says are right, with `verify=answers`."""
    reason: str | None = None
    """Why the job did not end as it should, in words."""
    checks: dict[str, int] = {}
    """By name, how often each rule of the Batch API was broken; 0: looked at and kept."""
    violations: tuple[str, ...] = ()


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A growing counter of offline tokens, such as the server's at 1 Hz: equally many times and counts."""

    times: tuple[int, ...]
    counts: tuple[int, ...]


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`horizon`: the end of the drain. `identity`: what the page's section 6 lists; missing keys become `unknown`."""

    window: tuple[int, int]
    horizon: int
    classes: dict[str, ClassFacts]
    warmup_auto: bool = False
    warmup: int = 0
    faults: tuple[FaultFacts, ...] = ()
    jobs: tuple[JobFacts, ...] = ()
    offline_curve: Curve | None = None
    curve_agrees: bool = True
    """Whether the curve's growth is what all jobs together say that they got, within 1 %."""
    invalid: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()
    allow_lag: bool = False
    interrupted: bool = False
    mode: Literal["measured", "virtual"] = "measured"
    quick: bool = False
    identity: dict[str, str] = {}
    realised: dict[str, float] = {}
    transforms: dict[str, str] = {}
