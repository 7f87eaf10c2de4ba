"""The points of readings in InfluxDB against the topic of estimates: every field that the sink wrote, bit for bit. Pure
but for the questions to InfluxDB.

A row of a frame belongs at its source time plus its ordinal. Where several rows have the same tag, unit and time (the
same frame again, or a reading whose time is free again), InfluxDB has of each field what was written last; a number
that is unknown or not finite is not written, and neither is a `server_ns` of 0.

Readings are kept as columns: 124 bytes each.
"""

from collections.abc import Iterator, Set
from hashlib import blake2b
from math import isfinite, nan

import numpy as np
from numpy.typing import NDArray

from audit.journal import TagName
from audit.patience import Patience
from audit.store import EMPTY_TAG, MAX_TIME_NS, MIN_TIME_NS, Database, Stored
from audit.tally import Tally
from schemas.frames import Column, EstimateFrame

#: Points of one question to InfluxDB.
PAGE = 20_000

_NUMBERS = ("value", "estimate", "rate", "std", "innovation", "nis")
_WORDS = ("reason", "source")
POINT = np.dtype([
    ("time_ns", "<i8"), ("unit", "<u4"), *((name, "<f8") for name in _NUMBERS),
    *((name, "<i8") for name in ("quality", "tests", "status", "mark", "arrival_ns", "server_ns", "seq")),
    *((name, "<u4") for name in _WORDS),
])  # fmt: skip
#: Fields that a point may be without, and how they read then; unlike the others they do not replace an earlier one.
_ABSENT: dict[str, float] = {**dict.fromkeys(_NUMBERS, nan), "server_ns": 0, "reason": 0}

Refused = Set[tuple[str, str, int]]  # asset, tag, time of a reading that the sink rejected
_Points = NDArray[np.void]


class EstimatePoints:
    """Takes in all frames of the topic in order of their offsets, then `judge`. `refused`: readings that the sink
    rejected; what arrived before `since_ns` and is in no frame is from an earlier run.
    """

    def __init__(self, database: Database, refused: Refused, since_ns: int, patience: Patience, tally: Tally) -> None:
        self._database, self._refused, self._since_ns = database, refused, since_ns
        self._patience, self._tally = patience, tally
        self._rows: dict[TagName, bytearray] = {}
        self._beyond: list[tuple[str, str, int]] = []  # readings of a time that InfluxDB does not have
        self._codes: dict[str, int] = {"": 0}

    def add(self, frame: EstimateFrame) -> None:
        """Take in one frame."""
        rows = np.zeros(len(frame), POINT)
        rows["time_ns"] = frame.source_time_ns + frame.ordinal
        for name in _NUMBERS:
            numbers = getattr(frame, name)
            rows[name] = np.where(np.isfinite(numbers), numbers, nan)
        rows["quality"], rows["tests"], rows["status"], rows["mark"] = frame.flag, frame.tests, frame.status, frame.mark
        rows["arrival_ns"], rows["server_ns"] = frame.arrival_time_ns, frame.server_time_ns
        rows["seq"], rows["source"] = frame.seq, self._code(frame.source)
        rows["unit"] = np.array([self._code("" if unit == EMPTY_TAG else unit) for unit in frame.units] or [0], "<u4")[
            frame.tag
        ]
        for row, reason in _reasons(frame).items():
            rows["reason"][row] = self._code(reason)
        storable = self._storable(frame)
        for index in dict.fromkeys(frame.tag.tolist()):
            mine = rows[(frame.tag == index) & storable]
            self._rows.setdefault((frame.asset, frame.tags[index]), bytearray()).extend(mine.tobytes())

    def judge(self) -> None:
        """Compare with InfluxDB. Raises StoreError."""
        for asset, tag, time_ns in self._beyond:
            if (asset, tag, time_ns) not in self._refused:
                words = "InfluxDB has no such time, and nobody rejected it"
                self._tally.fault("estimates_missing", f"{asset}/{tag} at {time_ns}: {words}")
        for name in sorted(self._rows):
            for page in _pages(_written(np.frombuffer(self._rows.pop(name), POINT))):
                self._tally.figure("estimates", len(page))
                self._judge_page(name, page)

    def _judge_page(self, name: TagName, page: _Points) -> None:
        tally, where = self._tally, "/".join(name)
        refused = np.array([(*name, time_ns) in self._refused for time_ns in page["time_ns"].tolist()], bool)
        if refused.all():
            return
        times = page["time_ns"][~refused]
        while True:
            points = self._stored(self._database.readings(*name, int(times[0]), int(times[-1])))
            at = {key: index for index, key in enumerate(_keys(points))}
            places = np.array([at.pop(key, -1) for key in _keys(page)], np.int64)
            there = (places >= 0) & ~refused
            wanted, found = page[there], points[places[there]]
            differing = np.flatnonzero((_bytes(wanted) != _bytes(found)).any(1)).tolist()
            if ((there | refused).all() and not differing) or not self._patience.left():
                break
        for time_ns in page["time_ns"][~(there | refused)].tolist():
            tally.fault("estimates_missing", f"{where} at {time_ns}")
        for index in differing:
            words = self._difference(wanted[index], found[index])
            tally.fault("estimates_altered", f"{where} at {wanted['time_ns'][index]}: {words}")
        for index in at.values():
            if points["arrival_ns"][index] >= self._since_ns:
                tally.fault("estimates_unasked", f"{where} at {points['time_ns'][index]}: no frame says so")

    def _storable(self, frame: EstimateFrame) -> NDArray[np.bool_]:
        """Which readings have a time that InfluxDB knows; the others are noted."""
        inside: NDArray[np.bool_] = frame.source_time_ns >= MIN_TIME_NS
        inside &= frame.source_time_ns <= MAX_TIME_NS - frame.ordinal.astype("<i8")
        for row in np.flatnonzero(~inside).tolist():
            time_ns = int(frame.source_time_ns[row]) + int(frame.ordinal[row])
            self._beyond.append((frame.asset, frame.tags[frame.tag[row]], time_ns))
        return inside

    def _stored(self, stored: list[Stored]) -> _Points:
        rows = np.zeros(len(stored), POINT)
        for name in POINT.names or ():
            column = [getattr(point, name) for point in stored]
            if name in (*_WORDS, "unit"):
                rows[name] = [self._code(word) for word in column]
            elif name in _NUMBERS:
                rows[name] = [nan if number is None or not isfinite(number) else number for number in column]
            else:
                rows[name] = column
        return rows

    def _code(self, word: str) -> int:
        """A number for a word; a long one is known by its digest."""
        short = word if len(word) <= 100 else f"{word[:60]}… {blake2b(word.encode(), digest_size=16).hexdigest()}"
        return self._codes.setdefault(short, len(self._codes))

    def _difference(self, wanted: np.void, found: np.void) -> str:
        words = {code: word for word, code in self._codes.items()}
        changed = [name for name in POINT.names or () if wanted[name].tobytes() != found[name].tobytes()]
        return ", ".join(
            f"{name} {words[int(wanted[name])]!r} became {words[int(found[name])]!r}"
            if name in _WORDS
            else f"{name} {wanted[name].item()!r} became {found[name].item()!r}"
            for name in changed
        )


