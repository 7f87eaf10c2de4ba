"""Alerts come at edges, once, with event time, and say what is the matter."""

from dataclasses import replace

import numpy as np
import pytest

from kernels import estimation, twin
from kernels.estimation_params import EstimationParams
from kernels.stage import Settings
from kernels.twin_params import TwinParams
from schemas.frames import EstimateFrame, Gap, empty_columns
from schemas.quality import Flag, Mark, Test
from schemas.records import Alert
from tests.kernels.estimation_frames import SECOND_NS, START_NS, R, estimates, frame, heartbeat, settings

QUIET = {"residual_limit": "off"}


def _alerts(frames: list[EstimateFrame], kept: Settings | None = None) -> list[Alert]:
    state, params, found = twin.initial("R101"), TwinParams(kept or settings()), []
    for seq, one in enumerate(frames):
        state, record, _ = twin.STAGE.step(state, replace(one, seq=seq), params)
        assert record is not None
        found += record.alerts
    return found


def _estimated(readings: list[R], kept: Settings) -> list[EstimateFrame]:
    _, out, _ = estimation.STAGE.step(estimation.initial("R101"), frame(readings), EstimationParams(kept))
    assert out is not None
    return [out]


def _beat(t_s: float, connected: bool = True, gap: Gap | None = None) -> EstimateFrame:
    raw = heartbeat(t_s, seq=0, connected=connected, gap=gap)
    return EstimateFrame(
        asset="R101",
        source=raw.source,
        epoch=1,
        seq=0,
        kind=raw.kind,
        connected=connected,
        gap=gap,
        time_ns=raw.time_ns,
        **empty_columns(EstimateFrame),
    )


def _told(alerts: list[Alert]) -> list[tuple[str, str, str, float]]:
    return [(a.kind, a.severity, a.tag, (a.time_ns - START_NS) / SECOND_NS) for a in alerts]


def test_nothing_is_said_when_nothing_happens() -> None:
    """Good readings raise no alert."""
    assert _alerts([estimates([R(float(i), 85.0) for i in range(100)])]) == []


def test_bad_quality_at_both_edges() -> None:
    """A tag that turns bad, and one that can be used again; nothing in between, and suspect ones are no edge."""
    flags = [1, 4, 4, 4, 1, 3, 1]
    found = _alerts(
        [estimates([R(float(i), 85.0, flag=f, tests=Test.RANGE if f == 4 else 0) for i, f in enumerate(flags)])]
    )
    assert _told(found) == [("bad_quality", "warning", "temperature", 1.0), ("bad_quality", "info", "temperature", 4.0)]
    assert "range" in found[0].message


def test_late_readings_say_nothing_about_now() -> None:
    """A late bad reading is no edge."""
    assert _alerts([estimates([R(5.0, 85.0), R(1.0, 500.0, flag=Flag.FAIL, tests=Test.LATE | Test.RANGE)])]) == []


def test_stale_when_rows_are_imputed() -> None:
    """A tag that validation misses is stale until it is heard of again."""
    missing = {"value": float("nan"), "flag": Flag.MISSING, "tests": Test.GAP, "mark": Mark.IMPUTED}
    readings = [R(0.0, 85.0), R(5.0, **missing), R(10.0, **missing), R(15.0, 85.0)]  # type: ignore[arg-type]
    found = _alerts([estimates(readings)])
    assert _told(found) == [("stale", "warning", "temperature", 5.0), ("stale", "info", "temperature", 15.0)]


def test_connection_per_source() -> None:
    """A source that loses its connection to the field and has it back; each source for itself."""
    other = replace(_beat(3.0), source="opcua-1")
    found = _alerts([_beat(0.0), _beat(1.0, connected=False), _beat(2.0, connected=False), other, _beat(4.0)])
    assert _told(found) == [("connection", "warning", "", 1.0), ("connection", "info", "", 4.0)]
    assert found[0].message.startswith("mqtt-1")


def test_gap_with_the_number_lost() -> None:
    """Every gap that a connector reports, with its end as time and the number lost as value."""
    gap = Gap(from_ns=START_NS, to_ns=START_NS + 5 * SECOND_NS, cause="queue overflow", lost=12)
    found = _alerts([_beat(6.0, gap=gap), _beat(7.0, gap=replace(gap, lost=None))])
    assert _told(found) == [("gap", "warning", "", 5.0)] * 2
    assert [a.value for a in found] == [12.0, None]
    assert "queue overflow" in found[0].message


