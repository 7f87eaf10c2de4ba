"""The tools that stages share."""

import numpy as np

import kernels
from kernels.stage import CLOCK, ColumnSpec, clock_of, clocks, fold, readonly, usable, with_clock, writable
from kernels.stages import STAGES
from runtime.config import Plant
from schemas.codec import decode, encode
from schemas.quality import Flag, Test
from schemas.states import StageState
from tests.kernels.frame_strategies import SECOND, T0, Beat, Reading, beat_frame, frame_of, run, settings_of

EMPTY = StageState(stage="s", asset="R101")


def test_rows_are_added_with_their_initial_values() -> None:
    """New tags get rows at the end, in the order given, with the initial value; rows that exist keep theirs."""
    specs = {"a": ColumnSpec("<f8", (2,), 7.0)}
    one = writable(EMPTY, ("x",), specs)
    one.columns["a"][:] = 1.0
    two = writable(one, ("y", "x", "z", "y"), specs)
    assert two.tags == ("x", "y", "z")
    assert two.columns["a"].tolist() == [[1.0, 1.0], [7.0, 7.0], [7.0, 7.0]]


def test_copies_can_be_written_and_leave_the_original() -> None:
    """Columns read back from bytes cannot be written; their copies can, and the original stays."""
    specs = {"a": ColumnSpec("<i8")}
    read = decode(encode(writable(EMPTY, ("x",), specs)))
    assert isinstance(read, StageState)
    copy = writable(read, (), specs)
    copy.columns["a"][0] = 5
    assert read.columns["a"].tolist() == [0]
    assert copy.columns["a"].flags.owndata


def test_a_column_of_another_shape_starts_anew() -> None:
    """A column that an older version wrote with another shape or type per tag gets its initial value."""
    old = writable(EMPTY, ("x",), {"a": ColumnSpec("<f8", (2,), 1.0), "b": ColumnSpec("<i8", (), 1)})
    new = writable(old, (), {"a": ColumnSpec("<f8", (3,), 2.0), "b": ColumnSpec("<f8", (), 3)})
    assert new.columns["a"].tolist() == [[2.0, 2.0, 2.0]]
    assert new.columns["b"].tolist() == [3.0]


def test_the_clock_is_the_newest_arrival_and_never_runs_back() -> None:
    """Each reading moves the clock to its arrival; the time at which a readings-frame was closed does not count."""
    frame = frame_of([Reading(arrival_ns=T0 + 5), Reading(arrival_ns=T0 + 3), Reading(arrival_ns=T0 + 9)])
    after, end = clocks(with_clock(EMPTY, T0 + 4), frame)
    assert after.tolist() == [T0 + 5, T0 + 5, T0 + 9]
    assert end == T0 + 9
    assert clocks(EMPTY, beat_frame(Beat(kind="heartbeat", time_ns=T0 + 1)))[1] == T0 + 1
    assert clocks(with_clock(EMPTY, T0 + 2), beat_frame(Beat(kind="gap", time_ns=T0 + 1)))[1] == T0 + 2


def test_the_clock_starts_at_zero() -> None:
    """Before the first frame the clock is 0."""
    assert clock_of(EMPTY) == 0
    assert with_clock(EMPTY, 3).columns[CLOCK].tolist() == [3]


def test_validation_keeps_the_same_clock() -> None:
    """Validation's own loop moves the clock exactly as `clocks` says."""
    frame = frame_of([Reading(arrival_ns=T0 + 5), Reading(value=86.0, source_ns=T0 + 1, arrival_ns=T0 + 3)])
    state, _ = run("validation", [frame], Plant())
    assert clock_of(state) == clocks(EMPTY, frame)[1]


def test_what_may_move_a_filter() -> None:
    """Good, unevaluated and suspect numbers may; failed, missing, late ones and those with a wrong time may not."""
    readings = [
        Reading(value=85.0),
        Reading(value=140.0, source_ns=T0 + SECOND),
        Reading(value=500.0, source_ns=T0 + 2 * SECOND),
        Reading(value=float("nan"), source_ns=T0 + 3 * SECOND),
        Reading(value=85.0, source_ns=T0 - SECOND),
        Reading(value=85.0, source_ns=T0 + 10**15, arrival_ns=T0),
    ]
    _, (out,) = run("validation", [frame_of(readings)], Plant())
    assert usable(out).tolist() == [True, True, False, False, False, False]


def test_a_missing_row_moves_no_filter() -> None:
    """Rows that stand for missing readings are not usable."""
    plant = Plant(tags={"*": {"interval_s": 1.0, "validation": {"gap_factor": 2.0}}})
    frames = [frame_of([Reading()]), beat_frame(Beat(kind="heartbeat", time_ns=T0 + 5 * SECOND), 1)]
    _, (_, out) = run("validation", frames, plant)
    assert out.flag.tolist() == [Flag.MISSING]
    assert out.tests.tolist() == [Test.GAP]
    assert usable(out).tolist() == [False]


def test_fold_is_step_after_step() -> None:
    """The fold yields what each step returned, and hands the state on."""
    entry = STAGES["validation"]
    params = entry.params_from(settings_of(Plant()))
    frames = [frame_of([Reading(source_ns=T0 + i)], i) for i in range(3)]
    states = [state for state, _, _ in fold(entry.stage, entry.stage.initial("R101"), frames, params)]
    assert [state.applied["test", 1] for state in states] == [0, 1, 2]


def test_warming_up_compiles_every_loop() -> None:
    """After warming up, real frames of either origin make no loop compile again."""
    plant = Plant()
    kernels.warm_up(settings_of(plant))
    from kernels import validation_history, validation_series, validation_times

    loops = [validation_times.plan_frame, validation_series.test_series, validation_history.test_history]
    before = [loop.signatures for loop in loops]  # type: ignore[attr-defined]
    frame = frame_of([Reading(), Reading(tag="level", unit="%", source_ns=T0 + 1)])
    run("validation", [frame, frame_of([Reading(source_ns=T0 + 2)], 1)], plant)
    run("validation", [decode(encode(frame))], plant)  # type: ignore[list-item]
    assert [len(signatures) for signatures in before] == [1, 1, 1]
    assert [loop.signatures for loop in loops] == before  # type: ignore[attr-defined]


def test_a_readonly_view_is_contiguous_and_leaves_the_original_writable() -> None:
    """Loops see one array type, whatever a frame's columns are."""
    strided = np.arange(10)[::2]
    view = readonly(strided)
    assert view.flags.c_contiguous
    assert not view.flags.writeable
    assert strided.flags.writeable
