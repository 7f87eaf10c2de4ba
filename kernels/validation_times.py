"""What validation decides from times alone: repetitions, late readings, wrong clocks, and tags that are overdue.

One jitted loop over the readings of a frame gives the plan of the output: which readings stay, and where rows for
missing readings go in. Values are only compared for equality here. May not know: what the values mean.
Jitted functions call only those of this file (see `kernels.jit`).

Per tag the last `REMEMBERED` readings are remembered (source time and value bits). That is as many as an MQTT
connector may have unacknowledged; what more than that coming again does, decision 0006 says. What repeats a
time that is forgotten already has ordinal 0 again. A device whose clock was set back is late until its time has caught
up; one that is ahead by more than the limit is suspect, but makes nothing late.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit
from kernels.stage import ColumnSpec
from kernels.validation_params import FOREVER, TIME_LIMITS
from schemas.quality import Mark, Test

I64 = NDArray[np.int64]

REMEMBERED = 128
NEVER = np.iinfo(np.int64).min
#: Ordinal of rows for missing readings, so that the store keeps them beside, never in place of, a real reading.
IMPUTED_ORDINAL = 255
LATE, TIME = int(Test.LATE), int(Test.TIME)
#: Verdicts per reading. CROWDED: more values at one source time than the store can keep apart.
KEPT, REPEATED, CROWDED = range(3)
AHEAD, BEHIND, GAP = (TIME_LIMITS.index(name) for name in ("ahead_limit_s", "behind_limit_s", "gap_s"))
ARRIVAL_TIME_USED = int(Mark.ARRIVAL_TIME_USED)

#: `newest_ns`: newest source time of the tag that can be trusted; `newest_clock_ns`: the arrival clock then;
#: `heard_ns`: the arrival clock at the tag's last reading (or row for a missing one); `seen_*`: the memory, a ring.
COLUMNS = {
    "newest_ns": ColumnSpec("<i8", (), NEVER),
    "newest_clock_ns": ColumnSpec("<i8", (), NEVER),
    "heard_ns": ColumnSpec("<i8", (), NEVER),
    "seen_max_ns": ColumnSpec("<i8", (), NEVER),
    "seen_count": ColumnSpec("<i8"),
    "seen_time_ns": ColumnSpec("<i8", (REMEMBERED,), NEVER),
    "seen_bits": ColumnSpec("<u8", (REMEMBERED,)),
    "seen_ordinal": ColumnSpec("u1", (REMEMBERED,)),
}


class Memory(NamedTuple):
    """The columns of the state that this file reads and writes: see COLUMNS."""

    newest_ns: I64
    newest_clock_ns: I64
    heard_ns: I64
    seen_max_ns: I64
    seen_count: I64
    seen_time_ns: I64
    seen_bits: NDArray[np.uint64]
    seen_ordinal: NDArray[np.uint8]


class Readings(NamedTuple):
    """What this file needs of a frame's readings, n each; `row` is the state's row of each of the frame's tags."""

    tag: NDArray[np.uint16]
    source_ns: I64
    arrival_ns: I64
    bits: NDArray[np.uint64]
    mark: NDArray[np.uint8]
    row: I64


#: Columns of the plan, i64, one row per output row. ORIGIN: index of the reading, or −1 − (row of the state) for a
#: missing one. UNIT: index in the frame's tags whose unit the missing row has, −1: the unit in the state.
ORIGIN, SOURCE, ARRIVAL, TESTS, ORDINAL, UNIT = range(6)


@jit
def later(time_ns: int, by_ns: int) -> int:
    """A time in ns moved on by at least 0 ns, at most to FOREVER; by FOREVER (a limit that is off) always to that."""
    return FOREVER if by_ns == FOREVER or time_ns > FOREVER - by_ns else time_ns + by_ns


@jit
def deadline(heard_ns: int, gap_ns: int) -> int:
    """When a tag is overdue, in ns of the arrival clock; FOREVER where it never is."""
    return FOREVER if heard_ns == NEVER else later(heard_ns, gap_ns)


@jit
def grown(plan: I64, used: int) -> I64:
    """The plan, with room for one more row."""
    if used < len(plan):
        return plan
    larger = np.empty((2 * len(plan) + 8, plan.shape[1]), np.int64)
    larger[:used] = plan
    return larger


@jit
def soonest(memory: Memory, limits_ns: I64) -> int:
    """The first deadline of all tags."""
    first = FOREVER
    for r in range(len(limits_ns)):
        first = min(first, deadline(memory.heard_ns[r], limits_ns[r, GAP]))
    return first


@jit
def recall(memory: Memory, r: int, time_ns: int, bits: int, repeatable: bool) -> int:
    """1 more than the largest ordinal remembered at that time, 0 for none; −1 where the same reading is remembered."""
    ordinal = 0
    if time_ns > memory.seen_max_ns[r]:
        return ordinal
    for k in range(min(memory.seen_count[r], REMEMBERED)):
        if memory.seen_time_ns[r, k] == time_ns:
            if repeatable and memory.seen_bits[r, k] == bits:
                return -1
            ordinal = max(ordinal, int(memory.seen_ordinal[r, k]) + 1)
    return ordinal


