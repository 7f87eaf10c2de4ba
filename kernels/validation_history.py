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
def speak(verdicts: Verdicts, i: int, test: int, flag: int) -> None:
    """A test was evaluated for row i; it speaks unless the flag is GOOD."""
    verdicts.flag[i] = max(verdicts.flag[i], flag)
    if flag != GOOD:
        verdicts.tests[i] |= np.uint32(test)


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
def gross_range(verdicts: Verdicts, i: int, value: float, limits: F64) -> None:
    """The range test of a number."""
    if value < limits[FAIL_LOW] or value > limits[FAIL_HIGH]:
        speak(verdicts, i, RANGE, FAIL)
    elif value < limits[SUSPECT_LOW] or value > limits[SUSPECT_HIGH]:
        speak(verdicts, i, RANGE, SUSPECT)
    elif not (math.isnan(limits[FAIL_LOW]) and math.isnan(limits[SUSPECT_LOW])):
        speak(verdicts, i, RANGE, GOOD)


@jit
def zscore_and_spike(past: History, verdicts: Verdicts, i: int, r: int, value: float, limits: F64) -> float:
    """Both tests of a number in sequence. Returns the history's standard deviation, 0 where it was not evaluated."""
    mean, std = spread(past, r, limits)
    if std > 0.0:
        speak(verdicts, i, ZSCORE, SUSPECT if abs(value - mean) / std > limits[ZSCORE_LIMIT] else GOOD)
    before = abs(last_accepted(past, r))
    if before >= NEAR_ZERO and not math.isnan(limits[SPIKE_PERCENT]):
        change_percent = abs(value - last_accepted(past, r)) / before * 100.0
        speak(verdicts, i, SPIKE, SUSPECT if change_percent > limits[SPIKE_PERCENT] else GOOD)
    return std


@jit
def test_history(tag: Any, value: F64, row: I64, limits: F64, past: History, verdicts: Verdicts) -> None:
    """Tests n rows in order; `row` and `limits` have one entry per tag. Changes `past`, and makes `verdicts` final."""
    for i in range(len(tag)):
        r = row[tag[i]]
        bound = limits[tag[i]]
        if verdicts.number[i] != NO_NUMBER:
            gross_range(verdicts, i, value[i], bound)
        if verdicts.number[i] == IN_SEQUENCE:
            std = zscore_and_spike(past, verdicts, i, r, value[i], bound)
            if verdicts.flag[i] < SUSPECT:
                accept(past, r, value[i])
                past.suspect_size[r] = 0
            elif verdicts.flag[i] == SUSPECT:
                suspect_again(past, r, value[i], std, bound)
            else:
                past.suspect_size[r] = 0
        if verdicts.flag[i] == 0:
            verdicts.flag[i] = NOT_EVALUATED
