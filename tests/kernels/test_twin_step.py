"""The twin's clock, model, variables and record, reading by reading."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kernels import estimation, twin
from kernels.estimation_params import EstimationParams
from kernels.models import MODELS
from kernels.models.model import ParameterError
from kernels.twin_params import TwinParams
from plant.physics import Reactors
from plant.sensors import SENSORS, Instruments
from schemas.codec import decode, encode
from schemas.frames import EstimateFrame, empty_columns
from schemas.quality import Flag, Mark, Test
from schemas.records import TwinState
from schemas.states import StageState
from tests.kernels.estimation_frames import SECOND_NS, START_NS, R, cut, estimates, frame, heartbeat, settings
from tests.kernels.model_runs import Run


def _fold(
    frames: list[EstimateFrame], params: TwinParams, state: StageState | None = None
) -> tuple[StageState, list[TwinState]]:
    state, records = state or twin.initial("R101"), []
    for one in frames:
        state, record, _ = twin.STAGE.step(state, one, params)
        assert record is not None
        records.append(record)
    return state, records


def _last(readings: list[R], params: TwinParams | None = None) -> TwinState:
    return _fold([estimates(readings)], params or TwinParams(settings()))[1][-1]


def _beat(t_s: float, seq: int, **more: Any) -> EstimateFrame:
    beat = heartbeat(t_s, seq=seq)
    values = {**empty_columns(EstimateFrame), **more}
    return EstimateFrame(
        asset="R101", source=beat.source, epoch=1, seq=seq, kind="heartbeat", time_ns=beat.time_ns, **values
    )


def _hot(n: int = 11, value: float = 85.0) -> list[R]:
    return [R(float(i), value) for i in range(n)]


def test_time_is_the_newest_source_time_that_moved_the_twin() -> None:
    """Late readings, readings from the future and bad ones do not move it; the order of tags does not matter."""
    readings = [
        R(10.0, 85.0),
        R(9.0, 2500.0, "pressure", "kPa"),
        R(3600.0, 85.0, flag=Flag.SUSPECT, tests=Test.TIME, late_s=-3590.0),
        R(5.0, 85.0, flag=Flag.SUSPECT, tests=Test.LATE, late_s=5.01),
    ]
    record = _last(readings)
    assert record.time_ns == START_NS + 10 * SECOND_NS
    assert record.clock_ns == START_NS + 10 * SECOND_NS + 10_000_000
    assert record.latency_ms == pytest.approx(10.0)
    assert record.newest_age_s == 0.0
    assert record.variables["pressure"].age_s == 1.0


def test_times_before_1970_are_1970() -> None:
    """A reading from before 1970 moves the twin to 1970 and no further back; the next one goes on from there."""
    old = -START_NS / 1e9 - 5.0
    params = TwinParams(settings())
    _, records = _fold([estimates([R(old, 85.0, late_s=100.0)]), estimates([R(0.0, 85.0)], seq=1)], params)
    assert [r.time_ns for r in records] == [0, START_NS]


def test_readings_beyond_the_gate_do_not_move_the_twin() -> None:
    """Their estimate is a prediction: value and age stay those of the last reading that was let in."""
    gated = R(20.0, 120.0, flag=Flag.SUSPECT, tests=Test.NIS_GATE)
    suspect = R(15.0, 86.0, flag=Flag.SUSPECT, tests=Test.ZSCORE)
    record = _last([*_hot(), suspect, gated])
    assert record.variables["temperature"].value == 86.0
    assert record.variables["temperature"].age_s == 5.0


def test_a_parameter_stands_in_until_there_is_an_estimate() -> None:
    """A changed parameter counts for a state that exists already, unless the input it stands in for was measured."""
    before, after = (
        TwinParams(settings(assets={"*": {"parameters": {"coolant_temperature_degC": t}}})) for t in (70.0, 20.0)
    )
    cooler: dict[bool, bool] = {}
    for measured in (False, True):
        readings = [*_hot(), *([R(10.0, 70.0, "coolant_temperature")] if measured else [])]
        state, (first,) = _fold([estimates(readings)], before)
        _, (second,) = _fold([_beat(10.01, 1)], after, state)
        cooler[measured] = second.prediction["temperature_degC"] < first.prediction["temperature_degC"] - 0.1
    assert cooler == {False: True, True: False}


def test_a_worse_tag_for_an_input_is_not_scored() -> None:
    """Two tags for one input: once the better one is there, residual and quality are its alone."""
    readings = [
        R(0.0, 85.0),
        R(0.0, 30.0, "coolant_outlet_temperature"),
        R(1.0, 40.0, "temperature_jacket"),
        R(2.0, 90.0, "coolant_outlet_temperature"),
    ]
    record = _last(readings, TwinParams(settings(assets={"*": {"model": "cstr"}})))
    assert record.variables["temperature_jacket"].residual is not None
    assert record.variables["coolant_outlet_temperature"].residual is None
    assert record.variables["temperature_jacket"].mae == pytest.approx(5.0, abs=0.5)


def test_heartbeats_let_time_pass() -> None:
    """While nothing comes, the arrival clock moves the twin's time, ages grow and the model goes on."""
    params = TwinParams(settings())
    _, records = _fold([estimates(_hot()), _beat(20.01, 1), _beat(70.01, 2)], params)
    assert [r.time_ns - START_NS for r in records] == [10 * SECOND_NS, 20 * SECOND_NS, 70 * SECOND_NS]
    assert [r.newest_age_s for r in records] == [0.0, 10.0, 60.0]
    assert [r.variables["temperature"].age_s for r in records] == [0.0, 10.0, 60.0]
    assert records[0].model_states["conversion"] < records[1].model_states["conversion"]
    assert records[1].model_states["conversion"] < records[2].model_states["conversion"]