def test_a_gap_of_one_tag_names_it() -> None:
    """A gap alert is the tag's where it concerns one, and the asset's where it concerns several or all."""
    gap = Gap(from_ns=START_NS, to_ns=START_NS + SECOND_NS, cause="queue overflow")
    concerned = [("ph",), ("ph", "flow"), ()]
    found = _alerts([replace(_beat(2.0, gap=gap), tags=tags, units=("",) * len(tags)) for tags in concerned])
    assert [alert.tag for alert in found] == ["ph", "", ""]


def test_residual_that_stays() -> None:
    """An estimate over `residual_limit` standard deviations from the model for `residual_s`, then back for as long;
    short departures either way are no edge.
    """
    kept = settings(
        assets={"*": {"parameters": {"frequency_factor_per_s": 0, "area_m2": 0, "observer_s": 1e6}}},
        twin={"residual_limit": 5.0, "residual_s": 10.0},
    )
    values = [85.0] * 10 + [95.0] * 5 + [85.0] * 10 + [95.0] * 20 + [85.0] * 5 + [95.0] * 5 + [85.0] * 15
    found = _alerts([estimates([R(float(i), v) for i, v in enumerate(values)], std=1.0)], kept)
    assert _told(found) == [("residual", "warning", "temperature", 35.0), ("residual", "info", "temperature", 65.0)]
    assert found[0].value == pytest.approx(10.0, abs=0.01)
    off = settings(twin=QUIET)
    assert _alerts([estimates([R(float(i), 85.0 + i * i) for i in range(60)])], off) == []


@pytest.mark.parametrize(("noise", "words"), [(0.01, "too small"), (50.0, "too large"), (0.5, "")])
def test_nis_tells_a_wrong_noise(noise: float, words: str) -> None:
    """A measurement noise that does not fit is told once, with the direction; one that fits is not."""
    kept = settings(
        tags={"*": {"estimation": {"measurement_noise": noise, "process_noise": 1e-6, "gate_nis": "off"}}}, twin=QUIET
    )
    rng = np.random.default_rng(8)
    values = 85.0 + rng.normal(0.0, np.sqrt(0.5), 1000)
    found = _alerts(_estimated([R(float(i), v) for i, v in enumerate(values)], kept), kept)
    assert [a.kind for a in found] == (["nis_inconsistent"] if words else [])
    assert all(words in a.message and a.severity == "info" for a in found)
    # two windows of 50 must agree; the first reading starts the filter and has no NIS
    assert all(a.time_ns == START_NS + 100 * SECOND_NS for a in found)


def test_nis_is_silent_where_nobody_stated_a_noise() -> None:
    """A tag of unknown kind and unit has no noise that could be wrong."""
    readings = [R(float(i), 1000.0 + 50.0 * (i % 3), "xmeas_7", "") for i in range(500)]
    assert _alerts(_estimated(readings, settings())) == []


def test_drift_at_both_edges() -> None:
    """Readings flagged DRIFT raise one alert when they begin and one when they end."""
    tests = [0, 0, Test.DRIFT, Test.DRIFT, 0, 0]
    readings = [R(float(i), 85.0, tests=t, flag=Flag.SUSPECT if t else Flag.GOOD) for i, t in enumerate(tests)]
    assert _told(_alerts([estimates(readings)])) == [
        ("drift", "warning", "temperature", 2.0),
        ("drift", "info", "temperature", 4.0),
    ]


def test_alerts_come_in_the_order_of_the_readings() -> None:
    """Several tags in one frame: alerts stand in the order of the readings that raised them."""
    readings = [
        R(0.0, 85.0, "temperature"),
        R(0.0, 7.0, "ph", "pH"),
        R(1.0, 99.0, "ph", "pH", flag=Flag.FAIL, tests=Test.RANGE),
        R(1.1, 999.0, "temperature", flag=Flag.FAIL, tests=Test.RANGE),
        R(2.0, 7.0, "ph", "pH"),
    ]
    assert [(a.tag, a.severity) for a in _alerts([estimates(readings)])] == [
        ("ph", "warning"),
        ("temperature", "warning"),
        ("ph", "info"),
    ]


def test_alerts_of_different_origin_are_in_order_too() -> None:
    """A residual that stays and a tag that turns bad later in the same frame: first the residual."""
    kept = settings(
        assets={"*": {"parameters": {"frequency_factor_per_s": 0, "area_m2": 0, "observer_s": 1e6}}},
        twin={"residual_limit": 5.0, "residual_s": 10.0},
    )
    readings = [R(0.0, 85.0), *(R(1.0 + i, 95.0) for i in range(15)), R(20.0, 999.0, flag=Flag.FAIL, tests=Test.RANGE)]
    found = _alerts([estimates(readings, std=1.0)], kept)
    assert [a.kind for a in found] == ["residual", "bad_quality"]
