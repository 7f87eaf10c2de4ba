"""Validation: gives every reading a flag, drops repetitions, puts rows in for readings that are overdue.

Three jitted loops do the work: `validation_times` (what stays, what is overdue), then `validation_series` and
`validation_history` (the tests of values). This file runs them over the state. May not know: clocks, Kafka,
configuration files.

A reading's flag is the worst of its tests. Without a verdict it is GOOD where a test of values (range, z-score, spike,
rate, flat line) was evaluated, else NOT_EVALUATED: that a reading is a number says nothing about the number.

A row for a missing reading (flag MISSING, Test.GAP, Mark.IMPUTED, value NaN, status bad) has the tag's last unit and
the time at which a reading would be due now by the tag's own clock. It is not remembered and makes no reading late. A
gap frame moves the arrival clock but gets no rows, since its tags say what the gap concerns; they come with the next
frame.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kernels import validation_history, validation_series, validation_times
from kernels.rows import first_seen, rows_in
from kernels.stage import CLOCK, ColumnSpec, Stage, clock_of, readonly, writable
from kernels.validation_frames import UNIT, Plan, bits_of, newest_units, output, readings_kept, rejected
from kernels.validation_history import History, test_history
from kernels.validation_params import LIMITS, ValidationParams
from kernels.validation_series import FLAT_COLUMNS, Series, Verdicts, test_series
from kernels.validation_times import NEVER, REPEATED, Memory, Readings, plan_frame
from schemas.frames import Column, Frame, ValidatedFrame
from schemas.records import Rejected
from schemas.states import StageState

NAME = "validation"
FLAT_TOLERANCE = LIMITS.index("flat_tolerance")
READING_COLUMNS: Mapping[str, ColumnSpec] = {
    **validation_times.COLUMNS,
    **validation_series.COLUMNS,
    **validation_history.COLUMNS,
}
NO_FLAT_LINE = {name: np.empty((0, *spec.shape), spec.dtype) for name, spec in FLAT_COLUMNS.items()}


def initial(asset: str) -> StageState:
    """The state before the first frame."""
    return StageState(stage=NAME, asset=asset)


def step(
    state: StageState, frame: Frame, params: ValidationParams
) -> tuple[StageState, ValidatedFrame | None, tuple[Rejected, ...]]:
    """Validates one frame: see `kernels.stage.Stage`. Rejects readings that the store could not tell apart."""
    if state.has_applied(frame.identity):
        return state, None, ()
    limits = params.table(frame.asset, frame.tags, frame.units)
    working = writable(state, first_seen(state, frame), _specs(state, frame, limits))
    row = readonly(rows_in(working, frame.tags))
    readings = Readings(
        tag=readonly(frame.tag),
        source_ns=readonly(frame.source_time_ns),
        arrival_ns=readonly(frame.arrival_time_ns),
        bits=readonly(bits_of(frame)),
        mark=readonly(frame.mark),
        row=row,
    )
    memory = Memory(*(working.columns[name] for name in Memory._fields))
    closing_ns = frame.time_ns if frame.kind == "heartbeat" else NEVER
    time_limits = params.time_table(frame.asset, working.tags)
    table, verdict, newest, clock_ns = plan_frame(readings, time_limits, memory, clock_of(state), closing_ns)
    plan = Plan(*np.ascontiguousarray(table.T))
    dropped = len(frame) - np.count_nonzero(plan.origin >= 0)
    kept = readings_kept(frame, plan)
    kept["flag"], kept["tests"] = _test_values(kept, row, limits, working)
    units = newest_units(state, len(working.tags), frame, newest)
    out = output(frame, plan, kept, int(np.count_nonzero(verdict == REPEATED)) if dropped else 0, state)
    clock_ns = max(clock_ns, frame.time_ns) if frame.kind == "gap" else clock_ns
    columns = {**working.columns, CLOCK: np.array([clock_ns], np.int64), UNIT: units}
    rejects = rejected(frame, verdict, NAME) if out.repeated < dropped else ()
    after = StageState(stage=NAME, asset=state.asset, applied=state.applied, tags=working.tags, columns=columns)
    return after.with_applied(frame.identity), out, rejects


STAGE: Stage[Frame, ValidatedFrame, ValidationParams] = Stage(NAME, initial, step)


def _specs(state: StageState, frame: Frame, limits: Column) -> Mapping[str, ColumnSpec]:
    """The columns this frame may change: the tests of values concern frames with readings only."""
    if len(frame) == 0:
        return validation_times.COLUMNS
    if "flat_size" in state.columns or not np.isnan(limits[:, FLAT_TOLERANCE]).all():
        return {**READING_COLUMNS, **FLAT_COLUMNS}
    return READING_COLUMNS


def _test_values(
    kept: dict[str, Column], row: NDArray[np.int64], limits: Column, working: StageState
) -> tuple[Column, Column]:
    """Flag and tests of the readings that stay; changes the columns of `working`, which is a copy."""
    n = len(kept["tag"])
    verdicts = Verdicts(kept["tests"], np.zeros(n, np.uint8), np.zeros(n, np.uint8))
    if n == 0:
        return verdicts.flag, verdicts.tests
    columns = working.columns
    series = Series(*(columns[f] if f in columns else NO_FLAT_LINE[f] for f in Series._fields))
    past = History(*(columns[f] for f in History._fields))
    tag, value = readonly(kept["tag"]), readonly(kept["value"])
    source_ns, status = readonly(kept["source_time_ns"]), readonly(kept["status"])
    # a value near the end of the floating-point range may overflow; the loops then see inf, compiled or not
    with np.errstate(over="ignore", invalid="ignore"):
        test_series(tag, source_ns, value, status, row, limits, series, verdicts)
        test_history(tag, value, row, limits, past, verdicts)
    return verdicts.flag, verdicts.tests
