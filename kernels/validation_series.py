"""What validation decides from a reading itself and the raw series of its tag: status, number, rate, flat line.

First of two jitted loops over the rows of a frame; `kernels.validation_history` is the second. Rate and flat line see
every number in sequence whatever its flag, as in `ioos_qc.qartod`; a reading without a number, or whose status is bad,
counts as missing. A reading whose time is LATE or wrong (TIME) has no place in the sequence.
Jitted functions call only those of this file (see `kernels.jit`).

The flat line test asks whether all numbers in the span [t − S, t] lie within the tolerance of each other. Kept for
that is the time of the last breaker: the latest number whose range with all that came after it reaches the tolerance.
The span is flat if that one is outside it. To find it, the suffix maxima and minima since then are kept as two chains
(the monotonic queues of the sliding-window extremum): new numbers push out what they dominate; while both fronts are a
tolerance apart, the older front is the breaker and leaves. So any span works with the same bounded memory. A chain
fills up only where more than CHAIN numbers creep in one direction within one tolerance; then neighbours are merged,
which blurs the tolerance by at most 2/(CHAIN − 2) of itself and never makes a span flat that is not.

Differences from `ioos_qc.qartod.flat_line_test`: theirs takes the median interval of the whole series (it looks
ahead) in whole seconds and counts readings; ours looks at real times. Theirs calls a lone number in a span flat; ours
needs two. Everything else agrees on regular series whose interval divides the span.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit
from kernels.stage import ColumnSpec
from kernels.validation_params import LIMITS
from schemas.quality import Flag, Test

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

CHAIN = 64
NEVER = np.iinfo(np.int64).min

RATE_SUSPECT, RATE_FAIL = LIMITS.index("rate_suspect_per_s"), LIMITS.index("rate_fail_per_s")
FLAT_TOLERANCE = LIMITS.index("flat_tolerance")
FLAT_SUSPECT, FLAT_FAIL = LIMITS.index("flat_suspect_s"), LIMITS.index("flat_fail_s")
STATUS, FINITE, RATE, FLAT_LINE = int(Test.STATUS), int(Test.FINITE), int(Test.RATE), int(Test.FLAT_LINE)
WRONG_TIME = int(Test.LATE | Test.TIME)
GOOD, SUSPECT, FAIL = int(Flag.GOOD), int(Flag.SUSPECT), int(Flag.FAIL)

#: What a row has for the tests of values: no number, a number, or a number that has its place in the sequence.
NO_NUMBER, NUMBER, IN_SEQUENCE = range(3)

#: `last_ns`: time of the number before, NEVER where the reading before had none.
COLUMNS = {"last_ns": ColumnSpec("<i8", (), NEVER), "last_value": ColumnSpec("<f8")}
#: Only in the state of assets with a flat line test: times of the tag's first reading, last breaker and last number;
#: the chains (second axis: 0 of maxima, 1 of minima, negated).
FLAT_COLUMNS = {
    "flat_first_ns": ColumnSpec("<i8", (), NEVER),
    "flat_broken_ns": ColumnSpec("<i8", (), NEVER),
    "flat_last_ns": ColumnSpec("<i8", (), NEVER),
    "flat_size": ColumnSpec("<i8", (2,)),
    "flat_time_ns": ColumnSpec("<i8", (2, CHAIN)),
    "flat_value": ColumnSpec("<f8", (2, CHAIN)),
}


class Series(NamedTuple):
    """The columns of the state that this file reads and writes: see COLUMNS and FLAT_COLUMNS."""

    last_ns: I64
    last_value: F64
    flat_first_ns: I64
    flat_broken_ns: I64
    flat_last_ns: I64
    flat_size: I64
    flat_time_ns: I64
    flat_value: F64


class Verdicts(NamedTuple):
    """One entry per row of the frame. `flag`: the worst so far, 0 while no test was evaluated."""

    tests: NDArray[np.uint32]
    flag: NDArray[np.uint8]
    number: NDArray[np.uint8]


@jit
def seconds_between(later: int, earlier: int) -> float:
    """Difference of two times in ns, in s, for any two times: the int64 difference of opposite signs can overflow."""
    if (later < 0) != (earlier < 0):
        return float(later) / 1e9 - float(earlier) / 1e9
    return (later - earlier) / 1e9


@jit
def push(times: I64, values: F64, size: int, time_ns: int, value: float) -> int:
    """Appends to a chain of maxima, pushing out what is not greater. Returns the new size."""
    while size > 0 and values[size - 1] <= value:
        size -= 1
    if size == CHAIN:
        size = merged(times, values)
    times[size] = time_ns
    values[size] = value
    return size + 1


@jit
def merged(times: I64, values: F64) -> int:
    """Makes room in a full chain: the two neighbours that span the least become one, as high and as late as either."""
    best = 0
    least = math.inf
    for k in range(CHAIN - 2):
        spread = values[k] - values[k + 2]
        if spread < least:
            best, least = k, spread
    times[best] = times[best + 1]
    for k in range(best + 1, CHAIN - 1):
        times[k] = times[k + 1]
        values[k] = values[k + 1]
    return CHAIN - 1


@jit
def drop_front(times: I64, values: F64, size: int) -> int:
    """Takes the oldest out of a chain. Returns the new size."""
    for k in range(size - 1):
        times[k] = times[k + 1]
        values[k] = values[k + 1]
    return size - 1


@jit
def extend_flat(series: Series, r: int, time_ns: int, value: float, tolerance: float) -> None:
    """Takes a number into the chains, and finds the last breaker."""
    times, values, size = series.flat_time_ns[r], series.flat_value[r], series.flat_size[r]
    size[0] = push(times[0], values[0], size[0], time_ns, value)
    size[1] = push(times[1], values[1], size[1], time_ns, -value)
    while values[0, 0] + values[1, 0] >= tolerance:
        oldest_ns = min(times[0, 0], times[1, 0])
        series.flat_broken_ns[r] = oldest_ns
        for side in range(2):
            if times[side, 0] == oldest_ns:
                size[side] = drop_front(times[side], values[side], size[side])


@jit
def flat_for(series: Series, r: int, time_ns: int, previous_ns: int, span_s: float) -> int:
    """1 where the span before this time is flat, 0 where it is not, −1 where it is not covered by readings."""
    if not seconds_between(time_ns, series.flat_first_ns[r]) >= span_s:
        return -1
    if previous_ns == NEVER or seconds_between(time_ns, previous_ns) > span_s:
        return -1
    broken_ns = series.flat_broken_ns[r]
    return 1 if broken_ns == NEVER or seconds_between(time_ns, broken_ns) > span_s else 0


@jit
def flat_flag(series: Series, r: int, time_ns: int, value: float, limits: F64) -> int:
    """The flat line test of a number in sequence: its flag, 0 where it is not evaluated."""
    previous_ns = series.flat_last_ns[r]
    series.flat_last_ns[r] = time_ns
    extend_flat(series, r, time_ns, value, limits[FLAT_TOLERANCE])
    suspect = flat_for(series, r, time_ns, previous_ns, limits[FLAT_SUSPECT])
    fail = flat_for(series, r, time_ns, previous_ns, limits[FLAT_FAIL])
    if fail == 1:
        return FAIL
    if suspect == 1:
        return SUSPECT
    return GOOD if suspect == 0 or fail == 0 else 0


@jit
def rate_flag(change: float, time_ns: int, last_ns: int, rate_suspect: float, rate_fail: float) -> int:
    """The rate test of a number in sequence: its flag, 0 where it is not evaluated.

    Against the reading before: `last_ns` is NEVER where that had no number.
    """
    if last_ns == NEVER or (math.isnan(rate_suspect) and math.isnan(rate_fail)):
        return 0
    rate_per_s = abs(change) / seconds_between(time_ns, last_ns)
    if rate_per_s > rate_fail:
        return FAIL
    return SUSPECT if rate_per_s > rate_suspect else GOOD


@jit
def test_series(
    tag: Any, source_ns: I64, value: F64, status: Any, row: I64, limits: F64, series: Series, verdicts: Verdicts
) -> None:
    """Tests n rows in order; `row` and `limits` have one entry per tag. Changes `series` and `verdicts`."""
    # What is taken out of a tuple in the loop costs more there than the tests.
    last_ns, last_value, flat_first_ns = series.last_ns, series.last_value, series.flat_first_ns
    number, flags, tests = verdicts.number, verdicts.flag, verdicts.tests
    for i in range(len(tag)):
        t = tag[i]
        r = row[t]
        told = int(tests[i])
        in_sequence = (told & WRONG_TIME) == 0
        flag = int(flags[i]) if in_sequence else SUSPECT
        flat = not math.isnan(limits[t, FLAT_TOLERANCE])
        if flat and in_sequence and flat_first_ns[r] == NEVER:
            flat_first_ns[r] = source_ns[i]
        severity = status[i] >> 30
        finite = math.isfinite(value[i])
        if severity != 0:
            flag, told = max(flag, SUSPECT if severity == 1 else FAIL), told | STATUS
        if not finite:
            flag, told = FAIL, told | FINITE
        if severity > 1 or not finite:
            if in_sequence:
                last_ns[r] = NEVER
        elif not in_sequence:
            number[i] = NUMBER
        else:
            number[i] = IN_SEQUENCE
            change, rate_fail = value[i] - last_value[r], limits[t, RATE_FAIL]
            found = rate_flag(change, source_ns[i], last_ns[r], limits[t, RATE_SUSPECT], rate_fail)
            flag, told = max(flag, found), told | (RATE if found > GOOD else 0)
            last_ns[r], last_value[r] = source_ns[i], value[i]
            if flat:
                found = flat_flag(series, r, source_ns[i], value[i], limits[t])
                flag, told = max(flag, found), told | (FLAT_LINE if found > GOOD else 0)
        flags[i], tests[i] = flag, told
