"""Estimation: validated readings in, the estimated true state per reading out.

Each tag has a Kalman filter of its own (`kernels.kalman`). What a reading may do to it:

- good or not evaluated: updates it; the first one starts it,
- suspect: updates it with a larger measurement noise; cannot start it, unless many come in a row,
- failed, missing, imputed: the estimate is the prediction at its time, and the filter does not move,
- late, or with a time that cannot be trusted: no estimate, and the filter does not move,
- beyond the gate: like a failed one, and at least suspect from here on; so many in a row restart the filter.

A set point (tag `….sv`) is known exactly: its estimate is its value, rate and standard deviation are 0.
May not know: where settings come from, models, anything about a reading's neighbours but what the state holds.
"""

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from kernels import kalman
from kernels.estimation_params import EstimationParams
from kernels.rows import first_seen, rows_in
from kernels.stage import TIME_TESTS, ColumnSpec, Stage, readonly, usable, writable
from schemas.frames import EstimateFrame, ValidatedFrame
from schemas.quality import Flag, Test
from schemas.records import Rejected
from schemas.states import StageState

COLUMNS = {"filter": ColumnSpec("<f8", (kalman.FLOATS,)), "counts": ColumnSpec("<i8", (kalman.COUNTS,))}

_MAY = np.full(256, kalman.ACCEPT, np.uint8)
_MAY[Flag.SUSPECT] = kalman.DOUBT
_TIME = np.uint32(TIME_TESTS)
_VALIDATED = tuple(f.name for f in fields(ValidatedFrame))


def initial(asset: str) -> StageState:
    """No tag seen yet."""
    return writable(StageState(stage="estimation", asset=asset), (), COLUMNS)


def step(
    state: StageState, frame: ValidatedFrame, params: EstimationParams
) -> tuple[StageState, EstimateFrame | None, tuple[Rejected, ...]]:
    """Adds estimates to a frame. See `kernels.stage.Stage` for what every step keeps to."""
    if state.has_applied(frame.identity):
        return state, None, ()
    n = len(frame)
    out = np.empty((5, n))
    found = np.empty(n, np.uint8)
    if n:
        state = writable(state, first_seen(state, frame), COLUMNS)
        kalman.run(
            readonly(frame.tag),
            rows_in(state, frame.tags),
            verdicts(frame),
            readonly(frame.source_time_ns),
            readonly(frame.value),
            params.table(frame.asset, frame.tags, frame.units),
            state.columns["filter"],
            state.columns["counts"],
            out,
            found,
        )
    values = {name: getattr(frame, name) for name in _VALIDATED}
    values["flag"], values["tests"] = _judged(frame, found)
    estimate, rate, std, innovation, nis = out
    estimates = EstimateFrame(**values, estimate=estimate, rate=rate, std=std, innovation=innovation, nis=nis)
    return state.with_applied(frame.identity), estimates, ()


def verdicts(frame: ValidatedFrame) -> NDArray[np.uint8]:
    """What each reading may do to its filter, shape (n,): codes of `kernels.kalman`."""
    verdict = _MAY[frame.flag]
    verdict[~usable(frame)] = kalman.PREDICT
    verdict[(frame.tests & _TIME) != 0] = kalman.OUTSIDE
    return verdict


def _judged(frame: ValidatedFrame, found: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Flags and tests after the gate and the drift test: what they found makes a reading at least suspect."""
    if not found.any():
        return frame.flag, frame.tests
    tests = frame.tests.copy()
    tests[(found & kalman.GATED) != 0] |= np.uint32(Test.NIS_GATE)
    tests[(found & kalman.DRIFTING) != 0] |= np.uint32(Test.DRIFT)
    flag = frame.flag.copy()
    flag[(found != 0) & ((flag == Flag.GOOD) | (flag == Flag.NOT_EVALUATED))] = Flag.SUSPECT
    return flag, tests


STAGE: Stage[ValidatedFrame, EstimateFrame, EstimationParams] = Stage("estimation", initial, step)
