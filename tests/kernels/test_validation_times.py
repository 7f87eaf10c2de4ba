"""What validation decides from times: repetitions, late readings, wrong clocks, overdue tags."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.stages import STAGES
from kernels.validation_frames import UNIT_CHARS_MAX
from kernels.validation_times import IMPUTED_ORDINAL, REMEMBERED
from runtime.config import Mqtt, Plant
from schemas.codec import decode_as, encode
from schemas.frames import ValidatedFrame
from schemas.quality import STATUS_BAD, Flag, Mark, Test
from schemas.states import StageState
from tests.kernels.frame_strategies import (
    SECOND,
    T0,
    Beat,
    Event,
    Reading,
    flags,
    frame_of,
    frames_of,
    rows,
    run,
    series,
    settings_of,
)

GOOD, SUSPECT, FAIL, MISSING = Flag.GOOD, Flag.SUSPECT, Flag.FAIL, Flag.MISSING
GAPS = Plant(tags={"*": {"interval_s": 1.0, "validation": {"gap_factor": 2.5}}})


def validated(events: list[Event], plant: Plant | None = None) -> list[ValidatedFrame]:
    """The events through validation, in as few frames as can be."""
    return run("validation", frames_of(events, [False] * len(events)), plant or Plant())[1]


def test_the_same_reading_again_is_dropped() -> None:
    """Same source time and same bits: a repetition, dropped and counted, whenever it arrives."""
    first = Reading(value=85.0)
    (out,) = validated([first, Reading(source_ns=T0 + SECOND), replace(first, arrival_ns=T0 + 90 * SECOND)])
    assert out.repeated == 1
    assert out.source_time_ns.tolist() == [T0, T0 + SECOND]


def test_another_value_at_the_same_time_is_late_and_kept() -> None:
    """Equal time with another value: suspect, with the number of values before it as its ordinal."""
    (out,) = validated([Reading(value=v) for v in (85.0, 86.0, 85.0, 87.0)])
    assert out.value.tolist() == [85.0, 86.0, 87.0]
    assert out.ordinal.tolist() == [0, 1, 2]
    assert out.tests.tolist() == [0, Test.LATE, Test.LATE]
    assert out.flag.tolist() == [GOOD, SUSPECT, SUSPECT]
    assert out.repeated == 1


def test_no_two_readings_become_one_point() -> None:
    """Times of neighbouring nanoseconds: a reading whose point a same-time one has already takes the next free one.

    That alone makes no reading late.
    """
    (out,) = validated([Reading(source_ns=T0 + t, value=v) for t, v in ((0, 85.0), (0, 86.0), (1, 87.0), (0, 88.0))])
    assert out.value.tolist() == [85.0, 86.0, 87.0, 88.0]
    assert (out.source_time_ns + out.ordinal - T0).tolist() == [0, 1, 2, 3]
    assert out.tests.tolist() == [0, Test.LATE, 0, Test.LATE]


@settings(max_examples=100, deadline=None)
@given(
    sent=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 9)), min_size=10, max_size=REMEMBERED
    ),
    start_ns=st.sampled_from((T0, -(2**63), 2**63 - 10)),
)
def test_points_are_distinct_within_the_memory(sent: list[tuple[str, int, int]], start_ns: int) -> None:
    """However times lie among nanoseconds, every (tag, time + ordinal) is another; the same again is recognised."""
    (out,) = validated([Reading(tag=tag, source_ns=start_ns + t, value=80.0 + v) for tag, t, v in sent])
    columns = (out.tag.tolist(), out.source_time_ns.tolist(), out.ordinal.tolist())
    points = [(tag, time_ns + ordinal) for tag, time_ns, ordinal in zip(*columns, strict=True)]
    assert len(set(points)) == len(points) == len(set(sent))


def test_an_older_reading_is_late_and_kept() -> None:
    """One that is older than the newest is flagged, not dropped, and the next in order is fine."""
    (out,) = validated([Reading(source_ns=T0 + s * SECOND, value=85.0 + s / 10) for s in (1, 3, 2, 4)])
    assert out.tests.tolist() == [0, 0, Test.LATE, 0]
    assert out.flag.tolist() == [GOOD, GOOD, SUSPECT, GOOD]


def test_tags_do_not_know_of_each_other() -> None:
    """Order and repetition are decided tag by tag."""
    (out,) = validated([Reading(tag="a"), Reading(tag="b", source_ns=T0 - SECOND), Reading(tag="b")])
    assert out.tests.tolist() == [0, 0, 0]
    assert out.repeated == 0


@pytest.mark.parametrize(
    ("one", "other", "repeated"),
    [
        (Reading(value=0.0), Reading(value=-0.0), 0),
        (Reading(value=math.nan), Reading(value=math.nan), 1),
        (Reading(value=math.nan), Reading(value=-math.nan), 0),
        (Reading(value=math.nan, text="Bad"), Reading(value=math.nan, text="Bad"), 1),
        (Reading(value=math.nan, text="Bad"), Reading(value=math.nan, text="Inp OutRange"), 0),
        (Reading(value=math.nan, text=""), Reading(value=math.nan), 0),
        (Reading(mark=int(Mark.ARRIVAL_TIME_USED)), Reading(mark=int(Mark.ARRIVAL_TIME_USED)), 0),
    ],
)
def test_equal_means_equal_to_the_bit(one: Reading, other: Reading, repeated: int) -> None:
    """Bits and texts decide. A reading without a time of its own is never taken for a repetition."""
    (out,) = validated([one, other])
    assert out.repeated == repeated
    assert out.ordinal.tolist() == [0, 1][: 2 - repeated]


def test_the_memory_holds_what_a_broker_may_send_again() -> None:
    """A repetition is found among the last 128 readings of its tag, which is all MQTT may have unacknowledged."""
    assert Mqtt.model_fields["receive_maximum"].default <= REMEMBERED
    readings = series([85.0] * REMEMBERED)
    (out,) = validated([*readings, *readings])
    assert out.repeated == REMEMBERED
    (out,) = validated([*series([85.0] * (REMEMBERED + 1)), readings[0]])
    assert out.repeated == 0
    assert out.tests[-1] == Test.LATE


@settings(max_examples=50, deadline=None)
@given(
    times=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=100),
    again=st.lists(st.integers(0, 99), max_size=40),
)
def test_repetition_and_lateness_agree_with_plain_sets(times: list[tuple[int, int]], again: list[int]) -> None:
    """Against sets and a running maximum in Python: what is dropped, what is late, and every ordinal."""
    sent = [*times, *(times[i % len(times)] for i in again if times)]
    (out,) = validated([Reading(source_ns=T0 + t, value=80.0 + v) for t, v in sent]) if sent else (None,)
    seen: set[tuple[int, int]] = set()
    ordinals: dict[int, int] = {}  # time → the last one given there
    taken: set[int] = set()
    expected = []
    for t, v in sent:
        if (t, v) in seen:
            continue
        late = bool(ordinals) and t <= max(ordinals)
        ordinal = next(o for o in range(ordinals.get(t, -1) + 1, IMPUTED_ORDINAL) if t + o not in taken)
        expected.append((T0 + t, 80.0 + v, late, ordinal))
        seen.add((t, v))
        taken.add(t + ordinal)
        ordinals[t] = ordinal
    if out is not None:
        late_rows = (out.tests & Test.LATE) != 0
        columns = (out.source_time_ns, out.value, late_rows, out.ordinal)
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
        assert out.repeated == len(sent) - len(expected)


def test_more_values_at_one_time_than_can_be_told_apart_are_rejected() -> None:
    """255 different values at one source time are stored side by side; further ones go to rejected, with their bits."""
    entry = STAGES["validation"]
    params = entry.params_from(settings_of(Plant()))
    frame = frame_of([Reading(value=80.0 + i / 100) for i in range(300)])
    _, out, rejects = entry.stage.step(entry.stage.initial("R101"), frame, params)
    assert out.ordinal.tolist() == list(range(IMPUTED_ORDINAL))
    assert len(rejects) == 300 - IMPUTED_ORDINAL
    assert {r.stage for r in rejects} == {"validation"}
    reading = json.loads(rejects[-1].payload)
    assert (reading["tag"], float.fromhex(reading["value"])) == ("temperature", 80.0 + 299 / 100)


def test_a_clock_ahead_is_suspect_and_makes_nothing_late() -> None:
    """More than 10 min ahead of arrival: suspect. A reading dated 2262 does not make its successors late."""
    ahead = [Reading(source_ns=T0 + s * SECOND, arrival_ns=T0) for s in (600, 601, 7_000_000_000)]
    out = validated([*ahead, Reading(source_ns=T0 + 602 * SECOND, arrival_ns=T0 + 600 * SECOND)])[0]
    assert out.tests.tolist() == [0, Test.TIME, Test.TIME, 0]
    assert out.flag.tolist() == [GOOD, SUSPECT, SUSPECT, GOOD]


def test_a_reading_ahead_of_its_time_is_remembered_like_any_other() -> None:
    """Sent again it is a repetition; another value at its time, once that has come, is late."""
    ahead = Reading(source_ns=T0 + 1000 * SECOND, arrival_ns=T0)
    in_time = Reading(source_ns=T0 + 1000 * SECOND, arrival_ns=T0 + 999 * SECOND, value=86.0)
    (out,) = validated([Reading(), ahead, ahead, in_time])
    assert out.repeated == 1
    assert out.tests.tolist() == [0, Test.TIME, Test.LATE]
    assert out.ordinal.tolist() == [0, 0, 1]


def test_the_newest_time_outlives_the_memory() -> None:
    """Another value at the newest time is late even when so many late ones came since that the newest is forgotten."""
    late = [Reading(source_ns=T0 - (i + 1) * SECOND) for i in range(REMEMBERED)]
    (out,) = validated([Reading(), *late, Reading(value=86.0)])
    assert out.tests[-1] == Test.LATE


def test_old_readings_are_suspect_only_where_a_limit_is_set() -> None:
    """Old series can be played; with a limit, what is older than that against its arrival is suspect."""
    old = Reading(source_ns=0, arrival_ns=T0)
    oldest = Reading(source_ns=-(2**63) + 1, arrival_ns=T0)
    assert [validated([reading])[0].tests.tolist() for reading in (old, oldest)] == [[0], [0]]
    limited = Plant(tags={"*": {"validation": {"behind_limit_s": 60}}})
    readings = [Reading(source_ns=T0 + i, arrival_ns=T0 + i + 60 * SECOND + i) for i in range(2)]
    assert validated(list(readings), limited)[0].tests.tolist() == [0, Test.TIME]


@pytest.mark.parametrize("source_ns", [-(2**63), -1, 0, 1, 9_214_646_400 * SECOND, 2**63 - 1])
@pytest.mark.parametrize("arrival_ns", [0, T0, 2**63 - 1])
def test_no_time_overflows(source_ns: int, arrival_ns: int) -> None:
    """From 1970 to 2262 and at the ends of 64 bits, ahead and behind are decided as with Python's integers."""
    plant = Plant(tags={"*": {"interval_s": 1.0, "validation": {"gap_factor": 2, "behind_limit_s": 60}}})
    (out, beat) = validated(
        [
            Reading(source_ns=source_ns, arrival_ns=arrival_ns),
            Reading(source_ns=max(source_ns - 5, -(2**63)), arrival_ns=arrival_ns, value=86.0),
            Beat(kind="heartbeat", time_ns=2**63 - 1),
        ],
        plant,
    )
    wrong = source_ns - arrival_ns > 600 * SECOND or arrival_ns - source_ns > 60 * SECOND
    assert bool(out.tests[0] & Test.TIME) == wrong
    assert beat.flag.tolist() == ([MISSING] if arrival_ns < 2**63 - 3 * SECOND else [])


