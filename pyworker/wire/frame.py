"""A typed message to the four parts `[kind][body][ids][floats]` and back.

Decoding checks everything that the generated classes cannot say (extents, ranges, alignment), as the router's codec
does: one side's mistake must be the same mistake on the other.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from pyworker.errors import SlackwaterError
from pyworker.wire.extents import Fault, check_blocks, check_step, check_submit
from pyworker.wire.messages import (
    KINDS,
    Accepted,
    AskBlocks,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    Bye,
    Cancel,
    Credit,
    Heartbeat,
    Hello,
    Ready,
    Refused,
    RouterHeartbeat,
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
    | AskBlocks
    | BlocksStored
    | BlocksRemoved
    | BlocksCleared
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
    AskBlocks,
    BlocksStored,
    BlocksRemoved,
    BlocksCleared,
)
_WITH_IDS: Final = (Submit, StepOutputs, BlocksStored, BlocksRemoved)
_WITH_FLOATS: Final = (Submit, StepOutputs)
_BY_BYTE: Final[dict[int, type[Body]]] = {KINDS[kind.__name__]: kind for kind in _CLASSES}
for _class in _CLASSES:
    # msgspec evaluates annotations at the first use of a class; a worker that serves evaluates nothing any more.
    msgspec.json.Decoder(_class)
_PARTS: Final = 4
_PREVIEW_BYTES: Final = 64
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
    """A body with its array parts; the classes say what they hold."""

    body: Body
    ids: Sequence[int] = ()
    floats: Sequence[float] = ()


def encode(body: Body, ids: Sequence[int] = (), floats: Sequence[float] = ()) -> Parts:
    """The parts of a message.

    Raises:
        WireError: a number that must be finite is not (JSON would turn it into `null`), or parts and counts disagree.
    """
    kind = type(body).__name__
    _check(kind, body, ids, floats)
    if ids and not isinstance(body, _WITH_IDS):
        raise _extent(kind, "(none)", "ids", 0, len(ids))
    if floats and not isinstance(body, _WITH_FLOATS):
        raise _extent(kind, "(none)", "floats", 0, len(floats))
    packed = _pack(kind, "ids", f"<{len(ids)}I", ids)
    numbers = _pack(kind, "floats", f"<{len(floats)}f", floats)
    try:
        text = orjson.dumps(msgspec.to_builtins(body))
    except (orjson.JSONEncodeError, msgspec.ValidationError) as error:
        raise WireError(WireFault.BODY, str(error), kind=kind) from error
    return bytes((KINDS[kind],)), text, packed, numbers


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
    head, text, packed, numbers = parts
    if len(head) != 1:
        raise WireError(WireFault.KIND_LENGTH, f"the kind frame is {len(head)} bytes, expected 1")
    wanted = _BY_BYTE.get(head[0])
    if wanted is None:
        raise WireError(WireFault.UNKNOWN_KIND, f"unknown message kind {head[0]}")
    kind = wanted.__name__
    body = _parse(kind, wanted, text)
    if packed and wanted not in _WITH_IDS:
        raise _extent(kind, "(none)", "ids", 0, len(packed) // 4)
    if numbers and wanted not in _WITH_FLOATS:
        raise _extent(kind, "(none)", "floats", 0, len(numbers) // 4)
    ids: list[int] = _unpack(kind, "ids", "I", packed)
    floats: list[float] = _unpack(kind, "floats", "f", numbers)
    _check(kind, body, ids, floats)
    return Message(body, ids, floats)


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


def _pack(kind: str, part: str, layout: str, values: Sequence[float]) -> bytes:
    if not values:
        return b""
    try:
        return struct.pack(layout, *values)
    except (struct.error, OverflowError) as error:
        raise WireError(WireFault.OUT_OF_RANGE, f"{part}: {error}", kind=kind, field=part) from error


def _unpack(kind: str, part: str, code: str, packed: bytes) -> list[Any]:
    if len(packed) % 4:
        what = f"the {part} part is {len(packed)} bytes, not a multiple of 4"
        raise WireError(WireFault.MISALIGNED, what, kind=kind, field=part)
    return list(struct.unpack(f"<{len(packed) // 4}{code}", packed))


def _check(kind: str, body: Body, ids: Sequence[int], floats: Sequence[float]) -> None:
    """What the classes cannot say, checked on both ways."""
    for request_id in _request_ids(body):
        # The class's pattern lets a line break follow the last digit.
        if len(request_id) != _ID_DIGITS:
            raise WireError(WireFault.BODY, "an id must be 32 lower-case hex digits", kind=kind, field="request_id")
    fault: Fault | None = None
    if isinstance(body, Submit):
        fault = check_submit(body, ids, floats)
    elif isinstance(body, StepOutputs):
        fault = check_step(body, ids, floats)
    elif isinstance(body, (BlocksStored, BlocksRemoved)):
        fault = check_blocks(body, ids)
    elif isinstance(body, WorkerStats) and not all(math.isfinite(metric.value) for metric in body.metrics):
        fault = Fault("metrics.value")
    if fault is None:
        return
    if fault.part is None:
        raise WireError(WireFault.OUT_OF_RANGE, f"{fault.field} is out of range", kind=kind, field=fault.field)
    raise _extent(kind, fault.field, fault.part, fault.wanted, len(ids if fault.part == "ids" else floats))


def _request_ids(body: Body) -> list[str]:
    if isinstance(body, StepOutputs):
        return [output.request_id for output in body.outputs]
    if isinstance(body, Submit):
        return [body.request_id] if body.group is None else [body.request_id, body.group]
    if isinstance(body, (Accepted, Refused, Credit, Cancel)):
        return [body.request_id]
    return []


def _extent(kind: str, field: str, part: str, wanted: int, present: int) -> WireError:
    what = f"{field} says {wanted} elements, the {part} part has {present}"
    return WireError(WireFault.EXTENT, what, kind=kind, field=field)
