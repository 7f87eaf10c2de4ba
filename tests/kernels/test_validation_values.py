"""Validation's tests of values against the specification's numbers and brute force with NumPy."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.validation_history import COLUMNS as HISTORY_COLUMNS
from runtime.config import Plant
from schemas.frames import ValidatedFrame
from schemas.quality import Flag, Test
from tests.kernels.frame_strategies import SECOND, T0, Reading, flags, frame_of, run, series

GOOD, UNKNOWN, SUSPECT, FAIL = Flag.GOOD, Flag.NOT_EVALUATED, Flag.SUSPECT, Flag.FAIL


def plant(**validation: Any) -> Plant:
    """A configuration with these settings of validation for every tag."""
    return Plant(tags={"*": {"validation": validation}})


def validated(readings: list[Reading], with_plant: Plant | None = None) -> ValidatedFrame:
    """The readings through validation, in one frame."""
    _, (out,) = run("validation", [frame_of(readings)], with_plant or Plant())
    assert isinstance(out, ValidatedFrame)
    return out


def test_85_to_120_is_a_spike() -> None:
    """85 → 120 is a change of 41 %: suspect, shown as UNCERTAIN."""
    out = validated(series([85.0, 120.0]))
    assert out.flag.tolist() == [GOOD, SUSPECT]
    assert out.tests.tolist() == [0, Test.SPIKE]


def test_500_degrees_are_bad() -> None:
    """500 degC is outside of what a temperature can be: FAIL, shown as BAD."""
    out = validated(series([85.0, 500.0, 85.0]))
    assert out.flag.tolist() == [GOOD, FAIL, GOOD]
    assert out.tests[1] & Test.RANGE


def test_a_spike_is_measured_against_the_value_before_it() -> None:
    """The limit itself is no spike; a failed or suspect value is not what the next one is compared with."""
    out = validated(series([100.0, 120.0, 100.0, 500.0, 300.0, 100.0]))
    assert out.flag.tolist() == [GOOD, GOOD, GOOD, FAIL, SUSPECT, GOOD]


def test_near_zero_there_is_no_relative_change() -> None:
    """After a value nearer to 0 than 1e-6 the spike test is not evaluated."""
    out = validated(series([9e-7, 100.0, 200.0], tag="level", unit="%"))
    assert out.flag.tolist() == [UNKNOWN, UNKNOWN, SUSPECT]


def test_the_zscore_needs_ten_values() -> None:
    """With 9 accepted values an outlier passes the z-score; with 10 it does not."""
    for before, expected in ((9, 0), (10, Test.ZSCORE)):
        values = [100.0 + 0.1 * (-1) ** i for i in range(before)]
        assert validated(series([*values, 101.0])).tests[-1] == expected


def test_a_constant_history_has_no_zscore() -> None:
    """A standard deviation below 1e-6 counts as constant: the z-score is not evaluated."""
    assert validated(series([*[100.0] * 20, 101.0])).tests[-1] == 0
    assert validated(series([*[100.0 + 1e-5 * (i % 2) for i in range(20)], 101.0])).tests[-1] == Test.ZSCORE


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), window=st.integers(20, 100), least=st.integers(8, 20), limit=st.floats(2.0, 4.0))
def test_the_zscore_is_that_of_the_last_accepted_values(seed: int, window: int, least: int, limit: float) -> None:
    """Each reading is judged by mean and standard deviation of the accepted ones before it, and by nothing else."""
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 1, 250) + np.where(rng.random(250) < 0.05, 6.0, 0.0)
    with_plant = plant(
        zscore_limit=limit, zscore_window=window, zscore_min=least, spike_percent="off", restart_after=20
    )
    out = validated(series(values), with_plant)
    accepted: list[float] = []
    for value, flag, tests in zip(values.tolist(), out.flag.tolist(), out.tests.tolist(), strict=True):
        past = np.array(accepted[-window:])
        if len(accepted) >= least and past.std() >= 1e-6:
            z = abs(value - past.mean()) / past.std()
            assert math.isclose(z, limit, rel_tol=1e-9) or (z > limit) == bool(tests & Test.ZSCORE)
        else:
            assert tests == 0
        if flag == GOOD:
            accepted.append(value)


def test_a_real_step_is_followed_after_five() -> None:
    """Five suspect values in a row that agree restart the history: all five keep their flag, the sixth is good."""
    values = [*(85.0 + 0.1 * math.sin(i) for i in range(20)), *(120.0 + 0.1 * math.sin(i) for i in range(10))]
    assert flags([validated(series(values))]) == [GOOD] * 20 + [SUSPECT] * 5 + [GOOD] * 5


def test_suspects_that_do_not_agree_restart_nothing() -> None:
    """Values all over the place stay suspect: the history waits for what it knows."""
    values = [85.0] * 20 + [150.0, 300.0, 20.0, 250.0, 120.0, 30.0] + [85.0]
    assert flags([validated(series(values))]) == [GOOD] * 20 + [SUSPECT] * 6 + [GOOD]


def test_a_row_of_suspects_is_broken_by_good_and_by_failed_values() -> None:
    """Only suspects in a row count: an accepted or a failed number between them starts the count anew."""
    for between, flag in ((85.0, GOOD), (500.0, FAIL)):
        values = [85.0] * 12 + [120.0] * 4 + [between] + [120.0] * 5 + [120.0]
        expected = [GOOD] * 12 + [SUSPECT] * 4 + [flag] + [SUSPECT] * 5 + [GOOD]
        assert flags([validated(series(values))]) == expected


def test_agreement_has_an_exact_limit() -> None:
    """Suspects agree up to spike_percent of their mean or of the last accepted value, whichever is greater."""
    for width, last in ((23.9, GOOD), (24.1, SUSPECT)):
        values = [80.0] * 20 + [120.0 - width / 2, 120.0, 120.0, 120.0, 120.0 + width / 2]
        assert flags([validated(series([*values, 120.0]))])[-1] == last


def test_agreement_may_be_as_wide_as_the_history_was() -> None:
    """Near 0 no percentage helps: suspects agree within twice the z-score limit of the history's deviation."""
    rng = np.random.default_rng(3)
    values = [*rng.normal(0.0, 1.0, 50), *rng.normal(9.0, 1.0, 10)]
    found = flags([validated(series(values, tag="level", unit="%"), plant(spike_percent="off"))])
    assert found[50:55] == [SUSPECT] * 5
    assert found[55:] == [UNKNOWN] * 5  # accepted, though the z-score needs ten again