def test_a_tag_that_is_overdue_gets_a_row() -> None:
    """Heard nothing for more than 2.5 intervals: a row for the missing reading, before the one that shows it."""
    a = [Reading(tag="a", unit="bar", source_ns=T0 + s * SECOND, arrival_ns=T0 + s * SECOND + 7) for s in (0, 1)]
    b = [Reading(tag="b", source_ns=T0 + s * SECOND) for s in (0, 1, 2, 3, 4)]
    (out,) = validated([a[0], b[0], a[1], b[1], b[2], b[3], b[4]], GAPS)
    assert [out.tags[t] for t in out.tag] == ["a", "b", "a", "b", "b", "b", "a", "b"]
    assert out.flag[6] == MISSING
    assert out.tests[6] == Test.GAP
    assert out.units[out.tag[6]] == "bar"
    assert out.mark[6] == Mark.IMPUTED
    assert out.status[6] == STATUS_BAD
    assert math.isnan(out.value[6])
    assert out.source_time_ns[6] == T0 + 4 * SECOND - 7  # the tag's own clock is 7 ns behind its arrival
    assert out.arrival_time_ns[6] == T0 + 4 * SECOND
    assert out.ordinal[6] == IMPUTED_ORDINAL
    assert out.flag.tolist().count(MISSING) == 1
    assert (out.tags, out.units) == (("a", "b"), ("bar", "degC"))


