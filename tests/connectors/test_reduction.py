"""Edge reduction: what is left out can be had back from what is kept, within what was asked for."""

import math
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connectors.framer import Reading
from connectors.reduction import Reducer
from runtime.config import Plant
from schemas.quality import STATUS_BAD

S = 1_000_000_000


def reading(second: float, value: float, tag: str = "t", **more: object) -> Reading:
    """A reading of R1 at a second."""
    time_ns = round(second * S)
    return Reading(
        asset="R1",
        tag=tag,
        unit="K",
        value=value,
        source_time_ns=time_ns,
        arrival_time_ns=time_ns,
        **more,  # type: ignore[arg-type]
    )


def reducer(**tag: float) -> Reducer:
    """A reducer whose tag `t` is configured."""
    return Reducer(Plant.model_validate({"tags": {"*/t": tag}}))


def kept_of(reducer: Reducer, readings: list[Reading]) -> list[Reading]:
    """What passes, with what is held back at the end."""
    return [k for r in readings for k in reducer.keep(r)] + reducer.overdue(0, everything=True)


VALUES = st.lists(st.floats(-1000, 1000), min_size=1, max_size=80)


@given(VALUES)
def test_without_configuration_everything_passes(values: list[float]) -> None:
    """Raw values are kept unless reduction was asked for, also where it was asked for another tag."""
    series = [reading(i, v, "other") for i, v in enumerate(values)]
    assert kept_of(reducer(deadband=5.0, swinging_door=5.0), series) == series


@given(VALUES, st.floats(0.1, 300))
def test_deadband(values: list[float], deadband: float) -> None:
    """Of every reading left out, the last one kept before it differs by the deadband at most; kept ones differ more."""
    series = [reading(i / 1000, v) for i, v in enumerate(values)]
    kept = kept_of(reducer(deadband=deadband), series)
    last = kept[0]
    assert last is series[0]
    for each in series:
        last = each if each in kept else last
        assert abs(each.value - last.value) <= deadband
    assert all(abs(a.value - b.value) > deadband for a, b in pairwise(kept))


@given(VALUES, st.floats(0.1, 300), st.lists(st.integers(1, 1000), min_size=80, max_size=80))
def test_swinging_door(values: list[float], deviation: float, steps_ms: list[int]) -> None:
    """Every reading left out lies within the deviation of the straight line between the kept ones around it."""
    times, now = [], 0.0
    for step in steps_ms:
        now += step / 1e6
        times.append(now)
    series = [reading(t, v) for t, v in zip(times, values, strict=False)]
    kept = kept_of(reducer(swinging_door=deviation), series)
    assert kept[0] is series[0]
    assert kept[-1] is series[-1]
    assert kept == sorted(kept, key=lambda r: r.source_time_ns)
    for a, b in pairwise(kept):
        for r in series:
            if a.source_time_ns <= r.source_time_ns <= b.source_time_ns:
                share = (r.source_time_ns - a.source_time_ns) / (b.source_time_ns - a.source_time_ns)
                assert abs(a.value + share * (b.value - a.value) - r.value) <= deviation * (1 + 1e-9) + 1e-9


def test_a_straight_line_becomes_its_ends() -> None:
    """The swinging door keeps two of a thousand readings on a line, and the corner of a bent one."""
    line = [reading(i / 1000, 0.25 * min(i, 500)) for i in range(1000)]
    kept = kept_of(reducer(swinging_door=0.01), line)
    assert [r.value for r in kept] == [0, 125, 125]
    assert kept[1].source_time_ns == round(0.5 * S)


def test_what_is_no_number_always_passes_in_order() -> None:
    """A BAD reading, the first good one after it, and what was held back before it all pass, in order."""
    nan: dict[str, Any] = {"status": STATUS_BAD, "mark": 2, "text": "Bad"}
    series = [reading(0, 1), reading(1, 1), reading(2, 1), reading(3, math.nan, **nan), reading(4, 1), reading(5, 1)]
    one = reducer(swinging_door=1.0)
    assert [k for r in series for k in one.keep(r)] == [series[i] for i in (0, 2, 3, 4)]
    two = reducer(deadband=1.0)
    assert [k for r in series for k in two.keep(r)] == [series[i] for i in (0, 3, 4)]


def test_late_and_repeated_readings_pass() -> None:
    """What is not newer than the reading before it is left to validation."""
    series = [reading(5, 1), reading(4, 1), reading(5, 1)]
    one = reducer(deadband=1.0)
    assert [k for r in series for k in one.keep(r)] == series


def test_unchanged_is_told_from_silent() -> None:
    """A constant value still passes at least every `reduction_max_s`, and nothing is held back for longer."""
    one = reducer(deadband=1.0, reduction_max_s=10)
    kept = [k for i in range(100) for k in one.keep(reading(i, 5.0))]
    assert [r.source_time_ns // S for r in kept] == list(range(0, 100, 10))
    two = reducer(swinging_door=1.0, reduction_max_s=10)
    assert len([k for i in range(3) for k in two.keep(reading(i, 5.0))]) == 1
    assert two.overdue(11 * S) == []
    assert two.overdue(12 * S) == [reading(2, 5.0)]
    assert two.overdue(40 * S) == []
