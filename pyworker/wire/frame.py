"""A typed message to the four parts `[kind][body][ids][floats]` and back.

Decoding checks everything that the generated classes cannot say (extents, ranges, alignment), as the router's codec
does: one side's mistake must be the same mistake on the other.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec
import orjson

from pyworker.errors import SlackwaterError
from pyworker.wire.messages import (
    KINDS,
    Accepted,
    Bye,
    Cancel,
    Credit,
    Heartbeat,
    Hello,
    Ready,
    Refused,
    RouterHeartbeat,
    SamplingParams,
    StepOutputs,
    Submit,
    Welcome,
    WorkerStats,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PARTS: Final = 8
"""Most parts of a message that a transport lets through; ours have four."""
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""Largest frame in bytes."""

Body = (
    Hello
    | Welcome
    | Ready
    | Submit
    | Accepted
    | Refused
    | StepOutputs
    | Credit
    | Cancel
    | Heartbeat
    | RouterHeartbeat
    | WorkerStats
    | Bye
)
Parts = tuple[bytes, bytes, bytes, bytes]

_CLASSES: Final[tuple[type[Body], ...]] = (
    Hello,
    Welcome,
    Ready,
    Submit,
    Accepted,
    Refused,
    StepOutputs,
    Credit,
    Cancel,
    Heartbeat,
    RouterHeartbeat,
    WorkerStats,
    Bye,
)
_BY_BYTE: Final[dict[int, type[Body]]] = {KINDS[kind.__name__]: kind for kind in _CLASSES}
for _class in _CLASSES:
    # msgspec evaluates annotations at the first use of a class; a worker that serves evaluates nothing any more.
    msgspec.json.Decoder(_class)
_PARTS: Final = 4
_PREVIEW_BYTES: Final = 64
_F32_LIMIT: Final = float.fromhex("0x1.ffffffp127")
"""From here on a number rounds to an infinite f32."""
_ID_DIGITS: Final = 32
_SEQ_ZERO: Final = b'{"seq":0'


class WireFault(StrEnum):
    """What can be wrong with a message; the words of the router's codec."""

    PART_COUNT = "PartCount"
    PART_TOO_LARGE = "PartTooLarge"
    KIND_LENGTH = "KindLength"
    UNKNOWN_KIND = "UnknownKind"
    MISALIGNED = "Misaligned"
    BODY = "Body"
    EXTENT = "Extent"
    OUT_OF_RANGE = "OutOfRange"


class WireError(SlackwaterError):
    """A message that cannot be decoded or encoded. The receiver closes the link: nothing on it can be trusted.

    `kind` names the message where that is known, `field` the field or part at fault.
    """

    def __init__(self, fault: WireFault, what: str, *, kind: str | None = None, field: str | None = None) -> None:
        self.fault = fault
        self.kind = kind
        self.field = field
        super().__init__(f"{kind}: {what}" if kind else what)


@dataclass(frozen=True, slots=True)
class Message:
    """A body with its token ids: of `Submit` prompt, then output history; of `StepOutputs` the sampled tokens."""

    body: Body
    ids: Sequence[int] = ()


def encode(body: Body, ids: Sequence[int] = ()) -> Parts:
    """The parts of a message.

    Raises:
        WireError: a number that must be finite is not (JSON would turn it into `null`), or ids and counts disagree.
    """
    kind = type(body).__name__
    _check(kind, body, ids)
    if ids and not isinstance(body, (Submit, StepOutputs)):
        raise _extent(kind, "(none)", "ids", 0, len(ids))
    try:
        packed = struct.pack(f"<{len(ids)}I", *ids)
    except struct.error as error:
        raise WireError(WireFault.OUT_OF_RANGE, f"ids: {error}", kind=kind, field="ids") from error
    try:
        text = orjson.dumps(msgspec.to_builtins(body))
    except (orjson.JSONEncodeError, msgspec.ValidationError) as error:
        raise WireError(WireFault.BODY, str(error), kind=kind) from error
    return bytes((KINDS[kind],)), text, packed, b""


def stamp(parts: Parts, seq: int) -> Parts:
    """The parts of a message that was encoded with sequence number 0, with its real one.

    A message can so be encoded on one thread and numbered on the thread that sends it.
    """
    kind, body, ids, floats = parts
    if not body.startswith(_SEQ_ZERO):
        raise WireError(WireFault.BODY, "the sequence number is not the first field, or was given before", field="seq")
    return kind, b'{"seq":%d%b' % (seq, body[len(_SEQ_ZERO) :]), ids, floats