def test_exactly_the_interval_times_the_factor_is_not_overdue() -> None:
    """Longer than interval × factor means longer: at 2.5 s sharp nothing is missing, a nanosecond later it is."""
    for extra_ns, expected in ((0, []), (1, [MISSING])):
        beat = Beat(kind="heartbeat", time_ns=T0 + 5 * SECOND // 2 + extra_ns)
        assert validated([Reading(), beat], GAPS)[1].flag.tolist() == expected


def test_there_is_one_row_per_check_however_long_the_silence() -> None:
    """After 100 s of silence one heartbeat gives one row, and the deadline moves on: memory is bounded by arrivals."""
    beats = [Beat(kind="heartbeat", time_ns=T0 + s * SECOND) for s in (100, 101, 102, 103, 104)]
    outs = validated([Reading(), *beats], GAPS)
    assert [out.flag.tolist() for out in outs] == [[GOOD], [MISSING], [], [], [MISSING], []]


def test_the_next_reading_shows_its_own_gap() -> None:
    """When nothing else was heard, the reading that ends the silence is preceded by the row for what was missing."""
    (out,) = validated([Reading(), Reading(source_ns=T0 + 10 * SECOND)], GAPS)
    assert out.flag.tolist() == [GOOD, MISSING, GOOD]
    assert out.source_time_ns.tolist() == [T0, T0 + 10 * SECOND, T0 + 10 * SECOND]
    assert out.ordinal.tolist() == [0, IMPUTED_ORDINAL, 0]


def test_what_comes_after_a_missing_row_is_not_late() -> None:
    """A device that held its readings back delivers them after the gap: they are in order, and not late."""
    held = [Reading(source_ns=T0 + s * SECOND, arrival_ns=T0 + 9 * SECOND) for s in (1, 2, 3)]
    out = validated([Reading(), Beat(kind="heartbeat", time_ns=T0 + 8 * SECOND), *held], GAPS)[-1]
    assert out.flag.tolist() == [GOOD] * 3


def test_a_repetition_does_not_end_a_gap() -> None:
    """What was known already says nothing new: the tag stays overdue."""
    first = Reading(tag="a")
    events: list[Event] = [
        first,
        replace(first, arrival_ns=T0 + 2 * SECOND),
        Beat(kind="heartbeat", time_ns=T0 + 3 * SECOND),
    ]
    assert validated(events, GAPS)[1].flag.tolist() == [MISSING]


def test_a_gap_frame_moves_the_clock_and_keeps_its_tags() -> None:
    """A gap frame passes unchanged, as its tags say what it concerns; rows that are due come with the next frame."""
    gap = Beat(kind="gap", time_ns=T0 + 9 * SECOND)
    _, out, after = validated([Reading(), gap, Reading(tag="b", source_ns=T0 + SECOND)], GAPS)
    assert (out.kind, out.tags, len(out)) == ("gap", (), 0)
    assert out.gap is not None
    assert [after.tags[t] for t in after.tag] == ["temperature", "b"]
    assert after.flag.tolist() == [MISSING, Flag.NOT_EVALUATED]
    assert after.arrival_time_ns.tolist() == [T0 + 9 * SECOND, T0 + SECOND]


def test_without_interval_or_factor_nothing_is_overdue() -> None:
    """The gap test is off until both are known."""
    for tag in ({"interval_s": 1.0}, {"validation": {"gap_factor": 2.5}}):
        events: list[Event] = [Reading(), Beat(kind="heartbeat", time_ns=T0 + 10**6 * SECOND)]
        assert flags(validated(events, Plant(tags={"*": tag}))) == [GOOD]


def test_the_unit_of_a_missing_row_is_the_last_one() -> None:
    """A tag whose unit changed is missed in its newest unit, also within one frame, and after a restart."""
    one, two = Reading(tag="p", unit="bar"), Reading(tag="p", unit="kPa", source_ns=T0 + SECOND)
    beat = Beat(kind="heartbeat", time_ns=T0 + 9 * SECOND)
    probe = Reading(tag="q", source_ns=T0 + 9 * SECOND)
    for events in ([one, two, probe], [one, two, beat]):
        out = validated(list(events), GAPS)[-1]
        missing = int(np.flatnonzero(out.flag == MISSING)[0])
        assert (out.tags[out.tag[missing]], out.units[out.tag[missing]]) == ("p", "kPa")


@pytest.mark.parametrize("characters", [9_999, 10_000])
def test_a_unit_of_any_length_passes_and_the_state_can_be_read_again(characters: int) -> None:
    """The reading keeps its unit whole; the state keeps the beginning, which a row for a missing reading then has."""
    unit = "u" * characters
    entry = STAGES["validation"]
    params = entry.params_from(settings_of(GAPS))
    state, out, _ = entry.stage.step(entry.stage.initial("R101"), frame_of([Reading(unit=unit)]), params)
    assert out.units == (unit,)
    again = decode_as(encode(state), StageState)
    assert again == state
    beat = frames_of([Beat(kind="heartbeat", time_ns=T0 + 9 * SECOND)], [False])[0]
    _, missing, _ = entry.stage.step(again, replace(beat, seq=1), params)
    assert missing.units == (unit[:UNIT_CHARS_MAX],)


def test_an_ordinary_heartbeat_adds_nothing() -> None:
    """A heartbeat with nothing overdue passes through with its identity and connection status."""
    out = validated([Reading(), Beat(kind="heartbeat", time_ns=T0 + SECOND)], GAPS)[1]
    assert (out.kind, len(out), out.seq) == ("heartbeat", 0, 1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_late_readings_have_the_same_result_wherever_they_arrive(seed: int) -> None:
    """Readings delayed behind newer ones (row 19 of the faults): the others' verdicts do not change."""
    chance = np.random.default_rng(seed)
    readings = series(85.0 + chance.normal(0, 0.2, 60))
    delayed = sorted(chance.choice(np.arange(1, 50), 5, replace=False).tolist())
    late = [replace(readings[i], arrival_ns=T0 + 59 * SECOND) for i in delayed]
    rest = [r for i, r in enumerate(readings) if i not in delayed]
    places = sorted(chance.choice(np.arange(50, len(rest)), 2, replace=False).tolist())
    found = []
    for place in places:
        (out,) = validated([*rest[:place], *late, *rest[place:]])
        found.append(sorted(rows(out)))
        assert ((out.tests & Test.LATE) != 0).sum() == 5
    assert found[0] == found[1]


def no_tests(**more: Any) -> Plant:
    """A configuration with every test that can be switched off switched off."""
    off = {"zscore_limit": "off", "spike_percent": "off", "ahead_limit_s": "off", **more}
    return Plant(tags={"*": {"kind": "other", "validation": off}})


def test_every_test_can_be_switched_off() -> None:
    """With all tests off a number is not evaluated, wherever its clock stands; status, number and order still speak."""
    readings = [
        Reading(value=1.0, source_ns=T0 + 10**15, arrival_ns=T0),
        Reading(value=1e300, source_ns=T0 + 10**16, arrival_ns=T0),
        Reading(value=1.0, source_ns=T0),
    ]
    (out,) = validated(list(readings), no_tests())
    assert out.flag.tolist() == [Flag.NOT_EVALUATED, Flag.NOT_EVALUATED, SUSPECT]
    assert out.tests.tolist() == [0, 0, Test.LATE]
    assert FAIL not in out.flag
