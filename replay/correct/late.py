"""Late readings of one asset, and where they belong. Pure: recorded times only.

A reading is late where one of its tag that came before it has a newer source time, both with times that can be trusted
(decision 0006). It belongs between its tag's readings in time before and after it, and would have arrived as long after
its source time as the one before it did: behind every reading of the asset that had arrived by then, and with that
time of arrival. So the arrival clock, from which missing readings are told, goes on as if it had come in order.

What only comes again, or has another value at a time that its tag already has, is not corrected: no filter can take it.
It moves beside the first of its time, so that validation sees it there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.validation_frames import bits_of
from kernels.validation_params import TIME_LIMITS
from replay.correct.reordered import Moves, rows_of
from schemas.frames import Frame
from schemas.quality import Mark

I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]
AHEAD, BEHIND = TIME_LIMITS.index("ahead_limit_s"), TIME_LIMITS.index("behind_limit_s")
NEVER = np.iinfo(np.int64).min
#: Times are compared within ±73 years of each other at least; beyond this they are not to be trusted anyhow.
END_NS = 2**62 - 1
NOBODY = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrived:
    """Readings of an asset in the order they arrived, n in one frame, each with its place: offset in raw, and row."""

    readings: Frame
    offset: I64
    row: I64


def trusted(frame: Frame, limits_ns: I64) -> Flags:
    """Whether each reading's source time fits its arrival, shape (n,). `limits_ns`: TIME_LIMITS of the frame's tags."""
    source, arrival = (np.clip(t, -END_NS, END_NS) for t in (frame.source_time_ns, frame.arrival_time_ns))
    limits = limits_ns[frame.tag]
    ahead: Flags = source - arrival > limits[:, AHEAD]
    behind: Flags = arrival - source > limits[:, BEHIND]
    return ~(ahead | behind)


def has_late(newest: dict[str, int], frame: Frame, limits_ns: I64) -> bool:
    """Whether a frame has a reading that is older than its tag's `newest`, which are moved on."""
    found = False
    rows = zip(frame.tag.tolist(), frame.source_time_ns.tolist(), trusted(frame, limits_ns).tolist(), strict=True)
    for tag, source_ns, fine in rows:
        name = frame.tags[tag]
        before = newest.get(name, NEVER)
        if fine and source_ns > before:
            newest[name] = source_ns
        elif fine and source_ns < before:
            found = True
    return found


def moves_of(arrived: Arrived, limits_ns: I64, since: int = 0) -> Moves | None:
    """Where readings that came late at offset `since` or later belong; None where there is nothing to correct.

    `limits_ns`: TIME_LIMITS of the frame's tags, i64, shape (tags, 3).
    """
    frame = arrived.readings
    tag = _numbers(frame)
    before, after = _neighbours(frame, tag, trusted(frame, limits_ns))
    after[arrived.offset < since] = NOBODY
    late = np.flatnonzero(after != NOBODY)
    fresh = _first(tag, frame.source_time_ns)[late]
    if not fresh.any():
        return None
    again = ~_first(tag, frame.source_time_ns, bits_of(frame))[late]
    before, after = before[late], after[late]
    arrival = _arrivals(frame, late, before, after)
    staying = np.ones(len(frame), np.bool_)
    staying[late] = False
    stays, rank = np.flatnonzero(staying), np.cumsum(staying) - 1  # rank: the place among those that stay
    clock = np.maximum.accumulate(frame.arrival_time_ns[stays])
    place = np.searchsorted(clock, arrival, "right")
    place = np.clip(place, np.where(before == NOBODY, 0, rank[before] + 1), rank[after])
    moved = place >= place[fresh].min()  # what belongs further back changes nothing
    keys = (late, frame.source_time_ns[late], arrival, place)  # the last one counts most
    order = np.flatnonzero(moved)[np.lexsort([key[moved] for key in keys])]
    host = stays[np.maximum(place[order] - 1, 0)]
    index = late[order]
    mark = frame.mark[index] | np.uint8(Mark.REORDERED)
    return Moves(
        readings=rows_of(frame, index, arrival_time_ns=arrival[order], mark=mark),
        from_offset=arrived.offset[index],
        from_row=arrived.row[index],
        offset=arrived.offset[host],
        after=np.where(place[order] > 0, arrived.row[host], -1),
        late=int(np.count_nonzero(~again)),
        corrected=int(np.count_nonzero(fresh)),
        from_ns=int(frame.source_time_ns[late[fresh]].min()),
        fullest=_fullest(arrived.offset, arrived.offset[index], arrived.offset[host]),
    )


def _fullest(offset: I64, leave: I64, come: I64) -> tuple[int, int]:
    """Of the frames that readings come into, offset and number of readings afterwards of the one with the most.

    The offset of every reading, of those that leave, and of where these go.
    """
    offsets, n = np.unique(offset, return_counts=True)
    into = np.searchsorted(offsets, come)
    n = n + np.bincount(into, minlength=len(n)) - np.bincount(np.searchsorted(offsets, leave), minlength=len(n))
    most = into[np.argmax(n[into])]
    return int(offsets[most]), int(n[most])


def _numbers(frame: Frame) -> I64:
    """A number per reading that depends on the tag's name alone: one tag may come in several units."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(tag, len(numbers)) for tag in frame.tags], np.int64)[frame.tag]


def _neighbours(frame: Frame, tag: I64, fine: Flags) -> tuple[I64, I64]:
    """Index of the readings in time of the same tag before and after each late one; NOBODY for none and all others."""
    before, after = np.full(len(frame), NOBODY), np.full(len(frame), NOBODY)
    by_tag = np.argsort(tag, kind="stable")
    for own in np.split(by_tag, np.flatnonzero(np.diff(tag[by_tag])) + 1):
        source = np.where(fine[own], frame.source_time_ns[own], NEVER)
        newest = np.concatenate(([NEVER], np.maximum.accumulate(source)[:-1]))
        in_time, late = own[source > newest], own[fine[own] & (source < newest)]
        following = np.searchsorted(frame.source_time_ns[in_time], frame.source_time_ns[late], "right")
        before[late] = np.where(following > 0, in_time[following - 1], NOBODY)
        after[late] = in_time[following]
    return before, after


def _first(*columns: NDArray[np.int64 | np.uint64]) -> Flags:
    """Whether each row is the first with its values, shape (n,)."""
    order = np.lexsort(columns)  # stable: equal rows stay in order
    new = np.ones(len(order), np.bool_)
    new[1:] = np.logical_or.reduce([np.diff(column[order]) != 0 for column in columns])
    found = np.empty(len(order), np.bool_)
    found[order] = new
    return found


def _arrivals(frame: Frame, late: I64, before: I64, after: I64) -> I64:
    """When late readings would have arrived, in ns: neither before the one before them nor after the one after."""
    like = np.where(before == NOBODY, after, before)
    arrival = frame.source_time_ns[late] + (frame.arrival_time_ns[like] - frame.source_time_ns[like])
    earliest = np.where(before == NOBODY, NEVER, frame.arrival_time_ns[before])
    found: I64 = np.minimum(np.maximum(arrival, earliest), frame.arrival_time_ns[after])
    return found
