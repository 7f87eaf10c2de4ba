"""Finds, for one tag, the stored point of every reading sent. Pure.

A reading belongs at its source time, or up to 255 ns later where several readings share a time (the store then counts
up). Rows that stand for readings which never came (mark IMPUTED) are nobody's.

- missing: no point at its time that nobody else claims
- altered: a point is there, but value (any bit), text, unit or (over OPC UA) status differ
- repeated: a point that arrived during the run and belongs to no reading: a second copy, or one never sent
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import copysign

from audit.journal import Sent
from audit.store import Stored
from schemas.quality import Mark

#: Largest ordinal of a reading, a u8.
ORDINALS = 255


@dataclass(slots=True)
class Matches:
    """What became of the readings of one tag. `pairs`: those found, unaltered or altered, in the order sent."""

    pairs: list[tuple[Sent, Stored]] = field(default_factory=list)
    missing: list[Sent] = field(default_factory=list)
    altered: list[tuple[Sent, Stored, str]] = field(default_factory=list)
    repeated: list[tuple[Stored, str]] = field(default_factory=list)
    imputed: list[Stored] = field(default_factory=list)


def match(sent: Sequence[Sent], stored: Sequence[Stored], since_ns: int) -> Matches:
    """Match the readings of one tag with its points (by time). Points that arrived before `since_ns` are from an
    earlier run: they may be what became of a reading, but are no repetitions.
    """
    found = Matches(imputed=[p for p in stored if p.mark & Mark.IMPUTED])
    points = [p for p in stored if not p.mark & Mark.IMPUTED]
    times = [p.time_ns for p in points]
    free = [True] * len(points)
    claimed: dict[int, int] = {}  # index of a reading → index of its point
    for index, reading in enumerate(sent):
        for place in _places(reading, times, points):
            if free[place] and not difference(reading, points[place]):
                claimed[index], free[place] = place, False
                break
    for index, reading in enumerate(sent):
        if index in claimed:
            continue
        near = next((p for p in _places(reading, times, points) if free[p]), None)
        if near is None:
            found.missing.append(reading)
            continue
        claimed[index], free[near] = near, False
        found.altered.append((reading, points[near], difference(reading, points[near])))
    found.pairs = [(reading, points[claimed[i]]) for i, reading in enumerate(sent) if i in claimed]
    extra = [p for p, unclaimed in zip(points, free, strict=True) if unclaimed and p.arrival_ns >= since_ns]
    by_time = sorted(sent, key=_time) if extra else []
    found.repeated = [(point, _explained(point, by_time)) for point in extra]
    return found


def difference(sent: Sent, stored: Stored) -> str:
    """What differs, in words; empty where nothing does."""
    problems = []
    if not _same_number(sent.value, stored.value):
        problems.append(f"value {_shown(sent.value)} became {_shown(stored.value)}")
    if sent.text is not None and sent.text != stored.reason:
        problems.append(f"text {sent.text[:80]!r} became {stored.reason[:80]!r}")
    if sent.unit != stored.unit:
        problems.append(f"unit {sent.unit!r} became {stored.unit!r}")
    # MQTT carries no status; its connector marks what is no number as Bad.
    if sent.protocol == "opcua" and sent.status != stored.status:
        problems.append(f"status {sent.status:#010x} became {stored.status:#010x}")
    return ", ".join(problems)


def _places(reading: Sent, times: Sequence[int], points: Sequence[Stored]) -> range:
    start = bisect_left(times, reading.time_ns)
    stop = start
    while stop < len(points) and times[stop] <= reading.time_ns + ORDINALS:
        stop += 1
    return range(start, stop)


def _explained(point: Stored, by_time: Sequence[Sent]) -> str:
    first = bisect_left(by_time, point.time_ns - ORDINALS, key=_time)
    last = bisect_right(by_time, point.time_ns, key=_time)
    for reading in by_time[first:last]:
        if _same_number(reading.value, point.value):
            return f"a second point of the reading at {reading.time_ns}"
    return "a point of no reading that was sent"


def _time(reading: Sent) -> int:
    return reading.time_ns


def _same_number(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return a == b and copysign(1.0, a) == copysign(1.0, b)


def _shown(number: float | None) -> str:
    return "no number" if number is None else f"{number!r} ({number.hex()})"
