"""Row 19: readings out of order, late, repeated, and with the time of another one."""

import random
import time

from kernels.validation_times import REMEMBERED
from schemas.quality import Test
from tests.faults.bad_data import LIGHT, SECOND_NS, device, hexadecimal, wait_stored
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "out of order, late by 1 s to 7 days, repeated, same time with another value"
#: The same readings in order; without anything else, and with the rest in three orders of arrival.
ASSETS = ("ORDER19", "MIXED19A", "MIXED19B", "MIXED19C")
COLUMNS = ("value", "flag", "tests", "estimate", "rate", "std", "innovation", "nis")
LATE_S = (1, 2, 60, 3600, 86_400, 7 * 86_400)
BACK_S = 60.0
Sent = tuple[int, float]


def run(rig: Rig) -> None:
    """What is in order comes out the same to the bit; what is not is stored once, flagged, and changes nothing.

    For every order of arrival in which a late reading comes after a newer one of its tag: that is what late means.
    """
    under_load(rig, strike, load=LIGHT)


def strike(rig: Rig, system: System) -> None:
    """One asset gets the readings in order, the others the same with all the rest among them."""
    n = rig.times(full=120, short=40)
    begin_ns = time.time_ns() // SECOND_NS * SECOND_NS - n * SECOND_NS
    good = [(begin_ns + i * SECOND_NS, 85.0 + rig.rng.gauss(0, 0.5)) for i in range(n)]
    late = [(good[rig.rng.randrange(n)][0] - s * SECOND_NS - rig.rng.randrange(1, SECOND_NS), 90.0 + i)
            for i, s in enumerate(LATE_S * rig.times(full=5, short=2))]  # fmt: skip
    same_time = [(time_ns, value + 7.0) for time_ns, value in rig.rng.sample(good, 5)]
    repeated = rig.rng.sample(good, 10)
    arrivals = [good, *(mixed(good, [*late, *same_time, *repeated], rig.rng) for _ in ASSETS[1:])]
    for asset, arrival in zip(ASSETS, arrivals, strict=True):
        with device(system, asset) as sensor:
            for time_ns, value in arrival:
                sensor.publish("temperature", {"value": value, "unit": "degC", "timestamp": time_ns})
    results = []
    for asset, arrival in zip(ASSETS, arrivals, strict=True):
        found = wait_stored(rig, system, asset, "temperature", len(set(arrival)))
        results.append(
            {
                row["value"]: (int(t), row)
                for t, (_, row) in zip(found.index.as_unit("ns").asi8, found.iterrows(), strict=True)
            }
        )
    alone = results[0]
    for asset, result in zip(ASSETS[1:], results[1:], strict=True):
        for _, value in good:
            same = value in result and bits(result[value]) == bits(alone[value])
            rig.require(same, f"{asset}: the reading {value} is as without the others")
        for time_ns, value in late + same_time:
            stored_ns, row = result[value]
            rig.require(row["tests"] & Test.LATE, f"{asset}: {value} is flagged late")
            ordinal = int((time_ns, value) in same_time)
            rig.require(stored_ns == time_ns + ordinal, f"{asset}: {value} is stored at its time + {ordinal} ns")
            rig.struck()
        rig.struck(len(repeated))
    rig.note(
        "readings", {"in order": len(good), "late": len(late), "same time": len(same_time), "repeated": len(repeated)}
    )
    system.wait_flowing(BACK_S)


def mixed(good: list[Sent], rest: list[Sent], rng: random.Random) -> list[Sent]:
    """The readings in order with the rest among them, each after one that is not older, in any order otherwise.

    What has the time of another one comes while that is remembered: that is the rule (decision 0006).
    """
    arrival = list(good)
    times = {time_ns for time_ns, _ in good}
    for reading in rng.sample(rest, len(rest)):
        newer = next(i for i, other in enumerate(arrival) if other[0] >= reading[0])
        end = newer + 1 + REMEMBERED - len(rest) if reading[0] in times else len(arrival)
        arrival.insert(rng.randrange(newer + 1, min(end, len(arrival)) + 1), reading)
    return arrival


def bits(stored: tuple[int, "object"]) -> tuple[object, ...]:
    """Everything about a stored reading that must not differ, floats by their bits."""
    time_ns, row = stored
    values = [row[name] for name in COLUMNS]  # type: ignore[index]
    return (time_ns, *(hexadecimal(v) if isinstance(v, float) else int(v) for v in values))