def test_that_width_has_an_exact_limit() -> None:
    """A history of ±1 has a deviation of 1: suspects agree up to 6 apart, with the z-score limit at 3."""
    for width, last in ((5.9, UNKNOWN), (6.1, SUSPECT)):
        values = [(-1.0) ** i for i in range(50)] + [20.0, 20.0, 20.0 + width, 20.0, 20.0] + [20.0]
        assert flags([validated(series(values, tag="level", unit="%"), plant(spike_percent="off"))])[-1] == last


def test_no_history_is_kept_for_ever() -> None:
    """After 100 suspects in a row the history restarts, even if they never agreed."""
    wild = [60.0 if i % 2 else 300.0 for i in range(110)]
    with_plant = plant(zscore_limit="off")
    found = flags([validated(series([10.0] * 20 + wild), with_plant)])
    assert found[20:120] == [SUSPECT] * 100
    assert FAIL not in found
    state, _ = run("validation", [frame_of(series([10.0] * 20 + wild[:100]))], with_plant)
    assert state.columns["history_size"].tolist() == [5]
    assert sorted(state.columns["history"][0, :5].tolist()) == [60.0, 60.0, 60.0, 300.0, 300.0]


def test_a_set_point_may_step() -> None:
    """Set points are not tested for z-score and spike, unless the configuration asks for it."""
    values = [85.0 + 0.1 * (i % 2) for i in range(20)] + [120.0]
    assert validated(series(values, tag="temperature.sv")).tests[-1] == 0
    asked = Plant(tags={"*.sv": {"validation": {"spike_percent": 20, "zscore_limit": 3}}})
    assert validated(series(values, tag="temperature.sv"), asked).tests[-1] == Test.SPIKE | Test.ZSCORE


def test_what_no_test_looked_at_is_not_evaluated() -> None:
    """A number of unknown kind with nothing before it is 2; once a test was evaluated and passed it is 1."""
    assert validated(series([3.0, 3.0], tag="level", unit="%")).flag.tolist() == [UNKNOWN, GOOD]


@pytest.mark.parametrize(
    ("unit", "good", "bad"),
    [("degC", 399.0, 401.0), ("K", 223.2, 223.1), ("°F", 751.0, 753.0), ("furlong", 1e9, None), ("", 1e9, None)],
)
def test_the_range_of_a_kind_is_in_the_readings_unit(unit: str, good: float, bad: float | None) -> None:
    """−50…400 degC holds in any known unit; in an unknown one nothing is evaluated."""
    with_plant = plant(spike_percent="off", zscore_limit="off")
    assert validated([Reading(value=good, unit=unit)], with_plant).flag.tolist() == [UNKNOWN if bad is None else GOOD]
    if bad is not None:
        assert validated([Reading(value=bad, unit=unit)], with_plant).flag.tolist() == [FAIL]


@pytest.mark.parametrize(
    ("tag", "unit", "value", "flag"),
    [
        ("pressure", "MPa", 9.9, GOOD),
        ("pressure", "bar", 100.1, FAIL),
        ("pressure", "Pa", -1.0, FAIL),
        ("flow_rate", "L/min", 500.1, FAIL),
        ("ph", "pH", 14.1, FAIL),
        ("ph", "", 7.0, GOOD),
    ],
)
def test_the_ranges_of_the_other_kinds(tag: str, unit: str, value: float, flag: Flag) -> None:
    """Pressure 0…10 MPa, flow rate 0…500 L/min, pH 0…14."""
    assert validated([Reading(tag=tag, unit=unit, value=value)]).flag.tolist() == [flag]


