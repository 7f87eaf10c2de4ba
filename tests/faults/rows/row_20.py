"""Row 20: clocks that step, run backwards, stand at 1970 or 2262, or change to winter time.

The device's clock is what a payload says. The connector's clock cannot be set on a machine that others use: its
arrival times are forged into raw frames instead, so all stages see them as if they were the connector's.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from connectors.payload import TIME_NS_MAX
from schemas.codec import encode
from schemas.frames import Frame
from schemas.quality import Test
from schemas.topics import RAW
from tests.faults.bad_data import (
    LIGHT,
    SECOND_NS,
    STORED_S,
    Forger,
    device,
    refused_payloads,
    rejected,
    require_finite_filters,
    wait_stored,
)
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "clocks: ±1 h steps, backwards, 1970, 2262, daylight saving"
DEVICE, CONNECTOR = "CLOCK20", "ARRIVAL20"
HOUR_NS = 3600 * SECOND_NS
AHEAD_NS = 600 * SECOND_NS
#: InfluxDB's range of times: what is outside is rejected by the sink.
FIRST_NS, LAST_NS = -(2**63) + 2, 2**63 - 2
BACK_S = 60.0
#: Times that no store can hold, and that no clock can show.
IMPOSSIBLE = ("2262-12-01T00:00:00Z", "1600-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2025-02-30T00:00:00Z",
              "2025-10-26T25:00:00Z")  # fmt: skip
#: The night in which Berlin's clocks go from 3:00 back to 2:00: with a zone nothing steps; without one, an hour comes
#: twice, and the second is late.
WITH_ZONE = ("2025-10-26T02:30:00+02:00", "2025-10-26T02:59:59+02:00", "2025-10-26T02:00:00+01:00",
             "2025-10-26T02:30:00+01:00")  # fmt: skip
WITHOUT_ZONE = ("2025-10-26T02:30:00", "2025-10-26T02:59:59", "2025-10-26T02:00:00", "2025-10-26T02:45:00",
                "2025-10-26T03:00:00")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tick:
    """One reading: its source and arrival time, ns since 1970."""

    source_ns: int
    arrival_ns: int


def run(rig: Rig) -> None:
    """Each reading is stored with the flags its times must have, or rejected where no store has its time."""
    under_load(rig, strike, load=LIGHT)


def strike(rig: Rig, system: System) -> None:
    """The device's clock, winter time, then the connector's clock."""
    now_ns = time.time_ns()
    with device(system, DEVICE) as sensor:
        offsets = [
            0,
            1,
            HOUR_NS,
            HOUR_NS + 1,
            2,
            3,
            -HOUR_NS,
            -HOUR_NS + 1,
            4,
            5,
            -now_ns,
            TIME_NS_MAX - now_ns,
            6,
            -TIME_NS_MAX - now_ns,
            7,
        ]
        sources = [now_ns + (o * SECOND_NS if 0 < o < 10 else o) - 60 * SECOND_NS * (abs(o) < 10) for o in offsets]
        sources = [min(max(s, -TIME_NS_MAX), TIME_NS_MAX) for s in sources]
        for i, source_ns in enumerate(sources):
            seconds, rest = divmod(source_ns, SECOND_NS)
            moment = iso(seconds, rest)
            sensor.publish("steps", {"value": float(i), "unit": "x", "timestamp": moment})
        for tag, times in (("zone", WITH_ZONE), ("no_zone", WITHOUT_ZONE)):
            for i, text in enumerate(times):
                sensor.publish(tag, {"value": float(i), "unit": "x", "timestamp": text})
        for text in IMPOSSIBLE:
            sensor.publish("steps", {"value": 0.5, "timestamp": text})
        judge(rig, system, DEVICE, [Tick(s, now_ns) for s in sources])
        rig.require(
            late(rig, system, "zone", len(WITH_ZONE)) == [], "with a zone nothing is late in winter time's night"
        )
        rig.require(
            late(rig, system, "no_zone", len(WITHOUT_ZONE)) == [2.0, 3.0], "without one, the second hour is late"
        )
    rig.wait_for(lambda: len(refused_payloads(system, DEVICE)) == len(IMPOSSIBLE), "impossible times are rejected", 60)
    rig.struck(len(sources) + len(WITH_ZONE) + len(WITHOUT_ZONE) + len(IMPOSSIBLE))
    forged(rig, system, now_ns)
    require_finite_filters(rig, system, {DEVICE, CONNECTOR})
    system.wait_flowing(BACK_S)


def iso(seconds: int, nanoseconds: int) -> str:
    """A time from 1677 to 2262 as ISO 8601."""
    return str(np.datetime64(seconds, "s")) + f".{nanoseconds:09d}Z"


def forged(rig: Rig, system: System, now_ns: int) -> None:
    """Raw frames whose arrival times step, run backwards, and stand at the ends of what 64 bits can say."""
    system.pulse.ignored.add(CONNECTOR)
    steps = [0, SECOND_NS, HOUR_NS, -HOUR_NS, 2 * SECOND_NS, 3 * SECOND_NS]
    ticks = [Tick(now_ns + s, now_ns + s) for s in steps]
    ticks += [Tick(now_ns + 4 * SECOND_NS, a) for a in (0, -1, -(2**63), LAST_NS)]
    ticks += [Tick(s, now_ns) for s in (-(2**63), -(2**63) + 1, FIRST_NS, -1, 0, 1, LAST_NS - 1, 2**63 - 1)]
    ticks += [Tick(now_ns + (10 + i) * SECOND_NS, now_ns + (10 + i) * SECOND_NS) for i in range(5)]
    if not rig.short:
        ticks += [Tick(rig.rng.randrange(-(2**63), 2**63), rig.rng.randrange(-(2**63), 2**63)) for _ in range(200)]
    forger = Forger(system)
    for seq, tick in enumerate(ticks):
        forger.write(RAW, CONNECTOR, encode(frame(seq, tick)))
    forger.flush()
    outside = {float(i) for i, t in enumerate(ticks) if not FIRST_NS <= t.source_ns + ordinal(ticks, i) <= LAST_NS}
    rig.require(outside, "some times are outside InfluxDB's range")
    judge(rig, system, CONNECTOR, ticks, outside)
    rig.wait_for(lambda: len(of_range(system)) >= len(outside), "what InfluxDB has no time for is rejected", STORED_S)
    rig.require(
        len(of_range(system)) == len(outside), f"{len(outside)} are rejected by the sink: {len(of_range(system))}"
    )
    rig.struck(len(ticks))


def of_range(system: System) -> list[Any]:
    """What the sink rejected of the forged readings for their time."""
    return [
        r
        for r in rejected(system)
        if r.stage == "sink"
        and r.asset == CONNECTOR
        and r.topic.endswith(".estimates")
        and "InfluxDB's range" in r.reason
    ]


def ordinal(ticks: list[Tick], i: int) -> int:
    """How many readings before this one have its source time: their values differ."""
    return sum(t.source_ns == ticks[i].source_ns for t in ticks[:i])


def frame(seq: int, tick: Tick) -> Frame:
    """A raw frame of one reading, whose value is its number."""
    return Frame(
        asset=CONNECTOR, source="forged", epoch=1, seq=seq, time_ns=max(tick.arrival_ns, 0),
        tags=("steps",), units=("x",),
        tag=np.zeros(1, "<u2"), source_time_ns=np.array([tick.source_ns], "<i8"),
        server_time_ns=np.zeros(1, "<i8"), arrival_time_ns=np.array([tick.arrival_ns], "<i8"),
        value=np.array([float(seq)]), status=np.zeros(1, "<u4"), mark=np.zeros(1, "u1"),
    )  # fmt: skip


def judge(rig: Rig, system: System, asset: str, ticks: list[Tick], outside: set[float] | None = None) -> None:
    """Compare flags with the rule: ahead of arrival by more than 10 min, or not newer than the newest good one."""
    found = wait_stored(rig, system, asset, "steps", len(ticks) - len(outside or ()))
    tests = dict(zip(found["value"].tolist(), found["tests"].tolist(), strict=True))
    newest: int | None = None
    for i, tick in enumerate(ticks):
        wanted = 0
        if (newest is not None and tick.source_ns <= newest) or ordinal(ticks, i):
            wanted |= Test.LATE
        if tick.source_ns > tick.arrival_ns + AHEAD_NS:
            wanted |= Test.TIME
        if not wanted:
            newest = tick.source_ns
        if float(i) not in (outside or ()):
            got = tests.get(float(i), -1)
            rig.require(
                got >= 0 and got & (Test.LATE | Test.TIME) == wanted, f"{asset} {i}, {tick}: {wanted!r}, is {got}"
            )


def late(rig: Rig, system: System, tag: str, count: int) -> list[float]:
    """The values of a tag that are flagged late."""
    found = wait_stored(rig, system, DEVICE, tag, count)
    return sorted(found["value"][(found["tests"] & int(Test.LATE)) != 0].tolist())
