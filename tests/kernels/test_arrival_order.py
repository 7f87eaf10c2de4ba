"""What arrival order may change, and what it may not.

The rule: of each tag, readings that come in the order of their source times decide everything. One that comes after a
newer one, comes again, or has the time of one that is there already, is stored (unless it comes again) and flagged
late, and changes nothing about the others, wherever it arrives. Tags do not know of each other.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.stages import STAGES
from runtime.config import Plant
from schemas.frames import EstimateFrame, columns_of
from schemas.quality import Flag, Test
from tests.kernels.frame_strategies import SECOND, T0, Reading, frames_of, rows, series, settings_of

DAY = 86_400 * SECOND
Row = tuple[object, ...]


def estimated(readings: list[Reading]) -> dict[tuple[str, int, float], Row]:
    """What comes of readings that arrive in this order: (tag, source time, value) → everything about the reading."""
    arrived = [replace(r, arrival_ns=T0 + 8 * DAY) for r in readings]
    (frame,) = frames_of(arrived, [False] * len(arrived))
    out = frame
    for name in ("validation", "estimation"):
        entry = STAGES[name]
        _, out, _ = entry.stage.step(entry.stage.initial("R101"), out, entry.params_from(settings_of(Plant())))
    assert isinstance(out, EstimateFrame)
    return {
        (out.tags[tag], time_ns, value): (flag, tests, row)
        for tag, time_ns, value, flag, tests, row in zip(
            out.tag.tolist(), out.source_time_ns.tolist(), out.value.tolist(), out.flag.tolist(), out.tests.tolist(),
            rows(out), strict=True,
        )
    }  # fmt: skip


@st.composite
def disordered(draw: st.DrawFn) -> tuple[list[Reading], list[Reading], list[Reading]]:
    """Readings in order, some that are not, and all of them in an order of arrival that makes the latter late."""
    values = draw(st.lists(st.floats(80, 90), min_size=2, max_size=40))
    good = series(values, tag="t")
    extra: list[tuple[int, Reading]] = []
    for _ in range(draw(st.integers(0, 20))):
        after = draw(st.integers(0, len(good) - 1))
        kind = draw(st.sampled_from(("late", "repeated", "same time")))
        if kind == "late":
            older_ns = draw(st.sampled_from((SECOND // 2, 3 * SECOND // 2, 3600 * SECOND + 1, 7 * DAY + 1)))
            late = Reading(tag="t", source_ns=good[after].source_ns - older_ns, value=draw(st.floats(1000, 2000)))
        else:
            late = good[draw(st.integers(0, after))]
            if kind == "same time":
                late = replace(late, value=draw(st.floats(1000, 2000)))
        extra.append((after, late))
    arrival = list(good)
    order = draw(st.permutations(extra))
    for after, late in order:
        at = arrival.index(good[after]) + 1 + draw(st.integers(0, len(arrival)))
        arrival.insert(min(at, len(arrival)), late)
    return good, [late for _, late in extra], arrival


@settings(max_examples=200, deadline=None)
@given(disordered())
def test_late_and_repeated_readings_change_nothing_about_the_others(
    case: tuple[list[Reading], list[Reading], list[Reading]],
) -> None:
    """Flags, tests, estimates of the readings in order are the same to the bit with and without all the others."""
    good, extra, arrival = case
    alone, together = estimated(good), estimated(arrival)
    assert {key: together[key] for key in alone} == alone
    others = {(r.tag, r.source_ns, r.value) for r in extra} - alone.keys()
    assert together.keys() == alone.keys() | others
    for key in others:
        flag, tests, _ = together[key]
        assert int(tests) & Test.LATE  # type: ignore[call-overload]
        assert flag in (Flag.SUSPECT, Flag.FAIL)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(80, 90), min_size=2, max_size=20),
    extra=st.lists(
        st.tuples(st.integers(0, 19), st.integers(0, 4), st.floats(1000, 2000)), min_size=1, max_size=20, unique=True
    ),
)
def test_among_neighbouring_nanoseconds_points_move_and_nothing_else(
    values: list[float], extra: list[tuple[int, int, float]]
) -> None:
    """A late or same-time reading may have the nanosecond of a later one: that is stored beside it, else as it was."""
    good = series(values, interval_s=1e-9, tag="t")
    arrival: list[Reading] = []
    for i, reading in enumerate(good):
        arrival.append(reading)
        for after, older_ns, value in extra:
            if after % len(good) == i:
                arrival.append(replace(reading, source_ns=reading.source_ns - older_ns, value=value))
    alone, together = estimated(good), estimated(arrival)
    for key, (flag, tests, row) in alone.items():
        now_flag, now_tests, now_row = together[key]
        assert (now_flag, now_tests, but_ordinal(now_row)) == (flag, tests, but_ordinal(row))


def but_ordinal(row: object) -> list[object]:
    """A row of `rows` without its ordinal."""
    assert isinstance(row, tuple)
    names = ["tag", "unit", "text", *(name for name in columns_of(EstimateFrame) if name != "tag")]
    return [cell for name, cell in zip(names, row, strict=True) if name != "ordinal"]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(st.tuples(st.sampled_from("abc"), st.floats(80, 90)), min_size=1, max_size=60))
def test_how_tags_take_turns_changes_nothing(data: st.DataObject, sent: list[tuple[str, float]]) -> None:
    """Whatever the order between tags, as long as each tag's own is kept, everything is the same to the bit."""
    readings = [Reading(tag=tag, value=value, source_ns=T0 + i * SECOND) for i, (tag, value) in enumerate(sent)]
    queues = {tag: [r for r in readings if r.tag == tag] for tag in "abc"}
    turns = data.draw(st.permutations([r.tag for r in readings]))
    assert estimated([queues[tag].pop(0) for tag in turns]) == estimated(readings)
