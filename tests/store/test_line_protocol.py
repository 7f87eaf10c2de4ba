"""Line protocol of the sink, without a database."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels import twin as twin_stage
from kernels.around import lost_frames
from kernels.twin_params import TwinParams
from schemas.codec import decode_as, encode
from schemas.frames import EstimateFrame, Gap
from schemas.records import Alert, TwinState, Variable, Window
from store.line_protocol import (
    MAX_TIME_NS,
    UnstorableError,
    alert_line,
    frame_line,
    of_run,
    reading_lines,
    tag_value,
    window_line,
)
from store.record_lines import lines_of
from store.twin_lines import state_line, unit_suffix, with_horizon
from tests.agents.sink_samples import START_NS, WEIRD, frame
from tests.kernels.estimation_frames import settings


def fields(line: str) -> dict[str, str]:
    """Fields of a line without spaces in its strings."""
    return dict(pair.split("=", 1) for pair in line.split(" ")[1].split(","))


def test_a_reading_becomes_one_line_with_all_its_fields() -> None:
    """A reading is one line: tags, value and estimate as floats, flags as integers, time in ns."""
    (line,), refused = reading_lines(frame(np.array([85.0])))
    assert refused == []
    assert line == (
        "reactor_sensor,reactor_id=R101,sensor_type=temperature,unit=degC quality=1i,tests=0i,status=0i,mark=0i,"
        f"value=85.0,estimate=85.5,rate=0.0,std=1.0,arrival_ns={START_NS + 500}i,"
        f'source="mqtt-1",seq=0i {START_NS}'
    )


def test_every_float_reads_back_to_the_same_bits() -> None:
    """Any finite double, denormals and −0.0 among them, is written so that it reads back to the same bits."""
    bits = np.random.default_rng(7).integers(0, 2**64, 20_000, dtype=np.uint64).view("<f8")
    values = np.concatenate([bits[np.isfinite(bits)], WEIRD])
    lines, _ = reading_lines(frame(values))
    written = np.array([float(fields(line)["value"]) for line in lines])
    assert written.tobytes() == values.tobytes()
    assert all(re.search("[.eE]", fields(line)["value"]) for line in lines)


def test_what_is_no_finite_number_is_never_written_as_one() -> None:
    """NaN and the infinities leave the field out; an infinity and a text are kept as the reason."""
    values = np.array([np.nan, np.inf, -np.inf, 1.0, np.nan])
    lines, _ = reading_lines(frame(values, texts={4: 'In"p\\ Out'}))
    assert ["value" in fields(line) for line in lines] == [False, False, False, True, False]
    assert "reason" not in lines[0]
    assert ',reason="inf",' in lines[1]
    assert ',reason="-inf",' in lines[2]
    assert ',reason="In\\"p\\\\ Out",' in lines[4]
    assert not any("null" in line or "nan" in line.lower().replace("reactor", "") for line in lines)


def test_the_ordinal_moves_the_time() -> None:
    """The n-th further value of one tag and source time is stored n nanoseconds later."""
    whole = frame(np.array([1.0, 2.0]), source_time_ns=np.array([START_NS, START_NS]))
    whole.ordinal[1] = 1
    lines, _ = reading_lines(whole)
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == [START_NS, START_NS + 1]


def test_times_outside_the_range_are_refused_alone() -> None:
    """A source time that InfluxDB does not have refuses that reading and no other, the ordinal taken into account."""
    times = np.array([-(2**63), MAX_TIME_NS, MAX_TIME_NS, 2**63 - 1, START_NS])
    whole = frame(np.arange(5.0), source_time_ns=times)
    whole.ordinal[2] = 1
    lines, refused = reading_lines(whole)
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == [MAX_TIME_NS, START_NS]
    assert [r.row for r in refused] == [0, 2, 3]
    assert "range" in refused[0].reason


def test_names_are_escaped_and_impossible_ones_refused() -> None:
    """Commas, spaces, equal signs are escaped; control codes and backslashes that would escape are refused."""
    tags, units = ("a b,c=d", "evil\nreactor_sensor v=1", "back\\", "fine", ""), ("%", "degC", "degC", "", "degC")
    lines, refused = reading_lines(frame(np.arange(5.0), tags=tags, units=units))
    assert [line.split(" quality")[0] for line in lines] == [
        "reactor_sensor,reactor_id=R101,sensor_type=a\\ b\\,c\\=d,unit=%",
        "reactor_sensor,reactor_id=R101,sensor_type=fine,unit=none",
    ]
    assert [r.row for r in refused] == [1, 2, 4]
    assert all("\n" not in line for line in lines)
    with pytest.raises(UnstorableError, match="backslash"):
        tag_value("a\\,b")


def test_a_frame_without_readings_has_no_lines() -> None:
    """Heartbeats and gaps store nothing."""
    assert reading_lines(frame(np.empty(0))) == ([], [])


def test_lines_are_built_fast_enough() -> None:
    """More than 100,000 lines are built per second of processor time, the best of five."""
    whole = frame(np.random.default_rng(0).normal(85, 1, 20_000))
    best_s = min(_seconds(whole) for _ in range(5))
    assert 20_000 / best_s > 100_000


def _seconds(whole: object) -> float:
    begun = time.thread_time()
    reading_lines(whole)  # type: ignore[arg-type]
    return time.thread_time() - begun


def test_a_state_names_units_last_and_the_horizon_before() -> None:
    """Every number of a twin state has its name, unit last; unknown and non-finite numbers are absent."""
    state = TwinState(
        asset="R101",
        source="mqtt-1",
        epoch=1,
        seq=4,
        time_ns=START_NS,
        clock_ns=START_NS,
        model="batch_reactor",
        variables={
            "temperature": Variable(
                value=85.0, rate=0.5, std=0.1, age_s=0.2, residual=float("nan"), flag=1, unit="degC"
            ),
            "flow rate": Variable(value=120.0, unit="L/min"),
            "bad\nname": Variable(value=1.0),
        },
        model_states={"conversion": 0.25, "temperature_degC": 84.0},
        prediction={"conversion": 0.5, "temperature_degC": 86.0},
        coverage=1.0,
        connections={"mqtt-1": True, "opcua-1": False},
        readings=8,
    )
    line = state_line(state).replace("flow\\ rate", "flow_rate")
    assert line.startswith("reactor_twin,reactor_id=R101 ")
    assert line.endswith(f" {START_NS}")
    assert fields(line) == {
        "model": '"batch_reactor"', "source": '"mqtt-1"', "epoch": "1i", "seq": "4i", "readings": "8i",
        "connected": "0i", "conversion": "0.25", "model_temperature_degC": "84.0", "conversion_60s": "0.5",
        "temperature_60s_degC": "86.0", "horizon_s": "60.0", "coverage": "1.0", "temperature_degC": "85.0",
        "temperature_rate_degC_per_s": "0.5", "temperature_std_degC": "0.1", "temperature_age_s": "0.2",
        "temperature_flag": "1i", "flow_rate_L_per_min": "120.0", "flow_rate_flag": "2i",
    }  # fmt: skip
    assert with_horizon("concentration_mol_per_L", "60s") == "concentration_60s_mol_per_L"
    assert (unit_suffix("%"), unit_suffix(""), unit_suffix("kg/m³")) == ("_percent", "", "_kg_per_m³")


def twin(variables: dict[str, Variable]) -> TwinState:
    """A state of these variables and of the models' own states."""
    states = {"conversion": 0.25, "temperature_degC": 84.0, "conversion_std": 0.1}
    return TwinState(
        asset="R101", source="mqtt-1", epoch=1, seq=4, time_ns=5, clock_ns=5, model="cstr", variables=variables,
        model_states=states, prediction=states, newest_age_s=0.0, coverage=1.0, latency_ms=1.0,
    )  # fmt: skip


