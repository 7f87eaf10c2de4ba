"""What validation decides from a number and the accepted values before it: range, z-score, spike; and that history.

Second of two jitted loops over the rows of a frame (`kernels.validation_series` is the first). "Accepted" are numbers
in sequence that no test called suspect or worse. Only they enter the history, so all in it is finite.
Jitted functions call only those of this file (see `kernels.jit`).

After `restart_after` suspect numbers in a row (no accepted and no failing one between them) that agree with each other,
the history restarts from them: a real step. They agree where the greatest is not farther from the least than
  - spike_percent of the greater of |their mean| and |the last accepted value|: as near as neighbours may be, or
  - twice zscore_limit times the history's standard deviation: as near as the history's own values may be.
After HISTORY suspect ones in a row the history restarts from the last of them even so: what nothing has matched for
that long says nothing about the present. Flags already given stay; the last of the row is still suspect, too.

The z-score is that of `mean_std`, two passes over the window. For most readings it need not be computed: sums that are
carried from reading to reading, with bounds for what rounding does to them and to the two passes, already say that its
verdict is GOOD (`surely_good`). Where they do not, the two passes decide, so every verdict is theirs.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit
from kernels.stage import ColumnSpec
from kernels.validation_params import LIMITS
from kernels.validation_series import IN_SEQUENCE, NO_NUMBER, Verdicts
from schemas.quality import Flag, Test

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Accepted values kept per tag, and suspect ones in a row: the greatest window and restart the configuration allows.
HISTORY = 100
SUSPECTS = 20
#: Below these a standard deviation counts as constant, and a value as too near to 0 for a relative change.
CONSTANT_STD = 1e-6
NEAR_ZERO = 1e-6

FAIL_LOW, FAIL_HIGH = LIMITS.index("fail_low"), LIMITS.index("fail_high")
SUSPECT_LOW, SUSPECT_HIGH = LIMITS.index("suspect_low"), LIMITS.index("suspect_high")
ZSCORE_LIMIT, ZSCORE_WINDOW = LIMITS.index("zscore_limit"), LIMITS.index("zscore_window")
ZSCORE_MIN, SPIKE_PERCENT = LIMITS.index("zscore_min"), LIMITS.index("spike_percent")
RESTART_AFTER = LIMITS.index("restart_after")
RANGE, ZSCORE, SPIKE = int(Test.RANGE), int(Test.ZSCORE), int(Test.SPIKE)
GOOD, NOT_EVALUATED = int(Flag.GOOD), int(Flag.NOT_EVALUATED)
SUSPECT, FAIL = int(Flag.SUSPECT), int(Flag.FAIL)

#: Carried sums of a tag's window, with values taken relative to CENTRE: sum, sum of squares, the greatest magnitude
#: since they were made, number of values, the window they are for, and for how many more values they hold.
CENTRE, SUM, SQUARES, REACH, COUNT, WINDOW, LEFT = range(7)
SUMS = 7
#: Sums are made anew after so many values. Within those, and with windows up to HISTORY, rounding moves a mean by less
#: than 1e-13 of the greatest number there is, and a mean of squares by less than 5e-13 of REACH².
SUMS_HOLD = 128
MEAN_ERROR = 1e-12
SQUARES_ERROR = 1e-11
LESS = 1.0 - 1e-9

#: Rings; `_next` is where the next one goes, `_size` how many there are (`suspect_size`: in a row, without a bound).
COLUMNS = {
    "history": ColumnSpec("<f8", (HISTORY,)),
    "history_next": ColumnSpec("<i8"),
    "history_size": ColumnSpec("<i8"),
    "suspect": ColumnSpec("<f8", (SUSPECTS,)),
    "suspect_size": ColumnSpec("<i8"),
}


class History(NamedTuple):
    """The columns of the state that this file reads and writes: see COLUMNS."""

    history: F64
    history_next: I64
    history_size: I64
    suspect: F64
    suspect_size: I64


@jit
def mean_std(past: History, r: int, window: int) -> tuple[float, float]:
    """Mean and standard deviation (of the population) of the last `window` accepted values, in two passes."""
    n = min(window, past.history_size[r])
    start = past.history_next[r] - n
    if start < 0:
        start += HISTORY
    total = 0.0
    k = start
    for _ in range(n):
        total += past.history[r, k]
        k = k + 1 if k + 1 < HISTORY else 0
    mean = total / n
    squares = 0.0
    k = start
    for _ in range(n):
        squares += (past.history[r, k] - mean) * (past.history[r, k] - mean)
        k = k + 1 if k + 1 < HISTORY else 0
    return mean, math.sqrt(squares / n)


@jit
def spread(past: History, r: int, limits: F64) -> tuple[float, float]:
    """Mean and standard deviation for the z-score; 0 for the latter where it is not evaluated."""
    if math.isnan(limits[ZSCORE_LIMIT]) or past.history_size[r] < limits[ZSCORE_MIN]:
        return 0.0, 0.0
    mean, std = mean_std(past, r, int(limits[ZSCORE_WINDOW]))
    if not math.isfinite(std) or std < CONSTANT_STD:
        return 0.0, 0.0
    return mean, std


@jit
def last_accepted(past: History, r: int) -> float:
    """The newest value of the history, 0 where it is empty."""
    if past.history_size[r] == 0:
        return 0.0
    return float(past.history[r, (past.history_next[r] - 1) % HISTORY])


@jit
def accept(past: History, r: int, value: float) -> None:
    """Takes a value into the history in place of the oldest."""
    k = past.history_next[r]
    past.history[r, k] = value
    past.history_next[r] = (k + 1) % HISTORY
    past.history_size[r] = min(past.history_size[r] + 1, HISTORY)


@jit
def agree(past: History, r: int, n: int, std: float, limits: F64) -> bool:
    """Whether the last n suspect numbers agree with each other: see the head of this file."""
    newest = past.suspect[r, (past.suspect_size[r] - 1) % SUSPECTS]
    low = high = newest
    mean = 0.0
    for k in range(past.suspect_size[r] - n, past.suspect_size[r]):
        value = past.suspect[r, k % SUSPECTS]
        low, high = min(low, value), max(high, value)
        mean += value / n
    near = 0.0
    if not math.isnan(limits[SPIKE_PERCENT]):
        near = limits[SPIKE_PERCENT] / 100.0 * max(abs(mean), abs(last_accepted(past, r)))
    if std > 0.0:
        near = max(near, 2.0 * limits[ZSCORE_LIMIT] * std)
    return bool(high - low <= near)


@jit
def suspect_again(past: History, r: int, value: float, std: float, limits: F64) -> None:
    """Remembers a suspect number; restarts the history where the time has come."""
    past.suspect[r, past.suspect_size[r] % SUSPECTS] = value
    past.suspect_size[r] += 1
    n = int(limits[RESTART_AFTER])
    size = past.suspect_size[r]
    if size < n or not (size >= HISTORY or agree(past, r, n, std, limits)):
        return
    past.history_size[r] = 0
    past.history_next[r] = 0
    for k in range(size - n, size):
        accept(past, r, past.suspect[r, k % SUSPECTS])
    past.suspect_size[r] = 0


@jit
def range_flag(value: float, fail_low: float, fail_high: float, suspect_low: float, suspect_high: float) -> int:
    """The range test of a number: its flag, 0 where it is not evaluated."""
    if value < fail_low or value > fail_high:
        return FAIL
    if value < suspect_low or value > suspect_high:
        return SUSPECT
    return 0 if math.isnan(fail_low) and math.isnan(suspect_low) else GOOD


@jit
def spike_flag(value: float, last: float, limit_percent: float) -> int:
    """The spike test of a number in sequence against the last accepted one: its flag, 0 where it is not evaluated."""
    if abs(last) < NEAR_ZERO or math.isnan(limit_percent):
        return 0
    return SUSPECT if abs(value - last) / abs(last) * 100.0 > limit_percent else GOOD


@jit
def zscore_flag(value: float, mean: float, std: float, limit: float) -> int:
    """The z-score test of a number in sequence: its flag, 0 where it is not evaluated."""
    if not std > 0.0:
        return 0
    return SUSPECT if abs(value - mean) / std > limit else GOOD


@jit
def make_sums(past: History, r: int, window: int, sums: F64) -> None:
    """Makes the carried sums of a row's window from its history, relative to the newest value."""
    n = min(window, past.history_size[r])
    k = past.history_next[r] - n
    if k < 0:
        k += HISTORY
    centre = past.history[r, past.history_next[r] - 1]
    total, squares, reach = 0.0, 0.0, 0.0
    for _ in range(n):
        off = past.history[r, k] - centre
        total += off
        squares += off * off
        reach = max(reach, abs(off))
        k = k + 1 if k + 1 < HISTORY else 0
    sums[r, CENTRE], sums[r, SUM], sums[r, SQUARES], sums[r, REACH] = centre, total, squares, reach
    sums[r, COUNT], sums[r, WINDOW], sums[r, LEFT] = n, window, SUMS_HOLD


