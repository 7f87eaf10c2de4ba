"""What leaves the plant: one sample, and the names it travels under. Knows no protocol library and no clock."""

import re
from dataclasses import dataclass
from typing import Literal

Protocol = Literal["mqtt", "opcua"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading on its way out of the plant.

    `value` (in `unit`) is None where `text` is sent instead of a number, or where an OPC UA status is Bad.
    `source_time_ns` counts from 1970; over OPC UA it must be a multiple of 1,000 (its times are kept to the µs).
    `truth` is the value without noise and fault, None where nobody knows it. `fault` names what was done to this
    reading. `repeat`: the same reading once more. `garbage`: bytes sent instead of a reading that nobody can parse.
    """

    asset: str
    tag: str
    unit: str
    protocol: Protocol
    source_time_ns: int
    value: float | None
    text: str | None = None
    status: int = 0
    truth: float | None = None
    fault: str | None = None
    repeat: bool = False
    garbage: bytes | None = None


def topic(asset: str, tag: str) -> str:
    """MQTT topic of a tag."""
    return f"reactor/{asset}/sensor/{tag}"


def node_id(asset: str, tag: str) -> str:
    """String identifier of a tag's OPC UA node: `flow_rate` → `Reactor.R101.FlowRate.PV`, `flow_rate.sv` → `….SV`."""
    name, _, role = tag.partition(".")
    return f"Reactor.{asset}.{camel(name)}.{role.upper() or 'PV'}"


def camel(tag: str) -> str:
    """CamelCase name of a tag; the underscore before a digit stays, so that `xmeas_01` can be found again."""
    return re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), tag)