@jit
def free_ordinal(memory: Memory, r: int, time_ns: int, ordinal: int) -> int:
    """The first ordinal, from the given one on, with which the reading is a point of its own in the store.

    A point's time is source time + ordinal, so another value at T may have the place of a reading at T + 1.
    """
    if time_ns > later(memory.seen_max_ns[r], IMPUTED_ORDINAL):
        return ordinal
    first_ns = max(time_ns, NEVER + IMPUTED_ORDINAL) - IMPUTED_ORDINAL
    last_ns = later(time_ns, IMPUTED_ORDINAL)
    k = 0
    while k < min(memory.seen_count[r], REMEMBERED):
        seen_ns = memory.seen_time_ns[r, k]
        near = first_ns <= seen_ns <= last_ns  # else the difference may overflow
        if near and seen_ns - time_ns + int(memory.seen_ordinal[r, k]) == ordinal:
            ordinal += 1
            k = 0
        else:
            k += 1
    return ordinal


@jit
def remember(memory: Memory, r: int, time_ns: int, bits: int, ordinal: int) -> None:
    """Puts a reading into the memory in place of the oldest."""
    k = memory.seen_count[r] % REMEMBERED
    memory.seen_time_ns[r, k] = time_ns
    memory.seen_bits[r, k] = bits
    memory.seen_ordinal[r, k] = ordinal
    memory.seen_count[r] += 1
    memory.seen_max_ns[r] = max(memory.seen_max_ns[r], time_ns)


@jit
def time_tests(memory: Memory, r: int, source_ns: int, arrival_ns: int, same_time: bool, limits_ns: I64) -> int:
    """LATE, TIME, both or 0. `same_time`: another value at that time is remembered."""
    tests = 0
    if source_ns <= memory.newest_ns[r] or same_time:
        tests |= LATE
    if source_ns > later(arrival_ns, limits_ns[r, AHEAD]) or arrival_ns > later(source_ns, limits_ns[r, BEHIND]):
        tests |= TIME
    return tests


@jit
def overdue(plan: I64, used: int, clock_ns: int, memory: Memory, limits_ns: I64, unit: I64) -> tuple[I64, int]:
    """Appends a row for every tag that is overdue at `clock_ns`; its deadline moves on, so there is one per check."""
    for r in range(len(limits_ns)):
        if clock_ns > deadline(memory.heard_ns[r], limits_ns[r, GAP]):
            plan = grown(plan, used)
            plan[used, ORIGIN] = -1 - r
            plan[used, SOURCE] = expected_now(memory.newest_ns[r], memory.newest_clock_ns[r], clock_ns)
            plan[used, ARRIVAL] = clock_ns
            plan[used, TESTS] = 0
            plan[used, ORDINAL] = IMPUTED_ORDINAL
            plan[used, UNIT] = unit[r]
            memory.heard_ns[r] = clock_ns
            used += 1
    return plan, used


@jit
def expected_now(newest_ns: int, newest_clock_ns: int, clock_ns: int) -> int:
    """The tag's own time at `clock_ns`: its newest source time, moved on by what the arrival clock did since."""
    return clock_ns if newest_ns == NEVER else later(newest_ns, clock_ns - newest_clock_ns)


@jit
def plan_frame(
    readings: Readings, limits_ns: I64, memory: Memory, clock_ns: int, closing_ns: int
) -> tuple[I64, NDArray[np.uint8], I64, int]:
    """The plan, a verdict per reading (KEPT, REPEATED, CROWDED), the newest unit and the arrival clock after the frame.

    `limits_ns`: one row of TIME_LIMITS per row of the state, FOREVER where a test is off; `closing_ns`: the time of a
    heartbeat, NEVER where the frame is none. The newest unit is an index in the frame's tags per row of the state, −1
    for none. Changes `memory`.
    A reading whose own clock is wrong does not move the newest time: one from 2262 would make all later ones late.
    """
    n = len(readings.tag)
    plan = np.empty((n, 6), np.int64)
    verdict = np.zeros(n, np.uint8)
    unit = np.full(len(limits_ns), -1, np.int64)
    used = 0
    due_ns = soonest(memory, limits_ns)
    for i in range(n):
        t = readings.tag[i]
        r = readings.row[t]
        clock_ns = max(clock_ns, readings.arrival_ns[i])
        if clock_ns > due_ns:
            plan, used = overdue(plan, used, clock_ns, memory, limits_ns, unit)
            due_ns = soonest(memory, limits_ns)
        source_ns = readings.source_ns[i]
        before = recall(memory, r, source_ns, readings.bits[i], (readings.mark[i] & ARRIVAL_TIME_USED) == 0)
        ordinal = before if before < 0 else free_ordinal(memory, r, source_ns, before)
        if ordinal < 0 or ordinal >= IMPUTED_ORDINAL:
            verdict[i] = REPEATED if ordinal < 0 else CROWDED
            continue
        tests = time_tests(memory, r, source_ns, readings.arrival_ns[i], before > 0, limits_ns)
        remember(memory, r, source_ns, readings.bits[i], ordinal)
        memory.heard_ns[r] = clock_ns
        due_ns = min(due_ns, deadline(clock_ns, limits_ns[r, GAP]))
        if tests == 0:
            memory.newest_ns[r] = source_ns
            memory.newest_clock_ns[r] = clock_ns
        unit[r] = t
        plan = grown(plan, used)
        plan[used] = (i, source_ns, readings.arrival_ns[i], tests, ordinal, -1)
        used += 1
    if closing_ns != NEVER:
        clock_ns = max(clock_ns, closing_ns)
        plan, used = overdue(plan, used, clock_ns, memory, limits_ns, unit)
    return plan[:used], verdict, unit, clock_ns