def measured(*named: tuple[str, str]) -> dict[str, Variable]:
    """Variables with every number, of names and units."""
    numbers = dict.fromkeys(("value", "rate", "std", "age_s", "residual", "rmse", "mae", "r2"), 1.0)
    return {name: Variable(**numbers, unit=unit) for name, unit in named}  # type: ignore[arg-type]


def escaped_fields(line: str) -> list[tuple[str, str]]:
    """Key, still escaped, and value of every field."""
    pairs = re.split(r"(?<!\\),", re.split(r"(?<!\\) ", line)[1])
    return [(key, value) for key, value in (re.split(r"(?<!\\)=", pair) for pair in pairs)]


_WORDS = ["flow", "valve", "model", "source", "seq", "time", "run", "conversion", "temperature", "horizon", "coverage"]
_WORDS += ["rate", "std", "r2", "age", "flag", "60s", "degC", "s", "per", "[]", "[degC]"]
_NAMES = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=3).map("_".join) | st.text(min_size=1, max_size=3)
_UNITS = st.sampled_from(["", "L", "L/s", "degC", "s", "flag", "r2", "age s", "std"]) | st.text(max_size=3)


@given(named=st.lists(st.tuples(_NAMES, _UNITS), max_size=12))
@example(named=[("flow", "L"), ("flow_rate", "L/s"), ("valve", ""), ("valve_flag", ""), ("seq", ""), ("x", "flag")])
def test_no_number_of_a_state_hides_another(named: list[tuple[str, str]]) -> None:
    """Whatever tags and units are called, a state has every number under a key of its own, and flags alone are ints."""
    variables = {n: v for n, v in measured(*named).items() if is_a_key(n)}
    found = escaped_fields(state_line(twin(variables)))
    assert len({key for key, _ in found}) == len(found)
    assert len(found) == len(escaped_fields(state_line(twin({})))) + 9 * len(variables)
    whole = {key for key, value in found if value.endswith("i")}
    assert whole - {"epoch", "seq", "readings", "connected"} == {key for key, _ in found if key.endswith("_flag")}


def is_a_key(name: str) -> bool:
    """Whether line protocol can write a name."""
    try:
        return bool(tag_value(name)) and name != ""
    except UnstorableError:
        return False


