from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.stages import STAGES
from replay.correct.late import Arrived, has_late, moves_of
from replay.correct.reordered import Moves
from replay.fold.joining import Dictionary, joined
from replay.sources.raw import Raw
from runtime.config import Plant
from schemas.frames import Frame
from schemas.quality import Mark, Test
from tests.kernels.frame_strategies import SECOND, T0, Reading, frame_of, frames_of, run, settings_of

PLANT = Plant.model_validate({"tags": {"*": {"interval_s": 1.0, "validation": {"gap_factor": 5.0}}}})
LIMITS = STAGES["validation"].params_from(settings_of(PLANT))
TAGS = ("temperature", "pressure", "flow")
REORDERED, IMPUTED = int(Mark.REORDERED), int(Mark.IMPUTED)


def moves(frames: Sequence[Frame], since: int = 0) -> Moves | None:
    """What moves among frames whose offsets are 10, 11, 12 …"""
    raws = [Raw("raw", 0, 10 + i, b"", frame) for i, frame in enumerate(frames) if len(frame)]
    readings = joined("R101", raws, Dictionary())
    offset = np.repeat([raw.offset for raw in raws], [raw.n for raw in raws])
    row = np.concatenate([np.arange(raw.n) for raw in raws])
    arrived = Arrived(readings=readings, offset=offset, row=row)
    return moves_of(arrived, LIMITS.time_table("R101", readings.tags), since)


def in_order(frames: Sequence[Frame], since: int = 0) -> list[Frame]:
    """The frames after the moves."""
    found = moves(frames, since)
    return list(frames) if found is None else [found.applied(frame, 10 + i) for i, frame in enumerate(frames)]