def refused_time(payload: EstimateFrame) -> int:
    """When the only reading of a frame would have been stored."""
    return int(payload.source_time_ns[0]) + int(payload.ordinal[0])


def _reasons(frame: EstimateFrame) -> dict[int, str]:
    """By row the text that came instead of a number, or which infinity the number is."""
    infinite = np.flatnonzero(np.isinf(frame.value)).tolist()
    return {row: str(float(frame.value[row])) for row in infinite} | frame.texts


def _written(rows: _Points) -> _Points:
    """What InfluxDB has after all rows were written one after the other: a point per time and unit, by time."""
    rows = rows[np.lexsort((rows["unit"], rows["time_ns"]))]  # stable
    keys = rows[["time_ns", "unit"]]
    first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(rows) else np.empty(0, np.int64)
    last = np.append(first[1:], len(rows)) - 1
    points = rows[last] if len(rows) else rows
    for index in np.flatnonzero(last > first).tolist():
        several = rows[first[index] : last[index] + 1]
        for name, absent in _ABSENT.items():
            column: Column = several[name]
            known = column[~np.isnan(column)] if name in _NUMBERS else column[column != absent]
            points[name][index] = known[-1] if len(known) else absent
    return points


def _pages(points: _Points) -> Iterator[_Points]:
    """The points piece by piece, those of one time together."""
    begin, times = 0, points["time_ns"]
    while begin < len(points):
        end = min(begin + PAGE, len(points))
        while end < len(points) and times[end] == times[end - 1]:
            end += 1
        yield points[begin:end]
        begin = end


def _keys(points: _Points) -> Iterator[tuple[int, int]]:
    return zip(points["time_ns"].tolist(), points["unit"].tolist(), strict=True)


def _bytes(points: _Points) -> Column:
    return np.ascontiguousarray(points).view(np.uint8).reshape(len(points), POINT.itemsize)