def test_a_variable_whose_keys_are_taken_has_its_unit_in_brackets() -> None:
    """Of two variables the first seen keeps its keys, and our own names and a flag's always stay what they are."""
    named = [("flow", "L"), ("flow_rate", "L/s"), ("valve_flag", ""), ("valve", ""), ("model", ""), ("run", "")]
    keys = [key for key, _ in escaped_fields(state_line(twin(measured(*named, ("conversion_60s", "%")))))]
    assert [key for key in keys if key.endswith(("_r2", "_std"))] == [
        "conversion_std", "flow_r2", "flow_rate[L_per_s]_std", "flow_rate[L_per_s]_r2", "valve_flag[]_std",
        "valve_flag[]_r2", "valve_std", "valve_r2", "model[]_std", "model[]_r2", "run[]_std", "run[]_r2",
        "conversion_60s_r2",
    ]  # fmt: skip
    assert {"flow_rate_L_per_s", "flow_rate[L_per_s]", "valve_flag[]", "valve_flag", "valve_flag[]_flag"} <= set(keys)
    assert {"model[]", "model[]_flag", "run[]", "conversion_60s_percent", "conversion_60s"} <= set(keys)


def test_alerts_windows_and_times_of_storage() -> None:
    """Alerts, closed windows and the time a frame was stored are points of their own."""
    alert = Alert(asset="R101", kind="drift", severity="warning", time_ns=5, message='a "b" c', tag="ph", value=7.5)
    assert alert_line(alert) == (
        'reactor_alert,reactor_id=R101,kind=drift,sensor_type=ph severity="warning",message="a \\"b\\" c",event_ns=5i,'
        "value=7.5 780800"
    )
    window = Window(tag="ph", window_s=60.0, start_ns=120, count=3, mean=7.0, min=6.5, max=7.5)
    assert window_line("R101", window) == (
        "reactor_window,reactor_id=R101,sensor_type=ph,window=60s count=3i,mean=7.0,min=6.5,max=7.5 120"
    )
    assert frame_line(frame(np.array([1.0]), seq=7), 99) == (
        f"reactor_frame,reactor_id=R101,source=mqtt-1 epoch=1i,seq=7i,readings=1i,stored_ns=99i {START_NS + 7}"
    )
    with pytest.raises(UnstorableError, match="range"):
        alert_line(Alert(asset="R101", kind="drift", severity="info", time_ns=2**63 - 1, message=""))


def test_alerts_of_one_time_stand_side_by_side() -> None:
    """Alerts of one kind and time that say different things are different points; the same alert is the same point."""
    gap = Gap(from_ns=START_NS - 10**9, to_ns=START_NS, cause="the server's queue overflowed")
    first = replace(frame(np.empty(0), tags=("ph", "flow"), units=("", "L/min")), kind="gap", gap=gap)
    second = replace(first, seq=1, tags=("level", "speed"), gap=replace(gap, from_ns=gap.from_ns - 1))
    alerts = [alert for one in (first, second) for alert in alerts_of(one)]
    alerts += [lost_frames(stage, first, 3) for stage in ("validation", "estimation", "twin")]
    points = {(line.split(" ")[0], line.rsplit(" ")[-1]) for line in map(alert_line, alerts)}
    assert len(alerts) == len(points) == 5
    again = [decode_as(encode(alert), Alert) for alert in alerts]
    assert list(map(alert_line, again)) == list(map(alert_line, alerts))


def alerts_of(one: EstimateFrame) -> tuple[Alert, ...]:
    """What the twin raises for a frame."""
    _, state, _ = twin_stage.step(twin_stage.initial(one.asset), one, TwinParams(settings()))
    assert state is not None
    return state.alerts


def test_a_window_that_cannot_be_a_point_stops_no_other() -> None:
    """A tag that line protocol cannot write costs the state and the windows of the other tags nothing."""
    windows = tuple(
        Window(tag=tag, window_s=1.0, start_ns=7, count=1, mean=1.0, min=1.0, max=1.0) for tag in ("ph", "a\\", "flow")
    )
    state = replace(twin(measured(("ph", ""), ("a\\", ""))), windows=windows)
    lines, refused = lines_of(state)
    assert lines == [state_line(state), window_line("R101", windows[0]), window_line("R101", windows[2])]
    assert [r.row for r in refused] == [1]
    assert "no backslash at the end" in refused[0].reason


def test_points_of_a_run_have_its_name_as_a_tag() -> None:
    """The run's name is escaped and stands beside the tags that there are; nothing else changes."""
    lines = ["reactor_sensor,reactor_id=a\\,b,sensor_type=t value=1 5", 'reactor_alert,kind=k message="a,b c" 6']
    assert of_run(lines, "night 1") == [
        "reactor_sensor,run=night\\ 1,reactor_id=a\\,b,sensor_type=t value=1 5",
        'reactor_alert,run=night\\ 1,kind=k message="a,b c" 6',
    ]
    with pytest.raises(UnstorableError, match="no control codes"):
        of_run(lines, "a\nb")