@jit
def carry(past: History, r: int, value: float, sums: F64) -> None:
    """Takes a value that is about to be accepted into the carried sums, and the one that leaves the window out."""
    new = value - sums[r, CENTRE]
    sums[r, REACH] = max(sums[r, REACH], abs(new))
    sums[r, LEFT] -= 1.0
    if sums[r, COUNT] < sums[r, WINDOW]:
        sums[r, COUNT] += 1.0
        sums[r, SUM] += new
        sums[r, SQUARES] += new * new
        return
    oldest = past.history_next[r] - int(sums[r, COUNT])
    old = past.history[r, oldest if oldest >= 0 else oldest + HISTORY] - sums[r, CENTRE]
    sums[r, SUM] += new - old
    sums[r, SQUARES] += (new - old) * (new + old)


@jit
def surely_good(off: float, total: float, squares: float, n: float, centre: float, reach: float, limit: float) -> bool:
    """Whether the z-score of `mean_std` is evaluated and within its limit, whatever rounding did there and here.

    `off`: the value less the centre. The two passes' mean is within `mean_error` of that of the sums. Their variance is
    the true one plus at most `mean_error`², but for rounding; that of the sums is within `error` of the true one. NaN
    and inf say False.
    """
    mean = total / n
    mean_error = MEAN_ERROR * (abs(centre) + reach)
    error = SQUARES_ERROR * reach * reach + mean_error * mean_error
    variance = squares / n - mean * mean - error
    if not variance > 0.0:
        return False
    std = math.sqrt(variance) * LESS
    return bool(std > CONSTANT_STD and abs(off - mean) + mean_error < limit * std)


