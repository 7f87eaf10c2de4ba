"""What happens to a tag that a person should look at, found reading by reading, and the words for it.

Alerts come at edges: once when something begins, once (severity info) when it is over. All decisions rest on the
readings alone, so a replay raises the same alerts. May not know: frames, clocks. Jitted functions call only those of
this file.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.jit import jit
from schemas.quality import Flag, Test
from schemas.records import Alert, Severity

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

FAIL, MISSING = int(Flag.FAIL), int(Flag.MISSING)
LATE, DRIFT = int(Test.LATE), int(Test.DRIFT)

# A tag's memory. NIS_STREAK: windows in a row that were too high (> 0) or too low (< 0).
TROUBLE, DRIFTING, NIS_COUNT, NIS_STREAK, NIS_ALARM = range(5)
MEMORY = 5
NO_TROUBLE, BAD, STALE = range(3)

# Columns of `limits` of `watch`: readings per NIS window (0: test off), bounds of its mean.
NIS_WINDOW, NIS_LOW, NIS_HIGH = range(3)
LIMITS = 3
#: So many windows in a row must agree before an alert comes or goes: one in a hundred is out of bounds by chance.
NIS_STREAK_MIN = 2
#: One outlier must not decide a window.
NIS_CAP = 25.0

# Kinds of events.
BAD_ON, BAD_OFF, STALE_ON, STALE_OFF, DRIFT_ON, DRIFT_OFF, NIS_TOO_HIGH, NIS_TOO_LOW, NIS_OFF = range(9)
RESIDUAL_ON, RESIDUAL_OFF = 9, 10
#: Most events that one reading can give in `watch`.
EVENTS_MAX = 3

# An event, i64 part: index of the reading, kind, state row of the tag.
INDEX, KIND, ROW = range(3)


@jit
def watch(row: I64, used: Any, flag: Any, tests: Any, nis: Floats, counts_nis: Any, limits: Floats, memory: I64,
          nis_sum: Floats, event: I64, value: Floats) -> int:  # fmt: skip
    """Takes readings in order through the memory of their tags. Returns the number of events.

    In, one per reading: state row, whether it moves the twin, flag, tests, NIS (NaN: none), whether that counts for the
    consistency test, `limits` (n, LIMITS). Changed in place: `memory` (tags, MEMORY), `nis_sum` (tags,). Out:
    `event` (m, 3), `value` (m,: mean NIS, else NaN), room for EVENTS_MAX per reading.
    """
    n = 0
    for i in range(len(row)):
        if tests[i] & LATE:
            continue
        state = memory[row[i]]
        trouble = state[TROUBLE]
        if flag[i] == FAIL:
            trouble = BAD
        elif flag[i] == MISSING:
            trouble = STALE
        elif used[i]:
            trouble = NO_TROUBLE
        if trouble != state[TROUBLE]:
            kind = BAD_ON if trouble == BAD else STALE_ON
            if trouble == NO_TROUBLE:
                kind = BAD_OFF if state[TROUBLE] == BAD else STALE_OFF
            n = note(event, value, n, i, kind, row[i], np.nan)
            state[TROUBLE] = trouble
        if used[i]:
            drifting = 1 if tests[i] & DRIFT else 0
            if drifting != state[DRIFTING]:
                n = note(event, value, n, i, DRIFT_ON if drifting else DRIFT_OFF, row[i], np.nan)
                state[DRIFTING] = drifting
        if counts_nis[i] and limits[i, NIS_WINDOW] > 0.0:
            nis_sum[row[i]] += min(nis[i], NIS_CAP)
            state[NIS_COUNT] += 1
            if state[NIS_COUNT] >= limits[i, NIS_WINDOW]:
                mean = nis_sum[row[i]] / state[NIS_COUNT]
                kind = verdict(mean, limits[i], state)
                if kind >= 0:
                    n = note(event, value, n, i, kind, row[i], mean)
                nis_sum[row[i]] = 0.0
                state[NIS_COUNT] = 0
    return n


@jit
def verdict(mean: float, limits: Floats, state: I64) -> int:
    """Takes a full NIS window into a tag's memory. Returns the kind of event it makes, −1 for none."""
    side = 1 if mean > limits[NIS_HIGH] else (-1 if mean < limits[NIS_LOW] else 0)
    if side == 0:
        # back within bounds: the streak counts down to 0 before the alert is over
        state[NIS_STREAK] -= np.sign(state[NIS_STREAK])
    elif side * state[NIS_STREAK] < 0:
        state[NIS_STREAK] = side
    elif abs(state[NIS_STREAK]) < NIS_STREAK_MIN:
        state[NIS_STREAK] += side
    alarm = state[NIS_ALARM]
    if abs(state[NIS_STREAK]) >= NIS_STREAK_MIN:
        alarm = side
    elif state[NIS_STREAK] == 0:
        alarm = 0
    if alarm == state[NIS_ALARM]:
        return -1
    state[NIS_ALARM] = alarm
    return NIS_OFF if alarm == 0 else (NIS_TOO_HIGH if alarm > 0 else NIS_TOO_LOW)


@jit
def note(event: I64, value: Floats, n: int, index: int, kind: int, row: int, number: float) -> int:
    """Writes event n. Returns n + 1."""
    event[n, INDEX], event[n, KIND], event[n, ROW] = index, kind, row
    value[n] = number
    return n + 1


class Wording(NamedTuple):
    """How a kind of event is told: kind and severity of the alert, text with {tag}, {tests} and {value}."""

    kind: str
    severity: Severity
    text: str


WORDINGS = {
    BAD_ON: Wording("bad_quality", "warning", "{tag} is bad ({tests}); the last estimate is kept and ages"),
    BAD_OFF: Wording("bad_quality", "info", "{tag} can be used again"),
    STALE_ON: Wording("stale", "warning", "{tag} has not been heard of in time; the last estimate is kept and ages"),
    STALE_OFF: Wording("stale", "info", "{tag} is heard of again"),
    DRIFT_ON: Wording("drift", "warning", "{tag} drifts away from what its filter expects"),
    DRIFT_OFF: Wording("drift", "info", "{tag} no longer drifts"),
    NIS_TOO_HIGH: Wording(
        "nis_inconsistent", "info", "{tag}: mean NIS {value:.3g} is too high: its noise is set too small"
    ),
    NIS_TOO_LOW: Wording(
        "nis_inconsistent", "info", "{tag}: mean NIS {value:.3g} is too low: its noise is set too large"
    ),
    NIS_OFF: Wording("nis_inconsistent", "info", "{tag}: mean NIS {value:.3g} fits the noise that is set"),
    RESIDUAL_ON: Wording("residual", "warning", "{tag} is {value:.3g} away from the model, lastingly"),
    RESIDUAL_OFF: Wording("residual", "info", "{tag} agrees with the model again ({value:.3g} away)"),
}


def alert(asset: str, tag: str, kind: int, time_ns: int, value: float, tests: int) -> Alert:
    """The alert for an event. `value`: NaN for none; `tests`: the reading's `schemas.quality.Test` bits."""
    wording = WORDINGS[kind]
    names = ", ".join(t.name.lower() for t in Test(tests) if t.name) or "flagged at its source"
    return Alert(
        asset=asset,
        tag=tag,
        kind=wording.kind,
        severity=wording.severity,
        time_ns=time_ns,
        message=wording.text.format(tag=tag, tests=names, value=value),
        value=None if np.isnan(value) else float(value),
    )