def test_bad_data_keeps_the_last_estimate_and_says_so() -> None:
    """A failed reading leaves value and std, shows its flag, and the age grows with the arrival clock."""
    record = _last([*_hot(), R(15.0, 500.0, flag=Flag.FAIL, tests=Test.RANGE)])
    variable = record.variables["temperature"]
    assert (variable.value, variable.flag, variable.age_s) == (85.0, Flag.FAIL, 5.0)
    assert record.coverage == 0.0
    assert [a.kind for a in record.alerts] == ["bad_quality"]


def test_coverage_is_the_share_of_tags_whose_newest_reading_is_good() -> None:
    """Suspect and bad readings count against it; a late one is not the newest."""
    readings = [
        R(1.0, 85.0),
        R(1.0, 2500.0, "pressure", "kPa"),
        R(1.0, 120.0, "flow_rate", "L/min", flag=Flag.SUSPECT),
        R(1.0, 7.0, "ph", "pH", flag=Flag.FAIL),
        R(0.5, 85.0, flag=Flag.SUSPECT, tests=Test.LATE),
    ]
    assert _last(readings).coverage == 0.5


def test_conversion_follows_the_estimates() -> None:
    """At steady 85 degC and 2.5 MPa (given in kPa) the conversion is 1 − exp(−k·t) since the first reading."""
    k = 1e10 * math.exp(-80_000.0 / (8.314 * 358.15))
    for pressure, factor in ((2500.0, 1.0), (625.0, 0.5)):
        readings = [
            R(i / 2, v, t, u)
            for i in range(61)
            for v, t, u in ((pressure, "pressure", "kPa"), (85.0, "temperature", "degC"))
        ]
        record = _last(readings)
        assert record.model_states["conversion"] == pytest.approx(1.0 - math.exp(-k * factor * 30.0), abs=1e-4)


def test_units_are_converted() -> None:
    """A temperature in kelvin moves the model as the same in degC does, and its residual is in K; an unknown unit moves
    nothing.
    """
    celsius = _last([R(float(i), 85.0 + i) for i in range(11)])
    kelvin = _last([R(float(i), 358.15 + i, unit="K") for i in range(11)])
    fahrenheit = _last([R(float(i), (85.0 + i) * 1.8 + 32.0, unit="degF") for i in range(11)])
    unknown = _last([R(float(i), 85.0 + i, unit="furlong") for i in range(11)])
    assert kelvin.model_states == pytest.approx(celsius.model_states)
    assert fahrenheit.model_states["temperature_degC"] == pytest.approx(celsius.model_states["temperature_degC"])
    residual = celsius.variables["temperature"].residual
    assert residual is not None
    assert kelvin.variables["temperature"].residual == pytest.approx(residual)
    assert fahrenheit.variables["temperature"].residual == pytest.approx(1.8 * residual)
    assert unknown.variables["temperature"].residual is None
    assert unknown.variables["temperature"].unit == "furlong"


