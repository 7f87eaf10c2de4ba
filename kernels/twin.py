"""Twin: estimates in, the state of the asset out. One record per frame.

The twin's time is event time: the newest source time of a reading that moved it, advanced by the arrival clock while
nothing comes. A reading moves the twin if it moved its filter: good, not evaluated or suspect, in time, not beyond the
gate. The model is integrated from one such source time to the next with its inputs held (`kernels.models`), so the
state after a reading is the same however readings were cut into frames; the record is a function of the state after the
frame's last event. Bad data: the last estimate is kept, and its age says so.
May not know: where settings come from, which model it has.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels import alerts, twin_quality, windows
from kernels.rows import first_seen, rows_in
from kernels.stage import Stage, clocks, readonly, usable
from kernels.twin_params import AssetModel, TagTable, TwinParams
from kernels.twin_record import event_time_ns, record
from kernels.twin_state import (
    CLOCK_THEN,
    DELAY,
    I64,
    NONE_NS,
    READINGS,
    TIME,
    Floats,
    Memory,
    closed,
    initial,
    opened,
)
from schemas.frames import EstimateFrame
from schemas.quality import Flag, Mark, Test
from schemas.records import Alert, Rejected, TwinState, Window
from schemas.states import StageState

GATED, LATE = np.uint32(Test.NIS_GATE), np.uint32(Test.LATE)
#: What estimation adds to validation's tests: such a reading still counts for the consistency of the filter.
ESTIMATION_TESTS = np.uint32(Test.NIS_GATE | Test.DRIFT)
#: Readings beyond this magnitude are left out of windows: their sums would overflow.
VALUE_MAX = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """The readings of a frame that move the twin, one per element.

    `index` (in the frame), `tag` (in the frame's tags), `row` (in the state), `time_ns` (source), `asset_ns` (the
    twin's time after it).
    """

    index: I64
    tag: I64
    row: I64
    time_ns: I64
    asset_ns: I64


def step(
    state: StageState, frame: EstimateFrame, params: TwinParams
) -> tuple[StageState, TwinState | None, tuple[Rejected, ...]]:
    """Takes a frame of estimates into the twin. See `kernels.stage.Stage` for what every step keeps to."""
    if state.has_applied(frame.identity):
        return state, None, ()
    asset = params.model(frame.asset)
    after, clock_ns = clocks(state, frame)
    memory = opened(state, first_seen(state, frame), asset, params)
    raised = _connection(memory, frame, int(after[0]) if len(frame) else clock_ns)
    shut: list[Window] = []
    if len(frame):
        table = params.table(frame.asset, frame.tags, frame.units)
        row = rows_in(memory.state, frame.tags)[frame.tag]
        moves = _moves(memory, frame, row)
        raised += _watched(memory, frame, row, moves, table)
        raised += _modelled(memory, frame, moves, table, asset, params)
        raised.sort(key=lambda found: found[0])
        shut += _aggregated(memory, frame, row, moves, params)
        _remembered(memory, frame, row, moves, after)
    memory.clock_ns = clock_ns
    if frame.kind != "readings":
        shut += _passed(memory, params)
    raised += _gap(memory, frame)
    kept = closed(memory, asset, params).with_applied(frame.identity)
    found = tuple(alert for _, alert in raised)
    return kept, record(memory, frame, asset, tuple(shut), found), ()


Raised = list[tuple[int, Alert]]


def _connection(memory: Memory, frame: EstimateFrame, clock_ns: int) -> Raised:
    """Takes note of the source's connection; an alert when it is lost or back. Source ids of any length are kept."""
    source = frame.source[:64]
    before = memory.sources.get(source, True)
    memory.sources[source] = frame.connected
    if frame.connected == before:
        return []
    what = "has its connection back" if frame.connected else "has lost its connection to the field"
    alert = Alert(
        asset=frame.asset,
        kind="connection",
        severity="info" if frame.connected else "warning",
        time_ns=event_time_ns(memory, clock_ns),
        message=f"{frame.source} {what}",
    )
    return [(-1, alert)]


def _gap(memory: Memory, frame: EstimateFrame) -> Raised:
    """An alert for a hole that the connector reports."""
    if frame.gap is None:
        return []
    gap, tags = frame.gap, ", ".join(frame.tags) or "all tags"
    span_s = (gap.to_ns - gap.from_ns) / 1e9
    lost = "an unknown number of" if gap.lost is None else str(gap.lost)
    alert = Alert(
        asset=frame.asset,
        tag=frame.tags[0] if len(frame.tags) == 1 else "",
        kind="gap",
        severity="warning",
        time_ns=gap.to_ns,
        message=f"{frame.source}: {lost} readings of {tags} lost in {span_s:g} s ({gap.cause})",
        value=None if gap.lost is None else float(gap.lost),
    )
    return [(len(frame), alert)]


def _moves(memory: Memory, frame: EstimateFrame, row: I64) -> Moves:
    # Before 1970 is 1970 here: differences of times then never overflow.
    fine = usable(frame) & ((frame.tests & GATED) == 0) & np.isfinite(frame.estimate)
    index = np.flatnonzero(fine)
    time_ns = np.maximum(frame.source_time_ns[index], 0)
    asset_ns = np.maximum.accumulate(np.maximum(time_ns, memory.event[TIME])) if len(index) else time_ns
    return Moves(index=index, tag=frame.tag[index].astype(np.int64), row=row[index], time_ns=time_ns, asset_ns=asset_ns)


def _watched(memory: Memory, frame: EstimateFrame, row: I64, moves: Moves, table: TagTable) -> Raised:
    """Alerts about quality, drift and consistency of each tag."""
    used = np.zeros(len(frame), np.bool_)
    used[moves.index] = True
    fitting = np.isfinite(frame.nis) & ((frame.tests & ~ESTIMATION_TESTS) == 0)
    room = alerts.EVENTS_MAX * len(frame)
    event, value = np.empty((room, 3), np.int64), np.empty(room)
    n = alerts.watch(
        row,
        used,
        readonly(frame.flag),
        readonly(frame.tests),
        readonly(frame.nis),
        fitting,
        table.nis[frame.tag],
        memory.of_tags("memory"),
        memory.of_tags("nis_sum"),
        event,
        value,
    )
    return [
        (i, _worded(memory, frame, i, kind, tag, number))
        for (i, kind, tag), number in zip(event[:n].tolist(), value[:n].tolist(), strict=True)
    ]


def _worded(memory: Memory, frame: EstimateFrame, i: int, kind: int, row: int, value: float) -> Alert:
    return alerts.alert(
        frame.asset, memory.state.tags[row], kind, int(frame.source_time_ns[i]), value, int(frame.tests[i])
    )


def _modelled(
    memory: Memory, frame: EstimateFrame, moves: Moves, table: TagTable, asset: AssetModel, params: TwinParams
) -> Raised:
    """Integrates the model through the readings that move it; alerts where it stays away from the estimates."""
    if asset.model is None or not len(moves.index):
        return []
    n, tag = len(moves.index), moves.tag
    estimate, std = frame.estimate[moves.index], frame.std[moves.index]
    factor, offset = table.factor[tag], table.offset[tag]
    entry, entry_rank, observed = table.entry[tag], table.rank[tag], table.observed[tag]
    value = np.minimum(np.maximum(estimate * factor + offset, table.low[tag]), table.high[tag])
    before = moves.asset_ns.copy()
    before[1:] = moves.asset_ns[:-1]
    if memory.event[TIME] != NONE_NS:
        before[0] = memory.event[TIME]
    dt_s = (moves.asset_ns - before) / 1e9
    rank_before = memory.rank.copy()
    out = np.empty((n, len(memory.x)))
    deviation = np.minimum(std * factor, 1e6)
    asset.model.fold(memory.x, memory.u, asset.parameters, memory.rank, dt_s, entry, entry_rank, value, deviation, out)
    states = np.array([s for _, s in asset.observed], np.int64)
    model = (out[np.arange(n), states[observed]] - offset) / factor
    event = np.empty((n, 3), np.int64)
    found = twin_quality.score(
        moves.index,
        moves.row,
        observed,
        entry,
        entry_rank,
        rank_before,
        moves.time_ns,
        estimate,
        std,
        model,
        params.residual_limit,
        params.residual_ns,
        memory.score,
        memory.pairs,
        memory.residual,
        event,
    )
    kinds = (alerts.RESIDUAL_OFF, alerts.RESIDUAL_ON)
    return [
        (
            int(moves.index[k]),
            _worded(memory, frame, int(moves.index[k]), kinds[on], row, float(estimate[k] - model[k])),
        )
        for k, row, on in event[:found].tolist()
    ]


def _aggregated(memory: Memory, frame: EstimateFrame, row: I64, moves: Moves, params: TwinParams) -> list[Window]:
    if not len(params.windows_ns):
        return []
    accepted = (frame.flag == Flag.GOOD) | (frame.flag == Flag.NOT_EVALUATED)
    accepted &= usable(frame) & (np.abs(frame.value) <= VALUE_MAX)
    asset_ns = np.full(len(frame), memory.event[TIME])
    asset_ns[moves.index] = moves.asset_ns
    asset_ns = np.maximum.accumulate(asset_ns)
    return _shut(memory, row, accepted, frame.source_time_ns, asset_ns, frame.value, params)


def _passed(memory: Memory, params: TwinParams) -> list[Window]:
    """Windows that are over because time passes."""
    if not len(params.windows_ns) or memory.event[TIME] == NONE_NS or not len(memory.state.tags):
        return []
    now = np.array([event_time_ns(memory, memory.clock_ns)])
    nothing = np.zeros(1, np.int64)
    return _shut(memory, nothing, np.zeros(1, np.bool_), nothing, now, np.zeros(1), params)


def _shut(
    memory: Memory,
    row: I64,
    accepted: NDArray[np.bool_],
    time_ns: I64,
    asset_ns: I64,
    value: Floats,
    params: TwinParams,
) -> list[Window]:
    sizes = params.windows_ns
    room = (len(memory.state.tags) + len(row)) * len(sizes)
    whole, real = np.empty((room, 4), np.int64), np.empty((room, 3))
    n = windows.aggregate(
        row,
        accepted,
        readonly(time_ns),
        asset_ns,
        readonly(value),
        sizes,
        memory.of_tags("window_counts"),
        memory.of_tags("window_sums"),
        memory.grid,
        whole,
        real,
    )
    names = memory.state.tags
    return [
        Window(tag=names[r], window_s=size / 1e9, start_ns=start, count=count, mean=mean, min=low, max=high)
        for (r, size, start, count), (mean, low, high) in zip(whole[:n].tolist(), real[:n].tolist(), strict=True)
    ]


def _remembered(memory: Memory, frame: EstimateFrame, row: I64, moves: Moves, after: I64) -> None:
    """Takes the newest estimate, flag and unit of each tag into the state, and the time if it moved on."""
    in_time = (frame.tests & LATE) == 0
    # Of several readings of one tag the last one assigned stays, which is the last in order.
    memory.of_tags("flag")[row[in_time]] = frame.flag[in_time]
    estimate = memory.of_tags("estimate")
    for column, values in enumerate((frame.estimate, frame.rate, frame.std)):
        estimate[moves.row, column] = values[moves.index]
    memory.of_tags("used_ns")[moves.row] = moves.time_ns
    memory.units[row] = np.array(frame.units, memory.units.dtype)[frame.tag]
    memory.event[READINGS] += int(np.count_nonzero((frame.mark & np.uint8(Mark.IMPUTED)) == 0))
    if len(moves.index) and moves.asset_ns[-1] > memory.event[TIME]:
        newest = int(np.argmax(moves.time_ns))
        index = moves.index[newest]
        memory.event[TIME] = moves.time_ns[newest]
        memory.event[CLOCK_THEN] = after[index]
        memory.event[DELAY] = max(0, int(frame.arrival_time_ns[index]) - int(moves.time_ns[newest]))


STAGE: Stage[EstimateFrame, TwinState, TwinParams] = Stage("twin", initial, step)
