"""From an OPC UA value to a reading: names, quality and times. Pure; may not know sessions nor subscriptions."""

import math
import re
from dataclasses import dataclass

from asyncua import ua
from asyncua.ua.status_codes import code_to_name_doc

from connectors.framer import Reading
from connectors.opcua_binary import NO_VALUE, Value
from schemas.quality import Mark

#: Info bits of a StatusCode that say "values before this one were lost" (DataValue, Overflow; OPC 10000-4 §7.39.2).
OVERFLOW = 0x480
_BAD = 0x80000000
GONE = frozenset((ua.StatusCodes.BadNodeIdUnknown, ua.StatusCodes.BadNodeIdInvalid))
_PLACEHOLDERS = GONE | {ua.StatusCodes.BadWaitingForInitialData, ua.StatusCodes.BadNoData}
QUEUE_MIN, QUEUE_MAX = 10, 128  # validation remembers 128 readings per tag
QUEUE_S = 60.0  # a server's queue should bridge an outage of this length where 128 values last so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One variable to read. `node` names it for people and across restarts: its namespace is given by URI."""

    node: str
    node_id: ua.NodeId
    asset: str
    tag: str
    unit: str
    cyclic: bool
    interval_s: float
    queue_size: int
    deadband: float | None
    historised: bool

    @property
    def key(self) -> tuple[str, ...]:
        """What must be the same for a subscription of an earlier process to be taken over."""
        return (
            self.node,
            self.node_id.to_string(),
            self.asset,
            self.tag,
            f"{self.cyclic} {self.interval_s} {self.queue_size} {self.deadband}",
        )


def queue_size(publishing_s: float, sampling_s: float) -> int:
    """Values a server should queue per item: twice what one publishing interval brings and, where that fits into
    128, an outage of 60 s."""
    return min(QUEUE_MAX, max(QUEUE_MIN, math.ceil(2 * publishing_s / sampling_s), math.ceil(QUEUE_S / sampling_s)))


def snake_case(name: str) -> str:
    """`FlowRate` → `flow_rate`, `pH` → `ph`; what is no letter, digit or one of `_-/.` becomes `_`."""
    words = re.sub(r"(?<=.[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    return re.sub(r"[^\w/.-]+", "_", words).lower()


def tag_name(name: str, role: str | None) -> str:
    """Tag of a node: PV is the tag itself, any other role (SV, MV, …) follows a dot: `temperature.sv`."""
    tag = snake_case(name)
    return tag if role is None or role.upper() == "PV" else f"{tag}.{role.lower()}"


def overflowed(status: int) -> bool:
    """Whether the server lost values of this item before this one."""
    return status & OVERFLOW == OVERFLOW


def is_bad(status: int) -> bool:
    """Whether the status's severity is Bad."""
    return bool(status & _BAD)


def is_placeholder(status: int) -> bool:
    """Whether the server says that it has no such variable or no value yet: no reading of the device, so it does not
    end a hole."""
    return status & 0xFFFF0000 in _PLACEHOLDERS


def reading(item: Item, value: Value, arrival_ns: int) -> Reading:
    """The reading for a value. The status stays as it came; no number gives NaN and a text that says what came."""
    text, mark = value.text, 0
    if text == NO_VALUE and is_bad(value.status):
        text = status_name(value.status)
    if text is not None:
        mark |= Mark.TEXT
    source_ns = value.source_ns
    if source_ns is None:
        source_ns = value.server_ns
    if source_ns is None:
        source_ns = arrival_ns
        mark |= Mark.ARRIVAL_TIME_USED
    return Reading(
        asset=item.asset,
        tag=item.tag,
        unit=item.unit,
        value=value.value,
        source_time_ns=source_ns,
        server_time_ns=value.server_ns or 0,
        arrival_time_ns=arrival_ns,
        status=value.status,
        mark=mark,
        text=text,
    )


def status_name(status: int) -> str:
    """`BadCommunicationError` and the like; the number where it is not in the standard."""
    known = code_to_name_doc.get(status & 0xFFFF0000)
    return known[0] if known else f"0x{status:08X}"