def test_residual_is_estimate_minus_model() -> None:
    """A step of 5 K that the model cannot explain shows as a residual, and fades with the observer's time constant."""
    params = TwinParams(settings(assets={"*": {"parameters": {"frequency_factor_per_s": 0, "area_m2": 0}}}))
    record = _last([R(0.0, 85.0), R(1.0, 90.0)], params)
    assert record.variables["temperature"].residual == pytest.approx(5.0)
    record = _last([R(0.0, 85.0), *(R(1.0 + i, 90.0) for i in range(61))], params)
    assert record.variables["temperature"].residual == pytest.approx(5.0 * math.exp(-1.0), rel=1e-6)


def test_rolling_quality_covers_exactly_the_window() -> None:
    """RMSE, MAE and R² are those of the last `quality_window` pairs of estimate and model."""
    params = TwinParams(settings(twin={"quality_window": 20}))
    rng = np.random.default_rng(4)
    values = 85.0 + np.cumsum(rng.normal(0.0, 0.5, 55))
    state, pairs = twin.initial("R101"), []
    for i, value in enumerate(values):
        state, record, _ = twin.STAGE.step(state, estimates([R(float(i), value)], seq=i), params)
        assert record is not None
        found = record.variables["temperature"]
        assert found.residual is not None
        pairs.append((value, value - found.residual))
        e, m = np.array(pairs[-20:]).T
        assert found.rmse == pytest.approx(np.sqrt(np.mean((e - m) ** 2)), rel=1e-9, abs=1e-12)
        assert found.mae == pytest.approx(np.mean(np.abs(e - m)), rel=1e-9, abs=1e-12)
        if i == 0:
            assert found.r2 is None
        else:
            assert found.r2 == pytest.approx(1.0 - np.sum((e - m) ** 2) / np.sum((e - e.mean()) ** 2), rel=1e-6)


def test_prediction_integrates_balance_and_kinetics_from_the_estimates() -> None:
    """The states at the horizon are those the model reaches from the present estimates, with nothing to correct it."""
    readings = [*_hot(31), R(30.0, 60.0, "temperature_jacket"), R(30.5, 80.0)]
    record = _last(readings, TwinParams(settings(assets={"*": {"horizon_s": 45}})))
    assert record.horizon_s == 45.0
    run = Run(MODELS["batch_reactor"]).set(jacket_temperature=60.0)
    run.x[0], run.x[1] = record.model_states["conversion"], 80.0
    expected = run.after(45.0)
    assert record.prediction["temperature_degC"] == pytest.approx(expected["temperature_degC"], rel=1e-12)
    assert record.prediction["conversion"] == pytest.approx(expected["conversion"], rel=1e-12)


def test_every_model_runs_in_the_twin() -> None:
    """Model and its parameters come from the configuration; `none` has no states, and the variables all the same."""
    for name in (*MODELS, "none"):
        record = _last(
            [*_hot(), R(10.0, 40.0, "temperature_jacket")], TwinParams(settings(assets={"*": {"model": name}}))
        )
        assert record.model == name
        assert record.variables["temperature"].value == 85.0
        states = {s.name for s in MODELS[name].states} if name in MODELS else set()
        assert record.model_states.keys() == record.prediction.keys() == states


def test_a_model_input_can_have_any_tag() -> None:
    """`inputs` of the asset names the tag that a model input comes from."""
    params = TwinParams(settings(assets={"R101": {"inputs": {"temperature": "TI-7"}}}))
    record = _last([R(0.0, 95.0, "TI-7"), R(0.0, 20.0)], params)
    assert record.model_states["temperature_degC"] == 95.0


def test_wrong_model_settings_are_told() -> None:
    """A parameter that the model does not have raises when the asset first appears."""
    with pytest.raises(ParameterError, match="unknown parameter 'mas_kg'"):
        _last(_hot(), TwinParams(settings(assets={"*": {"parameters": {"mas_kg": 1.0}}})))


def test_another_model_starts_anew_and_keeps_the_variables() -> None:
    """A state made with one model is taken by another: its own states start, estimates and clock stay."""
    batch, stirred = TwinParams(settings()), TwinParams(settings(assets={"*": {"model": "cstr"}}))
    state, before = _fold([estimates(_hot())], batch)
    _, after = _fold([_beat(10.01, 1)], stirred, state)
    assert after[0].model_states["conversion"] == 0.5
    assert after[0].variables["temperature"].value == before[0].variables["temperature"].value
    assert after[0].time_ns == before[0].time_ns