def estimates(frames: Sequence[Frame], without: int = 0) -> dict[str, list[tuple[Any, ...]]]:
    """Per tag, time, flag, tests, value and all that estimation found of each reading in the order of the fold."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for frame in run("estimation", frames, PLANT)[1]:
        for i in np.flatnonzero((frame.mark & without) == 0):
            numbers = [frame.value, frame.estimate, frame.rate, frame.std, frame.innovation, frame.nis]
            bits = tuple(column[i].tobytes() for column in numbers)
            verdict = (int(frame.source_time_ns[i]), int(frame.flag[i]), int(frame.tests[i]), int(frame.ordinal[i]))
            found.setdefault(frame.tags[frame.tag[i]], []).append((*verdict, *bits))
    return found


@st.composite
def delayed(draw: st.DrawFn) -> tuple[list[Frame], list[Frame]]:
    """Readings of three tags in order, and how they came: some late, some twice, cut into frames anyhow."""
    lag_ns = [draw(st.integers(0, 2 * SECOND)) for _ in TAGS]
    sent: list[Reading] = []
    for tag, lag in zip(TAGS, lag_ns, strict=True):
        steps = draw(st.lists(st.integers(1, 3 * SECOND), min_size=1, max_size=15))
        values = draw(st.lists(st.floats(-60, 90), min_size=len(steps), max_size=len(steps)))
        times = (T0 + np.cumsum(steps)).tolist()
        sent += [Reading(tag=tag, source_ns=t, arrival_ns=t + lag, value=v) for t, v in zip(times, values, strict=True)]
    sent.sort(key=lambda reading: reading.arrival_ns or 0)
    copies = [(i, reading) for i, reading in enumerate(sent)]
    copies += [(i, sent[i]) for i in draw(st.lists(st.integers(0, len(sent) - 1), max_size=4))]
    shifts = draw(st.lists(st.sampled_from([0, 0, 0, 1, 3, 12]), min_size=len(copies), max_size=len(copies)))
    came, clock = [], 0
    for _, reading in sorted((i + shift, n) for n, ((i, _), shift) in enumerate(zip(copies, shifts, strict=True))):
        reading_ = copies[reading][1]
        clock = max(clock, reading_.arrival_ns or 0)
        came.append(replace(reading_, arrival_ns=clock))
    cuts = draw(st.lists(st.booleans(), min_size=len(came), max_size=len(came)))
    return frames_of(sent, [True] * len(sent)), frames_of(came, cuts)


@settings(max_examples=300, deadline=None)
@given(both=delayed())
def test_a_fold_of_reordered_frames_is_that_of_readings_which_came_in_order(
    both: tuple[list[Frame], list[Frame]],
) -> None:
    """However late, and however often, readings came: in order every one gets the same flags and estimates, to the bit,
    and every frame keeps its identity."""
    sent, came = both
    found = in_order(came)
    assert estimates(found, IMPUTED) == estimates(sent, IMPUTED)
    assert [frame.identity for frame in found] == [frame.identity for frame in came]
    assert moves(found) is None, "in order, nothing is late any more"
    said = moves(came)
    if said is not None:
        assert said.fullest[1] == len(found[said.fullest[0] - 10])
        assert said.fullest[1] == max(len(frame) for i, frame in enumerate(found) if said.coming(10 + i))


@settings(max_examples=100, deadline=None)
@given(both=delayed())
def test_both_ways_to_look_for_late_readings_agree(both: tuple[list[Frame], list[Frame]]) -> None:
    """Where something is to be corrected, the first look, which remembers only newest times, finds that some is."""
    newest: dict[str, int] = {}
    looks = [has_late(newest, frame, LIMITS.time_table("R101", frame.tags)) for frame in both[1]]
    assert any(looks) or moves(both[1]) is None


def readings(*seconds: float, tag: str = "temperature", came_s: float = 0.0) -> list[Reading]:
    """Readings of one tag; each comes 0.1 s after its time, or at `came_s`."""
    times = [T0 + round(s * SECOND) for s in seconds]
    arrivals = [T0 + round(came_s * SECOND) if came_s else t + SECOND // 10 for t in times]
    return [
        Reading(tag=tag, source_ns=t, arrival_ns=a, value=85 + (t - T0) / SECOND)
        for t, a in zip(times, arrivals, strict=True)
    ]


def frames(*of: list[Reading]) -> list[Frame]:
    """A frame of each list."""
    return [frame_of(found, seq) for seq, found in enumerate(of)]


def test_a_silence_that_late_readings_fill_has_no_missing_ones() -> None:
    """What came late has the arrival time that it would have had, so that the arrival clock does not jump: rows for
    missing readings, which the live fold had to put in, are not there; each moved reading has a mark."""
    other = [readings(float(s), tag="pressure") for s in range(30)]
    own = {s: readings(float(s)) for s in range(30) if not 10 <= s < 20}
    late = readings(*map(float, range(10, 20)), came_s=25.2)
    came = frames(*(o + own.get(s, []) + (late if s == 25 else []) for s, o in enumerate(other)))
    sent = frames(*(o + readings(float(s)) for s, o in enumerate(other)))
    imputed = [int(np.count_nonzero(f.mark & IMPUTED)) for f in run("validation", came, PLANT)[1]]
    assert sum(imputed) == 1
    assert estimates(in_order(came)) == estimates(sent)
    found = moves(came)
    assert found is not None
    assert (found.late, found.corrected, found.start, found.from_ns) == (10, 10, 20, T0 + 10 * SECOND)
    arrivals = found.readings.arrival_time_ns - found.readings.source_time_ns
    assert arrivals.tolist() == [SECOND // 10] * 10
    marked = [int(np.count_nonzero(f.mark & REORDERED)) for f in in_order(came)]
    assert sum(marked) == sum(marked[10:20]) == 10


def test_late_readings_of_one_time_of_arrival_are_in_order() -> None:
    """Those that could not have come before the next reading in time, which comes sooner after its time than the one
    before, all have its arrival time; they still go by their source times."""
    came = frames(readings(1, came_s=4), readings(4, came_s=4.1), readings(3), readings(2))
    times = np.concatenate([frame.source_time_ns for frame in in_order(came)])
    assert ((times - T0) // SECOND).tolist() == [1, 2, 3, 4]


def test_what_came_late_before_the_span_stays() -> None:
    """Only readings that came at an offset of the span or later move."""
    came = frames(readings(1, 2, 5), readings(3), readings(6), readings(4), readings(7))
    assert [f.source_time_ns.tolist() for f in in_order(came, since=12)] == [
        [T0 + s * SECOND for s in seconds] for seconds in ((1, 2, 4, 5), (3,), (6,), (), (7,))
    ]


@pytest.mark.parametrize(
    "came",
    [
        pytest.param([readings(1, 2, 3), readings(4)], id="in order"),
        pytest.param([readings(1, 2, 3), readings(2, 3), readings(4)], id="delivered again"),
        pytest.param([readings(1, 2, 3), [replace(readings(2)[0], value=1.0)]], id="another value at a taken time"),
        pytest.param([readings(1, 2), readings(2000, came_s=2.5), readings(3, 4)], id="after a clock that is ahead"),
        pytest.param([readings(1, 2, tag="pressure"), readings(0.5, 1.5)], id="older than another tag's"),
    ],
)
def test_nothing_to_correct(came: list[list[Reading]]) -> None:
    """No reading moves that no filter could take, or that is not late."""
    assert moves(frames(*came)) is None


def test_a_value_beside_a_late_one_of_the_same_time() -> None:
    """Of two late values at one time the first is corrected; the other comes beside it, is late as ever, and is stored
    a nanosecond later."""
    twins = [*readings(2), replace(readings(2)[0], value=1.0)]
    found = in_order(frames(readings(1, 3), readings(4), twins, readings(5)))
    rows = estimates(found)["temperature"]
    assert [(t - T0) // SECOND for t, *_ in rows] == [1, 2, 2, 3, 4, 5]
    assert [bool(tests & Test.LATE) for _, _, tests, *_ in rows] == [False, False, True, False, False, False]
    assert [ordinal for _, _, _, ordinal, *_ in rows] == [0, 0, 1, 0, 0, 0]
    late = moves(frames(readings(1, 3), readings(4), twins, readings(5)))
    assert late is not None
    assert (late.late, late.corrected) == (2, 1)


def test_units_and_texts_move_with_their_readings() -> None:
    """A late reading brings its unit and its text into a frame that knew neither."""
    late = replace(readings(2)[0], unit="K", text="Inp OutRange", value=float("nan"))
    other = readings(2.05, tag="pressure")
    found = in_order(frames(readings(1), other, readings(3), [late, *readings(4)]))[0]
    assert (found.tags, found.units) == (("temperature", "temperature"), ("degC", "K"))
    assert found.texts == {1: "Inp OutRange"}
    assert found.mark.tolist() == [0, REORDERED | int(Mark.TEXT)]