@jit
def test_history(tag: Any, value: F64, row: I64, limits: F64, past: History, verdicts: Verdicts) -> None:
    """Tests n rows in order; `row` and `limits` have one entry per tag. Changes `past`, and makes `verdicts` final."""
    sums = np.zeros((len(past.history), SUMS))
    # What is taken out of a tuple in the loop costs more there than the tests.
    history, size, following = past.history, past.history_size, past.history_next
    number, flags, tests = verdicts.number, verdicts.flag, verdicts.tests
    for i in range(len(tag)):
        t = tag[i]
        r = row[t]
        flag, told = int(flags[i]), int(tests[i])
        if number[i] != NO_NUMBER:
            found = range_flag(
                value[i],
                limits[t, FAIL_LOW],
                limits[t, FAIL_HIGH],
                limits[t, SUSPECT_LOW],
                limits[t, SUSPECT_HIGH],
            )
            flag, told = max(flag, found), told | (RANGE if found > GOOD else 0)
        if number[i] == IN_SEQUENCE:
            limit = limits[t, ZSCORE_LIMIT]
            mean, std, found = 0.0, -1.0, 0  # std below 0: not known
            if size[r] >= limits[t, ZSCORE_MIN] and not math.isnan(limit):
                if sums[r, LEFT] <= 0.0 or sums[r, WINDOW] != limits[t, ZSCORE_WINDOW]:
                    make_sums(past, r, int(limits[t, ZSCORE_WINDOW]), sums)
                if surely_good(
                    value[i] - sums[r, CENTRE],
                    sums[r, SUM],
                    sums[r, SQUARES],
                    sums[r, COUNT],
                    sums[r, CENTRE],
                    sums[r, REACH],
                    limit,
                ):
                    found = GOOD
                else:
                    mean, std = spread(past, r, limits[t])
                    found = zscore_flag(value[i], mean, std, limit)
            flag, told = max(flag, found), told | (ZSCORE if found > GOOD else 0)
            last = history[r, following[r] - 1] if size[r] > 0 else 0.0
            found = spike_flag(value[i], last, limits[t, SPIKE_PERCENT])
            flag, told = max(flag, found), told | (SPIKE if found > GOOD else 0)
            if flag < SUSPECT:
                if sums[r, LEFT] > 0.0:
                    carry(past, r, value[i], sums)
                accept(past, r, value[i])
                past.suspect_size[r] = 0
            elif flag == SUSPECT:
                if std < 0.0:
                    std = spread(past, r, limits[t])[1]
                suspect_again(past, r, value[i], std, limits[t])
                sums[r, LEFT] = 0.0
            else:
                past.suspect_size[r] = 0
        flags[i] = flag if flag > 0 else NOT_EVALUATED
        tests[i] = told