def test_configured_spans_are_in_the_tags_unit() -> None:
    """Spans are in the configured unit of the tag and hold for readings in another one."""
    spans = {"fail_span": [0, 10], "suspect_span": [1, 9]}
    with_plant = Plant(tags={"*": {"unit": "bar", "validation": {**spans, "spike_percent": "off"}}})
    values = [-1.0, 50.0, 100.0, 900.0, 950.0, 1000.0, 1001.0]
    out = validated(series(values, tag="pressure", unit="kPa"), with_plant)
    assert out.flag.tolist() == [FAIL, SUSPECT, GOOD, GOOD, SUSPECT, SUSPECT, FAIL]


def test_a_configured_unit_stands_in_for_a_missing_one() -> None:
    """A reading without a unit is taken to be in the configured one."""
    with_plant = Plant(tags={"*": {"unit": "degC"}})
    assert validated([Reading(value=500.0, unit="")], with_plant).flag.tolist() == [FAIL]


def test_a_configured_kind_beats_the_name() -> None:
    """The kind from the configuration counts, also against the name."""
    with_plant = Plant(tags={"*/t1": {"kind": "temperature"}, "*/temperature": {"kind": "other"}})
    readings = [Reading(tag="t1", value=500.0), Reading(tag="temperature", value=500.0)]
    assert validated(readings, with_plant).flag.tolist() == [FAIL, UNKNOWN]


def test_status_is_quality() -> None:
    """OPC UA's severity bits: uncertain gives suspect, bad (and the reserved pattern) fail; other bits say nothing."""
    status = [0, 0x00000480, 0x40920000, 0x80340000, 0xC0000000]
    readings = [Reading(value=85.0, source_ns=T0 + i, status=s) for i, s in enumerate(status)]
    out = validated(readings)
    assert out.flag.tolist() == [GOOD, GOOD, SUSPECT, FAIL, FAIL]
    assert out.tests.tolist() == [0, 0, Test.STATUS, Test.STATUS, Test.STATUS]


def test_what_is_no_finite_number_fails_and_stays_as_it_came() -> None:
    """NaN, infinities and texts are BAD; the text stays with its reading, and the next number is not affected."""
    readings = [
        Reading(value=85.0),
        Reading(value=math.nan, source_ns=T0 + 1),
        Reading(value=math.inf, source_ns=T0 + 2),
        Reading(value=-math.inf, source_ns=T0 + 3),
        Reading(value=math.nan, source_ns=T0 + 4, text="Inp OutRange"),
        Reading(value=85.0, source_ns=T0 + 5),
    ]
    out = validated(readings)
    assert out.flag.tolist() == [GOOD, FAIL, FAIL, FAIL, FAIL, GOOD]
    assert out.tests.tolist() == [0, *[Test.FINITE] * 4, 0]
    assert out.texts == {4: "Inp OutRange"}
    assert out.value.tobytes() == frame_of(readings).value.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=64) | st.sampled_from([1e308, -1e308, 5e-324, -0.0, 2.0**63]), max_size=150))
def test_any_value_is_taken(values: list[float]) -> None:
    """Whatever floats come, nothing that is not finite enters the state, and only numbers can be accepted."""
    with_plant = plant(flat_tolerance=1.0, flat_suspect_s=5, rate_suspect_per_s=1.0, fail_span=[-1e308, 1e308])
    state, (out,) = run("validation", [frame_of(series(values))], with_plant)
    for name in (*HISTORY_COLUMNS, "last_value", "flat_value"):
        if values:
            assert np.isfinite(state.columns[name]).all(), name
    assert all(flag == FAIL for flag, v in zip(out.flag, values, strict=True) if not math.isfinite(v))


def test_readings_out_of_order_do_not_touch_the_history() -> None:
    """A late reading, or one from a wrong clock, is tested for range alone and leaves no trace in the history."""
    values = [85.0 + 0.1 * (i % 3) for i in range(30)]
    late = [Reading(value=120.0, source_ns=T0 - (i + 1) * SECOND, arrival_ns=T0 + 60 * SECOND) for i in range(6)]
    ahead = [Reading(value=500.0, source_ns=T0 + (5000 + i) * SECOND, arrival_ns=T0 + 60 * SECOND) for i in range(6)]
    state, (out,) = run("validation", [frame_of([*series(values), *late, *ahead])], Plant())
    clean, _ = run("validation", [frame_of(series(values))], Plant())
    assert out.tests[30:36].tolist() == [Test.LATE] * 6
    assert out.tests[36:].tolist() == [Test.TIME | Test.RANGE] * 6
    assert out.flag[36:].tolist() == [FAIL] * 6
    for name in HISTORY_COLUMNS:
        assert state.columns[name].tobytes() == clean.columns[name].tobytes()