def decode(parts: Sequence[bytes]) -> Message:
    """The message that these parts are.

    Raises:
        WireError: anything else than a whole message of a known kind.
    """
    if len(parts) != _PARTS:
        raise WireError(WireFault.PART_COUNT, f"a message has {len(parts)} parts, expected {_PARTS}")
    for part, content in enumerate(parts):
        if len(content) > MAX_FRAME_BYTES:
            what = f"part {part} is {len(content)} bytes, the limit is {MAX_FRAME_BYTES}"
            raise WireError(WireFault.PART_TOO_LARGE, what)
    head, text, packed, floats = parts
    if len(head) != 1:
        raise WireError(WireFault.KIND_LENGTH, f"the kind frame is {len(head)} bytes, expected 1")
    wanted = _BY_BYTE.get(head[0])
    if wanted is None:
        raise WireError(WireFault.UNKNOWN_KIND, f"unknown message kind {head[0]}")
    kind = wanted.__name__
    body = _parse(kind, wanted, text)
    ids: Sequence[int] = ()
    if wanted in (Submit, StepOutputs):
        ids = _unpack(kind, packed)
    elif packed:
        raise _extent(kind, "(none)", "ids", 0, len(packed) // 4)
    if floats:
        raise _extent(kind, "(none)", "floats", 0, len(floats) // 4)
    _check(kind, body, ids)
    return Message(body, ids)


def seq_of(body: Body) -> int | None:
    """The sequence number, for the kinds that carry one."""
    return None if isinstance(body, (Hello, Welcome)) else body.seq


def _parse(kind: str, wanted: type[Body], text: bytes) -> Body:
    try:
        body: Body = msgspec.convert(orjson.loads(text), wanted)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        preview = text[:_PREVIEW_BYTES].decode(errors="replace")
        raise WireError(WireFault.BODY, f"{error} (body begins {preview!r})", kind=kind) from error
    return body


def _unpack(kind: str, packed: bytes) -> list[int]:
    if len(packed) % 4:
        what = f"the ids part is {len(packed)} bytes, not a multiple of 4"
        raise WireError(WireFault.MISALIGNED, what, kind=kind, field="ids")
    return list(struct.unpack(f"<{len(packed) // 4}I", packed))


def _check(kind: str, body: Body, ids: Sequence[int]) -> None:
    """What the classes cannot say, checked on both ways."""
    for request_id in _request_ids(body):
        # The class's pattern lets a line break follow the last digit.
        if len(request_id) != _ID_DIGITS:
            raise WireError(WireFault.BODY, "an id must be 32 lower-case hex digits", kind=kind, field="request_id")
    if isinstance(body, Submit):
        _check_params(body.params)
        # At least one prompt token must be left once the history is taken off the end.
        if body.num_output_tokens >= len(ids):
            raise _extent(kind, "num_output_tokens", "ids", body.num_output_tokens + 1, len(ids))
    elif isinstance(body, StepOutputs):
        wanted = sum(output.num_tokens for output in body.outputs)
        if wanted != len(ids):
            raise _extent(kind, "num_tokens", "ids", wanted, len(ids))
    elif isinstance(body, WorkerStats) and not all(math.isfinite(metric.value) for metric in body.metrics):
        raise _out_of_range(kind, "metrics.value")


def _check_params(params: SamplingParams) -> None:
    if not 0.0 <= params.temperature < _F32_LIMIT:
        raise _out_of_range("Submit", "temperature")
    if not 0.0 < params.top_p <= 1.0:
        raise _out_of_range("Submit", "top_p")
    if params.max_tokens == 0:
        raise _out_of_range("Submit", "max_tokens")
    if params.min_tokens > params.max_tokens:
        raise _out_of_range("Submit", "min_tokens")


def _request_ids(body: Body) -> list[str]:
    if isinstance(body, StepOutputs):
        return [output.request_id for output in body.outputs]
    if isinstance(body, (Submit, Accepted, Refused, Credit, Cancel)):
        return [body.request_id]
    return []


def _extent(kind: str, field: str, part: str, wanted: int, present: int) -> WireError:
    what = f"{field} says {wanted} elements, the {part} part has {present}"
    return WireError(WireFault.EXTENT, what, kind=kind, field=field)


def _out_of_range(kind: str, field: str) -> WireError:
    return WireError(WireFault.OUT_OF_RANGE, f"{field} is out of range", kind=kind, field=field)
