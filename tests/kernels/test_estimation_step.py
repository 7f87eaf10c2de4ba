"""What each kind of reading does to its filter, and that nothing can break one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kernels import estimation, kalman
from kernels.estimation_params import EstimationParams
from schemas.codec import decode, encode
from schemas.frames import EstimateFrame, ValidatedFrame
from schemas.quality import Flag, Mark, Test
from schemas.states import StageState
from tests.kernels.estimation_frames import R, columns_joined, cut, frame, heartbeat, settings

CHAPTER = {"process_noise": 0.01, "measurement_noise": 0.5, "initial_variance": 1.0}
MISSING = {"value": math.nan, "flag": Flag.MISSING, "tests": Test.GAP, "mark": Mark.IMPUTED}


def _params(**estimation_settings: object) -> EstimationParams:
    return EstimationParams(settings(tags={"*": {"estimation": {**CHAPTER, **estimation_settings}}}))


def _step(
    readings: list[R], params: EstimationParams, state: StageState | None = None, seq: int = 0
) -> tuple[StageState, EstimateFrame]:
    state, out, rejects = estimation.STAGE.step(state or estimation.initial("R101"), frame(readings, seq=seq), params)
    assert out is not None
    assert rejects == ()
    return state, out


def _steady(n: int = 10, value: float = 85.0) -> list[R]:
    return [R(float(i), value) for i in range(n)]


def test_stage_gives_what_the_filter_gives() -> None:
    """A series through the stage equals the filter over the same series, started at its first reading."""
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.uniform(0.2, 3.0, 40))
    values = 85.0 + 0.05 * times + rng.normal(0.0, 0.5, 40)
    _, out = _step([R(round(t, 6), v) for t, v in zip(times, values, strict=True)], _params(gate_nis="off"))
    dt = np.diff(out.source_time_ns) / 1e9
    expected = kalman.filter_series(dt, values[1:], 0.01, 0.5, False, np.array([values[0], 0.0]), np.eye(2))
    np.testing.assert_array_equal(out.estimate[1:], expected[:, 0])
    np.testing.assert_array_equal(out.rate[1:], expected[:, 1])
    np.testing.assert_array_equal(out.std[1:], np.sqrt(expected[:, 2]))
    np.testing.assert_array_equal(out.innovation[1:], expected[:, 5])
    np.testing.assert_array_equal(out.nis[1:], expected[:, 6])


def test_first_accepted_reading_starts_the_filter() -> None:
    """Its estimate is its value, with rate 0 and the initial variance; there is no innovation yet."""
    _, out = _step([R(0, 85.5)], _params(initial_variance=4.0))
    assert (out.estimate[0], out.rate[0], out.std[0]) == (85.5, 0.0, 2.0)
    assert np.isnan(out.innovation[0])
    assert np.isnan(out.nis[0])


def test_suspect_readings_start_a_filter_only_when_many_come_in_a_row() -> None:
    """The fifth suspect reading in a row is the first with an estimate; a good one would have started it at once."""
    _, out = _step([R(float(i), 85.0, flag=Flag.SUSPECT) for i in range(6)], _params(gate_limit=5))
    assert np.isnan(out.estimate[:4]).all()
    assert (out.estimate[4:] == 85.0).all()


def test_suspect_reading_moves_the_estimate_less() -> None:
    """A suspect reading updates with measurement noise times `suspect_factor`."""
    params = _params(suspect_factor=10.0, gate_nis="off")
    state, _ = _step(_steady(), params)
    _, good = _step([R(10.0, 87.0)], params, state, 1)
    _, suspect = _step([R(10.0, 87.0, flag=Flag.SUSPECT)], params, state, 1)
    _, noisy = _step([R(10.0, 87.0)], _params(measurement_noise=5.0, gate_nis="off"), state, 1)
    assert 85.0 < suspect.estimate[0] < good.estimate[0]
    assert suspect.estimate[0] == noisy.estimate[0]
    assert suspect.nis[0] < good.nis[0]


@pytest.mark.parametrize(
    "change",
    [
        {"flag": Flag.FAIL, "tests": Test.RANGE, "value": 500.0},
        {"flag": Flag.FAIL, "tests": Test.FINITE, "value": math.nan},
        MISSING,
    ],
)
def test_bad_and_missing_readings_are_predicted_and_leave_no_trace(change: dict[str, float]) -> None:
    """The estimate is the prediction at their time, its variance grows with time, and the filter is as before."""
    params = _params()
    state, _ = _step([R(float(i), 85.0 + 0.2 * i) for i in range(20)], params)
    after, out = _step([R(20.0 + i, **change) for i in range(5)], params, state, 1)  # type: ignore[arg-type]
    assert (np.diff(out.std) > 0).all()
    assert np.isnan(out.innovation).all()
    assert np.isnan(out.nis).all()
    assert (out.rate == out.rate[0]).all()
    np.testing.assert_allclose(np.diff(out.estimate), out.rate[0], rtol=1e-9)
    assert all((after.columns[name] == state.columns[name]).all() for name in state.columns)
    np.testing.assert_array_equal(out.flag, [change["flag"]] * 5)


@pytest.mark.parametrize("test", [Test.LATE, Test.TIME])
def test_readings_whose_time_cannot_be_trusted_get_no_estimate(test: Test) -> None:
    """Late readings and those from the future have NaN in every column, and the filter is as before."""
    params = _params()
    state, _ = _step(_steady(), params)
    after, out = _step([R(3600.0, 85.0, flag=Flag.SUSPECT, tests=test)], params, state, 1)
    for column in (out.estimate, out.rate, out.std, out.innovation, out.nis):
        assert np.isnan(column).all()
    assert all((after.columns[name] == state.columns[name]).all() for name in state.columns)


def test_gate_keeps_an_outlier_out_and_marks_it() -> None:
    """A reading beyond the gate becomes suspect with NIS_GATE, shows its NIS, and does not move the state."""
    params = _params(gate_nis=25.0)
    state, _ = _step(_steady(), params)
    after, out = _step([R(10.0, 120.0), R(11.0, 85.0)], params, state, 1)
    assert out.flag.tolist() == [Flag.SUSPECT, Flag.GOOD]
    assert out.tests.tolist() == [Test.NIS_GATE, 0]
    assert out.nis[0] > 25.0
    assert out.estimate.tolist() == pytest.approx([85.0, 85.0])
    skipped, _ = _step([R(11.0, 85.0)], params, state, 1)
    np.testing.assert_array_equal(after.columns["filter"], skipped.columns["filter"])


def test_a_real_step_restarts_the_filter() -> None:
    """`gate_limit` readings in a row beyond the gate: the filter restarts from the last of them."""
    params = _params(gate_limit=5)
    _, out = _step([*_steady(), *(R(10.0 + i, 120.0) for i in range(7))], params)
    assert out.estimate[10:14].tolist() == pytest.approx([85.0] * 4)
    assert out.estimate[14:].tolist() == [120.0] * 3
    assert out.flag[10:].tolist() == [Flag.SUSPECT] * 5 + [Flag.GOOD] * 2


def test_only_outliers_in_a_row_restart_the_filter() -> None:
    """A reading within the gate in between starts the count anew."""
    values = [*[120.0] * 4, 85.0, *[120.0] * 4, 85.0]
    _, out = _step([*_steady(), *(R(10.0 + i, v) for i, v in enumerate(values))], _params(gate_limit=5))
    assert out.estimate.max() < 86.0


def test_absurdly_large_values_never_enter_a_filter() -> None:
    """Beyond 1e100 a value is kept out even where there is no gate, or it is the first; it is marked as an outlier."""
    params = _params(gate_nis="off", gate_limit=1)
    state, out = _step([R(0.0, 1e200), R(1.0, 85.0), R(2.0, -1e300)], params)
    assert out.tests.tolist() == [Test.NIS_GATE, 0, Test.NIS_GATE]
    assert out.flag.tolist() == [Flag.SUSPECT, Flag.GOOD, Flag.SUSPECT]
    assert np.isnan(out.estimate[0])
    assert out.estimate[1:].tolist() == [85.0, 85.0]
    assert state.columns["filter"][0, kalman.VALUE] == 85.0


def test_a_reading_older_than_the_last_update_moves_nothing() -> None:
    """Time never runs backwards in a filter, even where nobody called the reading late."""
    params = _params()
    state, _ = _step(_steady(), params)
    after, out = _step([R(3.0, 85.0)], params, state, 1)
    assert np.isnan(out.estimate[0])
    np.testing.assert_array_equal(after.columns["filter"], state.columns["filter"])
    np.testing.assert_array_equal(after.columns["counts"], state.columns["counts"])


def test_a_bad_flag_is_never_made_better() -> None:
    """The gate turns good and not evaluated into suspect, and leaves worse flags alone."""
    params = _params()
    state, _ = _step(_steady(), params)
    flags = [Flag.GOOD, Flag.NOT_EVALUATED, Flag.SUSPECT, Flag.FAIL]
    _, out = _step([R(10.0 + i, 200.0, flag=flag) for i, flag in enumerate(flags)], params, state, 1)
    assert out.flag.tolist() == [Flag.SUSPECT, Flag.SUSPECT, Flag.SUSPECT, Flag.FAIL]
    assert out.tests.tolist() == [Test.NIS_GATE] * 3 + [0]


def test_set_point_is_known_exactly() -> None:
    """A tag `….sv`: estimate is the value, rate and std are 0, a suspect step is followed, a bad one is not."""
    readings = [
        R(0, 85.0, "temperature.sv"),
        R(1, 120.0, "temperature.sv", flag=Flag.SUSPECT, tests=Test.SPIKE),
        R(2, 999.0, "temperature.sv", flag=Flag.FAIL),
    ]
    _, out = _step(readings, _params())
    assert out.estimate.tolist() == [85.0, 120.0, 120.0]
    assert out.rate.tolist() == [0.0] * 3
    assert out.std.tolist() == [0.0] * 3
    assert np.isnan(out.nis).all()


def test_drift_is_found_when_it_is_asked_for() -> None:
    """Readings that come out above the prediction again and again get DRIFT and are suspect; noise alone does not."""
    rng = np.random.default_rng(5)
    noise = rng.normal(0.0, math.sqrt(0.5), 400)
    ramp = np.maximum(np.arange(400) - 200, 0) ** 2 * 2e-3
    params = _params(process_noise=1e-6, drift_threshold=12.0, gate_nis="off")
    _, calm = _step([R(float(i), 85.0 + v) for i, v in enumerate(noise)], params)
    _, drifting = _step([R(float(i), 85.0 + v) for i, v in enumerate(noise + ramp)], params)
    assert not calm.tests.any()
    assert not drifting.tests[:200].any()
    assert (drifting.tests[-20:] == Test.DRIFT).all()
    assert (drifting.flag[-20:] == Flag.SUSPECT).all()
    _, off = _step([R(float(i), 85.0 + v) for i, v in enumerate(noise + ramp)], _params(process_noise=1e-6))
    assert not (off.tests & Test.DRIFT).any()


def test_noise_follows_the_unit() -> None:
    """The same pressures in kPa and in Pa have the same NIS and flags; estimates differ by the factor alone."""
    rng = np.random.default_rng(2)
    kpa = 2500.0 + rng.normal(0.0, 8.0, 50)
    params = EstimationParams(settings())
    _, in_kpa = _step([R(float(i), v, "pressure", "kPa") for i, v in enumerate(kpa)], params)
    _, in_pa = _step([R(float(i), v * 1e3, "pressure", "Pa") for i, v in enumerate(kpa)], params)
    np.testing.assert_allclose(in_pa.nis[1:], in_kpa.nis[1:], rtol=1e-9)
    np.testing.assert_allclose(in_pa.estimate, in_kpa.estimate * 1e3, rtol=1e-12)
    assert (in_kpa.flag == Flag.GOOD).all()


def test_without_a_stated_noise_there_is_no_gate() -> None:
    """Where neither configuration nor kind and unit tell the noise, the filter smooths and calls nothing an outlier."""
    values = [1000.0, 1400.0, 900.0, 1200.0] * 5
    params = EstimationParams(settings())
    _, out = _step([R(float(i), v, "xmeas_7", "kPa gauge") for i, v in enumerate(values)], params)
    assert (out.flag == Flag.GOOD).all()
    assert np.ptp(out.estimate[10:]) < np.ptp(values)
    stated = EstimationParams(settings(tags={"*/xmeas_7": {"estimation": {"measurement_noise": 0.5}}}))
    _, out = _step([R(float(i), v, "xmeas_7", "kPa gauge") for i, v in enumerate(values)], stated)
    assert (out.tests & Test.NIS_GATE).any()


def test_configured_noise_is_in_the_configured_unit() -> None:
    """`measurement_noise` of a tag with `unit = "kPa"` is in kPa², whatever unit a reading comes in."""
    tags = {"*/pressure": {"unit": "kPa", "estimation": {"measurement_noise": 64.0}}}
    params = EstimationParams(settings(tags=tags))
    row = params.table("R101", ("pressure", "pressure", "pressure"), ("Pa", "kPa", ""))
    assert row[:, kalman.R].tolist() == pytest.approx([64e6, 64.0, 64.0])


def test_heartbeats_pass() -> None:
    """A heartbeat comes out with its identity and changes nothing but the position."""
    params = _params()
    state, _ = _step(_steady(), params)
    beat = heartbeat(60.0, seq=1)
    after, out, _ = estimation.STAGE.step(state, beat, params)
    assert out is not None
    assert out.identity == beat.identity
    assert out.kind == "heartbeat"
    assert after.columns == state.columns


_TIMES = st.one_of(
    st.floats(0.0, 1e5, allow_subnormal=False), st.sampled_from([-1.7e9, 0.0, 1e-9, 86_400.0 * 365, 7.5e9, -1e10])
)
_VALUES = st.one_of(
    st.floats(-1e3, 1e3), st.floats(), st.sampled_from([1e308, -1e308, 5e-324, 2.0**63, -0.0, 1e100, -1e100, 1e99])
)
_READINGS = st.lists(
    st.builds(
        R,
        t_s=_TIMES,
        value=_VALUES,
        unit=st.just("degC"),
        late_s=st.just(0.01),
        tag=st.sampled_from(["temperature", "level", "temperature.sv"]),
        flag=st.sampled_from([1, 1, 1, 2, 3, 3, 4, 9]),
        tests=st.sampled_from([0, 0, 0, int(Test.LATE), int(Test.ZSCORE)]),
        mark=st.sampled_from([0, 0, 0, int(Mark.IMPUTED)]),
    ),
    min_size=1,
    max_size=40,
)
_GATES = st.sampled_from([25.0, "off"])


def _sane(state: StageState, out: EstimateFrame) -> None:
    assert np.isfinite(state.columns["filter"]).all()
    for column in (out.estimate, out.rate, out.std, out.innovation, out.nis):
        assert not np.isinf(column).any()
    assert not (out.std < 0).any()


@given(_READINGS, st.booleans(), _GATES)
@hypothesis_settings(max_examples=150, deadline=None)
def test_nothing_makes_a_filter_infinite(readings: list[R], white: bool, gate: object) -> None:
    """Whatever values, times and flags come: no NaN or infinity in a state, no infinity in an output."""
    params = _params(noise_model="white_acceleration" if white else "identity", gate_nis=gate, drift_threshold=5.0)
    state, out = _step(readings, params)
    _sane(state, out)


@given(_READINGS, st.lists(st.integers(1, 39), max_size=6))
@hypothesis_settings(max_examples=60, deadline=None)
def test_framing_does_not_matter(readings: list[R], at: list[int]) -> None:
    """However the readings are cut, with every state through its bytes in between, all columns are equal to the bit."""
    params = _params(drift_threshold=5.0)
    whole: ValidatedFrame = frame(readings)
    state, expected = _step(readings, params)
    cut_state, found = estimation.initial("R101"), []
    for part in cut(whole, at):
        cut_state, out, _ = estimation.STAGE.step(cut_state, part, params)
        assert isinstance(out, EstimateFrame)
        found.append(out)
        again = decode(encode(cut_state))
        assert isinstance(again, StageState)
        cut_state = again
    assert columns_joined(found) == columns_joined([expected])
    assert replace(cut_state, applied={}) == replace(state, applied={})