def test_a_twin_knows_a_simulated_reactor() -> None:
    """Fed with the noisy readings of the plant's own reactor for 100 s, conversion is within 0.01 of the truth all the
    time, and the prediction made at 40 s within 0.02 and 1 K of what is so at 100 s.
    """
    reactors, instruments = Reactors(1), Instruments(1, seed=3)
    kept = settings()
    filters, params = EstimationParams(kept), TwinParams(kept)
    estimated, state = estimation.initial("R101"), twin.initial("R101")
    predicted: dict[str, float] = {}
    for second in range(101):
        now_s = float(second)
        samples = instruments.read(reactors, START_NS + second * SECOND_NS)
        readings = [
            R((s.source_time_ns - START_NS) / 1e9, float(s.value), s.tag, s.unit)
            for s in samples
            if s.value is not None
        ]
        estimated, out, _ = estimation.STAGE.step(estimated, frame(readings, seq=second), filters)
        assert out is not None
        state, record, _ = twin.STAGE.step(state, out, params)
        assert record is not None
        truth = instruments.truths(reactors)["R101"]
        assert record.model_states["conversion"] == pytest.approx(truth.conversion, abs=0.01), now_s
        if second == 40:
            predicted = record.prediction
        for _ in range(10):
            reactors.step(0.1)
    assert len(record.variables) == len(SENSORS)
    assert record.coverage == 1.0
    assert not [a for a in record.alerts if a.kind != "nis_inconsistent"]
    assert predicted["conversion"] == pytest.approx(truth.conversion, abs=0.02)
    assert predicted["temperature_degC"] == pytest.approx(truth.temperature_degC, abs=1.0)


_READING = st.builds(
    R,
    t_s=st.one_of(st.floats(0.0, 300.0), st.sampled_from([-1.7e9 - 5.0, 7.0e9, 1e6])),
    value=st.one_of(st.floats(0.0, 200.0), st.floats(), st.sampled_from([1e308, -1e308, 1e99])),
    tag=st.sampled_from(["temperature", "pressure", "temperature_jacket", "level", "temperature.sv"]),
    unit=st.sampled_from(["degC"]),
    flag=st.sampled_from([1, 1, 1, 1, 3, 4, 9]),
    tests=st.sampled_from([0, 0, 0, int(Test.LATE), int(Test.TIME), int(Test.NIS_GATE), int(Test.DRIFT)]),
    mark=st.sampled_from([0, 0, 0, int(Mark.IMPUTED)]),
    late_s=st.sampled_from([0.01, 0.5, 30.0]),
)


@pytest.mark.parametrize("model", [*MODELS, "none"])
@given(readings=st.lists(_READING, min_size=1, max_size=40), at=st.lists(st.integers(1, 39), max_size=6))
@hypothesis_settings(max_examples=60, deadline=None)
def test_framing_does_not_matter(model: str, readings: list[R], at: list[int]) -> None:
    """However readings are cut, with every state through its bytes in between: state, windows and alerts are the same
    to the bit, and so is the record after the last reading. No number in it is NaN or infinite.
    """
    params = TwinParams(settings(assets={"*": {"model": model}}, twin={"windows_s": [1, 10], "quality_window": 10}))
    filters = EstimationParams(settings())
    whole = frame(readings)
    _, out, _ = estimation.STAGE.step(estimation.initial("R101"), whole, filters)
    assert out is not None
    state, (expected,) = _fold([out], params)
    again, records = twin.initial("R101"), []
    for part in cut(out, at):
        again, record, _ = twin.STAGE.step(again, part, params)
        assert record is not None
        records.append(record)
        kept = decode(encode(again))
        assert isinstance(kept, StageState)
        again = kept
    assert replace(again, applied={}) == replace(state, applied={})
    joined = replace(
        records[-1],
        seq=0,
        windows=tuple(w for r in records for w in r.windows),
        alerts=tuple(a for r in records for a in r.alerts),
    )
    assert encode(joined) == encode(expected)
    numbers = [*expected.model_states.values(), *expected.prediction.values()]
    numbers += [n for w in expected.windows for n in (w.mean, w.min, w.max)]
    for v in expected.variables.values():
        numbers += [n for n in (v.value, v.rate, v.std, v.age_s, v.residual, v.rmse, v.mae, v.r2) if n is not None]
    assert np.isfinite(numbers).all()
